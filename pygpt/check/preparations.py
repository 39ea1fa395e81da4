"""Changes drawn arguments where they must fit together, such as those of a backward pass.

Each function is the `prepare` of some case: it takes the arguments, which it changes, and the
random.Random to draw from.
"""

from array import array

from pygpt.backend import reference
from pygpt.check.calls import run_reference
from pygpt.check.header import KERNELS


def _as_float32(values):
    return list(array("f", values))


def seed_may_be_null(args, rng):
    if args["dropout"] == 0.0 and rng.random() < 0.5:
        args["seed"] = None


def attention_forward_first(args, rng):
    """Replace out and lse by those of the forward pass, which the backward pass requires."""
    seed_may_be_null(args, rng)
    forward = {p.name: args.get(p.name) for p in KERNELS["attention_forward"]}
    outputs = run_reference("attention_forward", forward)
    args.update({name: _as_float32(x) for name, x in outputs.items()})


def softmax_forward_first(args, rng):
    p = run_reference("softmax_forward", {"out": args["out"], "inp": args["out"],
                                          "R": args["R"], "C": args["C"]})
    args["out"] = _as_float32(p["out"])


def layernorm_forward_first(args, rng):
    R, C = args["R"], args["C"]
    forward = {"out": [0.0] * R * C, "mean": args["mean"], "rstd": args["rstd"], "inp": args["inp"],
               "weight": args["weight"], "bias": args["weight"], "R": R, "C": C, "eps": 1e-5,
               "form": 0}
    outputs = run_reference("layernorm_forward", forward)
    args.update({name: _as_float32(outputs[name]) for name in ("mean", "rstd")})


def adamw_state(args, rng):
    t = rng.randrange(1, 1000)
    beta1, beta2 = rng.choice(((0.9, 0.95), (0.9, 0.999), (0.0, 0.0)))
    args["v"] = [abs(v) for v in args["v"]]
    args["settings"] = _as_float32((
        10 ** rng.uniform(-5, -1), beta1, beta2, 1e-8, rng.choice((0.0, 0.1)),
        1 - beta1 ** t, 1 - beta2 ** t, rng.choice((1.0, 0.3))))


def ignore_some(args, rng):
    """Make some targets ignore_index, which may be a token's id or no id at all."""
    if rng.random() < 0.7:
        args["targets"] = [args["ignore_index"] if rng.random() < 0.3 else target
                           for target in args["targets"]]


def finite_halves(args, rng):
    """Draw bits that are finite in float16 and bfloat16; test_convert.py has the others."""
    args["inp"] = [x & ~0x4000 if x & 0x7C00 == 0x7C00 else x for x in args["inp"]]


def plain_halves(args, rng):
    """Make the weight or the table bfloat16 numbers of ordinary size."""
    name = "weight" if "weight" in args else "wte"
    halves = [0] * len(args[name])
    reference.to_bfloat16(halves, [rng.gauss(0, 1) for _ in halves], len(halves))
    args[name] = halves


def act_needs_pre(args, rng):
    if args["pre"] is None:
        args["act"] = None
