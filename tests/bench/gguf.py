"""Writes a GPT as a GGUF file, the format that llama.cpp reads.

The format is described in llama.cpp's ggml/include/gguf.h. All numbers are little-endian; a text is
its length, uint64, and its UTF-8 bytes:

    "GGUF"; version 3, uint32; number of tensors, uint64; number of metadata pairs, uint64
    each pair:    key, a text; type, uint32; value
    each tensor:  name, a text; number of sizes, uint32; each size, uint64; type, uint32; offset
                  from the first tensor's bytes, uint64
    the tensors' bytes, each tensor's from a multiple of 32 on

The first size is that of numbers side by side, so a matrix of OUT rows with IN numbers each has the
sizes IN, OUT. llama.cpp wants a layer's weight so, and pygpt's (IN, OUT) is transposed.
"""

import struct

from pygpt.autograd.ops.at_rest import GROUP
from pygpt.backend.kernels import EOVERFLOW, Memory, check_status, lib
from pygpt.files import replacing

ALIGNMENT = 32
UINT32, FLOAT32, TEXT = 4, 6, 8  # gguf_type, of metadata
BLOCK = 32  # weights of Q8_0 that share a scale
# form: its ggml_type, its llama_ftype, and the bytes of n numbers
FORMS = {"float32": (0, 0, lambda n: 4 * n),
         "bfloat16": (30, 32, lambda n: 2 * n),
         "int8": (8, 7, lambda n: n // BLOCK * (2 + BLOCK))}
NAMES = {"transformer.wte": "token_embd", "transformer.wpe": "position_embd",
         "transformer.ln_f": "output_norm"}
NAMES_IN_BLOCK = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
                  "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}


def write(path, model, form):
    """Write a model.

    As in llama.cpp's own files, vectors and position embeddings stay float32, and a head that is
    tied to the token embedding is left out. The vocabulary has a size and no tokens ("none"),
    which is enough for llama-bench.

    Args:
        path: of the file, which is complete or not written at all.
        model: a GPT whose weights are float32.
        form: "float32", "bfloat16", or "int8": Q8_0, whose blocks of 32 weights have a scale in
            float16.
    Raises:
        ValueError: the rows of a matrix are no whole number of blocks.
        OSError: the file cannot be written.
    """
    parameters = dict(model.named_parameters())
    forms = {name: form_of(name, p.shape, form) for name, p in parameters.items()}
    pairs, infos, offset = metadata(model.config, form), [], 0
    for name, p in parameters.items():
        sizes = p.shape if is_transposed(name, p.shape) else p.shape[::-1]
        if forms[name] == "int8" and sizes[0] % BLOCK:
            raise ValueError(f"{name}: rows of {sizes[0]} numbers are not blocks of {BLOCK}")
        number, _, nbytes = FORMS[forms[name]]
        infos.append(text(name_of(name)) + struct.pack(
            f"<I{len(sizes)}QIQ", len(sizes), *sizes, number, offset))
        offset += padded(nbytes(p.size))
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(pairs)) + b"".join(pairs + infos)
    with replacing(path) as file:
        file.write(head.ljust(padded(len(head)), b"\0"))
        for name, p in parameters.items():
            data = ENCODED[forms[name]](in_rows(name, p), p.size)
            file.write(data)
            file.write(bytes(padded(len(data)) - len(data)))


def form_of(name, shape, form):
    """Return the form that a parameter has in a file of this form."""
    return form if len(shape) == 2 and name != "transformer.wpe.weight" else "float32"


def name_of(name):
    """Return llama.cpp's name of a parameter."""
    module, kind = name.rsplit(".", 1)
    if module in NAMES:
        return f"{NAMES[module]}.{kind}"
    _, _, number, part = module.split(".", 3)  # transformer.h.NUMBER.PART
    return f"blk.{number}.{NAMES_IN_BLOCK[part]}.{kind}"


def metadata(config, form):
    """Return the metadata as a list of bytes, each a pair."""
    def number(key, value):
        return text(key) + struct.pack("<II", UINT32, value)

    def string(key, value):
        return text(key) + struct.pack("<I", TEXT) + text(value)

    return [string("general.architecture", "gpt2"), string("general.name", "GPT"),
            number("general.file_type", FORMS[form][1]),
            number("gpt2.context_length", config.n_positions),
            number("gpt2.embedding_length", config.n_embd),
            number("gpt2.feed_forward_length", config.mlp_width),
            number("gpt2.block_count", config.n_layer),
            number("gpt2.attention.head_count", config.n_head),
            text("gpt2.attention.layer_norm_epsilon") + struct.pack(
                "<If", FLOAT32, config.layer_norm_epsilon),
            number("gpt2.vocab_size", config.vocab_size), string("tokenizer.ggml.model", "none")]


def text(string):
    data = string.encode()
    return struct.pack("<Q", len(data)) + data


def padded(nbytes):
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def is_transposed(name, shape):
    """Say whether a parameter is the weight of a layer, (IN, OUT)."""
    return len(shape) == 2 and name not in ("transformer.wte.weight", "transformer.wpe.weight")


def in_rows(name, parameter):
    """Return the values of a parameter as they are written, in float32, as Memory."""
    memory = Memory(4 * parameter.size)
    if not is_transposed(name, parameter.shape):
        memory.view[:] = parameter.read().cast("B")
    else:
        check_status(lib.transpose(memory.pointer("f"), parameter.ptr, *parameter.shape))
    return memory


def in_bfloat16(memory, n):
    out = Memory(2 * n)
    status = lib.to_bfloat16(out.pointer("H"), memory.pointer("f"), n)
    if status != EOVERFLOW:  # such a weight is infinite
        check_status(status)
    return out.view


def in_q8_0(memory, n):
    """Return blocks of a scale, float16, and 32 signed bytes.

    quantize_int8 takes each block as a row, of which only a part is filled. Its whole numbers are
    those of Q8_0, up to ties.
    """
    blocks = n // BLOCK
    bytes_of, scales = Memory(blocks * GROUP), Memory(4 * blocks)
    check_status(lib.quantize_int8(bytes_of.pointer("b"), scales.pointer("f"),
                                   memory.pointer("f"), BLOCK, blocks, 0))
    halves = struct.pack(f"<{blocks}e", *scales.view.cast("f"))
    out = bytearray(blocks * (2 + BLOCK))
    out[0::2 + BLOCK], out[1::2 + BLOCK] = halves[0::2], halves[1::2]
    for i in range(BLOCK):
        out[2 + i::2 + BLOCK] = bytes(bytes_of.view[i::GROUP])
    return out


ENCODED = {"float32": lambda memory, n: memory.view, "bfloat16": in_bfloat16, "int8": in_q8_0}
