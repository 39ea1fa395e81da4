/* attention_rungs.inl: the rungs of attention's ladder, forward. Each computes one head: for every
 * query i of T,  s_ij = scale q_i . k_j for the keys j <= i,  p_i = softmax(s_i),
 * out_i = sum_j p_ij v_j, on one thread. isa.inl compiles this file for one instruction set.
 */
#include "attention_head.inl"

/* Sets row i of out to the sum of n values times their weights p. */
static void weigh_by_channel(const head *h, int64_t i, const float *p, int64_t n) {
    for (int64_t c = 0; c < h->HS; c++) {
        float sum = 0.0f;
        for (int64_t j = 0; j < n; j++) sum += p[j] * h->v[j * h->ld + c];
        h->out[i * h->ld_out + c] = sum;
    }
}

/* Rung 1: the formula. A matrix p (T,T) holds the scores of all queries and keys; those of keys
 * after the query become -infinity, and so their weights 0. */
static void formula(const head *h) {
    const int64_t T = h->T;
    float *p = h->scratch;
    for (int64_t i = 0; i < T; i++)
        for (int64_t j = 0; j < T; j++) {
            const float s = dot(h->q + i * h->ld, h->k + j * h->ld, h->HS) * h->scale;
            p[i * T + j] = j <= i ? s : -INFINITY;
        }
    for (int64_t i = 0; i < T; i++) softmax_of(p + i * T, T);
    for (int64_t i = 0; i < T; i++) weigh_by_channel(h, i, p + i * T, T);
}

/* Rung 2: keys after the query are left out, instead of computed and then hidden: half the work. */
static void seen_keys(const head *h) {
    const int64_t T = h->T;
    float *p = h->scratch;
    for (int64_t i = 0; i < T; i++)
        for (int64_t j = 0; j <= i; j++)
            p[i * T + j] = dot(h->q + i * h->ld, h->k + j * h->ld, h->HS) * h->scale;
    for (int64_t i = 0; i < T; i++) softmax_of(p + i * T, i + 1);
    for (int64_t i = 0; i < T; i++) weigh_by_channel(h, i, p + i * T, i + 1);
}

/* Rung 3: one query after the other, from its scores to its output. A row of T weights is all that
 * is ever held, so memory no longer grows with T^2, and the row stays in L1. */
static void row_by_row(const head *h) {
    float *p = h->scratch;
    for (int64_t i = 0; i < h->T; i++) {
        for (int64_t j = 0; j <= i; j++)
            p[j] = dot(h->q + i * h->ld, h->k + j * h->ld, h->HS) * h->scale;
        softmax_of(p, i + 1);
        weigh_by_channel(h, i, p, i + 1);
    }
}

/* Rung 4: the loops over keys and channels of a value change places. Values are read along their
 * rows, and no sum waits for its neighbour, so the compiler computes vectors of channels. */
static void values_by_rows(const head *h) {
    float *p = h->scratch;
    for (int64_t i = 0; i < h->T; i++) {
        float *out = h->out + i * h->ld_out;
        for (int64_t j = 0; j <= i; j++)
            p[j] = dot(h->q + i * h->ld, h->k + j * h->ld, h->HS) * h->scale;
        softmax_of(p, i + 1);
        for (int64_t c = 0; c < h->HS; c++) out[c] = 0.0f;
        for (int64_t j = 0; j <= i; j++)
            for (int64_t c = 0; c < h->HS; c++) out[c] += p[j] * h->v[j * h->ld + c];
    }
}

/* Stores the outputs oT (HS, width) of a block, each divided by its lane's l. */
static void outputs_of_lanes(const head *h, const float *oT, const float *l, int64_t i0,
                             int64_t width) {
    for (int64_t i = 0; i < width; i++)
        for (int64_t c = 0; c < h->HS; c++)
            h->out[(i0 + i) * h->ld_out + c] = oT[c * width + i] / l[i];
}

INLINE vf exp_of_each(vf x) {
    float lane[VW];
    vstore(lane, x);
    for (int i = 0; i < VW; i++) lane[i] = expf(lane[i]);
    return vload(lane);
}

/* Rung 5: VW queries at once, one in each lane. For key j, row j of p (T,VW) holds the scores, and
 * then the weights, of all of them. A dot product in one lane is still a chain of additions, but
 * each of its steps now serves VW queries; so does each number of a key or a value that is loaded.
 * exp is still called for each lane. */
static void queries_together(const head *h) {
    float *qT = h->scratch, *oT = qT + h->HS * VW, *p = oT + h->HS * VW, l[VW];
    for (int64_t i0 = 0; i0 < h->T; i0 += VW) {
        const int64_t keys = i0 + VW; /* the last lane's; the others don't see all of them */
        vf m = vset1(-INFINITY), sum = vzero();
        rows_in_lanes(qT, h->q, h->ld, i0, VW, h->HS, h->scale);
        for (int64_t j = 0; j < keys; j++) {
            vf s = vzero();
            for (int64_t c = 0; c < h->HS; c++) s += h->k[j * h->ld + c] * vload(qT + c * VW);
            if (j > i0) s = mask_lanes(s, j - i0, 0, vset1(-INFINITY));
            m = vmax(m, s);
            vstore(p + j * VW, s);
        }
        memset(oT, 0, sizeof(float) * (size_t)(h->HS * VW));
        for (int64_t j = 0; j < keys; j++) {
            const vf e = exp_of_each(vload(p + j * VW) - m);
            sum += e;
            for (int64_t c = 0; c < h->HS; c++)
                vstore(oT + c * VW, vload(oT + c * VW) + h->v[j * h->ld + c] * e);
        }
        vstore(l, sum);
        outputs_of_lanes(h, oT, l, i0, VW);
    }
}

/* Replaces a column of scores, one vector of lanes wide, by exp(s - m). m becomes the largest of
 * the old m and the scores; l becomes l exp(m_old - m) + the sum. Returns exp(m_old - m). In the
 * last QB of the n keys, lane i of the block sees key j of these if j <= i. */
INLINE vf softmax_of_column(float *p, int64_t n, int64_t vec, int diagonal, vf *m, vf *l,
                            vf (*exponential)(vf)) {
    const vf m_old = *m;
    for (int64_t j = 0; j < n; j++) {
        vf s = vload(p + j * QB + vec * VW);
        if (diagonal && j >= n - QB) s = mask_lanes(s, j - (n - QB), vec, vset1(-INFINITY));
        vstore(p + j * QB + vec * VW, s);
        *m = vmax(*m, s);
    }
    const vf rescale = exponential(m_old - *m);
    *l *= rescale;
    for (int64_t j = 0; j < n; j++) {
        const vf e = exponential(vload(p + j * QB + vec * VW) - *m);
        *l += e;
        vstore(p + j * QB + vec * VW, e);
    }
    return rescale;
}

/* Computes the outputs, of a block of QB queries at a time, with the scores of all keys. */
INLINE void tiles(const head *h, vf (*exponential)(vf)) {
    float *qT = h->scratch, *oT = qT + h->HS * QB, *p = oT + h->HS * QB, l[QB];
    for (int64_t i0 = 0; i0 < h->T; i0 += QB) {
        const int64_t keys = i0 + QB;
        rows_in_lanes(qT, h->q, h->ld, i0, QB, h->HS, h->scale);
        scores_by_tiles(p, h->k, h->ld, qT, 0, keys, h->HS);
        for (int64_t vec = 0; vec < NV; vec++) {
            vf m = vset1(-INFINITY), sum = vzero();
            softmax_of_column(p, keys, vec, 1, &m, &sum, exponential);
            vstore(l + vec * VW, sum);
        }
        values_by_tiles(oT, h->v, h->ld, p, 0, keys, h->HS, 0);
        outputs_of_lanes(h, oT, l, i0, QB);
    }
}

/* Rung 6: scores and outputs of a block of QB queries are matrix products, S^T = K Q^T and
 * O^T = V^T P^T, and are computed by the product's tile: MR keys by NV vectors of queries, whose
 * sums stay in registers and are too many to wait for one another. Now half of the time goes into
 * exp, which was a small part of it before. */
static void by_tiles(const head *h) { tiles(h, exp_of_each); }

/* Rung 7: exp of all lanes at once, as a polynomial (vexp in simd.h). What is left are scores of
 * one block and all keys, (T, QB), which outgrow L1. */
static void exp_of_lanes(const head *h) { tiles(h, vexp); }

/* Rung 8: keys, too, come a block at a time. The scores of a block of queries and a block of keys
 * stay in L1, and the next block overwrites them. So the softmax must be computed on the way: where
 * a block has a larger score than those before, l and O^T are multiplied by exp(m_old - m). */
static void block_by_block(const head *h) {
    float *qT = h->scratch, *oT = qT + h->HS * QB, *p = oT + h->HS * QB, l[QB];
    for (int64_t i0 = 0; i0 < h->T; i0 += QB) {
        vf m[NV], sum[NV];
        for (int64_t vec = 0; vec < NV; vec++) m[vec] = vset1(-INFINITY), sum[vec] = vzero();
        memset(oT, 0, sizeof(float) * (size_t)(h->HS * QB));
        rows_in_lanes(qT, h->q, h->ld, i0, QB, h->HS, h->scale);
        for (int64_t j0 = 0; j0 <= i0; j0 += KEYS) {
            const int64_t keys = min64(KEYS, i0 + QB - j0);
            const int last = j0 + keys == i0 + QB;
            scores_by_tiles(p, h->k, h->ld, qT, j0, keys, h->HS);
            for (int64_t vec = 0; vec < NV; vec++) {
                const vf f = softmax_of_column(p, keys, vec, last, &m[vec], &sum[vec], vexp);
                for (int64_t c = 0; c < h->HS; c++) {
                    float *o = oT + c * QB + vec * VW;
                    vstore(o, vload(o) * f);
                }
            }
            values_by_tiles(oT, h->v, h->ld, p, j0, keys, h->HS, 1);
        }
        for (int64_t vec = 0; vec < NV; vec++) vstore(l + vec * VW, sum[vec]);
        outputs_of_lanes(h, oT, l, i0, QB);
    }
}
