/* dropout_mask.inl: computes the mask of dropout.c on vectors. */

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
