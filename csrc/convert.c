/* convert.c: converts numbers between float32 and the forms that files hold: two bytes each, or
 * transposed.
 *
 * A floating-point number is a sign, an exponent and a fraction of f bits:
 *
 *              exponent   f    bias        finite below     smallest normal
 *   float32      8 bits   23   127         2^128            2^-126
 *   bfloat16     8        7    127         2^128            2^-126
 *   float16      5        10   15          65520            2^-14
 *
 * A bfloat16 is the upper half of a float32, so reading it is a shift. To read a float16, its
 * exponent and fraction are moved by 13 bits, and the difference of the biases is added. Below
 * 2^-14 a float16 is a whole number of steps of 2^-24, which the processor converts to a float32 as
 * it does any whole number.
 *
 * Writing rounds to nearest, ties to even: just under half of the last bit that stays is added to
 * the bits, and one more when that bit is 1. This carries into the bit exactly when it must grow.
 * The carry may run into the exponent, up to infinity, which is right too. The loops have no
 * branch, so that the compiler can vectorise them. */

#include "internal.h"

#define LEAST 4096 /* elements in the smallest chunk that is worth a thread */
#define TILE 32    /* the side of a transposed square: two of 32 rows of 128 bytes fit in L1 */

static inline float widened_float16(uint16_t half) {
    const uint32_t BIAS = (127 - 15) << 23;
    uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7FFFu;
    uint32_t normal = (magnitude << 13) + (magnitude >= 0x7C00 ? 2 * BIAS : BIAS);
    uint32_t small = bits_of((float)(int32_t)magnitude * 0x1p-24f);
    return float_of(sign | (magnitude < 0x0400 ? small : normal));
}

static inline uint16_t narrowed_float16(float x) {
    const uint32_t BIAS = (127 - 15) << 23;
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    uint32_t normal = (magnitude - BIAS + 0x0FFF + (magnitude >> 13 & 1)) >> 13;
    /* floats from 0.5 to 1 are 2^-24 apart, so the sum rounds to a whole number of these steps */
    uint32_t small = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    uint32_t result = magnitude < 0x38800000u ? small : normal; /* 2^-14 */
    result = magnitude >= 0x477FF000u ? 0x7C00 : result;        /* 65520 */
    result = magnitude > 0x7F800000u ? 0x7E00 : result;         /* NaN */
    return (uint16_t)(sign | result);
}

static inline uint16_t narrowed_bfloat16(float x) {
    uint32_t bits = bits_of(x), magnitude = bits & 0x7FFFFFFFu;
    uint32_t result = (magnitude + 0x7FFF + (magnitude >> 16 & 1)) >> 16;
    result = magnitude > 0x7F800000u ? 0x7FC0 : result;
    return (uint16_t)((bits >> 16 & 0x8000u) | result);
}

int from_float16(float *out, const uint16_t *inp, int64_t n) {
    int threads = threads_for(2.0 * (double)n, (n + LEAST - 1) / LEAST);
    int64_t chunk = chunk_for(n, LEAST, threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i0 = 0; i0 < n; i0 += chunk)
        for (int64_t i = i0; i < min64(i0 + chunk, n); i++) out[i] = widened_float16(inp[i]);
    return PYGPT_OK;
}

int from_bfloat16(float *out, const uint16_t *inp, int64_t n) {
    int threads = threads_for(2.0 * (double)n, (n + LEAST - 1) / LEAST);
    int64_t chunk = chunk_for(n, LEAST, threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i0 = 0; i0 < n; i0 += chunk)
        for (int64_t i = i0; i < min64(i0 + chunk, n); i++)
            out[i] = widened(inp[i]);
    return PYGPT_OK;
}

/* Whether x is finite and was rounded to infinity. */
static inline int overflowed(float x, uint16_t rounded, uint16_t infinity) {
    return ((rounded & 0x7FFF) == infinity) & ((bits_of(x) & 0x7FFFFFFFu) < 0x7F800000u);
}

int to_float16(uint16_t *out, const float *inp, int64_t n) {
    int threads = threads_for(2.0 * (double)n, (n + LEAST - 1) / LEAST), overflow = 0;
    int64_t chunk = chunk_for(n, LEAST, threads);
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : overflow)
    for (int64_t i0 = 0; i0 < n; i0 += chunk)
        for (int64_t i = i0; i < min64(i0 + chunk, n); i++) {
            out[i] = narrowed_float16(inp[i]);
            overflow |= overflowed(inp[i], out[i], 0x7C00);
        }
    return overflow ? PYGPT_EOVERFLOW : PYGPT_OK;
}

int to_bfloat16(uint16_t *out, const float *inp, int64_t n) {
    int threads = threads_for(2.0 * (double)n, (n + LEAST - 1) / LEAST), overflow = 0;
    int64_t chunk = chunk_for(n, LEAST, threads);
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : overflow)
    for (int64_t i0 = 0; i0 < n; i0 += chunk)
        for (int64_t i = i0; i < min64(i0 + chunk, n); i++) {
            out[i] = narrowed_bfloat16(inp[i]);
            overflow |= overflowed(inp[i], out[i], 0x7F80);
        }
    return overflow ? PYGPT_EOVERFLOW : PYGPT_OK;
}

int transpose(float *out, const float *inp, int64_t R, int64_t C) {
    int threads = threads_for(2.0 * (double)R * (double)C, (C + TILE - 1) / TILE);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t c0 = 0; c0 < C; c0 += TILE)
        for (int64_t r0 = 0; r0 < R; r0 += TILE)
            for (int64_t c = c0; c < min64(c0 + TILE, C); c++)
                for (int64_t r = r0; r < min64(r0 + TILE, R); r++) out[c * R + r] = inp[r * C + c];
    return PYGPT_OK;
}
