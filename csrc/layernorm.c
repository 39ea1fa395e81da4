/* layernorm.c: brings each row to mean 0 and variance 1, then scales and shifts by channel.
 *
 *   xhat_i = (x_i - mean) rstd,   rstd = 1/sqrt(mean((x - mean)^2) + eps),   y_i = xhat_i w_i + b_i
 *
 * Backward. dw_i = sum_rows dy_i xhat_i and db_i = sum_rows dy_i; with dxhat_i = dy_i w_i, x_i acts
 * through (x_i - mean), through the mean, and through rstd:
 *   d xhat_j / d x_i = rstd (delta_ij - 1/C - xhat_i xhat_j / C)
 *   dx_i = rstd (dxhat_i - mean(dxhat) - xhat_i mean(dxhat xhat)).
 *
 * dw and db are sums over rows, but threads own rows. So rows are split into groups, whose size
 * depends only on R. One thread computes the partial sums of a group, and these are added in order.
 */
#include <string.h>

#include "internal.h"

#define COST 4.0
#define GROUP_ROWS 32
#define COLUMNS 256 /* of dw and db that one task sums */
#define GROUPS 128 /* there are at most this many */

int64_t pygpt_layernorm_group(int64_t R) { return max64(GROUP_ROWS, (R + GROUPS - 1) / GROUPS); }

int layernorm_forward(void *out, float *mean, float *rstd, const float *inp, const float *weight,
                      const float *bias, int64_t R, int64_t C, float eps, int form) {
    int threads = threads_for(COST * (double)R * (double)C, R);
    int64_t chunk = chunk_for(R, 1, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < R; r += chunk)
        isa_in_use->layernorm_forward(out, form & PYGPT_OUT_BFLOAT16, mean, rstd, inp, weight,
                                      bias, r, min64(r + chunk, R), C, eps);
    return PYGPT_OK;
}

/* dx_i = rstd (dxhat_i - mean(dxhat) - xhat_i mean(dxhat xhat)) with dxhat_i = dy_i w_i;
 * dw_i = sum_rows dy_i xhat_i;  db_i = sum_rows dy_i. */
int layernorm_backward(float *dinp, float *dweight, float *dbias, const float *dout,
                       const float *inp, const float *weight, const float *mean, const float *rstd,
                       int64_t R, int64_t C, int accumulate_input, int accumulate_params) {
    const int64_t group = pygpt_layernorm_group(R);
    const int64_t groups = (R + group - 1) / group;
    float *partial = scratch_take(2 * C * groups);
    if (!partial) return PYGPT_ENOMEM;
    memset(partial, 0, sizeof(float) * (size_t)(2 * C * groups));
    int threads = threads_for(2 * COST * (double)R * (double)C, groups);
    PARALLEL(threads) {
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < groups; i++)
            isa_in_use->layernorm_backward(dinp, partial + 2 * C * i, partial + 2 * C * i + C, dout,
                                           inp, weight, mean, rstd, i * group,
                                           min64((i + 1) * group, R), C, accumulate_input);
#pragma omp for schedule(dynamic)
        for (int64_t c = 0; c < C; c += COLUMNS) {
            const int64_t n = min64(COLUMNS, C - c);
            if (!accumulate_params) {
                memset(dweight + c, 0, sizeof(float) * (size_t)n);
                memset(dbias + c, 0, sizeof(float) * (size_t)n);
            }
            for (int64_t i = 0; i < groups; i++) {
                const float *sums = partial + 2 * C * i + c;
                isa_in_use->add(dweight + c, dweight + c, sums, n);
                isa_in_use->add(dbias + c, dbias + c, sums + C, n);
            }
        }
    }
    scratch_give(partial);
    return PYGPT_OK;
}
