/* matmul_bf16.inl: computes one block of a matrix product on a unit that multiplies bfloat16.
 *
 * Blocks are made of the macro tiles of unit_tiles.inl, 32 x 32 sums each:
 *
 *           strips of 32 columns of B: a panel of n1 - n0 columns                  in L2
 *               |    |    |
 *      32 rows  v    v    v
 *      of A -> [  ][  ][  ]   macro tiles of C: in the unit's registers, then in `sums` (4 KB, L1),
 *              [  ][  ][  ]   from which tile_finish adds them to C
 *
 * Both operands are converted while they are packed: a panel once for all rows of the block, 32
 * rows of A once for all of its strips. An operand that is bfloat16 in memory is only moved, and
 * whole rows of such an A are read there. */

/* Returns values k0..k0+kc of rows m..m+mr of A as pairs, *lda pairs from row to row: in place, or
 * packed. */
static const uint32_t *rows_of_a(uint32_t *packed, int64_t *lda, const gemm *g, int64_t m,
                                 int64_t mr, int64_t k0, int64_t kc) {
    const int half = g->a_half != NULL;
    const void *all = half ? (const void *)g->a_half : g->a;
    const void *a = place_of(all, m * g->a_row + k0 * g->a_col, half);
    const int whole = mr == UNIT_TILE && kc % UNIT_K == 0 && g->a_row % 2 == 0;
    if (half && g->a_col == 1 && whole && (uintptr_t)a % sizeof(uint32_t) == 0) {
        *lda = g->a_row / 2;
        return a;
    }
    *lda = g->kc / 2;
    if (g->a_col == 1)
        pack_rows(packed, *lda, a, half, g->a_row, mr, kc);
    else
        pack_rows_turned(packed, *lda, a, half, g->a_col, mr, kc);
    return packed;
}

/* Packs rows k0..k0+kc of columns n..n+nr of B to a strip. */
static void pack_b(uint32_t *strip, const gemm *g, int64_t k0, int64_t kc, int64_t n, int64_t nr) {
    const int half = g->b_half != NULL;
    const void *all = half ? (const void *)g->b_half : g->b;
    const void *b = place_of(all, k0 * g->b_row + n * g->b_col, half);
    if (g->b_col == 1)
        pack_strip(strip, b, half, g->b_row, nr, kc);
    else
        pack_strip_turned(strip, b, half, g->b_col, nr, kc);
}

/* column_sum[n..n+nr] [+]= the sums of rows k0..k0+kc of B, which are not rounded. */
static void column_sums(const gemm *g, int64_t k0, int64_t kc, int64_t n, int64_t nr, int first) {
    for (int64_t j = n; j < n + nr; j += VW) {
        const int64_t lanes = min64(VW, n + nr - j);
        vf sum = vzero();
        for (int64_t k = k0; k < k0 + kc; k++) sum += vload_n(g->b + k * g->b_row + j, lanes);
        if (!first || g->accumulate_sum) sum += vload_n(g->column_sum + j, lanes);
        vstore_n(g->column_sum + j, sum, lanes);
    }
}

/* Prefetches what tile_finish will read of a matrix that is stored as C is. */
static void prefetch_tile(const float *x, const gemm *g, int64_t mr, int64_t m, int64_t n) {
    for (int64_t i = m; i < m + mr; i++) {
        __builtin_prefetch(x + i * g->ldc + n);
        __builtin_prefetch(x + i * g->ldc + n + SIDE);
    }
}

/* Computes rows m0..m1, columns n0..n1 of the product, as gemm_block of matmul.inl does. The panel
 * holds the strips of B, and after them UNIT_TILE packed rows of A. */
static void gemm_block_bf16(const gemm *g, int64_t m0, int64_t m1, int64_t n0, int64_t n1,
                            float *panel) {
    const int64_t strips = (n1 - n0 + UNIT_TILE - 1) / UNIT_TILE;
    const int64_t strip_size = UNIT_TILE * (g->kc / 2);
    uint32_t *const packed_b = (uint32_t *)panel, *const packed_a = packed_b + strips * strip_size;
    _Alignas(64) float sums[UNIT_TILE * UNIT_TILE];
    int64_t k0 = 0;
    TILES_BEGIN;
    do { /* at least once: with K = 0 the product is 0, but the bias must be added */
        const int64_t kc = min64(g->kc, g->K - k0), steps = (kc + UNIT_K - 1) / UNIT_K;
        const int first = k0 == 0, last = k0 + kc >= g->K;
        for (int64_t n = n0; n < n1; n += UNIT_TILE) {
            const int64_t nr = min64(UNIT_TILE, n1 - n);
            pack_b(packed_b + (n - n0) / UNIT_TILE * strip_size, g, k0, kc, n, nr);
            if (g->column_sum && m0 == 0) column_sums(g, k0, kc, n, nr, first);
        }
        for (int64_t m = m0; m < m1; m += UNIT_TILE) {
            const int64_t mr = min64(UNIT_TILE, m1 - m);
            int64_t lda;
            const uint32_t *a = rows_of_a(packed_a, &lda, g, m, mr, k0, kc), *strip = packed_b;
            for (int64_t n = n0; n < n1; n += UNIT_TILE, strip += strip_size) {
                if (g->c && (!first || g->accumulate)) prefetch_tile(g->c, g, mr, m, n);
                if (g->addend) prefetch_tile(g->addend, g, mr, m, n);
                if (last && g->slope_of) prefetch_tile(g->slope_of, g, mr, m, n);
                macro_tile(sums, UNIT_TILE, a, lda, strip, steps, 0);
                isa_in_use->tile_finish(g, sums, UNIT_TILE, sums_so_far(g, panel, m0, n0, m, n), mr,
                                        min64(UNIT_TILE, n1 - n), m, n, first, last);
            }
        }
        k0 += kc;
    } while (k0 < g->K);
    TILES_END;
}
