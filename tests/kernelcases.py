"""Lists the kernel cases: for each kernel the shapes, sizes, values and error bound to test.

A shape is written as in the header, "B T 3 C"; the types and the argument order come from the
header.
"""

from array import array
from dataclasses import dataclass, field
from math import prod
from random import Random
from types import SimpleNamespace
from collections.abc import Callable

from hypothesis import strategies as st

import attentionbounds
import kernelbounds as bounds
from kernelcheck import KERNELS, TYPECODES, flags_of, run_reference
from pygpt.backend import reference

# Vectors and tiles (6 rows; 4, 8, 16, 32, 48, 64 columns) and their multiples, each +- 1.
EDGES = (11, 12, 13, 15, 16, 17, 31, 32, 33, 35, 47, 48, 49, 63, 64, 65)
TYPICAL = {"B": 2, "NH": 2, "HS": 5, "past": 3, "spare": 1, "dropout": 0.2, "eps": 1e-5, "std": 1.0,
           "part": 0.5, "ignore_index": 0, "dtype": 0}  # the other dimensions are 7
SIZE = st.integers(0, 9) | st.sampled_from(EDGES)
FEW = st.integers(0, 3)
MANY = SIZE | st.sampled_from((127, 128, 129, 255, 256, 257, 1000))
PROBABILITY = st.sampled_from((0.0, 0.1, 0.5, 0.9, 0.999))
DTYPES = (reference.PYGPT_FLOAT32, reference.PYGPT_BFLOAT16)
DTYPE = {"dtype": st.sampled_from(DTYPES)}
PERIOD = 9973  # a prime, so rows, columns, tiles and blocks all begin at other places of a period


def _constant(rng):
    value = rng.choice((1.0, 80.0, -80.0))
    return lambda: value


VALUES = {  # {name: function that makes a source of numbers from a random generator}
    "normal": lambda rng: lambda: rng.gauss(0, 1),
    "large": lambda rng: lambda: rng.gauss(0, 80),
    "tiny": lambda rng: lambda: rng.gauss(0, 1e-12),
    "ties": lambda rng: lambda: rng.choice((-1.0, 0.0, 1.0)),
    "constant": _constant,
    "wide": lambda rng: lambda: rng.gauss(0, 1) * 10 ** rng.uniform(-6, 1),
}


def _repeated(count, draw):
    """Return count numbers: up to PERIOD are drawn, which takes long, and repeat after that."""
    drawn = [draw() for _ in range(min(count, PERIOD))]
    return (drawn * -(-count // PERIOD))[:count]


@dataclass(frozen=True)
class Case:
    """Describes how to test one kernel.

    Args:
        label: the kernel's name, then a word when there are several cases of it.
        shapes: pointer -> its dimensions.
        sizes: dimension or scalar -> the strategy that draws it.
        bound: (arguments, reference outputs) -> {output: Bound}; an output left out is unspecified.
        derive: sizes -> the sizes that follow from them.
        prepare: changes the drawn arguments where they must fit together.
        fixed: flags that the case is about.
        optional: pointers that may be NULL.
        inout: outputs whose contents are read whatever the flags say.
        large: sizes that cross cache blocks and are shared out among threads in every job of the
            kernel, which kernelcheck.py holds them to.
        sample: dimension -> how many of its indices to check when large; none of the elements
            along it mix, so the reference can be run on the sample alone.
        may_alias: (output, input, accumulate flags allowed).
    """
    label: str
    shapes: dict
    sizes: dict
    bound: Callable
    derive: Callable = lambda sizes: {}
    prepare: Callable = lambda args, rng: None
    fixed: dict = field(default_factory=dict)
    optional: tuple = ()
    inout: tuple = ()
    large: tuple = ()
    sample: dict = field(default_factory=dict)
    may_alias: tuple = ()

    def __str__(self):
        return self.label.replace(" ", "-")

    @property
    def kernel(self):
        return self.label.split()[0]

    @property
    def dtypes(self):
        """The types to which the kernel rounds operands; one if it has no argument dtype."""
        return DTYPES if "dtype" in self.sizes else DTYPES[:1]

    def dimensions(self, name, args):
        return [self.size(d, args) for d in self.shapes[name].split()]

    def size(self, dimension, args):
        """Return a dimension's size, which may be a number or follow from the arguments."""
        if dimension.isdigit():
            return int(dimension)
        return args[dimension] if dimension in args else self.derive(args)[dimension]

    def arguments(self, sizes, values, absent, seed):
        """Return all arguments in order, flags 0; `values` gives a name in VALUES per pointer."""
        rng = Random(seed)
        sizes = {**sizes, **self.derive(sizes), **self.fixed, "stream": rng.getrandbits(64)}
        sizes.update({flag: 0 for flag in flags_of(self.kernel)} | self.fixed)
        args = {}
        for p in KERNELS[self.kernel]:
            if not p.pointer:
                args[p.name] = sizes[p.name]
                continue
            count = prod(self.dimensions(p.name, sizes))
            if p.name in absent:
                args[p.name] = None
            elif p.name == "past":
                args[p.name] = [rng.randint(0, sizes["past"]) for _ in range(count)]
                args[p.name][-1:] = [sizes["past"]] * min(count, 1)  # the longest, for `large`
            elif p.ctype == "int32_t":
                args[p.name] = _repeated(count, lambda: rng.randrange(sizes["V"]))
            elif p.ctype == "uint64_t":
                args[p.name] = [rng.getrandbits(64)]
            elif p.ctype == "uint16_t":
                args[p.name] = _repeated(count, lambda: rng.getrandbits(16))
            elif p.ctype == "int8_t":
                args[p.name] = _repeated(count, lambda: rng.randint(-127, 127))
            else:
                drawn = _repeated(count, VALUES[values[p.name]](rng))
                args[p.name] = list(array(TYPECODES[p.ctype], drawn))
        self.prepare(args, rng)
        return args

    @st.composite
    def drawn(draw, self, dtype=None):
        """Return a strategy for the arguments, which shrinks sizes and kinds of value. Unless None,
        dtype is the type of operands where the kernel has one."""
        sizes = {name: draw(strategy) for name, strategy in self.sizes.items()}
        if dtype is not None and "dtype" in sizes:
            sizes["dtype"] = dtype
        kinds = st.just("normal") if draw(st.booleans()) else st.sampled_from(list(VALUES))
        values = {p.name: draw(kinds) for p in KERNELS[self.kernel]
                  if p.pointer and p.ctype in ("float", "double")}
        absent = {name for name in self.optional if draw(st.booleans())}
        return self.arguments(sizes, values, absent, draw(st.integers(0, 2 ** 16)))

    def chosen(self, sizes, absent=(), kind="normal"):
        """Return arguments of one kind of number; a size that is not given is TYPICAL."""
        sizes = {name: sizes.get(name, TYPICAL.get(name, 7)) for name in self.sizes}
        values = {p.name: kind for p in KERNELS[self.kernel]}
        return self.arguments(sizes, values, absent, seed=sum(map(ord, self.label)))

    def outcome(self, args):
        """Return (reference outputs, bounds) for accumulate 0."""
        value = run_reference(self.kernel, args, self.inout)
        return value, self.bound(SimpleNamespace(**args), value)

    def sampled(self, args):
        """Return (arguments of the sampled part, {pointer: flat positions of its elements})."""
        chosen = {}
        for name, count in self.sample.items():  # both ends and evenly between
            size = args[name]
            chosen[name] = sorted({i * (size - 1) // (count - 1) for i in range(count)})
        sub, positions = dict(args), {}
        for name, shape in self.shapes.items():
            if args[name] is not None:
                flat = [0]
                for dimension in shape.split():
                    size = self.size(dimension, args)
                    picked = chosen.get(dimension, range(size))
                    flat = [f * size + i for f in flat for i in picked]
                positions[name] = flat
                sub[name] = [args[name][i] for i in flat]
        sub.update({name: len(indices) for name, indices in chosen.items()})
        return sub, positions


def _as_float32(values):
    return list(array("f", values))


def in_both_types(*sizes):
    """List the sizes with operands of float32, and the first two also with the other types."""
    return tuple({**s, "dtype": dtype} for i, s in enumerate(sizes)
                 for dtype in (DTYPES if i < 2 else DTYPES[:1]))


def _seed_may_be_null(args, rng):
    if args["dropout"] == 0.0 and rng.random() < 0.5:
        args["seed"] = None


def _attention_forward_first(args, rng):
    """Replace out and lse by those of the forward pass, which the backward pass requires."""
    _seed_may_be_null(args, rng)
    forward = {p.name: args.get(p.name) for p in KERNELS["attention_forward"]}
    outputs = run_reference("attention_forward", forward)
    args.update({name: _as_float32(x) for name, x in outputs.items()})


def _softmax_forward_first(args, rng):
    p = run_reference("softmax_forward", {"out": args["out"], "inp": args["out"],
                                          "R": args["R"], "C": args["C"]})
    args["out"] = _as_float32(p["out"])


def _layernorm_forward_first(args, rng):
    R, C = args["R"], args["C"]
    forward = {"out": [0.0] * R * C, "mean": args["mean"], "rstd": args["rstd"], "inp": args["inp"],
               "weight": args["weight"], "bias": args["weight"], "R": R, "C": C, "eps": 1e-5,
               "form": 0}
    outputs = run_reference("layernorm_forward", forward)
    args.update({name: _as_float32(outputs[name]) for name in ("mean", "rstd")})


def _adamw_state(args, rng):
    t = rng.randrange(1, 1000)
    beta1, beta2 = rng.choice(((0.9, 0.95), (0.9, 0.999), (0.0, 0.0)))
    args["v"] = [abs(v) for v in args["v"]]
    args["settings"] = _as_float32((
        10 ** rng.uniform(-5, -1), beta1, beta2, 1e-8, rng.choice((0.0, 0.1)),
        1 - beta1 ** t, 1 - beta2 ** t, rng.choice((1.0, 0.3))))


def _ignore_some(args, rng):
    """Make some targets ignore_index, which may be a token's id or no id at all."""
    if rng.random() < 0.7:
        args["targets"] = [args["ignore_index"] if rng.random() < 0.3 else target
                           for target in args["targets"]]


def _finite_halves(args, rng):
    """Draw bits that are finite in float16 and bfloat16; test_convert.py has the others."""
    args["inp"] = [x & ~0x4000 if x & 0x7C00 == 0x7C00 else x for x in args["inp"]]


def _plain_halves(args, rng):
    """Make the weight or the table bfloat16 numbers of ordinary size."""
    name = "weight" if "weight" in args else "wte"
    halves = [0] * len(args[name])
    reference.to_bfloat16(halves, [rng.gauss(0, 1) for _ in halves], len(halves))
    args[name] = halves


def _groups(sizes):
    return {"G": -(-sizes["IN"] // reference.PYGPT_INT8_GROUP)}


def _heads(sizes):
    return {"C": sizes["NH"] * sizes["HS"]}


def _positions(sizes):
    return {"P": sizes["past"] + sizes["T"] + sizes["spare"]}


def _with_targets(**sizes):
    return _with_vocabulary(ignore_index=st.sampled_from((-100, 0)), **sizes)


def _with_vocabulary(**sizes):
    """Ask for at least one token, so that ids exist."""
    return {**sizes, "V": st.integers(1, 9) | st.sampled_from(EDGES)}


ATTENTION = {"B": FEW, "T": st.integers(0, 9) | st.sampled_from((15, 16, 17, 32, 33)),
             "NH": st.integers(1, 5), "HS": st.integers(0, 9) | st.sampled_from((15, 16, 17)),
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
STORED_SIZES = {"R": SIZE, "IN": SIZE | st.sampled_from((127, 128, 129)), "OUT": SIZE}
STORED = dict(optional=("pre", "bias", "residual"), may_alias=(("out", "residual", (0,)),),
              large=({"R": 1, "IN": 700, "OUT": 1100}, {"R": 16, "IN": 320, "OUT": 515},
                     {"R": 65, "IN": 97, "OUT": 323}, {"R": 6, "IN": 2180, "OUT": 130}),
              sample={"R": 9, "OUT": 12})
# 512 rows of logits at once and a rest, and more classes than rows.
LOSS_LARGE = in_both_types({"R": 1003, "C": 17, "V": 65}, {"R": 70, "C": 33, "V": 1031})


def _act_needs_pre(args, rng):
    if args["pre"] is None:
        args["act"] = None


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
         prepare=_act_needs_pre, large=LINEAR_LARGE, sample={"R": 9, "IN": 12},
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
         STORED_SIZES, bounds.linear_bfloat16, prepare=_plain_halves, **STORED),
    Case("linear_int8",
         {"out": "R OUT", "pre": "R OUT", "inp": "R IN", "q": "OUT G 64", "scales": "OUT G",
          "bias": "OUT", "residual": "R OUT"},
         STORED_SIZES, bounds.linear_int8, _groups, **STORED),
    Case("attention_forward",
         {"out": "B T C", "lse": "B NH T", "qkv": "B T 3 C", "seed": "1"},
         {**ATTENTION, "dropout": PROBABILITY}, attentionbounds.attention_forward, _heads,
         _seed_may_be_null,
         large=in_both_types(*({**sizes, "dropout": p}
                               for sizes, p in zip(LONG_ATTENTION, (0.0, 0.2, 0.5))))),
    Case("attention_backward",
         {"dqkv": "B T 3 C", "dout": "B T C", "qkv": "B T 3 C", "out": "B T C", "lse": "B NH T",
          "seed": "1"},
         {**ATTENTION, "dropout": PROBABILITY}, attentionbounds.attention_backward, _heads,
         _attention_forward_first,
         large=in_both_types(*({**sizes, "dropout": p}
                               for sizes, p in zip(LONG_ATTENTION, (0.2, 0.0, 0.5))))),
    Case("attention_cached",
         {"out": "B T C", "keys": "B P C", "values": "B P C", "qkv": "B T 3 C", "past": "B"},
         {**ATTENTION, "past": st.integers(0, 20), "spare": FEW}, attentionbounds.attention_cached,
         lambda s: {**_heads(s), **_positions(s)}, inout=("keys", "values"),
         large=in_both_types({"B": 2, "T": 1, "NH": 12, "HS": 17, "past": 500, "spare": 5},
                             {"B": 1, "T": 70, "NH": 3, "HS": 16, "past": 65, "spare": 0})),
    Case("softmax_forward", {"out": "R C", "inp": "R C"}, {"R": SIZE, "C": MANY},
         bounds.softmax_forward, large=({"R": 200, "C": 519}, {"R": 5, "C": 20011}),
         may_alias=(("out", "inp", (0,)),)),
    Case("softmax_backward", {"dinp": "R C", "dout": "R C", "out": "R C"}, {"R": SIZE, "C": MANY},
         bounds.softmax_backward, prepare=_softmax_forward_first,
         large=({"R": 200, "C": 519},), may_alias=(("dinp", "dout", (0,)),)),
    Case("layernorm_forward",
         {"out": "R C", "mean": "R", "rstd": "R", "inp": "R C", "weight": "C", "bias": "C"},
         {"R": SIZE, "C": MANY, "eps": st.sampled_from((1e-5, 1e-3))}, bounds.layernorm_forward,
         fixed={"form": 0}, large=({"R": 300, "C": 387, "eps": 1e-5},)),
    Case("layernorm_backward",
         {"dinp": "R C", "dweight": "C", "dbias": "C", "dout": "R C", "inp": "R C", "weight": "C",
          "mean": "R", "rstd": "R"},
         {"R": SIZE, "C": MANY}, bounds.layernorm_backward, prepare=_layernorm_forward_first,
         large=({"R": 300, "C": 387}, {"R": 1000, "C": 65})),
    Case("gelu_forward", {"out": "n", "inp": "n"}, {"n": MANY}, bounds.gelu_forward,
         large=({"n": 60007},), may_alias=(("out", "inp", (0,)),)),
    Case("gelu_backward", {"dinp": "n", "dout": "n", "inp": "n"}, {"n": MANY},
         bounds.gelu_backward, large=({"n": 60007},), may_alias=(("dinp", "dout", (0,)),)),
    Case("embedding_forward",
         {"out": "B T C", "ids": "B T", "wte": "V C", "wpe": "P C", "past": "B"},
         _with_vocabulary(B=FEW, T=SIZE, C=SIZE, past=st.integers(0, 5), spare=FEW),
         bounds.of_terms("embedding_forward", lambda a: 1), _positions,
         optional=("wpe", "past"),
         large=({"B": 8, "T": 100, "C": 517, "V": 300, "past": 3, "spare": 1},)),
    *(Case(f"embedding_{form}",
           {"out": "B T C", "ids": "B T", **table, "wpe": "P C", "past": "B"},
           _with_vocabulary(B=FEW, T=SIZE, C=SIZE, past=st.integers(0, 5), spare=FEW),
           bounds.embedding_at_rest, lambda s: {**_positions(s), "G": -(-s["C"] // 64)},
           prepare=_plain_halves if form == "bfloat16" else lambda args, rng: None,
           optional=("wpe", "past"),
           large=({"B": 8, "T": 100, "C": 517, "V": 300, "past": 3, "spare": 1},))
      for form, table in (("bfloat16", {"wte": "V C"}),
                          ("int8", {"q": "V G 64", "scales": "V G"}))),
    Case("embedding_backward", {"dwte": "V C", "dwpe": "P C", "dout": "B T C", "ids": "B T"},
         _with_vocabulary(B=FEW, T=SIZE, C=SIZE, past=st.just(0), spare=FEW),
         bounds.of_terms("embedding_backward", lambda a: a.B * a.T + 1), _positions,
         optional=("dwte", "dwpe"),
         large=({"B": 8, "T": 100, "C": 517, "V": 50, "past": 0, "spare": 7},)),
    Case("cross_entropy_forward", {"loss": "1", "losses": "R", "logits": "R V", "targets": "R"},
         _with_targets(R=SIZE), bounds.cross_entropy_forward, prepare=_ignore_some,
         large=({"R": 150, "V": 517}, {"R": 3, "V": 20011})),
    Case("cross_entropy_backward",
         {"dlogits": "R V", "dloss": "1", "logits": "R V", "targets": "R"},
         _with_targets(R=SIZE), bounds.cross_entropy_backward, prepare=_ignore_some,
         large=({"R": 150, "V": 517},), may_alias=(("dlogits", "logits", (0,)),)),
    Case("linear_cross_entropy_forward",
         {"loss": "1", "losses": "R", "inp": "R C", "weight": "V C", "targets": "R"},
         _with_targets(R=SIZE, C=SIZE, **DTYPE), bounds.linear_cross_entropy_forward,
         prepare=_ignore_some, large=LOSS_LARGE),
    Case("linear_cross_entropy_backward",
         {"loss": "1", "losses": "R", "dinp": "R C", "dweight": "V C", "dloss": "1", "inp": "R C",
          "weight": "V C", "targets": "R"},
         _with_targets(R=SIZE, C=SIZE, **DTYPE), bounds.linear_cross_entropy_backward,
         prepare=_ignore_some, optional=("dinp", "dweight"),
         large=LOSS_LARGE),
    Case("dropout_forward", {"out": "R C", "inp": "R C", "residual": "R C", "seed": "1"},
         {"R": SIZE, "C": SIZE, "dropout": PROBABILITY},
         bounds.of_terms("dropout_forward", lambda a: 4), prepare=_seed_may_be_null,
         optional=("residual",),
         large=({"R": 200, "C": 259, "dropout": 0.2},), may_alias=(("out", "residual", (0,)),)),
    Case("dropout_backward", {"dinp": "R C", "dout": "R C", "seed": "1"},
         {"R": SIZE, "C": SIZE, "dropout": PROBABILITY},
         bounds.of_terms("dropout_backward", lambda a: 4), prepare=_seed_may_be_null,
         large=({"R": 200, "C": 259, "dropout": 0.2},), may_alias=(("dinp", "dout", BOTH),)),
    Case("random_normal", {"out": "n", "seed": "1"},
         {"n": MANY, "std": st.sampled_from((1.0, 0.02))}, bounds.random_normal,
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
           prepare=_finite_halves, large=({"n": 210001},)) for name in ("float16", "bfloat16")),
    *(Case(f"to_{name}", {"out": "n", "inp": "n"}, {"n": MANY}, bounds.exact,
           large=({"n": 210001},)) for name in ("float16", "bfloat16")),
    Case("transpose", {"out": "C R", "inp": "R C"}, {"R": SIZE, "C": SIZE}, bounds.exact,
         large=({"R": 519, "C": 387},)),
    Case("adamw_step",
         {"param": "n", "half": "n", "m": "n", "v": "n", "grad": "n", "settings": "8"},
         {"n": MANY, "part": st.sampled_from((0.0, 0.3, 1.0))}, bounds.adamw_step,
         lambda s: {"n_decay": int(s["n"] * s["part"])}, _adamw_state,
         optional=("half",), inout=("param", "m", "v"), large=({"n": 50003, "part": 0.7},)),
    Case("sum_squares", {"out": "1", "x": "n"}, {"n": MANY}, bounds.sum_squares,
         large=({"n": 210001},)),
]
