/* attention.inl: computes attention for one (batch, head). attention.c derives it, with the same
 * letters: i is a query, j a key, c a channel; q, k, v and o are rows; m and l are the softmax so
 * far; z is dropout's mask. A name that ends in T is a transposed block, (HS, QB). The index vec
 * counts vectors of lanes.
 *
 * A block has QB = NR queries, in NV vectors of lanes. Keys come in blocks of the same length, so
 * the last key block of a query block is the square on the diagonal. There, lanes i >= j see key j
 * (counted from the first of the block). Vectors that end before lane j are never computed, and the
 * vector that holds lane j is masked.
 */
#define QB NR
#include "attention_lanes.inl"
/* In the diagonal square, the sums over keys end at one key for this many vectors of lanes. */
#define PAIR 2

static int64_t padded(int64_t n) { return (n + VW - 1) / VW * VW; }

/* Returns the floats of scratch that a head needs. Forward: Q^T, O^T, p. Backward: Q^T, dO^T, dQ^T,
 * p, ds, rows of q and dO, dK, dV. Both: copies of q, k, v, dO and o, if they are rounded. */
static int64_t attention_scratch(const attention_shape *shape) {
    int64_t HP = padded(shape->HS), TP = (shape->T + QB - 1) / QB * QB;
    int64_t copies = shape->rounded ? 5 * TP * HP : 0;
    return (3 * HP * QB + 2 * QB * QB + 2 * QB * HP + 2 * TP * HP + copies + 4 * QB + 15) / 16 * 16;
}

/* Rounds rows t0..t1 of a head to bfloat16, in their places of a copy (T,HS), and returns that. */
static head_rows rounded_copy(float *copy, head_rows rows, int64_t t0, int64_t t1, int64_t HS) {
    for (int64_t t = t0; t < t1; t++)
        for (int64_t c = 0; c < HS; c += VW) {
            const int64_t n = min64(VW, HS - c);
            vstore_n(copy + t * HS + c,
                     vbfloat16(vload_as_n(rows.first, t * rows.ld + c, rows.half, n)), n);
        }
    return rows_at(copy, 0, 0, HS);
}

/* Returns the first of rows of float32: all rows are, but those that are still to be rounded. */
INLINE const float *floats_of(head_rows rows) { return rows.first; }

/* dst (HS, QB) = factor * rows^T: n rows of HS floats become lanes; lanes from n on are 0. */
static void rows_to_lanes(float *dst, head_rows rows, int64_t n, int64_t HS, float factor) {
    for (int64_t i = 0; i < n; i += VW)
        for (int64_t c = 0; c < HS; c += VW) {
            int64_t channels = min64(VW, HS - c);
            vf square[VW];
            for (int64_t r = 0; r < VW; r++)
                square[r] = i + r < n ? vload_n(floats_of(rows) + (i + r) * rows.ld + c, channels)
                                      : vzero();
            vtranspose(square);
            for (int64_t r = 0; r < channels; r++)
                vstore(dst + (c + r) * QB + i, square[r] * factor);
        }
}

/* dst (QB, HP) = factor * rows, padded with zeros below and to the right. */
static void rows_to_strip(float *dst, head_rows rows, int64_t n, int64_t HS, float factor) {
    for (int64_t i = 0; i < padded(n); i++)
        for (int64_t c = 0; c < HS; c += VW)
            vstore(dst + i * padded(HS) + c,
                   i < n ? factor * vload_n(floats_of(rows) + i * rows.ld + c, min64(VW, HS - c))
                         : vzero());
}

/* s (keys, QB) = keys . lanes: the product of each of n rows and each lane's column. With k and q^T
 * these are the scores; with v and dO^T they are the dp of the backward pass. */
static void keys_by_lanes(float *s, head_rows keys, int64_t n, const float *lanes, int64_t vecs,
                          int64_t HS, int diagonal) {
    for (int64_t j = 0; j < n; j += MR) {
        int64_t vec = diagonal ? j / VW : 0;
        tile_any(min64(MR, n - j), vecs - vec, s + j * QB + vec * VW, QB, HS,
                 floats_of(keys) + j * keys.ld, keys.ld, 1, lanes + vec * VW, QB, 0);
    }
}

/* p (keys, QB) *= factor, in the lanes that keys_by_lanes computed. */
static void scale_scores(float *p, int64_t n, int64_t vecs, int diagonal, float factor) {
    for (int64_t j = 0; j < n; j++)
        for (int64_t vec = diagonal ? j / MR * MR / VW : 0; vec < vecs; vec++)
            vstore(p + j * QB + vec * VW, vload(p + j * QB + vec * VW) * factor);
}

/* dst (HS, QB) += rows^T p: the sum over n keys of a key's row times its weights p (keys, QB). */
static void sum_over_keys(float *dst, head_rows keys, int64_t n, const float *p, int64_t vecs,
                          int64_t HS, int diagonal) {
    const int64_t most = diagonal ? PAIR : NV; /* NOLINT(bugprone-branch-clone): may be equal */
    for (int64_t vec = 0; vec < vecs; vec += most) {
        const int64_t group = min64(most, vecs - vec);
        int64_t bound = diagonal ? min64(n, (vec + group) * VW) : n;
        for (int64_t c = 0; c < HS; c += MR)
            tile_any(min64(MR, HS - c), group, dst + c * QB + vec * VW, QB, bound,
                     floats_of(keys) + c, 1, keys.ld, p + vec * VW, QB, 1);
    }
}

/* dst (keys, HP) += p rows: the sum over lanes of each lane's row (QB, HP) times its weight. */
static void sum_over_lanes(float *dst, const float *p, int64_t n, const float *rows, int64_t vecs,
                           int64_t HP, int diagonal) {
    for (int64_t j = 0; j < n; j += MR) {
        int64_t first = diagonal ? j / VW * VW : 0;
        for (int64_t c = 0; c < HP; c += NR)
            tile_any(min64(MR, n - j), min64(NV, (HP - c) / VW), dst + j * HP + c, HP,
                     vecs * VW - first, p + j * QB + first, QB, 1, rows + first * HP + c, HP, 1);
    }
}

/* Returns how many of n keys the lanes of vector vec see. On the diagonal these are not all. */
INLINE int64_t keys_seen(int64_t n, int64_t vec, int diagonal) {
    return diagonal ? min64(n, (vec + 1) * VW) : n;
}

/* Sets to 0 the weights after the last key that vector vec sees, as far as they are read:
 * sum_over_keys reads to the end of the PAIR of vectors, sum_over_lanes to the end of the tile that
 * holds the last key seen. */
static void clear_unseen(float *p, int64_t n, int64_t vec) {
    int64_t seen = keys_seen(n, vec, 1);
    int64_t bound = min64(n, max64((vec / PAIR + 1) * PAIR * VW, seen + MR - 1));
    for (int64_t j = seen; j < bound; j++) vstore(p + j * QB + vec * VW, vzero());
}

/* o_i = sum_j z p_ij v_j, with p_ij = exp(s_ij - lse_i), for the queries i of a part. */
static void attention_forward_part(const attention_shape *shape, void *out, float *lse,
                                   const void *qkv, attention_part part, float *scratch) {
    const int64_t T = shape->T, C = shape->C, HS = shape->HS, b = part.b, h = part.h;
    head_rows q = rows_at(qkv, b * T * 3 * C + h * HS, shape->half_qkv, 3 * C);
    head_rows k = rows_from(q, 0, C), v = rows_from(q, 0, 2 * C);
    const int rounded = shape->rounded;
    const float factor = rounded ? 1.0f : shape->scale; /* of q; else of the scores */
    float *qT = scratch, *oT = qT + HS * QB, *p = oT + HS * QB, *copy = p + QB * QB;
    uint32_t row_keys[QB];
    if (rounded) {
        q = rounded_copy(copy, q, part.i0, part.i1, HS);
        k = rounded_copy(copy + T * HS, k, 0, part.i1, HS);
        v = rounded_copy(copy + 2 * T * HS, v, 0, part.i1, HS);
    }

    for (int64_t i0 = part.i0; i0 < part.i1; i0 += QB) {
        /* Set up a block of queries: m and l of each lane, O^T = 0, scaled Q^T. */
        const int64_t queries = min64(QB, T - i0), vecs = padded(queries) / VW;
        float m[QB], l[QB];
        for (int64_t i = 0; i < QB; i++) m[i] = -INFINITY, l[i] = 0.0f;
        memset(oT, 0, sizeof(float) * (size_t)(HS * QB));
        rows_to_lanes(qT, rows_from(q, i0, 0), queries, HS, factor);
        mask_row_keys(row_keys, shape, b, h, i0);

        for (int64_t j0 = 0; j0 <= i0; j0 += QB) {
            const int diagonal = j0 == i0;
            const int64_t keys = min64(QB, T - j0);
            const head_rows k_rows = rows_from(k, j0, 0), v_rows = rows_from(v, j0, 0);

            /* Scores: S^T = K Q^T, in the place of p. */
            keys_by_lanes(p, k_rows, keys, qT, vecs, HS, diagonal);
            if (rounded) scale_scores(p, keys, vecs, diagonal, shape->scale);

            /* Update the softmax so far, down the columns. */
            for (int64_t vec = 0; vec < vecs; vec++) {
                const int64_t seen = keys_seen(keys, vec, diagonal);
                float *column = p + vec * VW;
                /* A key after the query gets the score -inf. */
                if (diagonal)
                    for (int64_t j = vec * VW; j < seen; j++)
                        vstore(column + j * QB,
                               mask_lanes(vload(column + j * QB), j, vec, vset1(-INFINITY)));
                /* m = max(m, s). */
                const vf m_old = vload(m + vec * VW);
                vf m_new = rounded ? vset1(-INFINITY) : m_old;
                for (int64_t j = 0; j < seen; j++) m_new = vmax(m_new, vload(column + j * QB));
                if (rounded) m_new = vmax(m_old, power_above(m_new));
                /* p = exp(s - m), l = l exp(m_old - m) + sum p; then p becomes z p in place. */
                const vf rescale = vexp(m_old - m_new);
                vf l_new = vload(l + vec * VW) * rescale;
                for (int64_t j = 0; j < seen; j++) {
                    vf e = vexp(vload(column + j * QB) - m_new);
                    l_new += e;
                    if (shape->drop)
                        e = dropout_apply(e, mask_bits(row_keys, vec, j0 + j), shape->drop,
                                          shape->keep_scale);
                    vstore(column + j * QB, rounded ? vbfloat16(e) : e);
                }
                if (diagonal) clear_unseen(p, keys, vec);
                vstore(m + vec * VW, m_new);
                vstore(l + vec * VW, l_new);
                /* O^T = O^T exp(m_old - m). */
                if (j0 > 0)
                    for (int64_t c = 0; c < HS; c++) {
                        float *o = oT + c * QB + vec * VW;
                        vstore(o, vload(o) * rescale);
                    }
            }

            /* O^T += V^T (z p). */
            sum_over_keys(oT, v_rows, keys, p, vecs, HS, diagonal);
        }

        /* The block of queries is complete: lse = m + log l, out = O / l. */
        float *row_lse = lse + (b * shape->NH + h) * T + i0, one_over_l[QB];
        for (int64_t i = 0; i < queries; i += VW) {
            const vf sum = vload(l + i);
            vstore_n(row_lse + i, vload(m + i) + vlog(sum), min64(VW, queries - i));
            vstore(one_over_l + i, 1.0f / sum);
        }
        lanes_to_rows(out, (b * T + i0) * C + h * HS, shape->half_out, C, oT, queries, HS,
                      one_over_l);
    }
}

/* dV_j = sum_i z p_ij dO_i;  dp_ij = z dO_i . v_j;  ds_ij = p_ij (dp_ij - D_i);
 * dQ_i = scale sum_j ds_ij k_j;  dK_j = scale sum_i ds_ij q_i. The scale of dK is already in q,
 * except where q is rounded.
 * A part computes dQ of its queries, or dK and dV of its keys, or both for the whole head. */
static void attention_backward_part(const attention_shape *shape, float *dqkv, const float *dout,
                                    const void *qkv, const void *out, const float *lse,
                                    attention_part part, float *scratch) {
    const int rounded = shape->rounded;
    const int64_t T = shape->T, C = shape->C, HS = shape->HS, b = part.b, h = part.h;
    const int64_t HP = padded(HS), TP = (T + QB - 1) / QB * QB;
    head_rows q = rows_at(qkv, b * T * 3 * C + h * HS, shape->half_qkv, 3 * C);
    head_rows k = rows_from(q, 0, C), v = rows_from(q, 0, 2 * C);
    head_rows dO = rows_at(dout, b * T * C + h * HS, 0, C);
    head_rows o = rows_at(out, b * T * C + h * HS, shape->half_out, C);
    float *dbase = dqkv + b * T * 3 * C + h * HS;
    float *qT = scratch, *dOT = qT + HP * QB, *dQT = dOT + HP * QB, *p = dQT + HP * QB;
    float *ds = p + QB * QB, *q_rows = ds + QB * QB, *dO_rows = q_rows + QB * HP;
    float *dK = dO_rows + QB * HP, *dV = dK + TP * HP, *copy = dV + TP * HP;
    uint32_t row_keys[QB];
    if (rounded) { /* no query of the part sees keys from i1 on */
        q = rounded_copy(copy, q, part.i0, part.i1, HS);
        dO = rounded_copy(copy + T * HS, dO, part.i0, part.i1, HS);
        k = rounded_copy(copy + 2 * T * HS, k, part.j0, min64(part.j1, part.i1), HS);
        v = rounded_copy(copy + 3 * T * HS, v, part.j0, min64(part.j1, part.i1), HS);
        o = rounded_copy(copy + 4 * T * HS, o, part.i0, part.i1, HS);
    }
    /* The scale multiplies q, and the sums dQ; of rounded operands the sums S, dQ and dK. */
    const float of_q = rounded ? 1.0f : shape->scale;
    const float of_dK = rounded ? shape->scale : 1.0f;
    float scales[QB];
    for (int64_t i = 0; i < QB; i++) scales[i] = shape->scale;
    if (part.of_keys) {
        const size_t bytes = sizeof(float) * (size_t)((part.j1 - part.j0) * HP);
        memset(dK + part.j0 * HP, 0, bytes);
        memset(dV + part.j0 * HP, 0, bytes);
    }

    for (int64_t i0 = part.i0; i0 < part.i1; i0 += QB) {
        const int64_t queries = min64(QB, T - i0), vecs = padded(queries) / VW;
        const head_rows q_block = rows_from(q, i0, 0), dO_block = rows_from(dO, i0, 0);
        float row_lse[QB], D[QB];
        for (int64_t i = 0; i < QB; i++)
            row_lse[i] = i < queries ? lse[(b * shape->NH + h) * T + i0 + i] : 0.0f;

        /* D_i = dO_i . O_i for each query. */
        rows_to_lanes(dOT, dO_block, queries, HS, 1.0f);
        /* O^T, in the place of Q^T until D is known */
        rows_to_lanes(qT, rows_from(o, i0, 0), queries, HS, 1.0f);
        for (int64_t i = 0; i < queries; i += VW) {
            vf dot = vzero();
            for (int64_t c = 0; c < HS; c++)
                dot = vload(dOT + c * QB + i) * vload(qT + c * QB + i) + dot;
            vstore(D + i, dot);
        }

        /* Set up a block of queries: scaled Q^T, scaled rows of q, rows of dO, dQ^T = 0. */
        rows_to_lanes(qT, q_block, queries, HS, of_q);
        rows_to_strip(q_rows, q_block, queries, HS, of_q);
        rows_to_strip(dO_rows, dO_block, queries, HS, 1.0f);
        mask_row_keys(row_keys, shape, b, h, i0);
        memset(dQT, 0, sizeof(float) * (size_t)(HS * QB));

        for (int64_t j0 = part.j0; j0 <= i0 && j0 < part.j1; j0 += QB) {
            const int diagonal = j0 == i0;
            const int64_t keys = min64(QB, T - j0);
            const head_rows k_rows = rows_from(k, j0, 0), v_rows = rows_from(v, j0, 0);

            /* Scores again: S^T = K Q^T, in the place of p; dP^T = V dO^T, in the place of ds. */
            keys_by_lanes(p, k_rows, keys, qT, vecs, HS, diagonal);
            keys_by_lanes(ds, v_rows, keys, dOT, vecs, HS, diagonal);
            if (rounded) scale_scores(p, keys, vecs, diagonal, shape->scale);

            /* p = exp(s - lse) and ds = p (z dp - D), in place; then p becomes z p. */
            for (int64_t vec = 0; vec < vecs; vec++) {
                const int64_t seen = keys_seen(keys, vec, diagonal);
                const vf lse_i = vload(row_lse + vec * VW), D_i = vload(D + vec * VW);
                for (int64_t j = 0; j < seen; j++) {
                    const int64_t element = j * QB + vec * VW;
                    vf p_ij = vexp(vload(p + element) - lse_i), dp_ij = vload(ds + element);
                    if (diagonal && j >= vec * VW) p_ij = mask_lanes(p_ij, j, vec, vzero());
                    vf zp_ij = p_ij;
                    if (shape->drop) {
                        vu bits = mask_bits(row_keys, vec, j0 + j);
                        zp_ij = dropout_apply(p_ij, bits, shape->drop, shape->keep_scale);
                        dp_ij = dropout_apply(dp_ij, bits, shape->drop, shape->keep_scale);
                    }
                    const vf ds_ij = p_ij * (dp_ij - D_i);
                    vstore(p + element, rounded ? vbfloat16(zp_ij) : zp_ij);
                    vstore(ds + element, rounded ? vbfloat16(ds_ij) : ds_ij);
                }
                if (diagonal) {
                    clear_unseen(p, keys, vec);
                    clear_unseen(ds, keys, vec);
                }
            }

            /* dV += (z p)^T dO,  dK += ds^T q,  dQ^T += K^T ds^T. */
            if (part.of_keys) {
                sum_over_lanes(dV + j0 * HP, p, keys, dO_rows, vecs, HP, diagonal);
                sum_over_lanes(dK + j0 * HP, ds, keys, q_rows, vecs, HP, diagonal);
            }
            if (part.of_queries) sum_over_keys(dQT, k_rows, keys, ds, vecs, HS, diagonal);
        }

        /* The block of queries is complete: store its dQ. */
        if (part.of_queries)
            lanes_to_rows(dbase, i0 * 3 * C, 0, 3 * C, dQT, queries, HS, scales);
    }

    /* All blocks are complete: store dK and dV. */
    for (int64_t j = part.j0; part.of_keys && j < part.j1; j++)
        for (int64_t c = 0; c < HS; c += VW) {
            int64_t n = min64(VW, HS - c);
            vstore_n(dbase + C + j * 3 * C + c, vload(dK + j * HP + c) * of_dK, n);
            vstore_n(dbase + 2 * C + j * 3 * C + c, vload(dV + j * HP + c), n);
        }
}

/* scores (n): exp(s - m) rounded to bfloat16, with m as in attention_forward_part. Returns one over
 * their sum before rounding. */
static float rounded_weights(float *scores, int64_t n) {
    const float m = vmax_lanes(power_above(vset1(row_max(scores, n))));
    vf sums = vzero();
    for (int64_t j = 0; j < n; j += VW) {
        const int64_t lanes = min64(VW, n - j);
        const vf e = vexp(vload_n(scores + j, lanes) - m);
        vstore_n(scores + j, e, lanes);
        sums += vload_n(scores + j, lanes);
        vstore_n(scores + j, vbfloat16(e), lanes);
    }
    return 1.0f / vsum(sums);
}

/* Computes out (HS) for one query row and n cached keys. Rows of keys and values are C apart.
 * `rounded` is a constant in every call, so that no loop asks for it. */
INLINE void cached_row(float *out, const float *q, const float *keys, const float *values,
                       int64_t n, int64_t C, int64_t HS, const int rounded, float *scores) {
    const float scale = 1.0f / sqrtf((float)HS);
    float factor = 1.0f;
#define OPERAND(x) (rounded ? vbfloat16(x) : (x))
    for (int64_t j = 0; j < n; j++) {
        vf dot = vzero();
        for (int64_t c = 0; c < HS; c += VW) {
            int64_t lanes = min64(VW, HS - c);
            dot += OPERAND(vload_n(q + c, lanes)) * OPERAND(vload_n(keys + j * C + c, lanes));
        }
        scores[j] = vsum(dot) * scale;
    }
    if (rounded)
        factor = rounded_weights(scores, n);
    else
        softmax_forward_rows(scores, scores, 0, 1, n);
    for (int64_t c = 0; c < HS; c += VW) {
        int64_t lanes = min64(VW, HS - c);
        vf sum = vzero();
        for (int64_t j = 0; j < n; j++)
            sum += OPERAND(vload_n(values + j * C + c, lanes)) * scores[j];
        vstore_n(out + c, sum * factor, lanes);
    }
#undef OPERAND
}

static void attention_cached_row(float *out, const float *q, const float *keys, const float *values,
                                 int64_t n, int64_t C, int64_t HS, int rounded, float *scores) {
    if (rounded)
        cached_row(out, q, keys, values, n, C, HS, 1, scores);
    else
        cached_row(out, q, keys, values, n, C, HS, 0, scores);
}
