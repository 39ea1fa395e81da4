/* dropout.c: keeps each element with probability 1 - dropout and divides it by that, or drops it.
 *
 * The mask is not stored: it is a hash of (seed, stream, row, column), so the backward pass
 * computes the same mask again, on any number of threads. A 64-bit mix (random.c) turns seed,
 * stream and row into a row key. A 32-bit mix turns row key and column into the random number. Only
 * this part runs once for each element: two multiplications and three shifts, on all lanes at once.
 */
#include "internal.h"

#define COST 8.0

uint32_t dropout_threshold(float dropout) { return (uint32_t)(dropout * 16777216.0f); }

static int masked(float *out, const float *inp, const float *residual, int64_t R, int64_t C,
                  float dropout, const uint64_t *seed, uint64_t stream) {
    const uint64_t key = random_mask_key(seed, stream, 1);
    int threads = threads_for(COST * (double)R * (double)C, R);
    int64_t chunk = chunk_for(R, 1, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < R; r += chunk)
        isa_in_use->dropout_rows(out, inp, residual, key, dropout, r, min64(r + chunk, R), C);
    return PYGPT_OK;
}

int dropout_forward(float *out, const float *inp, const float *residual, int64_t R, int64_t C,
                    float dropout, const uint64_t *seed, uint64_t stream) {
    return masked(out, inp, residual, R, C, dropout, seed, stream);
}

/* out = keep inp / (1 - dropout), so dinp = keep dout / (1 - dropout), the same of dout. */
int dropout_backward(float *dinp, const float *dout, int64_t R, int64_t C, float dropout,
                     const uint64_t *seed, uint64_t stream, int accumulate) {
    return masked(dinp, dout, accumulate ? dinp : NULL, R, C, dropout, seed, stream);
}
