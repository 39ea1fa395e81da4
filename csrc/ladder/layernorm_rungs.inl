/* layernorm_rungs.inl: the rungs of the layer norm's ladder. Each computes for every row of inp
 * (R,C)  out_i = (x_i - mean) rstd w_i + b_i  with rstd = 1 / sqrt(variance + STABLE), and keeps
 * mean (R) and rstd (R) for the backward pass, on one thread. isa.inl compiles this file for one
 * instruction set. */
#include "machine.inl"
#include "elementwise.inl"
#include "layernorm.inl"

#define STABLE 1e-5f

/* Keeps the two numbers of a row, and computes its outputs from them. The compiler vectorises this
 * loop by itself, because no element waits for another. */
static void finish(float *out, float *mean, float *rstd, const float *x, float m, float variance,
                   const float *weight, const float *bias, int64_t C) {
    const float s = 1.0f / sqrtf(variance + STABLE);
    *mean = m;
    *rstd = s;
    for (int64_t i = 0; i < C; i++) out[i] = (x[i] - m) * s * weight[i] + bias[i];
}

/* Rung 1: the definition: a pass for the mean, one for the variance, one for the outputs. The two
 * sums are chains in which each addition waits for the one before, some three or four cycles. */
static void definition(float *out, float *mean, float *rstd, const float *inp, const float *weight,
                       const float *bias, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) {
        const float *x = inp + r * C;
        float sum = 0.0f, squares = 0.0f;
        for (int64_t i = 0; i < C; i++) sum += x[i];
        const float m = sum / (float)C;
        for (int64_t i = 0; i < C; i++) squares += (x[i] - m) * (x[i] - m);
        finish(out + r * C, mean + r, rstd + r, x, m, squares / (float)C, weight, bias, C);
    }
}

/* Rung 2: one pass for both sums, because variance = mean(x^2) - mean^2; so both chains go on at
 * once. But where the mean is large, both terms are large and nearly equal, and their roundings are
 * all that the difference leaves: it may even be negative, and its root NaN. */
static void sum_of_squares(float *out, float *mean, float *rstd, const float *inp,
                           const float *weight, const float *bias, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) {
        const float *x = inp + r * C;
        float sum = 0.0f, squares = 0.0f;
        for (int64_t i = 0; i < C; i++) sum += x[i], squares += x[i] * x[i];
        const float m = sum / (float)C, variance = squares / (float)C - m * m;
        finish(out + r * C, mean + r, rstd + r, x, m, variance, weight, bias, C);
    }
}

/* Rung 3: the same of x - x_0, because a shift changes no variance. x_0 is likely to be within a
 * few deviations of the mean, so both terms are small. (Welford's update of the mean, which needs
 * no x_0, divides once for each element, and each division waits for the one before.) */
static void shifted_sums(float *out, float *mean, float *rstd, const float *inp,
                         const float *weight, const float *bias, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) {
        const float *x = inp + r * C;
        float sum = 0.0f, squares = 0.0f;
        for (int64_t i = 0; i < C; i++) {
            const float d = x[i] - x[0];
            sum += d, squares += d * d;
        }
        const float m = sum / (float)C, variance = squares / (float)C - m * m;
        finish(out + r * C, mean + r, rstd + r, x, x[0] + m, variance, weight, bias, C);
    }
}

/* Rung 4: each lane has sums of its own. A chain is VW times shorter, and sums of fewer numbers are
 * off by less. This makes passes so cheap that the definition's two can return, which are right
 * whatever x_0 is: the row lies in L1 by then. */
static void sums_in_lanes(float *out, float *mean, float *rstd, const float *inp,
                          const float *weight, const float *bias, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) {
        const float *x = inp + r * C;
        vf sums = vzero(), squares = vzero();
        for (int64_t i = 0; i < C; i += VW) sums += vload(x + i);
        const float m = vsum(sums) / (float)C;
        for (int64_t i = 0; i < C; i += VW) squares += (vload(x + i) - m) * (vload(x + i) - m);
        finish(out + r * C, mean + r, rstd + r, x, m, vsum(squares) / (float)C, weight, bias, C);
    }
}

#define TOGETHER 4

/* Rung 5: four rows side by side. While the sum of one row waits, the others go on; and the loads
 * of a weight and a bias serve four rows. */
static void rows_together(float *out, float *mean, float *rstd, const float *inp,
                          const float *weight, const float *bias, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r += TOGETHER) {
        const float *x = inp + r * C;
        vf sums[TOGETHER], squares[TOGETHER];
        float m[TOGETHER], s[TOGETHER];
        UNROLL for (int k = 0; k < TOGETHER; k++) sums[k] = squares[k] = vzero();
        for (int64_t i = 0; i < C; i += VW)
            UNROLL for (int k = 0; k < TOGETHER; k++) sums[k] += vload(x + k * C + i);
        UNROLL for (int k = 0; k < TOGETHER; k++) mean[r + k] = m[k] = vsum(sums[k]) / (float)C;
        for (int64_t i = 0; i < C; i += VW)
            UNROLL for (int k = 0; k < TOGETHER; k++) {
                const vf d = vload(x + k * C + i) - m[k];
                squares[k] += d * d;
            }
        UNROLL for (int k = 0; k < TOGETHER; k++)
            rstd[r + k] = s[k] = 1.0f / sqrtf(vsum(squares[k]) / (float)C + STABLE);
        for (int64_t i = 0; i < C; i += VW) {
            const vf w = vload(weight + i), b = vload(bias + i);
            UNROLL for (int k = 0; k < TOGETHER; k++)
                vstore(out + (r + k) * C + i, (vload(x + k * C + i) - m[k]) * s[k] * w + b);
        }
    }
}

/* Rung 6: the kernel that the layers call. It is rung 5 with any number of rows and columns, an
 * output in bfloat16 where that is wanted, and threads. */
static void library(float *out, float *mean, float *rstd, const float *inp, const float *weight,
                    const float *bias, int64_t R, int64_t C) {
    layernorm_forward(out, mean, rstd, inp, weight, bias, R, C, STABLE, 0);
}
