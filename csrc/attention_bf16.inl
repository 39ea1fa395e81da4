/* attention_bf16.inl: computes attention for one (batch, head) on a unit that multiplies bfloat16.
 *
 * attention.c derives it; the letters are those of attention.inl. A block has QB = 32 queries, one
 * in each lane, and meets KB = 64 keys at a time:
 *
 *      queries  0     32    64    96
 *   keys  0   [ \  ][ x  ][ x  ][ x  ]      x  a macro tile of 32 keys and 32 queries
 *        32   [    ][ \  ][ x  ][ x  ]      \  one on the diagonal, where lanes are masked
 *             - - - - - - - - - - - - -        empty: never computed, as no query sees later keys
 *        64   [    ][    ][ \  ][ x  ]
 *        96   [    ][    ][    ][ \  ]      a column between dashed lines is computed at a time
 *
 *   before all blocks:           K as rows, V^T turned        (packed once for a head)
 *   for each block of queries:   Q^T as a strip
 *     for each block of keys:    S^T = K Q^T                  a macro tile for 32 keys
 *                                p = exp(s - m), l, m         down the columns, in float32
 *                                P^T as a strip
 *                                O^T += V^T P^T               a macro tile for 32 channels
 *
 * The six products of the two passes are made of the macro tiles of unit_tiles.inl, and their
 * operands are rounded as they are packed. S and dP are used at once; the others are added up in
 * memory, block after block:
 *
 *                         packed rows (A)                strip (B)         sums
 *   S^T   = K Q^T         K     keys, pairs of c         Q^T    turned     (keys, QB)
 *   dP^T  = V dO^T        V     keys, pairs of c         dO^T   turned     (keys, QB)
 *   O^T  += V^T P^T       V^T   turned, pairs of j       P^T               (HP, QB)
 *   dQ^T += K^T dS^T      K^T   turned, pairs of j       dS^T              (HP, QB)
 *   dV   += P^T dO        P^T   keys, pairs of i         dO                (keys, HP)
 *   dK   += dS^T Q        dS^T  keys, pairs of i         Q                 (keys, HP)
 *
 * HP is HS and TP is T, rounded up to whole macro tiles or blocks; what is missing there is zeros.
 * The blocks of a sum over queries begin at multiples of QB and those of a sum over keys at
 * multiples of KB, whichever part of the head a thread computes: so no bit depends on the parts. */

#define QB UNIT_TILE
#define KB 64
#define VECS (QB / VW)
_Static_assert(KB % UNIT_TILE == 0 && KB % UNIT_K == 0, "a block of keys is whole macro tiles");

#include "attention_lanes.inl"

static int64_t whole(int64_t n, int64_t size) { return (n + size - 1) / size * size; }

/* Returns the floats of scratch that a part needs, in the order of attention_backward_bf16. */
static int64_t attention_scratch_bf16(const attention_shape *shape) {
    const int64_t HP = whole(shape->HS, UNIT_TILE), TP = whole(shape->T, KB);
    return 3 * TP * HP / 2 + 4 * HP * QB / 2 + KB * QB / 2 + UNIT_TILE * QB / 2 + 2 * KB * QB +
           HP * QB + 2 * TP * HP;
}

/* Packs rows j0..j1 of a head's keys or values, HP / 2 pairs each, in their places of `packed`. */
static void pack_keys(uint32_t *packed, head_rows keys, int64_t j0, int64_t j1, int64_t HS) {
    const int64_t pairs = whole(HS, UNIT_K) / 2;
    for (int64_t j = j0; j < j1; j += UNIT_TILE)
        pack_rows(packed + j * pairs, pairs, rows_from(keys, j, 0).first, keys.half, keys.ld,
                  min64(UNIT_TILE, j1 - j), HS);
}

/* Packs rows 0..j1 of the same, transposed: for each block of KB keys, HP rows of KB / 2 pairs. */
static void pack_keys_turned(uint32_t *turned, head_rows keys, int64_t j1, int64_t HS) {
    const int64_t pairs = whole(HS, UNIT_TILE) / 2;
    for (int64_t j = 0; j < j1; j += KB)
        for (int64_t c = 0; c < HS; c += UNIT_TILE)
            pack_rows_turned(turned + j * pairs + c * (KB / 2), KB / 2,
                             rows_from(keys, j, c).first, keys.half, keys.ld,
                             min64(UNIT_TILE, HS - c), min64(KB, j1 - j));
}

/* Packs n queries' rows as strips of UNIT_TILE channels, each QB / 2 rows of UNIT_TILE pairs. */
static void pack_queries(uint32_t *strips, head_rows queries, int64_t n, int64_t HS) {
    for (int64_t c = 0; c < HS; c += UNIT_TILE)
        pack_strip(strips + c * (QB / 2), rows_from(queries, 0, c).first, queries.half, queries.ld,
                   min64(UNIT_TILE, HS - c), n);
}

/* sums (n keys, QB) = packed keys times a strip of queries. With k and q^T these are the scores;
 * with v and dO^T they are the dp of the backward pass. */
static void keys_by_queries(float *sums, const uint32_t *keys, int64_t n, const uint32_t *strip,
                            int64_t HS) {
    const int64_t pairs = whole(HS, UNIT_K) / 2;
    for (int64_t j = 0; j < n; j += UNIT_TILE)
        macro_tile(sums + j * QB, QB, keys + j * pairs, pairs, strip, 2 * pairs / UNIT_K, 0);
}

/* sums (HP, QB) += the sum over n keys of a turned key times its weights p (n, QB), which are
 * packed to a strip. */
static void sum_over_keys(float *sums, const uint32_t *turned, int64_t n, const float *p,
                          uint32_t *strip, int64_t HS) {
    pack_strip(strip, p, 0, QB, QB, n);
    for (int64_t c = 0; c < HS; c += UNIT_TILE)
        macro_tile(sums + c * QB, QB, turned + c * (KB / 2), KB / 2, strip,
                   whole(n, UNIT_K) / UNIT_K, 1);
}

/* sums (n keys, HP) += the sum over the queries of a query's row, in strips, times its weights
 * p (n, QB), which are packed to rows. */
static void sum_over_queries(float *sums, const float *p, int64_t n, uint32_t *rows,
                             const uint32_t *strips, int64_t queries, int64_t HS) {
    const int64_t HP = whole(HS, UNIT_TILE);
    for (int64_t j = 0; j < n; j += UNIT_TILE) {
        pack_rows(rows, QB / 2, p + j * QB, 0, QB, min64(UNIT_TILE, n - j), queries);
        for (int64_t c = 0; c < HS; c += UNIT_TILE)
            macro_tile(sums + j * HP + c, HP, rows, QB / 2, strips + c * (QB / 2), QB / UNIT_K, 1);
    }
}

/* Returns how many of n keys the lanes of vector vec see. `before` of them come before the block's
 * first query. */
INLINE int64_t keys_seen(int64_t n, int64_t before, int64_t vec) {
    return min64(n, before + (vec + 1) * VW);
}

/* Sets to 0 the weights (n, QB) after the last key that vector vec sees. */
INLINE void clear_unseen(float *p, int64_t n, int64_t seen, int64_t vec) {
    for (int64_t j = seen; j < n; j++) vstore(p + j * QB + vec * VW, vzero());
}

/* o_i = sum_j z p_ij v_j, with p_ij = exp(s_ij - lse_i), for the queries i of a part. */
static void attention_forward_bf16(const attention_shape *shape, void *out, float *lse,
                                   const void *qkv, attention_part part, float *scratch) {
    const int64_t T = shape->T, C = shape->C, HS = shape->HS, b = part.b, h = part.h;
    const int64_t HP = whole(HS, UNIT_TILE), TP = whole(T, KB);
    const head_rows q = rows_at(qkv, b * T * 3 * C + h * HS, shape->half_qkv, 3 * C);
    const head_rows k = rows_from(q, 0, C), v = rows_from(q, 0, 2 * C);
    uint32_t *const packed_k = (uint32_t *)scratch, *const vT = packed_k + TP * HP / 2;
    uint32_t *const qT = vT + TP * HP / 2, *const strip = qT + HP * QB / 2;
    float *const oT = (float *)(strip + KB * QB / 2), *const p = oT + HP * QB;
    uint32_t row_keys[QB];

    TILES_BEGIN;
    pack_keys(packed_k, k, 0, part.i1, HS);
    pack_keys_turned(vT, v, part.i1, HS);
    for (int64_t i0 = part.i0; i0 < part.i1; i0 += QB) {
        /* Set up a block of queries: m and l of each lane, O^T = 0, Q^T. */
        const int64_t queries = min64(QB, T - i0);
        float m[QB], l[QB];
        for (int64_t i = 0; i < QB; i++) m[i] = -INFINITY, l[i] = 0.0f;
        memset(oT, 0, sizeof(float) * (size_t)(HP * QB));
        pack_strip_turned(qT, rows_from(q, i0, 0).first, q.half, q.ld, queries, HS);
        mask_row_keys(row_keys, shape, b, h, i0);

        for (int64_t j0 = 0; j0 <= i0; j0 += KB) {
            const int64_t before = i0 - j0, keys = min64(KB, before + queries);

            /* Scores, still without their scale: S^T = K Q^T, in the place of p. */
            keys_by_queries(p, packed_k + j0 * HP / 2, keys, qT, HS);

            /* Update the softmax so far, down the columns. */
            for (int64_t vec = 0; vec < VECS; vec++) {
                const int64_t seen = keys_seen(keys, before, vec);
                float *column = p + vec * VW;
                /* A key after the query gets the score -inf. */
                for (int64_t j = before + vec * VW; j < seen; j++)
                    vstore(column + j * QB,
                           mask_lanes(vload(column + j * QB), j - before, vec, vset1(-INFINITY)));
                /* m = max(m, s). */
                const vf m_old = vload(m + vec * VW);
                vf top = vset1(-INFINITY);
                for (int64_t j = 0; j < seen; j++) top = vmax(top, vload(column + j * QB));
                const vf m_new = vmax(m_old, power_above(top * shape->scale));
                /* p = exp(s - m), l = l exp(m_old - m) + sum p; then p becomes z p in place. */
                const vf rescale = vexp(m_old - m_new);
                vf l_new = vload(l + vec * VW) * rescale;
                for (int64_t j = 0; j < seen; j++) {
                    vf e = vexp(vload(column + j * QB) * shape->scale - m_new);
                    l_new += e;
                    if (shape->drop)
                        e = dropout_apply(e, mask_bits(row_keys, vec, j0 + j), shape->drop,
                                          shape->keep_scale);
                    vstore(column + j * QB, e);
                }
                clear_unseen(p, keys, seen, vec);
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
            sum_over_keys(oT, vT + j0 * HP / 2, keys, p, strip, HS);
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
    TILES_END;
}

/* Returns dO . O of query i, both rounded as the products round them. */
static float dot_of_rounded(head_rows dO, head_rows o, int64_t i, int64_t HS) {
    vf sum = vzero();
    for (int64_t c = 0; c < HS; c += VW) {
        const int64_t channels = min64(VW, HS - c);
        sum += vbfloat16(vload_as_n(dO.first, i * dO.ld + c, dO.half, channels)) *
               vbfloat16(vload_as_n(o.first, i * o.ld + c, o.half, channels));
    }
    return vsum(sum);
}

/* dV_j = sum_i z p_ij dO_i;  dp_ij = z dO_i . v_j;  ds_ij = p_ij (dp_ij - D_i);
 * dQ_i = scale sum_j ds_ij k_j;  dK_j = scale sum_i ds_ij q_i.
 * A part computes dQ of its queries, or dK and dV of its keys, or both for the whole head. */
static void attention_backward_bf16(const attention_shape *shape, float *dqkv, const float *dout,
                                    const void *qkv, const void *out, const float *lse,
                                    attention_part part, float *scratch) {
    const int64_t T = shape->T, C = shape->C, HS = shape->HS, b = part.b, h = part.h;
    const int64_t HP = whole(HS, UNIT_TILE), TP = whole(T, KB);
    const head_rows q = rows_at(qkv, b * T * 3 * C + h * HS, shape->half_qkv, 3 * C);
    const head_rows k = rows_from(q, 0, C), v = rows_from(q, 0, 2 * C);
    const head_rows dO = rows_at(dout, b * T * C + h * HS, 0, C);
    const head_rows o = rows_at(out, b * T * C + h * HS, shape->half_out, C);
    float *dbase = dqkv + b * T * 3 * C + h * HS;
    /* packed: all keys, a block of queries, a block of weights */
    uint32_t *const packed_k = (uint32_t *)scratch, *const packed_v = packed_k + TP * HP / 2;
    uint32_t *const kT = packed_v + TP * HP / 2, *const qT = kT + TP * HP / 2;
    uint32_t *const dOT = qT + HP * QB / 2, *const q_strips = dOT + HP * QB / 2;
    uint32_t *const dO_strips = q_strips + HP * QB / 2, *const strip = dO_strips + HP * QB / 2;
    uint32_t *const rows = strip + KB * QB / 2;
    /* sums */
    float *const p = (float *)(rows + UNIT_TILE * QB / 2), *const ds = p + KB * QB;
    float *const dQT = ds + KB * QB, *const dK = dQT + HP * QB, *const dV = dK + TP * HP;
    uint32_t row_keys[QB];
    float scales[QB];
    for (int64_t i = 0; i < QB; i++) scales[i] = shape->scale;

    const int64_t j1 = min64(part.j1, part.i1); /* no query of the part sees later keys */
    TILES_BEGIN;
    pack_keys(packed_k, k, part.j0, j1, HS);
    pack_keys(packed_v, v, part.j0, j1, HS);
    if (part.of_queries) pack_keys_turned(kT, k, j1, HS);
    if (part.of_keys) {
        const size_t bytes = sizeof(float) * (size_t)((whole(j1, KB) - part.j0) * HP);
        memset(dK + part.j0 * HP, 0, bytes);
        memset(dV + part.j0 * HP, 0, bytes);
    }

    for (int64_t i0 = part.i0; i0 < part.i1; i0 += QB) {
        /* Set up a block of queries: lse and D of each lane, Q^T and dO^T, their rows, dQ^T = 0. */
        const int64_t queries = min64(QB, T - i0);
        const head_rows q_rows = rows_from(q, i0, 0), dO_rows = rows_from(dO, i0, 0);
        float row_lse[QB] = {0}, D[QB] = {0};
        for (int64_t i = 0; i < queries; i++) {
            row_lse[i] = lse[(b * shape->NH + h) * T + i0 + i];
            D[i] = dot_of_rounded(dO, o, i0 + i, HS);
        }
        pack_strip_turned(qT, q_rows.first, q.half, q.ld, queries, HS);
        pack_strip_turned(dOT, dO_rows.first, dO.half, dO.ld, queries, HS);
        if (part.of_keys) {
            pack_queries(q_strips, q_rows, queries, HS);
            pack_queries(dO_strips, dO_rows, queries, HS);
        }
        mask_row_keys(row_keys, shape, b, h, i0);
        memset(dQT, 0, sizeof(float) * (size_t)(HP * QB));

        for (int64_t j0 = part.j0; j0 <= i0 && j0 < j1; j0 += KB) {
            const int64_t before = i0 - j0, keys = min64(min64(KB, j1 - j0), before + queries);

            /* Scores again: S^T = K Q^T, in the place of p; dP^T = V dO^T, in the place of ds. */
            keys_by_queries(p, packed_k + j0 * HP / 2, keys, qT, HS);
            keys_by_queries(ds, packed_v + j0 * HP / 2, keys, dOT, HS);

            /* p = exp(s - lse) and ds = p (z dp - D), in place; then p becomes z p. */
            for (int64_t vec = 0; vec < VECS; vec++) {
                const int64_t seen = keys_seen(keys, before, vec);
                const vf lse_i = vload(row_lse + vec * VW), D_i = vload(D + vec * VW);
                for (int64_t j = 0; j < seen; j++) {
                    const int64_t element = j * QB + vec * VW;
                    vf p_ij = vexp(vload(p + element) * shape->scale - lse_i);
                    vf dp_ij = vload(ds + element);
                    if (j >= before + vec * VW)
                        p_ij = mask_lanes(p_ij, j - before, vec, vzero());
                    vf zp_ij = p_ij;
                    if (shape->drop) {
                        vu bits = mask_bits(row_keys, vec, j0 + j);
                        zp_ij = dropout_apply(p_ij, bits, shape->drop, shape->keep_scale);
                        dp_ij = dropout_apply(dp_ij, bits, shape->drop, shape->keep_scale);
                    }
                    vstore(p + element, zp_ij);
                    vstore(ds + element, p_ij * (dp_ij - D_i));
                }
                clear_unseen(p, keys, seen, vec);
                clear_unseen(ds, keys, seen, vec);
            }

            /* dV += (z p)^T dO,  dK += ds^T q,  dQ^T += K^T ds^T. */
            if (part.of_keys) {
                sum_over_queries(dV + j0 * HP, p, keys, rows, dO_strips, queries, HS);
                sum_over_queries(dK + j0 * HP, ds, keys, rows, q_strips, queries, HS);
            }
            if (part.of_queries) sum_over_keys(dQT, kT + j0 * HP / 2, keys, ds, strip, HS);
        }

        /* The block of queries is complete: store its dQ. */
        if (part.of_queries)
            lanes_to_rows(dbase, i0 * 3 * C, 0, 3 * C, dQT, queries, HS, scales);
    }
    TILES_END;

    /* All blocks are complete: store dK and dV. */
    for (int64_t j = part.j0; part.of_keys && j < j1; j++)
        for (int64_t c = 0; c < HS; c += VW) {
            const int64_t n = min64(VW, HS - c);
            vstore_n(dbase + C + j * 3 * C + c, vload(dK + j * HP + c) * shape->scale, n);
            vstore_n(dbase + 2 * C + j * 3 * C + c, vload(dV + j * HP + c), n);
        }
}
