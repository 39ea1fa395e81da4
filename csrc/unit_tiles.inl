/* unit_tiles.inl: packs operands for a unit that multiplies bfloat16, and multiplies macro tiles.
 *
 * The products of layers (matmul_bf16.inl) and of attention (attention_bf16.inl) are made of these.
 * The unit takes operands as pairs: two bfloat16 of neighbouring k in one word of 32 bits, the
 * first k in the lower half. Its smallest step is a product of tiles, 16 x 32 by 32 x 16:
 *
 *      A: 16 rows of 16 pairs         B: 16 pairs of rows, 16 columns      C: 16 x 16 floats
 *
 *             k  0 1  2 3 .. 30 31            n    0   1   ..  15
 *        m  0 [ (a a)(a a)..(a  a) ]   k  0  [ (b) (b)  ..  (b) ]     c[m][n] += sum over the 16
 *           1 [ (a a)(a a)..(a  a) ]      1  [ (b) (b)  ..  (b) ]      pairs p, q of row m of A
 *          ..                             2  [ (b) (b)  ..  (b) ]      and column n of B
 *          15 [ (a a)(a a)..(a  a) ]      3  [ (b) (b)  ..  (b) ]      of p0 q0 + p1 q1
 *                                        ..    a pair stands in two rows
 *
 * A macro tile is 2 x 2 of these: four tiles of sums are fed by two tiles of A and two of B, so
 * that each operand that is loaded is used twice. In memory, for a part of K of kc values:
 *
 *      packed rows of A (32, kc / 2 pairs)     each row in one piece; a tile takes 64 bytes of each
 *      a strip of B (kc / 2 pairs, 32)         a row of 32 pairs: 64 bytes for each of two tiles
 *
 * Operands are converted from float32 while they are packed, or lie in memory as bfloat16 already:
 * then packing only moves them, and whole tiles of an A (M,K) are read in place. The four ways in
 * which an operand can be stored need two ways to form pairs, and a transpose of 32-bit pairs:
 *
 *      A (M,K)    pairs along a row         as wanted      pack_rows
 *      A (K,M)    pairs across two rows     transposed     pack_rows_turned
 *      B (K,N)    pairs across two rows     as wanted      pack_strip
 *      B (N,K)    pairs along a row         transposed     pack_strip_turned
 *
 * Rows, columns and values of k that are missing at the edges are zeros in both operands, so they
 * add nothing, whatever the others are. (In attention, a weight of 0 meets real values: there an
 * infinite v_j gives NaN to other queries of its block too, see pygpt.h.)
 *
 * The operations are TILES_BEGIN, TILES_END (around all macro tiles of a function), and for a macro
 * tile either those of AMX (TILES, TILE_ZERO, TILE_LOAD, TILE_MULTIPLY, TILE_STORE, whose tiles are
 * numbered 0..7), or PAIR_MULTIPLY (sums, pairs, pairs), which adds the product of pairs lane by
 * lane. */

#define SIDE 16 /* of a tile: sums or pairs */
_Static_assert(UNIT_TILE == 2 * SIDE && UNIT_K == 2 * SIDE, "a macro tile is 2 x 2 tiles");
_Static_assert(SIDE % VW == 0, "a tile is whole squares of pairs");

/* Return VW pairs, rounded. Along: of neighbouring values in x and then in `next`, which follow
 * each other in memory. Across: of the values in the same lane of x and `next`. The instruction
 * takes denormals as 0; vbfloat16 keeps them, and the product takes them as 0. */
#if defined(SIMD_AVX512_BF16)
typedef uint16_t halves __attribute__((vector_size(64)));
INLINE vu pairs_along(vf x, vf next) {
    return (vu)_mm512_cvtne2ps_pbh((__m512)next, (__m512)x);
}
INLINE vu pairs_across(vf x, vf next) {
    /* clang-format off */
    const halves ORDER = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    /* clang-format on */
    return (vu)_mm512_permutexvar_epi16((__m512i)ORDER, (__m512i)pairs_along(x, next));
}
#else
INLINE vu pairs_across(vf x, vf next) {
    return (vu)vbfloat16(x) >> 16 | (vu)vbfloat16(next);
}
#define EVEN(l, d) (2 * (l))
#define ODD(l, d) (2 * (l) + 1)
INLINE vu pairs_along(vf x, vf next) {
    return pairs_across(SHUFFLE(x, next, EVEN, 0), SHUFFLE(x, next, ODD, 0));
}
#endif

/* Packs a square of VW elements by 2 VW values of k. An element is a row of A or a column of B.
 * With `along`, an element's values of k lie side by side at x, and elements are `step` apart; else
 * the other way round. The pairs lie in the same way at `to`, `ld` apart, or with `turned` in the
 * other. In memory the numbers are bfloat16 with `half`, else float32. Rounding a bfloat16 once
 * more changes nothing. */
INLINE void pack_square(uint32_t *to, int64_t ld, const void *x, const int half, int64_t step,
                        const int along, const int turned) {
    vf rows[VW];
    UNROLL for (int i = 0; i < VW; i++) {
        const int64_t first = along ? i * step : 2 * i * step;
        const vf a = vload_as(x, first, half);
        const vf b = vload_as(x, first + (along ? VW : step), half);
        rows[i] = (vf)(along ? pairs_along(a, b) : pairs_across(a, b));
    }
    if (turned) vtranspose(rows);
    UNROLL for (int i = 0; i < VW; i++) vstore((float *)(to + i * ld), rows[i]);
}

/* Packs up to UNIT_TILE elements by K values of k, filled up with zeros to UNIT_TILE elements and a
 * multiple of UNIT_K. */
INLINE void pack(uint32_t *to, int64_t ld, const void *from, const int half, int64_t step,
                 int64_t elements, int64_t K, const int along, const int turned) {
    float padded[VW * 2 * VW]; /* or as many bfloat16 in its first half */
    const size_t size = half ? sizeof(uint16_t) : sizeof(float);
    for (int64_t k = 0; k < (K + UNIT_K - 1) / UNIT_K * UNIT_K; k += 2 * VW)
        for (int64_t e = 0; e < UNIT_TILE; e += VW) {
            const int64_t e_count = max64(0, min64(VW, elements - e));
            const int64_t k_count = max64(0, min64(2 * VW, K - k));
            uint32_t *square = along != turned ? to + e * ld + k / 2 : to + k / 2 * ld + e;
            if (e_count == VW && k_count == 2 * VW) {
                const int64_t at = along ? e * step + k : k * step + e;
                pack_square(square, ld, place_of(from, at, half), half, step, along, turned);
                continue;
            }
            const int64_t rows = along ? e_count : k_count, columns = along ? k_count : e_count;
            const int64_t width = along ? 2 * VW : VW;
            memset(padded, 0, sizeof padded);
            for (int64_t i = 0; i < rows && columns > 0; i++) {
                const int64_t at = along ? (e + i) * step + k : (k + i) * step + e;
                memcpy((char *)padded + (size_t)(i * width) * size, place_of(from, at, half),
                       (size_t)columns * size);
            }
            pack_square(square, ld, padded, half, width, along, turned);
        }
}

/* Pack up to 32 rows of A, each `ld` pairs from the next, or a strip of up to 32 columns of B. In
 * memory, their rows, or with `turned` their columns, are `step` numbers apart. */
#define PACK(to, ld, x, half, step, elements, K, along, turned)       \
    do {                                                              \
        if (half)                                                     \
            pack(to, ld, x, 1, step, elements, K, along, turned);     \
        else                                                          \
            pack(to, ld, x, 0, step, elements, K, along, turned);     \
    } while (0)
static void pack_rows(uint32_t *rows, int64_t ld, const void *a, int half, int64_t step, int64_t M,
                      int64_t K) {
    PACK(rows, ld, a, half, step, M, K, 1, 0);
}
static void pack_rows_turned(uint32_t *rows, int64_t ld, const void *a, int half, int64_t step,
                             int64_t M, int64_t K) {
    PACK(rows, ld, a, half, step, M, K, 0, 1);
}
static void pack_strip(uint32_t *strip, const void *b, int half, int64_t step, int64_t N,
                       int64_t K) {
    PACK(strip, UNIT_TILE, b, half, step, N, K, 0, 0);
}
static void pack_strip_turned(uint32_t *strip, const void *b, int half, int64_t step, int64_t N,
                              int64_t K) {
    PACK(strip, UNIT_TILE, b, half, step, N, K, 1, 1);
}

/* sums (32,32), rows `ld` apart, [+]= 32 packed rows of A times a strip of B, over `steps` times 32
 * values of k. */
#if defined(TILE_MULTIPLY)
NOINLINE void macro_tile(float *sums, int64_t ld, const uint32_t *a, int64_t lda,
                         const uint32_t *strip, int64_t steps, int accumulate) {
    const int64_t below = SIDE * lda;
    TILES;
    if (accumulate) {
        TILE_LOAD(0, sums, ld);
        TILE_LOAD(1, sums + SIDE, ld);
        TILE_LOAD(2, sums + SIDE * ld, ld);
        TILE_LOAD(3, sums + SIDE * ld + SIDE, ld);
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    for (int64_t s = 0; s < steps; s++, a += SIDE, strip += SIDE * UNIT_TILE) {
        TILE_LOAD(4, a, lda);
        TILE_LOAD(6, strip, UNIT_TILE);
        TILE_MULTIPLY(0, 4, 6);
        TILE_LOAD(7, strip + SIDE, UNIT_TILE);
        TILE_MULTIPLY(1, 4, 7);
        TILE_LOAD(5, a + below, lda);
        TILE_MULTIPLY(2, 5, 6);
        TILE_MULTIPLY(3, 5, 7);
    }
    TILE_STORE(0, sums, ld);
    TILE_STORE(1, sums + SIDE, ld);
    TILE_STORE(2, sums + SIDE * ld, ld);
    TILE_STORE(3, sums + SIDE * ld + SIDE, ld);
}
#else
/* Returns a pair, which may be a part of bfloat16 numbers in memory. */
INLINE uint32_t word_at(const uint32_t *pair) {
    uint32_t word;
    memcpy(&word, pair, sizeof word);
    return word;
}

/* Eight rows at a time: 16 sums, two rows of B and a broadcast take 19 of 32 registers. */
#define SUM_ROWS 8
_Static_assert(VW == SIDE, "a row of a macro tile is two vectors");
_Static_assert(SUM_ROWS * 2 + 3 <= REGISTERS, "the sums do not fit the register file");
NOINLINE void macro_tile(float *sums, int64_t ld, const uint32_t *a, int64_t lda,
                         const uint32_t *strip, int64_t steps, int accumulate) {
    for (int64_t m = 0; m < UNIT_TILE; m += SUM_ROWS) {
        vf acc[SUM_ROWS][2];
        float *const c = sums + m * ld;
        if (accumulate) {
            UNROLL for (int i = 0; i < SUM_ROWS; i++)
                UNROLL for (int half = 0; half < 2; half++)
                    acc[i][half] = vload(c + i * ld + half * VW);
        } else {
            UNROLL for (int i = 0; i < SUM_ROWS; i++) acc[i][0] = acc[i][1] = vzero();
        }
        for (int64_t p = 0; p < steps * (UNIT_K / 2); p++) {
            const vu left = (vu)vload((const float *)(strip + p * UNIT_TILE));
            const vu right = (vu)vload((const float *)(strip + p * UNIT_TILE + VW));
            UNROLL for (int i = 0; i < SUM_ROWS; i++) {
                const vu x = (vu)vset1i((int32_t)word_at(a + (m + i) * lda + p));
                acc[i][0] = PAIR_MULTIPLY(acc[i][0], x, left);
                acc[i][1] = PAIR_MULTIPLY(acc[i][1], x, right);
            }
        }
        UNROLL for (int i = 0; i < SUM_ROWS; i++)
            UNROLL for (int half = 0; half < 2; half++)
                vstore(c + i * ld + half * VW, acc[i][half]);
    }
}
#endif
