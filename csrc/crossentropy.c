/* crossentropy.c: computes the loss of a row of logits x with target y,
 * -log p_y = log sum_j exp(x_j) - x_y, and its gradient.
 *
 * Backward. d log sum exp / dx_j = p_j, so dloss/dx = p - y with y the one-hot target; the loss is
 * the mean over the N rows whose target is not ignored, which divides by N.
 *
 * The head is the largest layer of a GPT, and its logits are the largest tensor: (R,V) would be a
 * hundred times as large as any other. linear_cross_entropy holds a chunk of rows at a time, turns
 * the logits into their gradients in place, and uses these at once for dinp and dweight. The chunk
 * is computed transposed, weight (V,C) times inp^T: then the larger operand is the one that is read
 * in place, and with one row in each vector lane the softmax over V needs nothing across lanes.
 */
#include <string.h>

#include "internal.h"

#define COST 16.0
/* The logits of a chunk have at most CHUNK_ROWS rows, and not more than CHUNK_FLOATS allows, but at
 * least one tile's columns. 512 rows of GPT-2's vocabulary take 106 MB. Each chunk reads the whole
 * weight twice, and reads and writes dweight: with 128 rows, a step of GPT-2 124M at 1 x 1024 took
 * 3 to 5 % longer (Zen 3, AVX2, two threads). */
#define CHUNK_FLOATS ((int64_t)104000000 / (int64_t)sizeof(float))
#define CHUNK_ROWS 512
#define LINE 16 /* floats in a cache line */
/* Rows of V in a part of the softmax: with 64 columns, 64 KB, which stay in L2. */
#define PART_ROWS 256

/* Returns N, the number of rows whose target is not ignored; -1 when another target is outside
 * 0..V-1. */
static int64_t rows_counted(const int32_t *targets, int64_t R, int64_t V, int64_t ignore_index) {
    int64_t N = 0;
    for (int64_t r = 0; r < R; r++) {
        if (targets[r] == ignore_index) continue;
        if (targets[r] < 0 || targets[r] >= V) return -1;
        N++;
    }
    return N;
}

/* Computes the mean over the N rows that are not ignored. The losses of ignored rows are 0. */
static void mean_loss(float *loss, const float *losses, int64_t R, int64_t N) {
    double sum = 0.0;
    for (int64_t r = 0; r < R; r++) sum += losses[r];
    *loss = N ? (float)(sum / (double)N) : 0.0f;
}

int cross_entropy_forward(float *loss, float *losses, const float *logits, const int32_t *targets,
                          int64_t R, int64_t V, int64_t ignore_index) {
    const int64_t N = rows_counted(targets, R, V, ignore_index);
    if (N < 0) return PYGPT_ERANGE;
    int threads = threads_for(COST * (double)R * (double)V, R);
    int64_t chunk = chunk_for(R, 1, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < R; r += chunk)
        isa_in_use->cross_entropy_rows(losses, NULL, logits, targets, 0.0f, r, min64(r + chunk, R),
                                       V, ignore_index, 0);
    mean_loss(loss, losses, R, N);
    return PYGPT_OK;
}

/* dlogits = dloss (p - y) / N. */
int cross_entropy_backward(float *dlogits, const float *dloss, const float *logits,
                           const int32_t *targets, int64_t R, int64_t V, int64_t ignore_index,
                           int accumulate) {
    const int64_t N = rows_counted(targets, R, V, ignore_index);
    if (N < 0) return PYGPT_ERANGE;
    int threads = threads_for(COST * (double)R * (double)V, R);
    int64_t chunk = chunk_for(R, 1, threads);
    const float factor = *dloss / (float)max64(N, 1);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < R; r += chunk)
        isa_in_use->cross_entropy_rows(NULL, dlogits, logits, targets, factor, r,
                                       min64(r + chunk, R), V, ignore_index, accumulate);
    return PYGPT_OK;
}

/* logits (V, rows) of one chunk, ld floats between its rows: fills losses, and with a factor turns
 * the logits into factor * (p - y), in place.
 *
 * Threads share out parts of PART_ROWS rows of V, tile_columns columns wide, so that a large
 * vocabulary gives every thread work however few rows there are. A part finds its own maximum m_k
 * and sum of exp(x - m_k); from these, in the order of k, follow the row's maximum
 * m = max_k m_k and sum = sum_k sum_k exp(m_k - m). The parts depend on V alone, not on the
 * threads. */
static int softmax_of_chunk(float *losses, float *logits, const int32_t *targets,
                            const float *factor, int64_t rows, int64_t ld, int64_t V,
                            int64_t ignore_index) {
    const int64_t width = isa_in_use->tile_columns, strips = (rows + width - 1) / width;
    const int64_t parts = (V + PART_ROWS - 1) / PART_ROWS;
    float *top = scratch_take(2 * parts * rows); /* (parts, rows), and sum of the same shape */
    if (!top) return PYGPT_ENOMEM;
    float *sum = top + parts * rows;
    for (int64_t r = 0; r < rows; r++)
        losses[r] = targets[r] == ignore_index ? 0.0f : logits[targets[r] * ld + r];
    int threads = threads_for(COST * (double)rows * (double)V, strips * parts);
    PARALLEL(threads) {
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < strips * parts; t++) {
            const int64_t k = t / strips, i = t % strips * width, j = k * PART_ROWS;
            isa_in_use->cross_entropy_part(top + k * rows + i, sum + k * rows + i,
                                           logits + j * ld + i, min64(width, rows - i),
                                           min64(PART_ROWS, V - j), ld, factor != NULL);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < rows; i += width)
            isa_in_use->cross_entropy_join(losses + i, top + i, sum + i, factor ? *factor : 0.0f,
                                           min64(width, rows - i), parts, rows);
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < (factor ? strips * parts : 0); t++) {
            const int64_t k = t / strips, i = t % strips * width, j = k * PART_ROWS;
            isa_in_use->cross_entropy_scale(logits + i, top + k * rows + i, targets + i, *factor,
                                            min64(width, rows - i), j, min64(j + PART_ROWS, V),
                                            ld, ignore_index);
        }
    }
    for (int64_t r = 0; r < rows; r++)
        if (targets[r] == ignore_index) losses[r] = 0.0f;
    scratch_give(top);
    return PYGPT_OK;
}

void pygpt_head_chunk(int64_t *rows, int64_t *part, int64_t R, int64_t V, int64_t tile_columns) {
    const int64_t fit = min64(CHUNK_ROWS, CHUNK_FLOATS / max64(V, 1)) / tile_columns * tile_columns;
    *rows = min64(max64(tile_columns, fit), max64(R, 1));
    *part = PART_ROWS;
}

/* Computes the losses of all rows, and with dloss also dinp = dlogits weight and
 * dweight = dlogits^T inp, where they are not NULL. */
static int chunked(float *loss, float *losses, float *dinp, float *dweight, const float *dloss,
                   const float *inp, const void *weight, const int32_t *targets, int64_t R,
                   int64_t C, int64_t V, int64_t ignore_index, int accumulate_input,
                   int accumulate_weight, int dtype) {
    const int64_t N = rows_counted(targets, R, V, ignore_index);
    if (N < 0) return PYGPT_ERANGE;
    int64_t chunk, part;
    pygpt_head_chunk(&chunk, &part, R, V, isa_in_use->tile_columns);
    /* (V, rows), with long rows an odd number of cache lines apart: an even one, a power of two
     * above all, would put the same columns of all rows into few sets of a cache. */
    const int64_t ld = chunk < 4 * LINE ? chunk : ((chunk + LINE - 1) / LINE | 1) * LINE;
    float *logits = scratch_take(ld * V);
    if (!logits) return PYGPT_ENOMEM;
    const float factor = dloss ? *dloss / (float)max64(N, 1) : 0.0f;
    int status = PYGPT_OK;
    if (dweight && R == 0 && !accumulate_weight)
        memset(dweight, 0, sizeof(float) * (size_t)(V * C));

    for (int64_t r = 0; r < R && status == PYGPT_OK; r += chunk) {
        const int64_t rows = min64(chunk, R - r);
        const float *x = inp + r * C;
        status = gemm_run((gemm){
            .M = V, .N = rows, .K = C,
            .a = FLOATS(weight, PYGPT_WEIGHT_BFLOAT16),
            .a_half = HALVES(weight, PYGPT_WEIGHT_BFLOAT16), .a_row = C, .a_col = 1,
            .b = x, .b_row = 1, .b_col = C,
            .c = logits, .ldc = ld, .dtype = OPERANDS,
        });
        if (status != PYGPT_OK) break;
        status = softmax_of_chunk(losses + r, logits, targets + r, dloss ? &factor : NULL, rows, ld,
                                  V, ignore_index);
        if (status != PYGPT_OK) break;
        if (dinp)
            status = gemm_run((gemm){
                .M = rows, .N = C, .K = V,
                .a = logits, .a_row = 1, .a_col = ld,
                .b = FLOATS(weight, PYGPT_WEIGHT_BFLOAT16),
                .b_half = HALVES(weight, PYGPT_WEIGHT_BFLOAT16), .b_row = C, .b_col = 1,
                .c = dinp + r * C, .ldc = C, .accumulate = accumulate_input,
                .dtype = OPERANDS,
            });
        if (status != PYGPT_OK) break;
        if (dweight)
            status = gemm_run((gemm){
                .M = V, .N = C, .K = rows,
                .a = logits, .a_row = ld, .a_col = 1,
                .b = x, .b_row = C, .b_col = 1,
                .c = dweight, .ldc = C, .accumulate = accumulate_weight || r > 0,
                .dtype = OPERANDS,
            });
    }
    scratch_give(logits);
    mean_loss(loss, losses, R, N);
    return status;
}

int linear_cross_entropy_forward(float *loss, float *losses, const float *inp, const void *weight,
                                 const int32_t *targets, int64_t R, int64_t C, int64_t V,
                                 int64_t ignore_index, int dtype) {
    return chunked(loss, losses, NULL, NULL, NULL, inp, weight, targets, R, C, V, ignore_index, 0,
                   0, dtype);
}

int linear_cross_entropy_backward(float *loss, float *losses, float *dinp, float *dweight,
                                  const float *dloss, const float *inp, const void *weight,
                                  const int32_t *targets, int64_t R, int64_t C, int64_t V,
                                  int64_t ignore_index, int accumulate_input,
                                  int accumulate_weight, int dtype) {
    return chunked(loss, losses, dinp, dweight, dloss, inp, weight, targets, R, C, V, ignore_index,
                   accumulate_input, accumulate_weight, dtype);
}
