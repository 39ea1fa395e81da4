/* matmul_rungs.inl: the rungs of the matrix product's ladder. Each computes C (M,N) = A (M,K)
 * B (K,N), all row-major, on one thread. c is overwritten. M and N are multiples of the tile, so
 * that no edges hide the loops. isa.inl compiles this file for one instruction set.
 */
#include "machine.inl"
#include "matmul.inl"
#include "few_across.inl"

/* Rung 1: the definition. Each step down a column of B fetches another cache line of 64 bytes and
 * uses 4 of them. And a sum is one chain, in which each addition waits for the one before. */
static void three_loops(float *c, const float *a, const float *b, int64_t M, int64_t N,
                        int64_t K) {
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++) {
            float sum = 0.0f;
            for (int64_t k = 0; k < K; k++) sum += a[i * K + k] * b[k * N + j];
            c[i * N + j] = sum;
        }
}

/* Rung 2: the two inner loops change places. B and C are now read along their rows, in whole cache
 * lines. Neighbours in a row belong to independent sums, so the compiler computes a vector of them
 * at a time. But C goes through memory: each multiply-add loads B, loads C and stores C. */
static void loops_swapped(float *c, const float *a, const float *b, int64_t M, int64_t N,
                          int64_t K) {
    for (int64_t i = 0; i < M; i++) {
        for (int64_t j = 0; j < N; j++) c[i * N + j] = 0.0f;
        for (int64_t k = 0; k < K; k++)
            for (int64_t j = 0; j < N; j++) c[i * N + j] += a[i * K + k] * b[k * N + j];
    }
}

/* Rung 3: MR rows of C, one vector wide, stay in registers until all of K is summed. Nothing is
 * stored on the way, and a vector of B serves MR rows. But a step still has MR + 1 loads for MR
 * multiply-adds, MR sums are too few to have one ready in every cycle, and the loop goes down a
 * column of B again. */
static void sums_in_registers(float *c, const float *a, const float *b, int64_t M, int64_t N,
                              int64_t K) {
    for (int64_t m = 0; m < M; m += MR)
        for (int64_t n = 0; n < N; n += VW) {
            vf sum[MR];
            UNROLL for (int i = 0; i < MR; i++) sum[i] = vzero();
            for (int64_t k = 0; k < K; k++) {
                vf x = vload(b + k * N + n);
                UNROLL for (int i = 0; i < MR; i++) sum[i] += a[(m + i) * K + k] * x;
            }
            UNROLL for (int i = 0; i < MR; i++) vstore(c + (m + i) * N + n, sum[i]);
        }
}

/* Rung 4: the tile is NV vectors wide, as wide as the registers allow. A step has MR + NV loads for
 * MR * NV multiply-adds, and there are enough sums that none has to wait. The caller passes where A
 * and B begin and how far apart their rows are, because every rung from here on uses this tile. */
NOINLINE void tile(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb,
                   int64_t K) {
    vf sum[MR][NV];
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int j = 0; j < NV; j++) sum[i][j] = vzero();
    for (int64_t k = 0; k < K; k++) {
        vf row[NV];
        UNROLL for (int j = 0; j < NV; j++) row[j] = vload(b + k * ldb + j * VW);
        UNROLL for (int i = 0; i < MR; i++)
            UNROLL for (int j = 0; j < NV; j++) sum[i][j] += a[i * lda + k] * row[j];
    }
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int j = 0; j < NV; j++) vstore(c + i * ldc + j * VW, sum[i][j]);
}

static void tiles(float *c, const float *a, const float *b, int64_t M, int64_t N, int64_t K) {
    for (int64_t m = 0; m < M; m += MR)
        for (int64_t n = 0; n < N; n += NR)
            tile(c + m * N + n, N, a + m * K, K, b + n, N, K);
}

/* Rung 5: the loops over tiles change places. Rung 4 reads all of B for every MR rows of A; a B
 * larger than the L2 cache then arrives at the speed of the memory beyond. Here a strip, the NR
 * columns of B under a tile, serves all rows of A before the next strip is touched; L2 can keep
 * it. */
static void strip_by_strip(float *c, const float *a, const float *b, int64_t M, int64_t N,
                           int64_t K) {
    for (int64_t n = 0; n < N; n += NR)
        for (int64_t m = 0; m < M; m += MR)
            tile(c + m * N + n, N, a + m * K, K, b + n, N, K);
}

/* Rung 6: the strip is packed first, that is, copied into one piece. In place, its rows are N
 * floats apart: if N is a multiple of a large power of two, a cache maps them to few of its sets;
 * and each row may be on a page of its own. Packed, a strip is K * NR consecutive floats: it fits,
 * and it is read in the order in which the CPU prefetches. */
static void packed_strips(float *c, const float *a, const float *b, int64_t M, int64_t N,
                          int64_t K) {
    float *strip = scratch_take(K * NR);
    if (!strip) return;
    for (int64_t n = 0; n < N; n += NR) {
        for (int64_t k = 0; k < K; k++) memcpy(strip + k * NR, b + k * N + n, NR * sizeof(float));
        for (int64_t m = 0; m < M; m += MR)
            tile(c + m * N + n, N, a + m * K, K, strip, NR, K);
    }
    scratch_give(strip);
}

/* Rung 7: the product that the layers call. It has the same tile and the same packing, and all else
 * that a library needs: edges, transposed operands, a K so long that a strip would outgrow L2, bias
 * and GELU in the store, threads. */
static void library(float *c, const float *a, const float *b, int64_t M, int64_t N, int64_t K) {
    matmul(c, a, b, M, N, K, 0, 0, 0, PYGPT_FLOAT32);
}
