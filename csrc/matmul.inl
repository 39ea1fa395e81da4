/* matmul.inl: computes one block of a matrix product from tiles. Derivation: matmul.c. */

/* Accumulators, one row of B and one broadcast of A must fit the registers of the instruction
 * set. */
_Static_assert(NV + MR * NV + 1 <= REGISTERS, "the tile does not fit the register file");
#define NR (NV * VW)
/* A block that meets fewer strips uses a row of A too little to repay packing it. */
#define FEW_STRIPS 2
/* Packing reads a line or a few of each row, and the next row often lies on another page, where the
 * processor does not prefetch by itself. So the row this many rows ahead is prefetched. */
#define PACK_AHEAD 8
#define LINE 16 /* floats in a cache line */

/* acc (mr x nv vectors) = the product of mr rows of A and K rows of B, `ldb` floats apart. mr and
 * nv are constants in every call, so that the loops unroll and acc stays in registers. Unrolled
 * loops set it to 0, because an initialiser would put it in memory. */
INLINE void tile_product(const int mr, const int nv, vf acc[MR][NV], int64_t K, const float *a,
                         int64_t a_row, int64_t a_col, const float *b, int64_t ldb) {
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++) acc[i][j] = vzero();
    for (int64_t k = 0; k < K; k++, a += a_col, b += ldb) {
        vf row[NV];
        UNROLL for (int j = 0; j < nv; j++) row[j] = vload(b + j * VW);
        UNROLL for (int i = 0; i < mr; i++) {
            vf x = vset1(a[i * a_row]);
            UNROLL for (int j = 0; j < nv; j++) acc[i][j] = x * row[j] + acc[i][j];
        }
    }
}

/* Computes a tile of any size: c (mr, nv vectors) [+]= A B. The sizes choose one of the unrolled
 * bodies. */
#define TILE_CASE(m, n)                                                                   \
    case (m) * 8 + (n): {                                                                 \
        vf acc[MR][NV];                                                                   \
        tile_product(m, n, acc, K, a, a_row, a_col, b, ldb);                              \
        UNROLL for (int i = 0; i < (m); i++) UNROLL for (int j = 0; j < (n); j++) {       \
            float *p = c + i * ldc + j * VW;                                              \
            vstore(p, accumulate ? acc[i][j] + vload(p) : acc[i][j]);                     \
        }                                                                                 \
        break;                                                                            \
    }
#if NV == 4
#define TILE_ROW(m) TILE_CASE(m, 1) TILE_CASE(m, 2) TILE_CASE(m, 3) TILE_CASE(m, 4)
#else
#define TILE_ROW(m) TILE_CASE(m, 1) TILE_CASE(m, 2)
#endif
NOINLINE void tile_any(int64_t mr, int64_t nv, float *c, int64_t ldc, int64_t K, const float *a,
                       int64_t a_row, int64_t a_col, const float *b, int64_t ldb, int accumulate) {
    /* clang-format off */
    switch (mr * 8 + nv) {
        TILE_ROW(1) TILE_ROW(2) TILE_ROW(3) TILE_ROW(4) TILE_ROW(5) TILE_ROW(6)
        default: break;
    }
    /* clang-format on */
}
_Static_assert(MR == 6, "tile_any lists the tiles of 1 to 6 rows");

/* Computes a full tile, with the layer's additions: c = AB [+ addend] [+ bias]. It is not inlined
 * into gemm_block, because there GCC 12 kept one of the 24 sums in memory, which cost a quarter of
 * the speed (73 % of peak instead of 97 %). */
NOINLINE void tile_full(float *c, int64_t ldc, int64_t K, const float *a, int64_t a_row,
                        int64_t a_col, const float *b, int64_t ldb, const float *addend,
                        const float *bias) {
    vf acc[MR][NV];
    /* Prefetch the sums so far, from L2 or beyond: they are needed after the loop. */
    if (addend)
        UNROLL for (int i = 0; i < MR; i++)
            UNROLL for (int j = 0; j < NV; j++) __builtin_prefetch(addend + i * ldc + j * VW);
    tile_product(MR, NV, acc, K, a, a_row, a_col, b, ldb);
    if (bias)
        UNROLL for (int j = 0; j < NV; j++) {
            vf x = vload(bias + j * VW);
            UNROLL for (int i = 0; i < MR; i++) acc[i][j] += x;
        }
    if (addend)
        UNROLL for (int i = 0; i < MR; i++)
            UNROLL for (int j = 0; j < NV; j++) acc[i][j] += vload(addend + i * ldc + j * VW);
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int j = 0; j < NV; j++) vstore(c + i * ldc + j * VW, acc[i][j]);
}

/* Adds the sums t (mr, nr) over a part of K to the sums so far of the elements from row m and
 * column n on, and after the last part applies the rest of the layer. The rows of t are `ldt`
 * apart, with room for whole vectors. */
INLINE void tile_finish_as(const gemm *g, const float *t, int64_t ldt, float *so_far, int64_t mr,
                           int64_t nr, int64_t m, int64_t n, int first, int last, const int half) {
    const int64_t ldc = g->ldc, ld = half && sums_wait(g) ? g->ld_sums : ldc;
    /* Copies, because a store of floats might change *g, for all that the compiler knows. */
    const float *const bias = first ? g->bias : NULL, *const slope_of = last ? g->slope_of : NULL;
    float *const pre = last ? g->pre : NULL, *const act = g->act;
    uint16_t *const act_half = g->act_half, *const c_half = last ? g->c_half : NULL;
    const int gelu = last && g->gelu;
    /* The GELU does not apply to the addend: with a GELU it is added last, else first. */
    const int adds = g->gelu || g->slope_of ? last : first;
    const float *const c = adds && g->accumulate ? g->c : NULL;
    const float *const addend = adds ? g->addend : NULL;
    for (int64_t i = 0; i < mr; i++) {
        for (int64_t j = 0; j < nr; j += VW) {
            int64_t lanes = min64(VW, nr - j), at = (m + i) * ldc + n + j;
            vf x = vload(t + i * ldt + j);
            if (bias) x += vload_n(bias + n + j, lanes);
            if (!first) x += vload_n(so_far + i * ld + j, lanes);
            if (pre) vstore_n(pre + at, x, lanes);
            if (gelu) x = vgelu(x);
            if (slope_of) {
                vf value;
                x *= vgelu_slope(vload_n(slope_of + at, lanes), &value);
                if (act) vstore_n(act + at, value, lanes);
                if (half && act_half) vstore_half_n(act_half + at, value, lanes);
            }
            if (c) x += vload_n(c + at, lanes);
            if (addend) x += vload_n(addend + at, lanes);
            if (half && c_half)
                vstore_half_n(c_half + at, x, lanes);
            else
                vstore_n(so_far + i * ld + j, x, lanes);
        }
    }
}

/* The code for bfloat16 outputs is apart from the other, whose loop it made 12 % slower with a
 * GELU, and 8 % without the copies above (Zen 3, AVX2, one thread). */
NOINLINE void tile_finish_half(const gemm *g, const float *t, int64_t ldt, float *so_far,
                               int64_t mr, int64_t nr, int64_t m, int64_t n, int first, int last) {
    tile_finish_as(g, t, ldt, so_far, mr, nr, m, n, first, last, 1);
}

static void tile_finish(const gemm *g, const float *t, int64_t ldt, float *so_far, int64_t mr,
                        int64_t nr, int64_t m, int64_t n, int first, int last) {
    if (g->c_half || g->act_half)
        tile_finish_half(g, t, ldt, so_far, mr, nr, m, n, first, last);
    else
        tile_finish_as(g, t, ldt, so_far, mr, nr, m, n, first, last, 0);
}

/* Copies rows k0..k0+kc, columns n..n+nr of B to a contiguous strip (kc, NR), padded with zeros. In
 * memory the numbers of B are bfloat16 with `half`, else float32. */
INLINE void pack_strip_from(float *strip, const void *all, const int half, const gemm *g,
                            int64_t k0, int64_t kc, int64_t n, int64_t nr) {
    if (g->b_col == 1) {
        const int line = half ? 2 * LINE : LINE;
        int64_t b = k0 * g->b_row + n;
        if (nr == NR) {
            for (int64_t k = 0; k < kc; k++, b += g->b_row, strip += NR) {
                for (int j = 0; j < NR; j += line)
                    __builtin_prefetch(place_of(all, b + PACK_AHEAD * g->b_row + j, half));
                UNROLL for (int j = 0; j < NV; j++)
                    vstore(strip + j * VW, vload_as(all, b + j * VW, half));
            }
            return;
        }
        for (int64_t k = 0; k < kc; k++, b += g->b_row, strip += NR)
            for (int64_t j = 0; j < NR; j += VW)
                vstore(strip + j, vload_as_n(all, b + min64(j, nr), half,
                                             max64(0, min64(VW, nr - j))));
        return;
    }
    /* B is stored transposed: transpose VW x VW squares in registers. */
    for (int64_t j = 0; j < NR; j += VW) {
        int64_t rows = max64(0, min64(VW, nr - j));
        const int64_t b = k0 + (n + j) * g->b_col;
        for (int64_t k = 0; k < kc; k += VW) {
            int64_t columns = min64(VW, kc - k);
            vf square[VW];
            if (rows == VW && columns == VW) {
                UNROLL for (int i = 0; i < VW; i++)
                    square[i] = vload_as(all, b + i * g->b_col + k, half);
            } else {
                for (int64_t i = 0; i < VW; i++)
                    square[i] = i < rows ? vload_as_n(all, b + i * g->b_col + k, half, columns)
                                         : vzero();
            }
            vtranspose(square);
            if (columns == VW) {
                UNROLL for (int i = 0; i < VW; i++) vstore(strip + (k + i) * NR + j, square[i]);
            } else {
                for (int64_t i = 0; i < columns; i++) vstore(strip + (k + i) * NR + j, square[i]);
            }
        }
    }
}
static void pack_strip(float *strip, const gemm *g, int64_t k0, int64_t kc, int64_t n, int64_t nr) {
    if (g->b_half)
        pack_strip_from(strip, g->b_half, 1, g, k0, kc, n, nr);
    else
        pack_strip_from(strip, g->b, 0, g, k0, kc, n, nr);
}

/* Packs rows m..m+rows, columns k0..k0+kc of an A that is stored transposed: tile by tile, each as
 * (kc, MR), so that a tile then reads one contiguous piece. Each k is read once for all tiles, in
 * whole cache lines. The tiles are APART floats more than their size from one another: with kc 256
 * or 512, the places of one k in all tiles would otherwise fall into two sets of L1 or one. */
_Static_assert(A_ROWS % MR == 0, "packed rows are whole tiles");
static void pack_rows(float *packed, const gemm *g, int64_t m, int64_t rows, int64_t k0,
                      int64_t kc) {
    if (g->a_half) {
        const uint16_t *a = g->a_half + m + k0 * g->a_col;
        for (int64_t k = 0; k < kc; k++, a += g->a_col)
            for (int64_t i = 0; i < rows; i++)
                packed[i / MR * (kc * MR + APART) + k * MR + i % MR] = widened(a[i]);
        return;
    }
    const float *a = g->a + m + k0 * g->a_col;
    const int64_t full = rows / MR * MR;
    for (int64_t k = 0; k < kc; k++, a += g->a_col) {
        float *to = packed + k * MR;
        for (int64_t i = 0; i < A_ROWS; i += LINE)
            __builtin_prefetch(a + PACK_AHEAD * g->a_col + i);
        for (int64_t i = 0; i < full; i += MR, to += kc * MR + APART)
            memcpy(to, a + i, MR * sizeof(float));
        for (int64_t i = full; i < rows; i++) to[i - full] = a[i];
    }
}

/* Packs the same rows of an A that is stored as it is, in the same places. */
static void pack_rows_across(float *packed, const gemm *g, int64_t m, int64_t rows, int64_t k0,
                             int64_t kc) {
    for (int64_t i = 0; i < rows; i++) {
        const int64_t at = (m + i) * g->a_row + k0;
        float *to = packed + i / MR * (kc * MR + APART) + i % MR;
        if (g->a_half)
            for (int64_t k = 0; k < kc; k++) to[k * MR] = widened(g->a_half[at + k]);
        else
            for (int64_t k = 0; k < kc; k++) to[k * MR] = g->a[at + k];
    }
}

/* out = inp (n), rounded to bfloat16. out may be inp. */
static void round_span(float *out, const float *inp, int64_t n) {
    for (int64_t i = 0; i < n; i += VW) {
        const int64_t lanes = min64(VW, n - i);
        vstore_n(out + i, vbfloat16(vload_n(inp + i, lanes)), lanes);
    }
}

/* column_sum[n..n+nr] [+]= the sums over the rows of a packed strip. */
static void strip_sums(const gemm *g, const float *strip, int64_t kc, int64_t n, int64_t nr,
                       int first) {
    for (int64_t j = 0; j < nr; j += VW) {
        int64_t lanes = min64(VW, nr - j);
        vf sum = vzero();
        for (int64_t k = 0; k < kc; k++) sum += vload(strip + k * NR + j);
        float *p = g->column_sum + n + j;
        if (!first || g->accumulate_sum) sum += vload_n(p, lanes);
        vstore_n(p, sum, lanes);
    }
}

/* Computes rows m0..m1, columns n0..n1 of the product. The panel holds kc rows of B as strips of NR
 * columns, which are packed here and used by every row of the block. After them it has room for
 * A_ROWS packed rows of a transposed A. */
static void gemm_block(const gemm *g, int64_t m0, int64_t m1, int64_t n0, int64_t n1,
                       float *panel) {
    const int in_place = reads_b_in_place(g, m1 - m0, MR);
    const int64_t strips = (n1 - n0 + NR - 1) / NR;
    const int rounded = g->dtype == PYGPT_BFLOAT16; /* then both operands are packed and rounded */
    const int pack_a = rounded || (g->a_col != 1 && strips >= FEW_STRIPS);
    float *packed = panel + strips * NR * g->kc;
    const int plain = !g->gelu && !g->slope_of && !g->c_half;
    int64_t k0 = 0;
    do { /* at least once: with K = 0 the product is 0, but the bias must be added */
        const int64_t kc = min64(g->kc, g->K - k0);
        const int first = k0 == 0, last = k0 + kc >= g->K;

        /* Phase 1: pack kc rows of B, strip by strip, and add up their columns. */
        for (int64_t n = n0; n < n1; n += NR) {
            int64_t nr = min64(NR, n1 - n);
            float *strip = panel + (n - n0) * g->kc;
            if (!in_place || nr < NR || (g->column_sum && m0 == 0))
                pack_strip(strip, g, k0, kc, n, nr);
            if (g->column_sum && m0 == 0) strip_sums(g, strip, kc, n, nr, first);
            if (rounded && !g->b_half) round_span(strip, strip, kc * NR);
        }

        /* Phase 2: for each MR rows of A, read in place or packed, and each strip: a tile. */
        for (int64_t m = m0; m < m1; m += MR) {
            int64_t mr = min64(MR, m1 - m);
            const float *a = pack_a ? NULL : g->a + m * g->a_row + k0 * g->a_col;
            int64_t a_row = g->a_row, a_col = g->a_col;
            if (pack_a) {
                const int64_t row = (m - m0) % A_ROWS;
                if (row == 0) {
                    const int64_t rows = min64(A_ROWS, m1 - m), tiles = (rows + MR - 1) / MR;
                    const int64_t size = tiles * (kc * MR + APART);
                    if (rounded) memset(packed, 0, sizeof(float) * (size_t)size);
                    (g->a_col == 1 ? pack_rows_across : pack_rows)(packed, g, m, rows, k0, kc);
                    if (rounded && !g->a_half) round_span(packed, packed, size);
                }
                a = packed + row / MR * (kc * MR + APART), a_row = 1, a_col = MR;
            }
            for (int64_t n = n0; n < n1; n += NR) {
                int64_t nr = min64(NR, n1 - n);
                const float *b = panel + (n - n0) * g->kc;
                int64_t ldb = NR;
                if (in_place && nr == NR) b = g->b + k0 * g->b_row + n, ldb = g->b_row;
                float *c = sums_so_far(g, panel, m0, n0, m, n);
                /* tile_full adds sums, bias and addend; edges and GELU go through t instead. */
                if (plain && mr == MR && nr == NR && !(first && g->accumulate && g->addend)) {
                    const float *addend = !first || g->accumulate ? c
                                          : g->addend ? g->addend + m * g->ldc + n : NULL;
                    tile_full(c, g->ldc, kc, a, a_row, a_col, b, ldb, addend,
                              first && g->bias ? g->bias + n : NULL);
                } else {
                    float t[MR * NR];
                    if (last && g->slope_of) /* prefetch from beyond L2 */
                        for (int64_t i = 0; i < mr; i++)
                            for (int64_t j = 0; j < nr; j += VW)
                                __builtin_prefetch(g->slope_of + (m + i) * g->ldc + n + j);
                    tile_any(mr, (nr + VW - 1) / VW, t, NR, kc, a, a_row, a_col, b, ldb, 0);
                    tile_finish(g, t, NR, c, mr, nr, m, n, first, last);
                }
            }
        }
        k0 += kc;
    } while (k0 < g->K);
}
