/* dropout.inl: applies the mask of dropout.c to a range of rows. */

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
