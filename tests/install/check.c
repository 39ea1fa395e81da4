/* check.c: checks the C library by itself, in short, where no Python can run the tests: with another
 * C library (musl), below another system root. Each instruction set that can be used here must
 * agree with loops in double precision.
 *
 *     cc -O3 -std=c11 -D_GNU_SOURCE -ffp-contract=fast -Icsrc tests/install/check.c csrc/[a-z]*.c \
 *         -lm
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "pygpt.h"

#define EPSILON 1.1920929e-7 /* 2^-23 */

static int faults;

static void expect(int holds, const char *what, const char *set) {
    if (!holds) printf("check: %s is wrong with %s\n", what, set), faults++;
}

static float *numbers(int64_t n, uint64_t stream) {
    const uint64_t seed = 5;
    float *x = pygpt_alloc(n * (int64_t)sizeof(float));
    if (!x || random_normal(x, 1.0f, &seed, stream, n) != PYGPT_OK) abort();
    return x;
}

/* The error of a sum of K products is at most K + 1 roundings of the sum of their sizes. */
static void check_matmul(const char *set, int64_t M, int64_t N, int64_t K) {
    float *a = numbers(M * K, 1), *b = numbers(K * N, 2), *c = numbers(M * N, 3);
    int fits = matmul(c, a, b, M, N, K, 0, 0, 0, PYGPT_FLOAT32) == PYGPT_OK;
    for (int64_t i = 0; i < M * N; i++) {
        double sum = 0.0, size = 0.0;
        for (int64_t k = 0; k < K; k++) {
            const double product = (double)a[i / N * K + k] * (double)b[k * N + i % N];
            sum += product;
            size += fabs(product);
        }
        fits &= fabs((double)c[i] - sum) <= (double)(K + 1) * EPSILON * size;
    }
    expect(fits, "matmul", set);
    pygpt_free(a), pygpt_free(b), pygpt_free(c);
}

static void check_rows(const char *set, int64_t R, int64_t C) {
    float *x = numbers(R * C, 4), *p = numbers(R * C, 5), *g = numbers(R * C, 6);
    int fits = softmax_forward(p, x, R, C) == PYGPT_OK && gelu_forward(g, x, R * C) == PYGPT_OK;
    for (int64_t r = 0; r < R; r++) {
        double sum = 0.0;
        for (int64_t i = r * C; i < (r + 1) * C; i++) sum += exp((double)x[i]);
        for (int64_t i = r * C; i < (r + 1) * C; i++) {
            const double z = (double)x[i], right = exp(z) / sum;
            fits &= fabs((double)p[i] - right) <= (double)(C + 32) * EPSILON * right;
            const double u = sqrt(2.0 / acos(-1.0)) * (z + 0.044715 * z * z * z);
            const double gelu = 0.5 * z * (1.0 + tanh(u));
            fits &= fabs((double)g[i] - gelu) <= 200.0 * EPSILON * fabs(gelu) + 1e-30;
        }
    }
    expect(fits, "softmax or gelu", set);
    pygpt_free(x), pygpt_free(p), pygpt_free(g);
}

int main(void) {
    pygpt_set_nodes(3); /* asks the system for its policy, and must not fail without one */
    pygpt_set_num_threads(3);
    pygpt_share_all(1);
    printf("check: %s, OpenMP %d:", pygpt_compiler(), pygpt_openmp());
    for (int i = 0; pygpt_isa_name(i); i++) {
        if (!pygpt_isa_supported(i) || pygpt_isa_select(i) != i) continue;
        const char *set = pygpt_isa_name(i);
        printf(" %s", set);
        check_matmul(set, 1, 1, 1);
        check_matmul(set, 3, 65, 17);
        check_matmul(set, 61, 130, 300);
        check_matmul(set, 200, 33, 9);
        check_rows(set, 5, 3);
        check_rows(set, 7, 67);
    }
    void *large = pygpt_alloc(3 << 20);
    expect(large != NULL && pygpt_alloc(INT64_MAX) == NULL && pygpt_refused_bytes() == INT64_MAX,
           "pygpt_alloc", "any set");
    pygpt_free(large);
    printf(": %s\n", faults ? "faulty" : "all agree");
    return faults != 0;
}
