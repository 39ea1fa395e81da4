/* unit.inl: compiles the loops of one bfloat16 unit, and lists them in its table.
 *
 * A unit_*.c sets UNIT_NAME, UNIT_TABLE, UNIT_PACKING (bfloat16_unit.packing) and the unit's
 * operations (unit_tiles.inl says which), and names this file as ISA_LOOPS of isa.inl. */
#include "unit_tiles.inl"

#include "matmul_bf16.inl"

#include "dropout_mask.inl"
#include "attention_bf16.inl"

const bfloat16_unit UNIT_TABLE = {
    .name = UNIT_NAME,
    .gemm_block = gemm_block_bf16,
    .packing = UNIT_PACKING,
    .attention = {.block = KB,
                  .scratch = attention_scratch_bf16,
                  .forward = attention_forward_bf16,
                  .backward = attention_backward_bf16},
};
