"""Describes how to test one kernel, and makes arguments for it.

A shape is written as in the header, "B T 3 C"; the types and the argument order come from the
header.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from random import Random
from types import SimpleNamespace

from pygpt.backend import reference
from pygpt.check.calls import run_reference
from pygpt.check.header import KERNELS, TYPECODES, flags_of

TYPICAL = {"B": 2, "NH": 2, "HS": 5, "past": 3, "spare": 1, "dropout": 0.2, "eps": 1e-5, "std": 1.0,
           "part": 0.5, "ignore_index": 0, "dtype": 0}  # the other dimensions are 7
DTYPES = (reference.PYGPT_FLOAT32, reference.PYGPT_BFLOAT16)
PERIOD = 1009  # a prime, so rows, columns, tiles and blocks all begin at other places of a period


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
        sizes: dimension or scalar -> sizes.Values, the values that it may take.
        bound: (arguments, reference outputs) -> {output: Bound}; an output left out is unspecified.
        derive: sizes -> the sizes that follow from them.
        prepare: changes the drawn arguments where they must fit together.
        fixed: flags that the case is about.
        optional: pointers that may be NULL.
        inout: outputs whose contents are read whatever the flags say.
        large: sizes that cross cache blocks and are shared out among threads in every job of the
            kernel, which calls.run_everywhere holds them to.
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
                args[p.name] = [rng.getrandbits(64) for _ in range(count)]
            elif p.ctype == "uint16_t":
                args[p.name] = _repeated(count, lambda: rng.getrandbits(16))
            elif p.ctype == "int8_t":
                args[p.name] = _repeated(count, lambda: rng.randint(-127, 127))
            else:
                drawn = _repeated(count, VALUES[values[p.name]](rng))
                args[p.name] = list(array(TYPECODES[p.ctype], drawn))
        self.prepare(args, rng)
        return args

    def random_arguments(self, rng, dtype=None, most=None):
        """Draw all arguments from a random.Random. Unless None, dtype is the type of operands where
        the kernel has one, and no size is above `most`."""
        sizes = {name: values.draw(rng, most) for name, values in self.sizes.items()}
        if dtype is not None and "dtype" in sizes:
            sizes["dtype"] = dtype
        kinds = list(VALUES) if rng.random() < 0.5 else ["normal"]
        values = {name: rng.choice(kinds) for name in self.drawn_pointers()}
        absent = {name for name in self.optional if rng.random() < 0.5}
        return self.arguments(sizes, values, absent, rng.getrandbits(16))

    def drawn_pointers(self):
        """List the arguments whose numbers are of some kind in VALUES."""
        return [p.name for p in KERNELS[self.kernel]
                if p.pointer and p.ctype in ("float", "double")]

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
