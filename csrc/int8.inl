/* int8.inl: rounds weights to 8 bits, in groups with scales, and back. Formats: few_rows.c. */

/* Quantizes one group: q = w / scale, rounded to the nearest, with scale = max |w| / 127. */
static void quantize_group(int8_t *q, float *scale, const float *w) {
    const int32_t largest = largest_bits(w, PYGPT_INT8_GROUP);
    memset(q, 0, PYGPT_INT8_GROUP);
    *scale = largest < 0x7F800000 ? 0.0f : NAN;
    if (largest < (127 - 100) << 23 || largest >= 0x7F800000) return;
    *scale = float_of((uint32_t)largest) / 127.0f;
    const vf divisor = vset1(*scale);
    for (int64_t k = 0; k < PYGPT_INT8_GROUP; k += VW) {
        int32_t lanes[VW];
        const vi whole = vnearest(vload(w + k) / divisor);
        memcpy(lanes, &whole, sizeof lanes);
        for (int i = 0; i < VW; i++) q[k + i] = (int8_t)lanes[i];
    }
}

/* Quantizes the rows o0..o1 of a weight (OUT,IN), at most QUANTIZED_OUTS, of which places along IN
 * are `along` floats apart and rows `across`. */
static void quantize_part(int8_t *q, float *scales, const float *weight, int64_t o0, int64_t o1,
                          int64_t IN, int64_t across, int64_t along) {
    const int64_t groups = (IN + PYGPT_INT8_GROUP - 1) / PYGPT_INT8_GROUP;
    float group[QUANTIZED_OUTS][PYGPT_INT8_GROUP];
    for (int64_t g = 0; g < groups; g++) {
        const int64_t k0 = g * PYGPT_INT8_GROUP, n = min64(PYGPT_INT8_GROUP, IN - k0);
        memset(group, 0, sizeof group);
        if (along == 1)
            for (int64_t o = o0; o < o1; o++)
                memcpy(group[o - o0], weight + o * across + k0, sizeof(float) * (size_t)n);
        else
            for (int64_t k = 0; k < n; k++)
                for (int64_t o = o0; o < o1; o++)
                    group[o - o0][k] = weight[o * across + (k0 + k) * along];
        for (int64_t o = o0; o < o1; o++)
            quantize_group(q + (o * groups + g) * PYGPT_INT8_GROUP, scales + o * groups + g,
                           group[o - o0]);
    }
}

/* out (o0..o1, IN) = q * scale. */
static void dequantize_part(float *out, const int8_t *q, const float *scales, int64_t o0,
                            int64_t o1, int64_t IN) {
    const int64_t groups = (IN + PYGPT_INT8_GROUP - 1) / PYGPT_INT8_GROUP;
    for (int64_t o = o0; o < o1; o++)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t k0 = g * PYGPT_INT8_GROUP, n = min64(PYGPT_INT8_GROUP, IN - k0);
            const int8_t *from = q + (o * groups + g) * PYGPT_INT8_GROUP;
            const float scale = scales[o * groups + g];
            float *to = out + o * IN + k0;
            for (int64_t k = 0; k < n; k++) to[k] = (float)from[k] * scale;
        }
}
