/* crossentropy.inl: computes loss and gradient of rows of logits, in either layout. Derivation:
 * crossentropy.c. */

/* logits (R,V). Computes losses and dlogits [+]= factor (p - y), each unless it is NULL. Both are 0
 * in a row whose target is ignored. */
static void cross_entropy_rows(float *losses, float *dlogits, const float *logits,
                               const int32_t *targets, float factor, int64_t r0, int64_t r1,
                               int64_t V, int64_t ignore_index, int accumulate) {
    for (int64_t r = r0; r < r1; r++) {
        const float *x = logits + r * V;
        if (targets[r] == ignore_index) {
            if (losses) losses[r] = 0.0f;
            if (dlogits && !accumulate) memset(dlogits + r * V, 0, sizeof(float) * (size_t)V);
            continue;
        }
        const float top = row_max(x, V), hit = x[targets[r]];
        vf sums = vzero();
        int64_t i = 0;
        for (; i + VW <= V; i += VW) sums += vexp(vload(x + i) - top);
        if (i < V) {
            float e[VW];
            vstore(e, vexp(vload_n(x + i, V - i) - top));
            sums += vload_n(e, V - i);
        }
        const float sum = vsum(sums);
        if (losses) losses[r] = top - hit + logf(sum);
        if (!dlogits) continue;
        const float scale = factor / sum;
        float *d = dlogits + r * V;
        const float old = accumulate ? d[targets[r]] : 0.0f;
        for (i = 0; i < V; i += VW) {
            int64_t n = min64(VW, V - i);
            vf p = vexp(vload_n(x + i, n) - top) * scale;
            if (accumulate) p += vload_n(d + i, n);
            vstore_n(d + i, p, n);
        }
        d[targets[r]] = old + (expf(hit - top) / sum - 1.0f) * factor;
    }
}

/* Does the same for transposed logits (V, rows), with `ld` floats between the logits of one row.
 * Computes losses, and unless factor is NULL turns the logits into factor * (p - y), in place. Both
 * are 0 where the target is ignored, whatever the logits are. */
static void cross_entropy_columns(float *losses, float *logits, const int32_t *targets,
                                  const float *factor, int64_t rows, int64_t V, int64_t ld,
                                  int64_t ignore_index) {
    for (int64_t i = 0; i < rows; i += NR) {
        const int64_t n = min64(NR, rows - i);
        int64_t lanes[NV];
        vf top[NV], sum[NV];
        for (int v = 0; v < NV; v++) {
            lanes[v] = max64(0, min64(VW, n - v * VW));
            top[v] = vset1(-INFINITY);
            sum[v] = vzero();
        }
        const float *x = logits + i;
        for (int64_t j = 0; j < V; j++, x += ld)
            for (int v = 0; v < NV; v++) top[v] = vmax(top[v], vload_n(x + v * VW, lanes[v]));
        float *e = logits + i;
        float hits[NR] = {0}, counts[NR] = {0}; /* counts: 0 in an ignored row, else 1 */
        for (int64_t r = 0; r < n; r++) {
            if (targets[i + r] == ignore_index) continue;
            hits[r] = logits[targets[i + r] * ld + i + r];
            counts[r] = 1.0f;
        }
        for (int64_t j = 0; j < V; j++, e += ld)
            for (int v = 0; v < NV; v++) {
                vf y = vexp(vload_n(e + v * VW, lanes[v]) - top[v]);
                sum[v] += y;
                if (factor) vstore_n(e + v * VW, y, lanes[v]);
            }
        float loss[NR], scale[NR];
        for (int v = 0; v < NV; v++) {
            vf nats = top[v] - vload(hits + v * VW) + vlog(sum[v]);
            vstore(loss + v * VW, vselect_lt(vload(counts + v * VW), vset1(1.0f), vzero(), nats));
            vstore(scale + v * VW, (factor ? *factor : 0.0f) / sum[v]);
        }
        memcpy(losses + i, loss, sizeof(float) * (size_t)n);
        if (!factor) continue;
        e = logits + i;
        for (int64_t j = 0; j < V; j++, e += ld)
            for (int v = 0; v < NV; v++) {
                vf p = vload_n(e + v * VW, lanes[v]) * vload(scale + v * VW);
                p = vselect_lt(vload(counts + v * VW), vset1(1.0f), vzero(), p);
                vstore_n(e + v * VW, p, lanes[v]);
            }
        for (int64_t r = 0; r < n; r++)
            if (targets[i + r] != ignore_index) logits[targets[i + r] * ld + i + r] -= *factor;
    }
}
