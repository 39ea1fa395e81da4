/* softmax.inl: computes a range of rows. Derivation: softmax.c. */

/* Returns the largest of n floats: -inf when n is 0, NaN when one of them is NaN. */
static float row_max(const float *x, int64_t n) {
    vf best = vset1(-INFINITY);
    int64_t i = 0;
    for (; i + VW <= n; i += VW) best = vmax(best, vload(x + i));
    float m = vmax_lanes(best);
    for (; i < n; i++) m = m > x[i] ? m : x[i];
    return m;
}

/* p_j = exp(x_j - max x) / sum_k exp(x_k - max x). */
static void softmax_forward_rows(float *out, const float *inp, int64_t r0, int64_t r1, int64_t C) {
    for (int64_t r = r0; r < r1; r++) {
        const float *x = inp + r * C;
        float *y = out + r * C;
        const vf top = vset1(row_max(x, C));
        vf sums = vzero();
        int64_t i = 0;
        for (; i + VW <= C; i += VW) {
            vf e = vexp(vload(x + i) - top);
            sums += e;
            vstore(y + i, e);
        }
        if (i < C) {
            float e[VW];
            vstore(e, vexp(vload_n(x + i, C - i) - top));
            vstore_n(y + i, vload(e), C - i);
            sums += vload_n(e, C - i);
        }
        const float scale = 1.0f / vsum(sums);
        for (i = 0; i + VW <= C; i += VW) vstore(y + i, vload(y + i) * scale);
        for (; i < C; i++) y[i] *= scale;
    }
}

/* dx_i = p_i (dp_i - sum_j dp_j p_j). */
static void softmax_backward_rows(float *dinp, const float *dout, const float *out, int64_t r0,
                                  int64_t r1, int64_t C, int accumulate) {
    for (int64_t r = r0; r < r1; r++) {
        const float *p = out + r * C, *dp = dout + r * C;
        float *dx = dinp + r * C;
        vf dots = vzero();
        for (int64_t i = 0; i < C; i += VW) {
            int64_t n = min64(VW, C - i);
            dots += vload_n(dp + i, n) * vload_n(p + i, n);
        }
        const vf dot = vset1(vsum(dots));
        for (int64_t i = 0; i < C; i += VW) {
            int64_t n = min64(VW, C - i);
            vf d = vload_n(p + i, n) * (vload_n(dp + i, n) - dot);
            if (accumulate) d += vload_n(dx + i, n);
            vstore_n(dx + i, d, n);
        }
    }
}
