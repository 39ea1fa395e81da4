/* attention_backward_rungs.inl: the rungs of the ladder of attention's backward pass, for one head,
 * on one thread. Given dO, the gradient of the outputs, each computes the gradients of q, k and v.
 * isa.inl compiles this file for one instruction set.
 *
 * The forward pass was, for j <= i,
 *   s_ij = scale q_i . k_j,   p_ij = exp(s_ij) / sum_j exp(s_ij),   O_i = sum_j p_ij v_j
 * and backwards, from the last line to the first,
 *   dV_j = sum_i p_ij dO_i,   dp_ij = dO_i . v_j,   ds_ij = p_ij (dp_ij - sum_k p_ik dp_ik),
 *   dQ_i = scale sum_j ds_ij k_j,   dK_j = scale sum_i ds_ij q_i.
 */
#include "attention_head.inl"

#define ROW(x, t) (h->x + (t) * h->ld)         /* of q, k, v, dq, dk, dv */
#define OUT_ROW(x, t) (h->x + (t) * h->ld_out) /* of out, dout */

/* y += factor x, for a row. No element waits for another, so the compiler makes vectors of it. */
static void add_row(float *y, float factor, const float *x, int64_t n) {
    for (int64_t c = 0; c < n; c++) y[c] += factor * x[c];
}

static void clear(const head *h) {
    const size_t bytes = sizeof(float) * (size_t)h->HS;
    for (int64_t t = 0; t < h->T; t++) {
        memset(ROW(dq, t), 0, bytes);
        memset(ROW(dk, t), 0, bytes);
        memset(ROW(dv, t), 0, bytes);
    }
}

/* From p and ds (T,T), the three sums: every product of a row is added where it belongs. */
static void sum_up(const head *h, const float *p, const float *ds) {
    clear(h);
    for (int64_t i = 0; i < h->T; i++)
        for (int64_t j = 0; j <= i; j++) {
            add_row(ROW(dv, j), p[i * h->T + j], OUT_ROW(dout, i), h->HS);
            add_row(ROW(dq, i), ds[i * h->T + j] * h->scale, ROW(k, j), h->HS);
            add_row(ROW(dk, j), ds[i * h->T + j] * h->scale, ROW(q, i), h->HS);
        }
}

/* Rung 1: the formulas. The weights are computed again as in the forward pass, because keeping
 * T x T of them for each head and layer would take more memory than all else; and ds needs all of a
 * row's p and dp before its first element. */
static void formulas(const head *h) {
    const int64_t T = h->T;
    float *p = h->scratch, *ds = p + T * T;
    for (int64_t i = 0; i < T; i++) {
        float *p_i = p + i * T, *ds_i = ds + i * T, sum = 0.0f;
        for (int64_t j = 0; j <= i; j++) p_i[j] = dot(ROW(q, i), ROW(k, j), h->HS) * h->scale;
        softmax_of(p_i, i + 1);
        for (int64_t j = 0; j <= i; j++) {
            ds_i[j] = dot(OUT_ROW(dout, i), ROW(v, j), h->HS);
            sum += p_i[j] * ds_i[j];
        }
        for (int64_t j = 0; j <= i; j++) ds_i[j] = p_i[j] * (ds_i[j] - sum);
    }
    sum_up(h, p, ds);
}

/* Rung 2: nothing is summed along a row any more, and no matrix is held. The forward pass kept
 * lse_i = log sum_j exp(s_ij), so p_ij = exp(s_ij - lse_i). And sum_k p_ik dp_ik is
 * sum_k p_ik dO_i . v_k = dO_i . O_i =: D_i, which is known before any key is visited. So each pair
 * of a query and a key is done with at once, in any order. */
static void pair_by_pair(const head *h) {
    clear(h);
    for (int64_t i = 0; i < h->T; i++) {
        const float D = dot(OUT_ROW(dout, i), OUT_ROW(out, i), h->HS);
        for (int64_t j = 0; j <= i; j++) {
            const float s = dot(ROW(q, i), ROW(k, j), h->HS) * h->scale;
            const float p = expf(s - h->lse[i]);
            const float ds = p * (dot(OUT_ROW(dout, i), ROW(v, j), h->HS) - D) * h->scale;
            add_row(ROW(dv, j), p, OUT_ROW(dout, i), h->HS);
            add_row(ROW(dq, i), ds, ROW(k, j), h->HS);
            add_row(ROW(dk, j), ds, ROW(q, i), h->HS);
        }
    }
}

/* Replaces the scores p and the dp in ds, both (keys, QB), by weights and scale ds, vector by
 * vector. In the last QB keys, with `last`, lane i sees key j of these if j <= i. */
static void weights_and_slopes(float *p, float *ds, int64_t keys, int last, const float *lse,
                               const float *D, float scale) {
    for (int64_t j = 0; j < keys; j++)
        for (int64_t vec = 0; vec < NV; vec++) {
            const int64_t at = j * QB + vec * VW, on_diagonal = j - (keys - QB);
            vf weight = vexp(vload(p + at) - vload(lse + vec * VW));
            if (last && on_diagonal >= 0) weight = mask_lanes(weight, on_diagonal, vec, vzero());
            vstore(p + at, weight);
            vstore(ds + at, weight * (vload(ds + at) - vload(D + vec * VW)) * scale);
        }
}

/* dst (keys, HS), rows `ld` apart, += the sum over the lanes of their weights p (keys, QB) times
 * their rows of x, `ld_x` apart. HS is a multiple of VW. */
static void lanes_by_tiles(float *dst, int64_t ld, const float *p, int64_t keys, const float *x,
                           int64_t ld_x, int64_t HS) {
    for (int64_t j = 0; j < keys; j += MR)
        for (int64_t c = 0; c < HS; c += NR)
            tile_any(min64(MR, keys - j), min64(NV, (HS - c) / VW), dst + j * ld + c, ld, QB,
                     p + j * QB, QB, 1, x + c, ld_x, 1);
}

/* Rung 3: blocks of queries in lanes and blocks of keys, as in the forward pass. All five sums are
 * then matrix products by the product's tile, S^T = K Q^T and dP^T = V dO^T over channels,
 * dQ^T = K^T dS^T over keys, dK = dS^T Q and dV = P^T dO over queries; and exp is a polynomial of
 * all lanes at once. */
static void five_products(const head *h) {
    const int64_t HS = h->HS;
    float *qT = h->scratch, *dOT = qT + HS * QB, *dQT = dOT + HS * QB;
    float *p = dQT + HS * QB, *ds = p + KEYS * QB, D[QB];
    clear(h);
    for (int64_t i0 = 0; i0 < h->T; i0 += QB) {
        rows_in_lanes(qT, h->q, h->ld, i0, QB, HS, h->scale);
        rows_in_lanes(dOT, h->dout, h->ld_out, i0, QB, HS, 1.0f);
        memset(dQT, 0, sizeof(float) * (size_t)(HS * QB));
        for (int64_t i = 0; i < QB; i++)
            D[i] = dot(OUT_ROW(dout, i0 + i), OUT_ROW(out, i0 + i), HS);
        for (int64_t j0 = 0; j0 <= i0; j0 += KEYS) {
            const int64_t keys = min64(KEYS, i0 + QB - j0);
            scores_by_tiles(p, h->k, h->ld, qT, j0, keys, HS);
            scores_by_tiles(ds, h->v, h->ld, dOT, j0, keys, HS);
            weights_and_slopes(p, ds, keys, j0 + keys == i0 + QB, h->lse + i0, D, h->scale);
            lanes_by_tiles(ROW(dv, j0), h->ld, p, keys, OUT_ROW(dout, i0), h->ld_out, HS);
            lanes_by_tiles(ROW(dk, j0), h->ld, ds, keys, ROW(q, i0), h->ld, HS);
            values_by_tiles(dQT, h->k, h->ld, ds, j0, keys, HS, 1);
        }
        for (int64_t i = 0; i < QB; i++) {
            float *row = ROW(dq, i0 + i);
            for (int64_t c = 0; c < HS; c++) row[c] = dQT[c * QB + i];
        }
    }
}
