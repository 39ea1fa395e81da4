"""Lists the kernel cases: for each kernel the shapes, sizes, values and error bound to test."""

from pygpt.backend import reference
from pygpt.check import attention_bounds, bounds, preparations as prepare
from pygpt.check.case import DTYPES, Case
from pygpt.check.sizes import EDGES, between, one_of

SIZE = between(0, 9) | one_of(EDGES)
FEW = between(0, 3)
MANY = SIZE | one_of((127, 128, 129, 255, 256, 257, 1000))
PROBABILITY = one_of((0.0, 0.1, 0.5, 0.9, 0.999))
DTYPE = {"dtype": one_of(DTYPES)}


def in_both_types(*sizes):
    """List the sizes with operands of float32, and the first two also with the other types."""
    return tuple({**s, "dtype": dtype} for i, s in enumerate(sizes)
                 for dtype in (DTYPES if i < 2 else DTYPES[:1]))


def _groups(sizes):
    return {"G": -(-sizes["IN"] // reference.PYGPT_INT8_GROUP)}


def _heads(sizes):
    return {"C": sizes["NH"] * sizes["HS"]}


def _positions(sizes):
    return {"P": sizes["past"] + sizes["T"] + sizes["spare"]}


def _with_targets(**sizes):
    return _with_vocabulary(ignore_index=one_of((-100, 0)), **sizes)


def _with_vocabulary(**sizes):
    """Ask for at least one token, so that ids exist."""
    return {**sizes, "V": between(1, 9) | one_of(EDGES)}


ATTENTION = {"B": FEW, "T": between(0, 9) | one_of((15, 16, 17, 32, 33)),
             "NH": between(1, 5), "HS": between(0, 9) | one_of((15, 16, 17)),
             **DTYPE}
LONG_ATTENTION = ({"B": 1, "T": 150, "NH": 3, "HS": 8}, {"B": 2, "T": 65, "NH": 2, "HS": 65},
                  {"B": 1, "T": 300, "NH": 1, "HS": 10})
MATMUL = dict(
    sizes={"M": SIZE, "N": SIZE, "K": SIZE, **DTYPE},
    bound=bounds.of_terms("matmul", lambda a: a.K + 2),
    large=in_both_types(
        {"M": 261, "N": 323, "K": 517}, {"M": 7, "N": 1100, "K": 300},
        {"M": 700, "N": 17, "K": 260}, {"M": 1, "N": 1100, "K": 700},
        {"M": 1024, "N": 323, "K": 267}),  # where A is transposed, its stride is 4 KB
    sample={"M": 9, "N": 12})
LINEAR_SIZES = {"R": SIZE, "IN": SIZE, "OUT": SIZE, **DTYPE}
LINEAR_LARGE = in_both_types(
    {"R": 261, "IN": 517, "OUT": 323}, {"R": 65, "IN": 300, "OUT": 1000},
    {"R": 1, "IN": 700, "OUT": 1100}, {"R": 267, "IN": 1024, "OUT": 323})
BOTH = (0, 1)
STORED_SIZES = {"R": SIZE, "IN": SIZE | one_of((127, 128, 129)), "OUT": SIZE}
STORED = dict(optional=("pre", "bias", "residual"), may_alias=(("out", "residual", (0,)),),
              large=({"R": 1, "IN": 700, "OUT": 1100}, {"R": 16, "IN": 320, "OUT": 515},
                     {"R": 65, "IN": 97, "OUT": 323}, {"R": 6, "IN": 2180, "OUT": 130}),
              sample={"R": 9, "OUT": 12})
# 512 rows of logits at once and a rest, and more classes than rows.
LOSS_LARGE = in_both_types({"R": 1003, "C": 17, "V": 65}, {"R": 70, "C": 33, "V": 1031})


CASES = [
    Case("matmul nn", {"out": "M N", "a": "M K", "b": "K N"},
         fixed={"transpose_a": 0, "transpose_b": 0}, **MATMUL),
    Case("matmul nt", {"out": "M N", "a": "M K", "b": "N K"},
         fixed={"transpose_a": 0, "transpose_b": 1}, **MATMUL),
    Case("matmul tn", {"out": "M N", "a": "K M", "b": "K N"},
         fixed={"transpose_a": 1, "transpose_b": 0}, **MATMUL),
    Case("matmul tt", {"out": "M N", "a": "K M", "b": "N K"},
         fixed={"transpose_a": 1, "transpose_b": 1}, **MATMUL),
    Case("linear_forward",
         {"out": "R OUT", "pre": "R OUT", "inp": "R IN", "weight": "IN OUT", "bias": "OUT",
          "residual": "R OUT"},
         LINEAR_SIZES, bounds.linear_forward, optional=("pre", "bias", "residual"),
         large=LINEAR_LARGE, sample={"R": 9, "OUT": 12}, may_alias=(("out", "residual", (0,)),)),
    Case("linear_backward_input",
         {"dinp": "R IN", "act": "R IN", "dout": "R OUT", "weight": "IN OUT", "pre": "R IN"},
         LINEAR_SIZES, bounds.linear_backward_input, optional=("pre", "act"),
         prepare=prepare.act_needs_pre, large=LINEAR_LARGE, sample={"R": 9, "IN": 12},
         may_alias=(("dinp", "pre", (0,)),)),
    Case("linear_backward_weight",
         {"dweight": "IN OUT", "dbias": "OUT", "inp": "R IN", "dout": "R OUT"},
         LINEAR_SIZES, bounds.of_terms("linear_backward_weight", lambda a: a.R + 2),
         optional=("dbias",), large=LINEAR_LARGE, sample={"IN": 9, "OUT": 12}),
    *(Case(f"quantize_int8 {'transposed' if transpose else 'plain'}",
           {"q": "OUT G 64", "scales": "OUT G", "weight": "IN OUT" if transpose else "OUT IN"},
           {"IN": STORED_SIZES["IN"], "OUT": SIZE}, bounds.exact, _groups,
           fixed={"transpose": transpose}, large=({"IN": 515, "OUT": 323},),
           sample={"OUT": 12}) for transpose in BOTH),
    Case("dequantize_int8", {"out": "OUT IN", "q": "OUT G 64", "scales": "OUT G"},
         {"IN": STORED_SIZES["IN"], "OUT": SIZE}, bounds.dequantize_int8, _groups,
         large=({"IN": 515, "OUT": 801},)),
    Case("linear_bfloat16",
         {"out": "R OUT", "pre": "R OUT", "inp": "R IN", "weight": "OUT IN", "bias": "OUT",
          "residual": "R OUT"},
         STORED_SIZES, bounds.linear_bfloat16, prepare=prepare.plain_halves, **STORED),
    Case("linear_int8",
         {"out": "R OUT", "pre": "R OUT", "inp": "R IN", "q": "OUT G 64", "scales": "OUT G",
          "bias": "OUT", "residual": "R OUT"},
         STORED_SIZES, bounds.linear_int8, _groups, **STORED),
    Case("attention_forward",
         {"out": "B T C", "lse": "B NH T", "qkv": "B T 3 C", "seed": "2"},
         {**ATTENTION, "dropout": PROBABILITY}, attention_bounds.attention_forward, _heads,
         prepare.seed_may_be_null,
         large=in_both_types(*({**sizes, "dropout": p}
                               for sizes, p in zip(LONG_ATTENTION, (0.0, 0.2, 0.5))))),
    Case("attention_backward",
         {"dqkv": "B T 3 C", "dout": "B T C", "qkv": "B T 3 C", "out": "B T C", "lse": "B NH T",
          "seed": "2"},
         {**ATTENTION, "dropout": PROBABILITY}, attention_bounds.attention_backward, _heads,
         prepare.attention_forward_first,
         large=in_both_types(*({**sizes, "dropout": p}
                               for sizes, p in zip(LONG_ATTENTION, (0.2, 0.0, 0.5))))),
    Case("attention_cached",
         {"out": "B T C", "keys": "B P C", "values": "B P C", "qkv": "B T 3 C", "past": "B"},
         {**ATTENTION, "past": between(0, 20), "spare": FEW}, attention_bounds.attention_cached,
         lambda s: {**_heads(s), **_positions(s)}, inout=("keys", "values"),
         large=in_both_types({"B": 2, "T": 1, "NH": 12, "HS": 17, "past": 500, "spare": 5},
                             {"B": 1, "T": 70, "NH": 3, "HS": 16, "past": 65, "spare": 0})),
    Case("softmax_forward", {"out": "R C", "inp": "R C"}, {"R": SIZE, "C": MANY},
         bounds.softmax_forward, large=({"R": 200, "C": 519}, {"R": 5, "C": 20011}),
         may_alias=(("out", "inp", (0,)),)),
    Case("softmax_backward", {"dinp": "R C", "dout": "R C", "out": "R C"}, {"R": SIZE, "C": MANY},
         bounds.softmax_backward, prepare=prepare.softmax_forward_first,
         large=({"R": 200, "C": 519},), may_alias=(("dinp", "dout", (0,)),)),
    Case("layernorm_forward",
         {"out": "R C", "mean": "R", "rstd": "R", "inp": "R C", "weight": "C", "bias": "C"},
         {"R": SIZE, "C": MANY, "eps": one_of((1e-5, 1e-3))}, bounds.layernorm_forward,
         fixed={"form": 0}, large=({"R": 300, "C": 387, "eps": 1e-5},)),
    Case("layernorm_backward",
         {"dinp": "R C", "dweight": "C", "dbias": "C", "dout": "R C", "inp": "R C", "weight": "C",
          "mean": "R", "rstd": "R"},
         {"R": SIZE, "C": MANY}, bounds.layernorm_backward, prepare=prepare.layernorm_forward_first,
         large=({"R": 300, "C": 387}, {"R": 1000, "C": 65})),
    Case("gelu_forward", {"out": "n", "inp": "n"}, {"n": MANY}, bounds.gelu_forward,
         large=({"n": 60007},), may_alias=(("out", "inp", (0,)),)),
    Case("gelu_backward", {"dinp": "n", "dout": "n", "inp": "n"}, {"n": MANY},
         bounds.gelu_backward, large=({"n": 60007},), may_alias=(("dinp", "dout", (0,)),)),
    Case("embedding_forward",
         {"out": "B T C", "ids": "B T", "wte": "V C", "wpe": "P C", "past": "B"},
         _with_vocabulary(B=FEW, T=SIZE, C=SIZE, past=between(0, 5), spare=FEW),
         bounds.of_terms("embedding_forward", lambda a: 1), _positions,
         optional=("wpe", "past"),
         large=({"B": 8, "T": 100, "C": 517, "V": 300, "past": 3, "spare": 1},)),
    *(Case(f"embedding_{form}",
           {"out": "B T C", "ids": "B T", **table, "wpe": "P C", "past": "B"},
           _with_vocabulary(B=FEW, T=SIZE, C=SIZE, past=between(0, 5), spare=FEW),
           bounds.embedding_at_rest, lambda s: {**_positions(s), "G": -(-s["C"] // 64)},
           prepare=prepare.plain_halves if form == "bfloat16" else lambda args, rng: None,
           optional=("wpe", "past"),
           large=({"B": 8, "T": 100, "C": 517, "V": 300, "past": 3, "spare": 1},))
      for form, table in (("bfloat16", {"wte": "V C"}),
                          ("int8", {"q": "V G 64", "scales": "V G"}))),
    Case("embedding_backward", {"dwte": "V C", "dwpe": "P C", "dout": "B T C", "ids": "B T"},
         _with_vocabulary(B=FEW, T=SIZE, C=SIZE, past=one_of((0,)), spare=FEW),
         bounds.of_terms("embedding_backward", lambda a: a.B * a.T + 1), _positions,
         optional=("dwte", "dwpe"),
         large=({"B": 8, "T": 100, "C": 517, "V": 50, "past": 0, "spare": 7},)),
    Case("cross_entropy_forward", {"loss": "1", "losses": "R", "logits": "R V", "targets": "R"},
         _with_targets(R=SIZE), bounds.cross_entropy_forward, prepare=prepare.ignore_some,
         large=({"R": 150, "V": 517}, {"R": 3, "V": 20011})),
    Case("cross_entropy_backward",
         {"dlogits": "R V", "dloss": "1", "logits": "R V", "targets": "R"},
         _with_targets(R=SIZE), bounds.cross_entropy_backward, prepare=prepare.ignore_some,
         large=({"R": 150, "V": 517},), may_alias=(("dlogits", "logits", (0,)),)),
    Case("linear_cross_entropy_forward",
         {"loss": "1", "losses": "R", "inp": "R C", "weight": "V C", "targets": "R"},
         _with_targets(R=SIZE, C=SIZE, **DTYPE), bounds.linear_cross_entropy_forward,
         prepare=prepare.ignore_some, large=LOSS_LARGE),
    Case("linear_cross_entropy_backward",
         {"loss": "1", "losses": "R", "dinp": "R C", "dweight": "V C", "dloss": "1", "inp": "R C",
          "weight": "V C", "targets": "R"},
         _with_targets(R=SIZE, C=SIZE, **DTYPE), bounds.linear_cross_entropy_backward,
         prepare=prepare.ignore_some, optional=("dinp", "dweight"),
         large=LOSS_LARGE),
    Case("dropout_forward", {"out": "R C", "inp": "R C", "residual": "R C", "seed": "2"},
         {"R": SIZE, "C": SIZE, "dropout": PROBABILITY},
         bounds.of_terms("dropout_forward", lambda a: 4), prepare=prepare.seed_may_be_null,
         optional=("residual",),
         large=({"R": 200, "C": 259, "dropout": 0.2},), may_alias=(("out", "residual", (0,)),)),
    Case("dropout_backward", {"dinp": "R C", "dout": "R C", "seed": "2"},
         {"R": SIZE, "C": SIZE, "dropout": PROBABILITY},
         bounds.of_terms("dropout_backward", lambda a: 4), prepare=prepare.seed_may_be_null,
         large=({"R": 200, "C": 259, "dropout": 0.2},), may_alias=(("dinp", "dout", BOTH),)),
    Case("random_normal", {"out": "n", "seed": "1"},
         {"n": MANY, "std": one_of((1.0, 0.02))}, bounds.random_normal,
         large=({"n": 30001, "std": 0.02},)),
    Case("add_forward", {"out": "n", "a": "n", "b": "n"}, {"n": MANY},
         bounds.of_terms("add_forward", lambda a: 1), large=({"n": 210001},),
         may_alias=(("out", "a", (0,)), ("out", "b", (0,)))),
    Case("mul_forward", {"out": "n", "a": "n", "b": "n"}, {"n": MANY},
         bounds.of_terms("mul_forward", lambda a: 1), large=({"n": 210001},)),
    Case("mul_backward", {"da": "n", "dout": "n", "b": "n"}, {"n": MANY},
         bounds.of_terms("mul_backward", lambda a: 2), large=({"n": 210001},),
         may_alias=(("da", "dout", BOTH),)),
    Case("scale_forward", {"out": "n", "inp": "n", "factor": "1"}, {"n": MANY},
         bounds.of_terms("scale_forward", lambda a: 2), large=({"n": 210001},),
         may_alias=(("out", "inp", BOTH),)),
    Case("sum_forward", {"out": "1", "inp": "n"}, {"n": MANY},
         bounds.of_terms("sum_forward", lambda a: a.n + 1), large=({"n": 70001},)),
    Case("sum_backward", {"dinp": "n", "dout": "1"}, {"n": MANY},
         bounds.of_terms("sum_backward", lambda a: 1), large=({"n": 70001},)),
    *(Case(f"from_{name}", {"out": "n", "inp": "n"}, {"n": MANY}, bounds.exact,
           prepare=prepare.finite_halves, large=({"n": 210001},))
      for name in ("float16", "bfloat16")),
    *(Case(f"to_{name}", {"out": "n", "inp": "n"}, {"n": MANY}, bounds.exact,
           large=({"n": 210001},)) for name in ("float16", "bfloat16")),
    Case("transpose", {"out": "C R", "inp": "R C"}, {"R": SIZE, "C": SIZE}, bounds.exact,
         large=({"R": 519, "C": 387},)),
    Case("adamw_step",
         {"param": "n", "half": "n", "m": "n", "v": "n", "grad": "n", "settings": "8"},
         {"n": MANY, "part": one_of((0.0, 0.3, 1.0))}, bounds.adamw_step,
         lambda s: {"n_decay": int(s["n"] * s["part"])}, prepare.adamw_state,
         optional=("half",), inout=("param", "m", "v"), large=({"n": 50003, "part": 0.7},)),
    Case("sum_squares", {"out": "1", "x": "n"}, {"n": MANY}, bounds.sum_squares,
         large=({"n": 210001},)),
]
