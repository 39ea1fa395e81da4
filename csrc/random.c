/* random.c: computes random numbers that are pure functions of their position.
 *
 * A hash of (seed, stream, index) takes the place of a generator with a state. So any thread can
 * compute any number, in any order, and the backward pass can compute those of the forward pass
 * again. */
#include <math.h>

#include "internal.h"

static uint64_t splitmix64(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

uint64_t random_key(const uint64_t *seed, uint64_t stream) {
    return seed ? splitmix64(splitmix64(*seed) + stream) : 0;
}

uint64_t random_mask_key(const uint64_t *seed, uint64_t stream, int64_t rows) {
    return seed ? random_key(seed, stream) + seed[1] * (uint64_t)rows : 0;
}

uint32_t random_row(uint64_t key, uint64_t row) { return (uint32_t)(splitmix64(key + row) >> 32); }

/* Box-Muller: for uniform u and w, sqrt(-2 ln u) cos(2 pi w) and sqrt(-2 ln u) sin(2 pi w) are two
 * independent normal numbers. u comes from the upper 32 bits of the hash, and is never 0; w comes
 * from the lower 32 bits. */
int random_normal(float *out, float std, const uint64_t *seed, uint64_t stream, int64_t n) {
    const double TWO_PI = 6.283185307179586476925;
    const uint64_t key = random_key(seed, stream);
    int threads = threads_for(60.0 * (double)n, (n + 1) / 2);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i += 2) {
        uint64_t bits = splitmix64(key + (uint64_t)(i / 2));
        double u = ((double)(bits >> 32) + 1.0) / 4294967296.0;
        double w = (double)(bits & 0xFFFFFFFFu) / 4294967296.0;
        double radius = std * sqrt(-2.0 * log(u));
        out[i] = (float)(radius * cos(TWO_PI * w));
        if (i + 1 < n) out[i + 1] = (float)(radius * sin(TWO_PI * w));
    }
    return PYGPT_OK;
}
