/* attention_lanes.inl: what attention.inl and attention_bf16.inl share: operations on a block of QB
 * queries, one in each lane. Letters: attention.inl. */

/* One head's part of a tensor's rows: its first number, whether numbers are bfloat16 or float32 in
 * memory, and the distance between rows. */
typedef struct head_rows {
    const void *first;
    int half;
    int64_t ld;
} head_rows;

/* Returns the rows of the part that begins at number `at` of x. */
INLINE head_rows rows_at(const void *x, int64_t at, int half, int64_t ld) {
    return (head_rows){place_of(x, at, half), half, ld};
}

/* Returns the rows from row i and channel c on. */
INLINE head_rows rows_from(head_rows rows, int64_t i, int64_t c) {
    return rows_at(rows.first, i * rows.ld + c, rows.half, rows.ld);
}

/* dst (n rows of HS numbers from number `at` on, ld apart) = src^T, each row times its lane's
 * factor. */
static void lanes_to_rows(void *dst, int64_t at, int half, int64_t ld, const float *src, int64_t n,
                          int64_t HS, const float *factor) {
    for (int64_t i = 0; i < n; i += VW) {
        vf f = vload(factor + i);
        for (int64_t c = 0; c < HS; c += VW) {
            int64_t channels = min64(VW, HS - c);
            vf square[VW];
            for (int64_t r = 0; r < VW; r++)
                square[r] = r < channels ? vload(src + (c + r) * QB + i) * f : vzero();
            vtranspose(square);
            for (int64_t r = 0; r < min64(VW, n - i); r++)
                vstore_as_n(dst, at + (i + r) * ld + c, half, square[r], channels);
        }
    }
}

/* Returns a whole multiple of ln 2 that is 0.5 ln 2 to 1.5 ln 2 above x; x itself where floats are
 * too far apart for that. */
INLINE vf power_above(vf x) {
    const float LOG2E = 1.44269504088896341f, LN2 = 0.69314718055994531f, SHIFT = 12582912.0f;
    const vf n = (x * LOG2E + SHIFT) - SHIFT + 1.0f;
    return vselect_lt(x * x, vset1(1e12f), n * LN2, x);
}

/* Returns x in the lanes of vector vec that see key j, else `hidden`. j is counted from the block's
 * first query. */
INLINE vf mask_lanes(vf x, int64_t j, int64_t vec, vf hidden) {
    vu lane = lane_numbers() + (uint32_t)(vec * VW);
    return vselect_lt_u32(lane, (uint32_t)j - (vu){0}, hidden, x);
}

/* Returns 24 random bits for each query of vector vec and key j (counted from the first of the
 * sequence). */
INLINE vu mask_bits(const uint32_t *row_keys, int64_t vec, int64_t j) {
    vu rows;
    memcpy(&rows, row_keys + vec * VW, sizeof rows);
    return dropout_bits(rows + (uint32_t)j * GOLDEN);
}

/* Computes the random key of the dropout mask's row, for each query of the block. */
static void mask_row_keys(uint32_t *row_keys, const attention_shape *shape, int64_t b, int64_t h,
                          int64_t i0) {
    for (int64_t i = 0; shape->drop && i < QB; i++)
        row_keys[i] = random_row(shape->key, (uint64_t)((b * shape->NH + h) * shape->T + i0 + i));
}
