/* gelu.inl: computes a span of n elements. Derivation: gelu.c; vector functions: simd.h. */

static void gelu_forward_span(float *out, const float *inp, int64_t n) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vstore(out + i, vgelu(vload(inp + i)));
    if (i < n) vstore_n(out + i, vgelu(vload_n(inp + i, n - i)), n - i);
}

static void gelu_backward_span(float *dinp, const float *dout, const float *inp, int64_t n,
                               int accumulate) {
    for (int64_t i = 0; i < n; i += VW) {
        int64_t lanes = min64(VW, n - i);
        vf gelu, d = vload_n(dout + i, lanes) * vgelu_slope(vload_n(inp + i, lanes), &gelu);
        if (accumulate) d += vload_n(dinp + i, lanes);
        vstore_n(dinp + i, d, lanes);
    }
}
