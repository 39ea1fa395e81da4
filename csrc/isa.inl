/* isa.inl: every inner loop for the instruction set of the including isa_*.c, and their table. */
#include "simd.h"

#include "matmul.inl"

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
    .gemm_dots = gemm_dots,
    .attention_scratch = attention_scratch,
    .attention_forward = attention_forward_head,
    .attention_backward = attention_backward_head,
    .attention_cached = attention_cached_row,
    .softmax_forward = softmax_forward_rows,
    .softmax_backward = softmax_backward_rows,
    .layernorm_forward = layernorm_forward_rows,
    .layernorm_backward = layernorm_backward_rows,
    .gelu_forward = gelu_forward_span,
    .gelu_backward = gelu_backward_span,
    .cross_entropy_rows = cross_entropy_rows,
    .cross_entropy_columns = cross_entropy_columns,
    .dropout_rows = dropout_rows,
    .add = add_span,
    .mul = mul_span,
    .scale = scale_span,
    .adamw = adamw_span,
    .sum_squares = sum_squares_span,
    .fma_chain = fma_chain,
    .fma_chain_width = CHAINS * VW,
    .read_span = read_span,
};
