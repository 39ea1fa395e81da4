/* layernorm.inl: a range of rows. Derivation: layernorm.c. */

static void layernorm_forward_rows(float *out, float *mean, float *rstd, const float *inp,
                                   const float *weight, const float *bias, int64_t r0, int64_t r1,
                                   int64_t C, float eps) {
    for (int64_t r = r0; r < r1; r++) {
        const float *x = inp + r * C;
        vf sums = vzero(), squares = vzero();
        for (int64_t i = 0; i < C; i += VW) sums += vload_n(x + i, min64(VW, C - i));
        const float m = C ? vsum(sums) / (float)C : 0.0f;
        int64_t i = 0;
        for (; i + VW <= C; i += VW) {
            vf d = vload(x + i) - m;
            squares += d * d;
        }
        float tail = 0.0f;
        for (; i < C; i++) tail += (x[i] - m) * (x[i] - m);
        const float variance = C ? (vsum(squares) + tail) / (float)C : 0.0f;
        const float s = 1.0f / sqrtf(variance + eps);
        mean[r] = m;
        rstd[r] = s;
        for (i = 0; i < C; i += VW) {
            int64_t n = min64(VW, C - i);
            vf xhat = (vload_n(x + i, n) - m) * s;
            vstore_n(out + r * C + i, xhat * vload_n(weight + i, n) + vload_n(bias + i, n), n);
        }
    }
}

/* dweight and dbias (C) are added to: they are this range's partial sums. */
static void layernorm_backward_rows(float *dinp, float *dweight, float *dbias, const float *dout,
                                    const float *inp, const float *weight, const float *mean,
                                    const float *rstd, int64_t r0, int64_t r1, int64_t C,
                                    int accumulate) {
    for (int64_t r = r0; r < r1; r++) {
        const float *x = inp + r * C, *dy = dout + r * C;
        const float m = mean[r], s = rstd[r];
        vf sum_dxhat = vzero(), sum_dxhat_xhat = vzero();
        for (int64_t i = 0; i < C; i += VW) {
            int64_t n = min64(VW, C - i);
            vf xhat = (vload_n(x + i, n) - m) * s, d = vload_n(dy + i, n);
            vf dxhat = d * vload_n(weight + i, n); /* 0 in lanes past C, whatever xhat is there */
            sum_dxhat += dxhat;
            sum_dxhat_xhat += dxhat * xhat;
            vstore_n(dweight + i, d * xhat + vload_n(dweight + i, n), n);
            vstore_n(dbias + i, d + vload_n(dbias + i, n), n);
        }
        const float mean_dxhat = vsum(sum_dxhat) / (float)C;
        const float mean_dxhat_xhat = vsum(sum_dxhat_xhat) / (float)C;
        for (int64_t i = 0; i < C; i += VW) {
            int64_t n = min64(VW, C - i);
            vf xhat = (vload_n(x + i, n) - m) * s;
            vf dxhat = vload_n(dy + i, n) * vload_n(weight + i, n);
            vf dx = s * (dxhat - mean_dxhat - xhat * mean_dxhat_xhat);
            if (accumulate) dx += vload_n(dinp + r * C + i, n);
            vstore_n(dinp + r * C + i, dx, n);
        }
    }
}
