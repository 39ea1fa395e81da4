/* attention_head.inl: what attention's two ladders share: the library's loops, one head, blocks of
 * queries in lanes, and their products by tiles. isa.inl compiles this file, as a part of the
 * rungs, for one instruction set.
 */
#include "machine.inl"
#include "matmul.inl"
#include "few_across.inl"
#include "dropout_mask.inl"
#include "softmax.inl"
#include "attention.inl"

/* The table that attention.c of the library reads, and what else its files define. */
static const isa ISA_TABLE = {
    .name = ISA_NAME,
    .tile_rows = MR,
    .tile_columns = NR,
    .gemm_block = gemm_block,
    .tile_finish = tile_finish,
    .gemm_across = gemm_across,
    .attention = {.block = QB,
                  .scratch = attention_scratch,
                  .forward = attention_forward_part,
                  .backward = attention_backward_part},
    .attention_cached = attention_cached_row,
    .softmax_backward = softmax_backward_rows,
    .multiply_chain = {.run = fma_chain, .width = CHAINS * VW},
    .read_span = read_span,
};
const isa *isa_in_use = &ISA_TABLE;

/* One head. Row t of q, k and v begins at q + t * ld, because the three and the other heads lie
 * side by side in qkv (T,3C); rows of out are ld_out apart. T is a multiple of QB = NR. */
typedef struct head {
    float *out;
    const float *q, *k, *v;
    int64_t T, HS, ld, ld_out;
    float scale;    /* 1 / sqrt(HS) */
    float *scratch; /* SCRATCH(T, HS) floats */
    /* for the backward pass: dqkv, laid out as qkv, and dout and lse, given as out is */
    float *dq, *dk, *dv;
    const float *dout, *lse;
} head;

/* Two matrices (T,T), five blocks (HS,QB), and a block of scores (T,QB). */
#define SCRATCH(T, HS) (2 * (T) * (T) + (5 * (HS) + (T)) * QB)

#define KEYS 64 /* of a block */
_Static_assert(KEYS % QB == 0, "the last block of keys ends where the queries end");

INLINE float dot(const float *x, const float *y, int64_t n) {
    float sum = 0.0f;
    for (int64_t c = 0; c < n; c++) sum += x[c] * y[c];
    return sum;
}

/* Replaces n scores by their softmax. */
INLINE void softmax_of(float *p, int64_t n) {
    float m = -INFINITY, sum = 0.0f;
    for (int64_t j = 0; j < n; j++) m = p[j] > m ? p[j] : m;
    for (int64_t j = 0; j < n; j++) sum += p[j] = expf(p[j] - m);
    for (int64_t j = 0; j < n; j++) p[j] /= sum;
}

/* Sets xT (HS, width) to `factor` times the rows i0.. of x, one in each lane. */
INLINE void rows_in_lanes(float *xT, const float *x, int64_t ld, int64_t i0, int64_t width,
                          int64_t HS, float factor) {
    for (int64_t i = 0; i < width; i++)
        for (int64_t c = 0; c < HS; c++) xT[c * width + i] = x[(i0 + i) * ld + c] * factor;
}

/* Sets s (keys, QB) to the products of the rows j0.. of k (or v), `ld` apart, and the lanes of
 * qT. */
INLINE void scores_by_tiles(float *s, const float *k, int64_t ld, const float *qT, int64_t j0,
                            int64_t keys, int64_t HS) {
    for (int64_t j = 0; j < keys; j += MR)
        tile_any(min64(MR, keys - j), NV, s + j * QB, QB, HS, k + (j0 + j) * ld, ld, 1, qT, QB, 0);
}

/* oT (HS, QB) [+]= the rows j0.. of v (or k), `ld` apart, times their weights p (keys, QB). */
INLINE void values_by_tiles(float *oT, const float *v, int64_t ld, const float *p, int64_t j0,
                            int64_t keys, int64_t HS, int accumulate) {
    for (int64_t c = 0; c < HS; c += MR)
        tile_any(min64(MR, HS - c), NV, oT + c * QB, QB, keys, v + j0 * ld + c, 1, ld, p, QB,
                 accumulate);
}
