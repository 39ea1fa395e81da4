/* crossentropy.inl: computes loss and gradient of rows of logits, in either layout. Derivation:
 * crossentropy.c. */

#define MOST 3.40282347e38f /* the largest float */

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

/* The transposed layout: logits (V, rows), with ld floats between the logits of one row. The three
 * functions below take n <= NR rows, one to a lane, and one part of V.
 *
 * 1. top = the largest of the part's J logits x_j, sum = sum_j exp(x_j - top), and with `keep` the
 *    logits become exp(x_j - top). */
static void cross_entropy_part(float *top, float *sum, float *logits, int64_t n, int64_t J,
                               int64_t ld, int keep) {
    for (int64_t i = 0; i < n; i += VW) {
        const int64_t lanes = min64(VW, n - i);
        const float *x = logits + i;
        vf most = vset1(-MOST), total = vzero(); /* not -inf: exp(-inf - -inf) is not a number */
        for (int64_t j = 0; j < J; j++) most = vmax(most, vload_n(x + j * ld, lanes));
        for (int64_t j = 0; j < J; j++) {
            const vf e = vexp(vload_n(x + j * ld, lanes) - most);
            total += e;
            if (keep) vstore_n(logits + i + j * ld, e, lanes);
        }
        vstore_n(top + i, most, lanes);
        vstore_n(sum + i, total, lanes);
    }
}

/* 2. The loss of each row from top and sum (parts, rows) of all parts; `losses` holds the logit of
 * the target before. top becomes the factor that turns the exponentials of a part into
 * factor * p. */
static void cross_entropy_join(float *losses, float *top, const float *sum, float factor, int64_t n,
                               int64_t parts, int64_t rows) {
    for (int64_t i = 0; i < n; i += VW) {
        const int64_t lanes = min64(VW, n - i);
        vf most = vset1(-MOST), total = vzero();
        for (int64_t k = 0; k < parts; k++) most = vmax(most, vload_n(top + k * rows + i, lanes));
        for (int64_t k = 0; k < parts; k++)
            total += vload_n(sum + k * rows + i, lanes) *
                     vexp(vload_n(top + k * rows + i, lanes) - most);
        /* Logits that are all -inf have no softmax: the row becomes NaN. */
        total = vselect_lt(vset1(-MOST), most, total, vset1(NAN));
        vstore_n(losses + i, most - vload_n(losses + i, lanes) + vlog(total), lanes);
        const vf scale = factor / total;
        for (int64_t k = 0; k < parts; k++) {
            float *t = top + k * rows + i;
            vstore_n(t, vexp(vload_n(t, lanes) - most) * scale, lanes);
        }
    }
}

/* 3. The logits j0..j1, exponentials by now, become factor * (p - y); 0 where the target is
 * ignored, whatever they are. */
static void cross_entropy_scale(float *logits, const float *scale, const int32_t *targets,
                                float factor, int64_t n, int64_t j0, int64_t j1, int64_t ld,
                                int64_t ignore_index) {
    float counts[NR] = {0}; /* 0 in an ignored row, else 1 */
    for (int64_t r = 0; r < n; r++) counts[r] = targets[r] != ignore_index ? 1 : 0;
    for (int64_t i = 0; i < n; i += VW) {
        const int64_t lanes = min64(VW, n - i);
        const vf by = vload_n(scale + i, lanes), counted = vload(counts + i);
        for (int64_t j = j0; j < j1; j++) {
            const vf p = vload_n(logits + j * ld + i, lanes) * by;
            vstore_n(logits + j * ld + i, vselect_lt(counted, vset1(1.0f), vzero(), p), lanes);
        }
    }
    for (int64_t r = 0; r < n; r++)
        if (counts[r] != 0.0f && targets[r] >= j0 && targets[r] < j1)
            logits[targets[r] * ld + r] -= factor;
}
