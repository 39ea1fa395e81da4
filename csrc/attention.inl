/* attention.inl: one (batch, head) of attention. Derivation and the reason for its shape:
 * attention.c.
 *
 * QB = NR queries to a block, in NV vectors of lanes; keys come in blocks of the same length, so
 * the last block of a query block is the square on the diagonal. There, key j (counted from the
 * block's first) is seen by lanes i >= j: vectors that end before lane j are never computed, and
 * the vector that lane j falls in is masked.
 */
#define QB NR
/* Vectors of lanes that share a bound on keys in the sums over keys, inside the diagonal square. */
#define PAIR 2

/* One head's view of a tensor of rows: first element, and the distance between rows. */
typedef struct head_rows {
    const float *at;
    int64_t ld;
} head_rows;

static int64_t padded(int64_t n) { return (n + VW - 1) / VW * VW; }

/* Forward: Q^T, O^T, scores. Backward: Q^T, dO^T, dQ^T, p, ds, rows of q and dO, dK, dV. */
static int64_t attention_scratch(const attention_shape *s) {
    int64_t HP = padded(s->HS), TP = (s->T + QB - 1) / QB * QB;
    return (3 * HP * QB + 2 * QB * QB + 2 * QB * HP + 2 * TP * HP + 4 * QB + 15) / 16 * 16;
}

/* dst (HS, QB) = factor * rows^T: n rows of HS floats become lanes, 0 in the lanes from n on. */
static void rows_to_lanes(float *dst, head_rows rows, int64_t n, int64_t HS, float factor) {
    for (int64_t i = 0; i < QB; i += VW)
        for (int64_t c = 0; c < HS; c += VW) {
            int64_t channels = min64(VW, HS - c);
            vf square[VW];
            for (int64_t r = 0; r < VW; r++)
                square[r] =
                    i + r < n ? vload_n(rows.at + (i + r) * rows.ld + c, channels) : vzero();
            vtranspose(square);
            for (int64_t r = 0; r < channels; r++)
                vstore(dst + (c + r) * QB + i, square[r] * factor);
        }
}

/* The way back: n rows of HS floats at dst, ld apart, = src^T * factor, lane by lane. */
static void lanes_to_rows(float *dst, int64_t ld, const float *src, int64_t n, int64_t HS,
                          const float *factor) {
    for (int64_t i = 0; i < n; i += VW) {
        vf f = vload(factor + i);
        for (int64_t c = 0; c < HS; c += VW) {
            int64_t channels = min64(VW, HS - c);
            vf square[VW];
            for (int64_t r = 0; r < VW; r++)
                square[r] = r < channels ? vload(src + (c + r) * QB + i) * f : vzero();
            vtranspose(square);
            for (int64_t r = 0; r < min64(VW, n - i); r++)
                vstore_n(dst + (i + r) * ld + c, square[r], channels);
        }
    }
}

/* dst (QB, HP) = factor * rows, padded with zeros below and to the right. */
static void rows_to_strip(float *dst, head_rows rows, int64_t n, int64_t HS, float factor) {
    for (int64_t i = 0; i < QB; i++)
        for (int64_t c = 0; c < HS; c += VW)
            vstore(dst + i * padded(HS) + c,
                   i < n ? factor * vload_n(rows.at + i * rows.ld + c, min64(VW, HS - c))
                         : vzero());
}

/* s (keys, QB) = rows . lanes: scores of n keys, or their likes in the backward pass. */
static void keys_by_lanes(float *s, head_rows keys, int64_t n, const float *lanes, int64_t HS,
                          int diagonal) {
    for (int64_t j = 0; j < n; j += MR) {
        int64_t v = diagonal ? j / VW : 0;
        tile_any(min64(MR, n - j), NV - v, s + j * QB + v * VW, QB, HS, keys.at + j * keys.ld,
                 keys.ld, 1, lanes + v * VW, QB, 0);
    }
}

/* dst (HS, QB) += rows^T p: the sum over n keys of a key's row times its weights p (keys, QB). */
static void sum_over_keys(float *dst, head_rows keys, int64_t n, const float *p, int64_t HS,
                          int diagonal) {
    const int64_t group = diagonal ? PAIR : NV;
    for (int64_t v = 0; v < NV; v += group) {
        int64_t bound = diagonal ? min64(n, (v + group) * VW) : n;
        for (int64_t c = 0; c < HS; c += MR)
            tile_any(min64(MR, HS - c), group, dst + c * QB + v * VW, QB, bound, keys.at + c, 1,
                     keys.ld, p + v * VW, QB, 1);
    }
}

/* dst (keys, HP) += p rows: the sum over lanes of a lane's row (QB, HP) times its weight. */
static void sum_over_lanes(float *dst, const float *p, int64_t n, const float *rows, int64_t HP,
                           int diagonal) {
    for (int64_t j = 0; j < n; j += MR) {
        int64_t first = diagonal ? j / VW * VW : 0;
        for (int64_t c = 0; c < HP; c += NR)
            tile_any(min64(MR, n - j), min64(NV, (HP - c) / VW), dst + j * HP + c, HP, QB - first,
                     p + j * QB + first, QB, 1, rows + first * HP + c, HP, 1);
    }
}

/* In the vector of lanes v of the diagonal square, how many of n keys any lane sees. */
INLINE int64_t keys_seen(int64_t n, int64_t v, int diagonal) {
    return diagonal ? min64(n, (v + 1) * VW) : n;
}

/* x where lane (of vector v) sees key j of the diagonal square, `hidden` elsewhere. */
INLINE vf mask_lanes(vf x, int64_t j, int64_t v, vf hidden) {
    vu lane = lane_numbers() + (uint32_t)(v * VW);
    return vselect_lt_u32(lane, (uint32_t)j - (vu){0}, hidden, x);
}

/* What is read beside the keys seen must weigh nothing: sum_over_keys goes on to the end of the
 * pair of vectors, sum_over_lanes to the end of the tile of keys that holds the last one seen. */
static void clear_unseen(float *p, int64_t n, int64_t v) {
    int64_t seen = keys_seen(n, v, 1);
    int64_t bound = min64(n, max64((v / PAIR + 1) * PAIR * VW, seen + MR - 1));
    for (int64_t j = seen; j < bound; j++) vstore(p + j * QB + v * VW, vzero());
}

/* 24 random bits for each lane of vector v against key j (counted from the sequence's first). */
INLINE vu mask_bits(const uint32_t *row_keys, int64_t v, int64_t j) {
    vu rows;
    memcpy(&rows, row_keys + v * VW, sizeof rows);
    return dropout_bits(rows + (uint32_t)j * GOLDEN);
}

static void mask_row_keys(uint32_t *row_keys, const attention_shape *s, int64_t b, int64_t h,
                          int64_t i0) {
    for (int64_t i = 0; s->drop && i < QB; i++)
        row_keys[i] = random_row(s->key, (uint64_t)((b * s->NH + h) * s->T + i0 + i));
}

static void attention_forward_head(const attention_shape *s, float *out, float *lse,
                                   const float *qkv, int64_t b, int64_t h, float *scratch) {
    const int64_t T = s->T, C = s->C, HS = s->HS;
    const float *base = qkv + b * T * 3 * C + h * HS;
    float *qT = scratch, *oT = qT + HS * QB, *p = oT + HS * QB;
    uint32_t row_keys[QB];

    for (int64_t i0 = 0; i0 < T; i0 += QB) {
        const int64_t queries = min64(QB, T - i0);
        float top[QB], total[QB]; /* the running maximum and sum of each lane */
        for (int64_t i = 0; i < QB; i++) top[i] = -INFINITY, total[i] = 0.0f;
        memset(oT, 0, sizeof(float) * (size_t)(HS * QB));
        rows_to_lanes(qT, (head_rows){base + i0 * 3 * C, 3 * C}, queries, HS, s->scale);
        mask_row_keys(row_keys, s, b, h, i0);

        for (int64_t j0 = 0; j0 <= i0; j0 += QB) {
            const int diagonal = j0 == i0;
            const int64_t keys = min64(QB, T - j0);
            const head_rows k = {base + C + j0 * 3 * C, 3 * C};
            const head_rows v_rows = {base + 2 * C + j0 * 3 * C, 3 * C};
            keys_by_lanes(p, k, keys, qT, HS, diagonal);
            for (int64_t v = 0; v < NV; v++) {
                const int64_t seen = keys_seen(keys, v, diagonal);
                float *column = p + v * VW;
                if (diagonal)
                    for (int64_t j = v * VW; j < seen; j++)
                        vstore(column + j * QB,
                               mask_lanes(vload(column + j * QB), j, v, vset1(-INFINITY)));
                vf old = vload(top + v * VW), m = old;
                for (int64_t j = 0; j < seen; j++) m = vmax(m, vload(column + j * QB));
                vf rescale = vexp(old - m), sum = vload(total + v * VW) * rescale;
                for (int64_t j = 0; j < seen; j++) {
                    vf e = vexp(vload(column + j * QB) - m);
                    sum += e;
                    if (s->drop)
                        e = dropout_apply(e, mask_bits(row_keys, v, j0 + j), s->drop,
                                          s->keep_scale);
                    vstore(column + j * QB, e);
                }
                if (diagonal) clear_unseen(p, keys, v);
                vstore(top + v * VW, m);
                vstore(total + v * VW, sum);
                if (j0 > 0)
                    for (int64_t c = 0; c < HS; c++) {
                        float *o = oT + c * QB + v * VW;
                        vstore(o, vload(o) * rescale);
                    }
            }
            sum_over_keys(oT, v_rows, keys, p, HS, diagonal);
        }

        float *row_lse = lse + (b * s->NH + h) * T + i0;
        for (int64_t i = 0; i < queries; i += VW) {
            vf l = vload(total + i);
            vstore_n(row_lse + i, vload(top + i) + vlog(l), min64(VW, queries - i));
            vstore(total + i, 1.0f / l);
        }
        lanes_to_rows(out + (b * T + i0) * C + h * HS, C, oT, queries, HS, total);
    }
}

static void attention_backward_head(const attention_shape *s, float *dqkv, const float *dout,
                                    const float *qkv, const float *out, const float *lse, int64_t b,
                                    int64_t h, float *scratch) {
    const int64_t T = s->T, C = s->C, HS = s->HS, HP = padded(HS), TP = (T + QB - 1) / QB * QB;
    const float *base = qkv + b * T * 3 * C + h * HS;
    float *dbase = dqkv + b * T * 3 * C + h * HS;
    float *qT = scratch, *doT = qT + HP * QB, *dqT = doT + HP * QB, *p = dqT + HP * QB;
    float *ds = p + QB * QB, *q_rows = ds + QB * QB, *do_rows = q_rows + QB * HP;
    float *dk = do_rows + QB * HP, *dv = dk + TP * HP;
    uint32_t row_keys[QB];
    float factor[QB];
    for (int64_t i = 0; i < QB; i++) factor[i] = s->scale;
    memset(dk, 0, sizeof(float) * (size_t)(2 * TP * HP));

    for (int64_t i0 = 0; i0 < T; i0 += QB) {
        const int64_t queries = min64(QB, T - i0);
        const head_rows q = {base + i0 * 3 * C, 3 * C};
        const head_rows d_out = {dout + (b * T + i0) * C + h * HS, C};
        const head_rows o = {out + (b * T + i0) * C + h * HS, C};
        float row_lse[QB], D[QB];
        for (int64_t i = 0; i < QB; i++)
            row_lse[i] = i < queries ? lse[(b * s->NH + h) * T + i0 + i] : 0.0f;
        rows_to_lanes(doT, d_out, queries, HS, 1.0f);
        rows_to_lanes(qT, o, queries, HS, 1.0f); /* O^T, in q's place until D is known */
        for (int64_t i = 0; i < QB; i += VW) {
            vf dot = vzero();
            for (int64_t c = 0; c < HS; c++)
                dot = vload(doT + c * QB + i) * vload(qT + c * QB + i) + dot;
            vstore(D + i, dot);
        }
        rows_to_lanes(qT, q, queries, HS, s->scale);
        rows_to_strip(q_rows, q, queries, HS, s->scale);
        rows_to_strip(do_rows, d_out, queries, HS, 1.0f);
        mask_row_keys(row_keys, s, b, h, i0);
        memset(dqT, 0, sizeof(float) * (size_t)(HS * QB));

        for (int64_t j0 = 0; j0 <= i0; j0 += QB) {
            const int diagonal = j0 == i0;
            const int64_t keys = min64(QB, T - j0);
            const head_rows k = {base + C + j0 * 3 * C, 3 * C};
            const head_rows v_rows = {base + 2 * C + j0 * 3 * C, 3 * C};
            keys_by_lanes(p, k, keys, qT, HS, diagonal);
            keys_by_lanes(ds, v_rows, keys, doT, HS, diagonal);
            for (int64_t v = 0; v < NV; v++) {
                const int64_t seen = keys_seen(keys, v, diagonal);
                const vf l = vload(row_lse + v * VW), d = vload(D + v * VW);
                for (int64_t j = 0; j < seen; j++) {
                    float *pj = p + j * QB + v * VW, *dsj = ds + j * QB + v * VW;
                    vf x = vexp(vload(pj) - l), dx = vload(dsj), dropped = x;
                    if (diagonal && j >= v * VW) dropped = x = mask_lanes(x, j, v, vzero());
                    if (s->drop) {
                        vu bits = mask_bits(row_keys, v, j0 + j);
                        dropped = dropout_apply(x, bits, s->drop, s->keep_scale);
                        dx = dropout_apply(dx, bits, s->drop, s->keep_scale);
                    }
                    vstore(pj, dropped);
                    vstore(dsj, x * (dx - d));
                }
                if (diagonal) {
                    clear_unseen(p, keys, v);
                    clear_unseen(ds, keys, v);
                }
            }
            sum_over_lanes(dv + j0 * HP, p, keys, do_rows, HP, diagonal);
            sum_over_lanes(dk + j0 * HP, ds, keys, q_rows, HP, diagonal);
            sum_over_keys(dqT, k, keys, ds, HS, diagonal);
        }
        lanes_to_rows(dbase + i0 * 3 * C, 3 * C, dqT, queries, HS, factor);
    }

    for (int64_t j = 0; j < T; j++)
        for (int64_t c = 0; c < HS; c += VW) {
            int64_t n = min64(VW, HS - c);
            vstore_n(dbase + C + j * 3 * C + c, vload(dk + j * HP + c), n);
            vstore_n(dbase + 2 * C + j * 3 * C + c, vload(dv + j * HP + c), n);
        }
}

/* One query row against n cached keys: out (HS). The rows of keys and values are C apart. */
static void attention_cached_row(float *out, const float *q, const float *keys, const float *values,
                                 int64_t n, int64_t C, int64_t HS, float *scores) {
    const float scale = 1.0f / sqrtf((float)HS);
    for (int64_t j = 0; j < n; j++) {
        vf dot = vzero();
        for (int64_t c = 0; c < HS; c += VW) {
            int64_t lanes = min64(VW, HS - c);
            dot += vload_n(q + c, lanes) * vload_n(keys + j * C + c, lanes);
        }
        scores[j] = vsum(dot) * scale;
    }
    softmax_forward_rows(scores, scores, 0, 1, n);
    for (int64_t c = 0; c < HS; c += VW) {
        int64_t lanes = min64(VW, HS - c);
        vf sum = vzero();
        for (int64_t j = 0; j < n; j++) sum += vload_n(values + j * C + c, lanes) * scores[j];
        vstore_n(out + c, sum, lanes);
    }
}
