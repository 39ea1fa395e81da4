/* elementwise.inl: adds, multiplies and scales spans of n elements. */

static void add_span(float *out, const float *a, const float *b, int64_t n) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vstore(out + i, vload(a + i) + vload(b + i));
    for (; i < n; i++) out[i] = a[i] + b[i];
}

static void mul_span(float *out, const float *a, const float *b, int64_t n, int accumulate) {
    for (int64_t i = 0; i < n; i += VW) {
        int64_t lanes = min64(VW, n - i);
        vf x = vload_n(a + i, lanes) * vload_n(b + i, lanes);
        if (accumulate) x += vload_n(out + i, lanes);
        vstore_n(out + i, x, lanes);
    }
}

static void scale_span(float *out, const float *inp, float factor, int64_t n, int accumulate) {
    for (int64_t i = 0; i < n; i += VW) {
        int64_t lanes = min64(VW, n - i);
        vf x = vload_n(inp + i, lanes) * factor;
        if (accumulate) x += vload_n(out + i, lanes);
        vstore_n(out + i, x, lanes);
    }
}
