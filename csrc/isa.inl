/* isa.inl: compiles every inner loop for one instruction set, and lists the loops in its table.
 *
 * An isa_*.c sets these and then includes this file:
 *   ISA_NAME     the name for users, as in PYGPT_ISA=avx2
 *   ISA_TABLE    the C name of the table (dispatch.c lists the tables)
 *   ISA_TARGET   the target to compile for, where the compiler's default does not suffice
 *   SIMD_...     the intrinsics that simd.h may use, if any
 *   VW           floats in a vector
 *   REGISTERS    vector registers
 *   MR, NV       the matrix product's tile: MR rows of NV vectors
 *   ISA_LOOPS    a file to compile instead of the library's loops (the ladder's or a unit's), or
 *                unset
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef ISA_TARGET
#include <immintrin.h>
#endif

#include "internal.h"

/* The headers come before the pragma, because their inline functions must not get the target. */
#ifdef ISA_TARGET
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define PUSH_TARGET(t) \
    PRAGMA(clang attribute push(__attribute__((target(t))), apply_to = function))
PUSH_TARGET(ISA_TARGET)
#else
#define SET_TARGET(t) PRAGMA(GCC target(t))
#pragma GCC push_options
SET_TARGET(ISA_TARGET)
#endif
#endif

#include "simd.h"

#ifdef ISA_LOOPS
#include ISA_LOOPS
#else
#include "matmul.inl"
#include "few_across.inl"
#include "int8.inl"
#include "few_rows.inl"
#include "few_floats.inl"
#include "few_int8.inl"

#include "dropout_mask.inl"
#include "dropout.inl"
#include "softmax.inl"
#include "attention.inl"
#include "layernorm.inl"
#include "gelu.inl"
#include "crossentropy.inl"

#include "elementwise.inl"
#include "adamw.inl"
#include "machine.inl"

extern const isa ISA_TABLE;
const isa ISA_TABLE = {
    .name = ISA_NAME,
    .tile_rows = MR,
    .tile_columns = NR,
    .gemm_block = gemm_block,
    .tile_finish = tile_finish,
    .gemm_across = gemm_across,
    .across = ACROSS,
    .few_rows = {[FEW_FLOAT32] = {.arrange = arrange_plain, .part = float32_part},
                 [FEW_ROUNDED] = {.arrange = arrange_plain, .part = rounded_part},
                 [FEW_HALVES] = {.arrange = arrange_plain, .part = half_part},
                 [FEW_PAIRS] = {.arrange = arrange_pairs, .part = pairs_part},
                 [FEW_INT8] = {.arrange = arrange_int8, .part = int8_part}},
    .quantize = quantize_part,
    .dequantize = dequantize_part,
    .attention = {.block = QB,
                  .scratch = attention_scratch,
                  .forward = attention_forward_part,
                  .backward = attention_backward_part},
    .attention_cached = attention_cached_row,
    .softmax_forward = softmax_forward_rows,
    .softmax_backward = softmax_backward_rows,
    .layernorm_forward = layernorm_forward_rows,
    .layernorm_backward = layernorm_backward_rows,
    .gelu_forward = gelu_forward_span,
    .gelu_backward = gelu_backward_span,
    .cross_entropy_rows = cross_entropy_rows,
    .cross_entropy_part = cross_entropy_part,
    .cross_entropy_join = cross_entropy_join,
    .cross_entropy_scale = cross_entropy_scale,
    .dropout_rows = dropout_rows,
    .add = add_span,
    .mul = mul_span,
    .scale = scale_span,
    .adamw = adamw_span,
    .sum_squares = sum_squares_span,
    .multiply_chain = {.run = fma_chain, .width = CHAINS * VW},
    .read_span = read_span,
};
#endif

#ifdef ISA_TARGET
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
