/* adamw.c: computes the optimizer's step, and the sum of squares that clipping needs.
 *
 * Adam keeps running means of the gradient, m, and of its square, v. Both start at 0 and are
 * smaller than the true means by the factors 1 - beta^t, which are divided out. The step
 * lr * mhat/(sqrt(vhat)+eps) then has the size lr at any scale of the gradient. AdamW takes weight
 * decay out of the gradient and applies it to the parameter itself. One pass reads and writes each
 * array once, at the speed of memory, and multiplies the gradient by the factor of clipping. The
 * same pass can write the new parameters as bfloat16, too, for the products that read them so.
 */
#include "internal.h"

#define SPAN 16384 /* elements; fixed, so that sums do not depend on the number of threads */

int64_t pygpt_adamw_span(void) { return SPAN; }

int adamw_step(float *param, uint16_t *half, float *m, float *v, const float *grad,
               const float *settings, int64_t n, int64_t n_decay) {
    int threads = threads_for(10.0 * (double)n, (n + SPAN - 1) / SPAN);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n; i += SPAN) {
        /* Elements i..k are decayed, elements k..end are not; either part may be empty. */
        const int64_t end = min64(i + SPAN, n), k = max64(i, min64(n_decay, end));
        isa_in_use->adamw(param + i, half ? half + i : NULL, m + i, v + i, grad + i, settings,
                          settings[ADAMW_WEIGHT_DECAY], k - i);
        isa_in_use->adamw(param + k, half ? half + k : NULL, m + k, v + k, grad + k, settings, 0.0f,
                          end - k);
    }
    return PYGPT_OK;
}

int sum_squares(double *out, const float *x, int64_t n) {
    const int64_t spans = (n + SPAN - 1) / SPAN;
    double *partial = (double *)scratch_take(2 * spans);
    if (!partial) return PYGPT_ENOMEM;
    int threads = threads_for(2.0 * (double)n, spans);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < spans; i++)
        partial[i] = isa_in_use->sum_squares(x + i * SPAN, min64(SPAN, n - i * SPAN));
    *out = 0.0;
    for (int64_t i = 0; i < spans; i++) *out += partial[i];
    scratch_give((float *)partial);
    return PYGPT_OK;
}
