/* few_across.inl: computes a few rows by a float32 weight (IN,OUT) that does not fit into L2, with
 * every operation of gemm_block, so with its bits.
 *
 * gemm_block would read the weight in columns of one tile, 64 bytes of each row, and memory is slow
 * at that. Here a thread reads whole stretches of DEPTH rows and adds their products to the sums of
 * all its columns, which wait in scratch:
 *
 *             n0            n1
 *      k  -->  w w w w w w w w      DEPTH rows: each tile of columns adds its products to the sums,
 *              w w w w w w w w      and prefetches its part of the next DEPTH rows
 *              . . . . . . . .
 *      sums    s s s s s s s s      (M, columns)
 */

/* With one row of A, fewer rows of the weight at a time are read more like one stretch. Found by
 * trial (Zen 3). */
#define DEPTH 16
#define DEPTH_ONE_ROW 8
#define ACROSS_NV (VW < 16 ? LINE / VW : 2) /* vectors of a tile of columns: whole cache lines */
#define ACROSS (ACROSS_NV * VW)

/* sums (rows, ACROSS) += A B over n rows of B. w is the first of them, and each row `ahead` further
 * down is prefetched, unless 0. */
INLINE void across_tile(const int rows, float *sums, int64_t ld, const float *a, int64_t a_row,
                        const float *w, int64_t w_row, int64_t n, int64_t ahead) {
    vf total[MR][ACROSS_NV];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < ACROSS_NV; j++) total[i][j] = vload(sums + i * ld + j * VW);
    for (int64_t k = 0; k < n; k++, w += w_row) {
        vf row[ACROSS_NV];
        if (ahead)
            UNROLL for (int j = 0; j < ACROSS; j += LINE) __builtin_prefetch(w + ahead + j);
        UNROLL for (int j = 0; j < ACROSS_NV; j++) row[j] = vload(w + j * VW);
        UNROLL for (int i = 0; i < rows; i++) {
            const vf x = vset1(a[i * a_row + k]);
            UNROLL for (int j = 0; j < ACROSS_NV; j++) total[i][j] = x * row[j] + total[i][j];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < ACROSS_NV; j++) vstore(sums + i * ld + j * VW, total[i][j]);
}

/* Adds the products of n rows of B, at most DEPTH, to the sums of `rows` rows and `columns`
 * columns. The last tile of columns may be narrower: its part of B is copied. */
INLINE void across_rows(const int rows, float *sums, int64_t ld, const float *a, int64_t a_row,
                        const float *w, int64_t w_row, int64_t n, int64_t columns, int64_t ahead) {
    int64_t j = 0;
    for (; j + ACROSS <= columns; j += ACROSS)
        across_tile(rows, sums + j, ld, a, a_row, w + j, w_row, n, ahead);
    if (j == columns) return;
    float rest[DEPTH][ACROSS] = {{0}};
    for (int64_t k = 0; k < n; k++)
        memcpy(rest[k], w + k * w_row + j, sizeof(float) * (size_t)(columns - j));
    across_tile(rows, sums + j, ld, a, a_row, rest[0], ACROSS, n, 0);
}

/* Computes columns n0..n1 of g, all rows. There is room for M rows of sums, `ld` floats apart, ld
 * at least n1 - n0 rounded up to whole tiles. */
static void gemm_across(const gemm *g, int64_t n0, int64_t n1, float *sums, int64_t ld) {
    const int64_t depth = g->M == 1 ? DEPTH_ONE_ROW : DEPTH, columns = n1 - n0;
    int64_t k0 = 0;
    do { /* at least once, as in gemm_block */
        const int64_t end = min64(k0 + g->kc, g->K);
        memset(sums, 0, sizeof(float) * (size_t)(g->M * ld));
        for (int64_t k = k0; k < end; k += depth) {
            const float *w = g->b + k * g->b_row + n0;
            const int64_t n = min64(depth, end - k);
            for (int64_t m = 0; m < g->M; m += MR) {
                const float *a = g->a + m * g->a_row + k;
                const int64_t ahead = m == 0 && k + depth < g->K ? depth * g->b_row : 0;
#define ACROSS_CASE(rows)                                                                       \
    case rows:                                                                                  \
        across_rows(rows, sums + m * ld, ld, a, g->a_row, w, g->b_row, n, columns, ahead);      \
        break;
                /* clang-format off */
                switch (min64(MR, g->M - m)) {
                    ACROSS_CASE(1) ACROSS_CASE(2) ACROSS_CASE(3) ACROSS_CASE(4) ACROSS_CASE(5)
                    ACROSS_CASE(6)
                    default: break;
                }
                /* clang-format on */
            }
        }
        tile_finish(g, sums, ld, g->c + n0, g->M, columns, 0, n0, k0 == 0, end == g->K);
        k0 = end;
    } while (k0 < g->K);
}
_Static_assert(MR == 6, "gemm_across lists the tiles of 1 to 6 rows");
