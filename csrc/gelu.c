/* gelu.c: computes GPT-2's GELU, y = 0.5 x (1 + tanh u) with u = sqrt(2/pi) (x + 0.044715 x^3).
 *
 * With s = 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)) this is y = x s. As ds/du = 2 s (1 - s),
 *   dy/dx = s + x 2 s (1 - s) du/dx,   du/dx = sqrt(2/pi) (1 + 3 * 0.044715 x^2).
 * No tanh is computed. The vector form, with its error bounds, is in simd.h, because the matrix
 * product applies it to its tiles too.
 */
#include "internal.h"

#define COST 20.0
#define LEAST 1024 /* elements in the smallest chunk that is worth a thread */

int gelu_forward(float *out, const float *inp, int64_t n) {
    int threads = threads_for(COST * (double)n, (n + LEAST - 1) / LEAST);
    int64_t chunk = chunk_for(n, LEAST, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += chunk)
        isa_in_use->gelu_forward(out + i, inp + i, min64(chunk, n - i));
    return PYGPT_OK;
}

/* dx = dy (s + 2 x s (1 - s) du/dx). */
int gelu_backward(float *dinp, const float *dout, const float *inp, int64_t n, int accumulate) {
    int threads = threads_for(COST * (double)n, (n + LEAST - 1) / LEAST);
    int64_t chunk = chunk_for(n, LEAST, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += chunk)
        isa_in_use->gelu_backward(dinp + i, dout + i, inp + i, min64(chunk, n - i), accumulate);
    return PYGPT_OK;
}
