"""Defines the numeric kernels of csrc/pygpt.h as plain Python loops.

Names, argument order and contracts are those of the header, whose glossary explains the capitals.
The formula stands there, its loop here, and its fast form in csrc/. Files have the names of csrc/.

A tensor is any flat object that x[i] reads and writes: a list, an array, a memoryview, a cffi
pointer. An optional tensor that is absent is None or NULL, and `if bias:` tests for it. Sums run in
Python's floats, in double precision, and are stored unchanged: a list keeps them, float32 memory
rounds them.

PYGPT_BACKEND=reference trains with these loops, and the tests check the C kernels against them.
The loops of the bpe_* functions are in tokenizer/bpe_python.py.

    loops.py         holds what the others share: statuses, types, index loops, sums and stores
    convert.py       converts 16-bit floats to float32 and back; transposes
    operands.py      reads and writes the operands of products, rounded to bfloat16 or not
    linear.py        defines the matrix product, and the layer that it makes
    softmax.py, gelu.py, layernorm.py, embedding.py, attention.py, dropout.py
                     define one layer each, its gradient under it
    crossentropy.py  defines the loss, alone and together with the product before it
    few_rows.py      defines layers whose weights are stored in 16 or 8 bits
    int8.py          rounds weights to 8 bits, and back
    random.py        makes numbers that are functions of their position
    elementwise.py   adds, multiplies and scales
    adamw.py         changes the parameters
    sample.py        chooses a token
"""
# flake8: noqa: F401  the names are imported for those who import the package

from pygpt.backend.reference.adamw import adamw_step, sum_squares
from pygpt.backend.reference.attention import (attention_backward, attention_cached,
                                               attention_forward)
from pygpt.backend.reference.convert import (from_bfloat16, from_float16, to_bfloat16, to_float16,
                                             transpose)
from pygpt.backend.reference.crossentropy import (cross_entropy_backward, cross_entropy_forward,
                                                  linear_cross_entropy_backward,
                                                  linear_cross_entropy_forward)
from pygpt.backend.reference.dropout import dropout_backward, dropout_forward
from pygpt.backend.reference.elementwise import (add_forward, mul_backward, mul_forward,
                                                 scale_forward, sum_backward, sum_forward)
from pygpt.backend.reference.embedding import (embedding_backward, embedding_bfloat16,
                                               embedding_forward, embedding_int8)
from pygpt.backend.reference.few_rows import linear_bfloat16, linear_int8
from pygpt.backend.reference.gelu import gelu_backward, gelu_forward
from pygpt.backend.reference.int8 import PYGPT_INT8_GROUP, dequantize_int8, quantize_int8
from pygpt.backend.reference.layernorm import layernorm_backward, layernorm_forward
from pygpt.backend.reference.linear import (linear_backward_input, linear_backward_weight,
                                            linear_forward, matmul)
from pygpt.backend.reference.loops import (EOVERFLOW, ERANGE, OK, PYGPT_BFLOAT16, PYGPT_ENOTFINITE,
                                           PYGPT_ENOTOKEN, PYGPT_FEW_ROWS, PYGPT_FLOAT32,
                                           PYGPT_INP_BFLOAT16, PYGPT_OUT_BFLOAT16,
                                           PYGPT_WEIGHT_BFLOAT16, PYGPT_WEIGHT_TRANSPOSED)
from pygpt.backend.reference.random import random_normal
from pygpt.backend.reference.sample import sample_adjust, sample_best, sample_token
from pygpt.backend.reference.softmax import softmax_backward, softmax_forward
