/* unit.inl: compiles the loops of one bfloat16 unit, and lists them in its table.
 *
 * A unit_*.c sets UNIT_NAME, UNIT_TABLE, UNIT_PACKING (bfloat16_unit.packing) and the unit's
 * operations (unit_tiles.inl says which), and names this file as ISA_LOOPS of isa.inl. */
#include "unit_tiles.inl"

#include "matmul_bf16.inl"

#include "dropout_mask.inl"
#include "attention_bf16.inl"

/* Multiplies 32 rows by a strip over PEAK_STEPS times 32 values of k, n times. */
#define PEAK_STEPS 4
static float macro_tile_chain(int64_t n) {
    _Alignas(64) uint32_t rows[UNIT_TILE * PEAK_STEPS * UNIT_K / 2];
    _Alignas(64) uint32_t strip[UNIT_TILE * PEAK_STEPS * UNIT_K / 2];
    _Alignas(64) float sums[UNIT_TILE * UNIT_TILE];
    for (int64_t i = 0; i < UNIT_TILE * PEAK_STEPS * UNIT_K / 2; i++)
        rows[i] = strip[i] = 0x3F003F00; /* a pair of 0.5 */
    memset(sums, 0, sizeof sums);
    TILES_BEGIN;
    for (int64_t i = 0; i < n; i++)
        macro_tile(sums, UNIT_TILE, rows, PEAK_STEPS * UNIT_K / 2, strip, PEAK_STEPS, 0);
    TILES_END;
    return sums[0];
}

const bfloat16_unit UNIT_TABLE = {
    .name = UNIT_NAME,
    .gemm_block = gemm_block_bf16,
    .packing = UNIT_PACKING,
    .attention = {.block = KB,
                  .scratch = attention_scratch_bf16,
                  .forward = attention_forward_bf16,
                  .backward = attention_backward_bf16},
    .chain = {.run = macro_tile_chain, .width = UNIT_TILE * UNIT_TILE * UNIT_K * PEAK_STEPS},
};
