/* elementwise.c: adds, multiplies, scales and sums tensors, element by element. */
#include "internal.h"

#define LEAST 4096 /* elements in the smallest chunk that is worth a thread */

int add_forward(float *out, const float *a, const float *b, int64_t n) {
    int threads = threads_for(2.0 * (double)n, (n + LEAST - 1) / LEAST);
    int64_t chunk = chunk_for(n, LEAST, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += chunk)
        isa_in_use->add(out + i, a + i, b + i, min64(chunk, n - i));
    return PYGPT_OK;
}

static int multiply(float *out, const float *a, const float *b, int64_t n, int accumulate) {
    int threads = threads_for(2.0 * (double)n, (n + LEAST - 1) / LEAST);
    int64_t chunk = chunk_for(n, LEAST, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += chunk)
        isa_in_use->mul(out + i, a + i, b + i, min64(chunk, n - i), accumulate);
    return PYGPT_OK;
}

int mul_forward(float *out, const float *a, const float *b, int64_t n) {
    return multiply(out, a, b, n, 0);
}

/* out = a b, so da = dout b. */
int mul_backward(float *da, const float *dout, const float *b, int64_t n, int accumulate) {
    return multiply(da, dout, b, n, accumulate);
}

int scale_forward(float *out, const float *inp, const float *factor, int64_t n, int accumulate) {
    int threads = threads_for(2.0 * (double)n, (n + LEAST - 1) / LEAST);
    int64_t chunk = chunk_for(n, LEAST, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += chunk)
        isa_in_use->scale(out + i, inp + i, *factor, min64(chunk, n - i), accumulate);
    return PYGPT_OK;
}

int sum_forward(float *out, const float *inp, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += inp[i];
    *out = (float)sum;
    return PYGPT_OK;
}

/* out = sum_i inp_i, so dinp_i = dout. */
int sum_backward(float *dinp, const float *dout, int64_t n, int accumulate) {
    for (int64_t i = 0; i < n; i++) dinp[i] = (accumulate ? dinp[i] : 0.0f) + *dout;
    return PYGPT_OK;
}
