/* softmax_rungs.inl: the rungs of the softmax's ladder. Each computes for every row of inp (R,C)
 * out_j = exp(x_j) / sum_k exp(x_k), on one thread. isa.inl compiles this file for one instruction
 * set. */
#include "machine.inl"
#include "softmax.inl"

/* Rung 1: the definition. It is wrong where a number of the row is above 88.7: exp of it is beyond
 * the largest float, so the sum is infinite, and infinity / infinity is NaN. */
static void formula(float *out, const float *inp, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) {
        const float *x = inp + r * C;
        float *y = out + r * C, sum = 0.0f;
        for (int64_t i = 0; i < C; i++) {
            y[i] = expf(x[i]);
            sum += y[i];
        }
        for (int64_t i = 0; i < C; i++) y[i] /= sum;
    }
}

/* Returns the largest of n floats. Each comparison waits for the one before. */
static float largest(const float *x, int64_t n) {
    float top = -INFINITY;
    for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* Rung 2: the row's maximum is subtracted, which cancels in the quotient. No exponential is above 1
 * any more, and one is exactly 1, so the sum is neither infinite nor 0. The price is a pass over
 * the row. But nearly all the time goes into a call of expf for each element. */
static void less_the_maximum(float *out, const float *inp, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) {
        const float *x = inp + r * C, top = largest(x, C);
        float *y = out + r * C, sum = 0.0f;
        for (int64_t i = 0; i < C; i++) {
            y[i] = expf(x[i] - top);
            sum += y[i];
        }
        for (int64_t i = 0; i < C; i++) y[i] /= sum;
    }
}

/* Sets y (C) = exp(x - top) and returns its sum. vexp (simd.h) computes VW exponentials at once, as
 * a polynomial. Each lane has a sum of its own; missing lanes of the last vector count 0. */
static float exponentials(float *y, const float *x, float top, int64_t C) {
    vf sums = vzero();
    for (int64_t i = 0; i < C; i += VW) {
        const int64_t n = min64(VW, C - i);
        vstore_n(y + i, vexp(vload_n(x + i, n) - top), n);
        sums += vload_n(y + i, n);
    }
    return vsum(sums);
}

/* Rung 3: the exponential becomes a polynomial, on whole vectors, within 2 units of the last place.
 * Now the search for the maximum takes most of the time: each of its comparisons waits for the one
 * before, which may not be reordered for all that the compiler knows, because of NaN. */
static void polynomial(float *out, const float *inp, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) {
        const float *x = inp + r * C;
        float *y = out + r * C;
        const float sum = exponentials(y, x, largest(x, C), C);
        for (int64_t i = 0; i < C; i++) y[i] /= sum;
    }
}

/* Rung 4: each lane keeps a maximum of its own, and the lanes are compared at the end (row_max in
 * softmax.inl). */
static void maximum_in_lanes(float *out, const float *inp, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) {
        const float *x = inp + r * C;
        float *y = out + r * C;
        const float sum = exponentials(y, x, row_max(x, C), C);
        for (int64_t i = 0; i < C; i++) y[i] /= sum;
    }
}

/* Rung 5: two passes over the row instead of three. Each lane keeps the maximum so far, m, and the
 * sum so far of exp(x - m); where m grows, the sum is multiplied by exp(m_old - m). The result is
 * written once. But an element now takes three exponentials instead of one, so this can only repay
 * where memory is slower than they are. Attention does it with a block of keys at a time, so that
 * the correction costs next to nothing. */
static void two_passes(float *out, const float *inp, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) {
        const float *x = inp + r * C;
        float *y = out + r * C;
        vf m = vset1(-INFINITY), l = vzero();
        int64_t i = 0;
        for (; i + VW <= C; i += VW) {
            const vf m_new = vmax(m, vload(x + i));
            l = l * vexp(m - m_new) + vexp(vload(x + i) - m_new);
            m = m_new;
        }
        float top = vmax_lanes(m), rest = 0.0f;
        for (int64_t j = i; j < C; j++) top = x[j] > top ? x[j] : top;
        for (int64_t j = i; j < C; j++) rest += expf(x[j] - top);
        const float sum = vsum(l * vexp(m - top)) + rest;
        for (i = 0; i < C; i += VW) {
            const int64_t n = min64(VW, C - i);
            vstore_n(y + i, vexp(vload_n(x + i, n) - top) / sum, n);
        }
    }
}

/* Rung 6: the kernel that the layers call. It has rung 4's passes, multiplies by 1 / sum instead of
 * dividing, and shares out rows among threads. */
static void library(float *out, const float *inp, int64_t R, int64_t C) {
    softmax_forward(out, inp, R, C);
}
