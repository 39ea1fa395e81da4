/* amx_rung.inl: rung 8 of the matrix product's ladder, on a unit that multiplies tiles of bfloat16.
 * amx.c compiles it for AMX, amx_in_c.c for AMX's operations in plain C. They set TILES_PRODUCT to
 * the name of the function, and have compiled unit_tiles.inl, which explains tiles and pairs. */

/* Rung 8: the multiply-adds themselves change. AMX multiplies a tile of 16 x 32 by one of 32 x 16
 * in one instruction, 8192 multiply-adds; AVX-512 makes 16 in one. For that the operands are
 * rounded to bfloat16, which halves their bytes, and packed as pairs of neighbouring k. Sums stay
 * in float32, 32 x 32 of them at a time in four tile registers (macro_tile). The loops are those of
 * rung 6. Because the matrices hold whole numbers up to 64, which bfloat16 has, the product is
 * still exact. */
void TILES_PRODUCT(float *c, const float *a, const float *b, int64_t M, int64_t N, int64_t K) {
    const int64_t steps = (K + UNIT_K - 1) / UNIT_K, pairs = steps * UNIT_K / 2;
    const int64_t rows = (M + UNIT_TILE - 1) / UNIT_TILE * UNIT_TILE;
    uint32_t *packed = (uint32_t *)scratch_take((rows + UNIT_TILE) * pairs);
    if (!packed) return;
    uint32_t *strip = packed + rows * pairs;
    _Alignas(64) float sums[UNIT_TILE * UNIT_TILE];
    for (int64_t m = 0; m < M; m += UNIT_TILE)
        pack_rows(packed + m * pairs, pairs, a + m * K, 0, K, min64(UNIT_TILE, M - m), K);
    TILES_BEGIN;
    for (int64_t n = 0; n < N; n += UNIT_TILE) {
        const int64_t columns = min64(UNIT_TILE, N - n);
        pack_strip(strip, b + n, 0, N, columns, K);
        for (int64_t m = 0; m < M; m += UNIT_TILE) {
            macro_tile(sums, UNIT_TILE, packed + m * pairs, pairs, strip, steps, 0);
            for (int64_t i = 0; i < min64(UNIT_TILE, M - m); i++)
                memcpy(c + (m + i) * N + n, sums + i * UNIT_TILE, 4 * (size_t)columns);
        }
    }
    TILES_END;
    scratch_give((float *)packed);
}
