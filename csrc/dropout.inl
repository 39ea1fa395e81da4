/* dropout.inl: computes the mask of dropout.c on vectors, and applies it to a range of rows. */

#define GOLDEN 0x9E3779B9u

/* Returns 24 random bits in each lane. x combines the row key and the column. */
INLINE vu dropout_bits(vu x) {
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    x ^= x >> 16;
    return x >> 8;
}

/* Returns x * keep_scale in lanes that are kept, 0 in lanes that are dropped. */
INLINE vf dropout_apply(vf x, vu bits, uint32_t threshold, float keep_scale) {
    return vselect_lt_u32(bits, threshold - (vu){0}, vzero(), x * keep_scale);
}

INLINE vu lane_numbers(void) {
    vu lanes;
    UNROLL for (int i = 0; i < VW; i++) lanes[i] = (uint32_t)i;
    return lanes;
}

static void dropout_rows(float *out, const float *inp, const float *residual, uint64_t key,
                         float dropout, int64_t r0, int64_t r1, int64_t C) {
    const uint32_t threshold = dropout_threshold(dropout);
    const float keep_scale = 1.0f / (1.0f - dropout);
    const vu columns = lane_numbers() * GOLDEN;
    for (int64_t r = r0; r < r1; r++) {
        const uint32_t row = random_row(key, (uint64_t)r);
        for (int64_t i = 0; i < C; i += VW) {
            int64_t n = min64(VW, C - i);
            vu bits = dropout_bits(columns + (row + (uint32_t)i * GOLDEN));
            vf x = dropout_apply(vload_n(inp + r * C + i, n), bits, threshold, keep_scale);
            if (residual) x += vload_n(residual + r * C + i, n);
            vstore_n(out + r * C + i, x, n);
        }
    }
}
