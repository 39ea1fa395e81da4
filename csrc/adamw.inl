/* adamw.inl: updates a span of n parameters. Formula: pygpt.h; derivation: adamw.c. */

static void adamw_span(float *param, uint16_t *half, float *m, float *v, const float *grad,
                       const float *settings, float weight_decay, int64_t n) {
    const float lr = settings[ADAMW_LR], eps = settings[ADAMW_EPS], decay = lr * weight_decay;
    const float beta1 = settings[ADAMW_BETA1], beta2 = settings[ADAMW_BETA2];
    const float grad_scale = settings[ADAMW_GRAD_SCALE];
    const float rest1 = 1.0f - beta1, rest2 = 1.0f - beta2;
    const float unbias1 = 1.0f / settings[ADAMW_UNBIAS_M];
    const float unbias2 = 1.0f / settings[ADAMW_UNBIAS_V];
    for (int64_t i = 0; i < n; i += VW) {
        int64_t lanes = min64(VW, n - i);
        vf g = vload_n(grad + i, lanes) * grad_scale, p = vload_n(param + i, lanes);
        vf m1 = beta1 * vload_n(m + i, lanes) + rest1 * g;
        vf v1 = beta2 * vload_n(v + i, lanes) + rest2 * (g * g);
        vf step = lr * (m1 * unbias1) / (vsqrt(v1 * unbias2) + eps) + decay * p;
        vstore_n(m + i, m1, lanes);
        vstore_n(v + i, v1, lanes);
        vstore_n(param + i, p - step, lanes);
        if (half) vstore_half_n(half + i, p - step, lanes);
    }
}

static double sum_squares_span(const float *x, int64_t n) {
    vd sums[2] = {{0}, {0}};
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vd a = vload_double(x + i), b = vload_double(x + i + VW / 2);
        sums[0] += a * a;
        sums[1] += b * b;
    }
    double total = 0.0;
    for (int j = 0; j < VW / 2; j++) total += sums[0][j] + sums[1][j];
    for (; i < n; i++) total += (double)x[i] * x[i];
    return total;
}
