/* machine.c: measures the machine's limits, with which the speed of the kernels is compared. */
#include "internal.h"

double pygpt_measure_peak(int64_t n, int dtype) {
    const int on_unit = dtype == PYGPT_BFLOAT16 && isa_in_use->multiply_chain_bf16.run;
    const multiply_chain *chain =
        on_unit ? &isa_in_use->multiply_chain_bf16 : &isa_in_use->multiply_chain;
    const int threads = pygpt_get_num_threads();
    float sink[PYGPT_MAX_THREADS];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < threads; i++) sink[i] = chain->run(n);
    double flops = 0.0;
    for (int i = 0; i < threads; i++)
        flops += sink[i] >= 0.0f ? 2.0 * (double)n * (double)chain->width : 0.0;
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
