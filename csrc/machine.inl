/* machine.inl: loops that only multiply and add, or only read. */

/* Independent chains of multiply-adds, all in registers, that together hide the latency of one. */
#define CHAINS (REGISTERS - 4)

static float fma_chain(int64_t n) { /* see pygpt_measure_peak */
    vf sums[CHAINS], x = vset1(1e-6f), y = vset1(0.999f);
    UNROLL for (int i = 0; i < CHAINS; i++) sums[i] = vset1((float)i);
    for (int64_t k = 0; k < n; k++)
        UNROLL for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * y + x;
    vf total = vzero();
    UNROLL for (int i = 0; i < CHAINS; i++) total += sums[i];
    return vsum(total);
}

static float read_span(const float *x, int64_t n) {
    vf sums[4] = {vzero(), vzero(), vzero(), vzero()};
    for (int64_t i = 0; i + 4 * VW <= n; i += 4 * VW)
        UNROLL for (int j = 0; j < 4; j++) sums[j] += vload(x + i + j * VW);
    return vsum(sums[0] + sums[1] + sums[2] + sums[3]);
}
