/* int8.c: rounds weights to 8 bits, in groups with scales, and back. Formats: few_rows.c. */
#include "internal.h"

int quantize_int8(int8_t *q, float *scales, const float *weight, int64_t IN, int64_t OUT,
                  int transpose) {
    const int64_t parts = (OUT + QUANTIZED_OUTS - 1) / QUANTIZED_OUTS;
    const int threads = threads_for(4.0 * (double)IN * (double)OUT, parts);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t o = 0; o < OUT; o += QUANTIZED_OUTS)
        isa_in_use->quantize(q, scales, weight, o, min64(o + QUANTIZED_OUTS, OUT), IN,
                             transpose ? 1 : IN, transpose ? OUT : 1);
    return PYGPT_OK;
}

int dequantize_int8(float *out, const int8_t *q, const float *scales, int64_t IN, int64_t OUT) {
    const int threads = threads_for(2.0 * (double)IN * (double)OUT, OUT);
    const int64_t chunk = chunk_for(OUT, 1, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t o = 0; o < OUT; o += chunk)
        isa_in_use->dequantize(out, q, scales, o, min64(o + chunk, OUT), IN);
    return PYGPT_OK;
}
