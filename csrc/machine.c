/* machine.c: measures the machine's limits, with which the speed of the kernels is compared. */
#include "internal.h"

double pygpt_measure_fma(int64_t n) {
    const int threads = pygpt_get_num_threads();
    float sink[PYGPT_MAX_THREADS];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < threads; i++) sink[i] = isa_in_use->fma_chain(n);
    double flops = 0.0;
    for (int i = 0; i < threads; i++)
        flops += sink[i] >= 0.0f ? 2.0 * (double)n * (double)isa_in_use->fma_chain_width : 0.0;
    return flops;
}

int pygpt_measure_read(float *out, const float *x, int64_t n) {
    const int threads = pygpt_get_num_threads();
    const int64_t share = (n + threads - 1) / threads;
    float sums[PYGPT_MAX_THREADS];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < threads; i++) {
        const int64_t start = min64(n, i * share);
        sums[i] = isa_in_use->read_span(x + start, min64(share, n - start));
    }
    *out = 0.0f;
    for (int i = 0; i < threads; i++) *out += sums[i];
    return PYGPT_OK;
}
