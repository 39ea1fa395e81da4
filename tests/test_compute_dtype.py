"""Tests compute_dtype: that every product of a model gets it, in every pass, and no file does.

The kernels' own rounding is tested in test_kernels.py and test_gradients.py. Here the question is
which type they are called with, and that a pass uses one type to its end.
"""

import copy
import inspect
import math
import pickle
import random

import pytest
from models import bits, draw_ids, randomise, tiny as tiny_model
from sharing import shared_among

import pygpt
from pygpt.autograd import ops, precision
from pygpt.autograd.forward_pass import PassSettings
from pygpt.autograd.launch import calling
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor
from pygpt.backend import reference
from pygpt.backend.kernels import BFLOAT16
from pygpt.config import COMPUTE_DTYPES
from pygpt.generate import generate
from pygpt.model import GPT
from pygpt.training import find_nonfinite

DTYPES = "float32", "bfloat16"
PRODUCTS = {name for name, kernel in vars(reference).items() if inspect.isfunction(kernel)
            and "dtype" in inspect.signature(kernel).parameters}
WRONG = ["float16", "bf16", "BFLOAT16", "", None, 1, ["bfloat16"], b"bfloat16"]
BATCH = draw_ids(random.Random(0)), draw_ids(random.Random(1))


def model_in(name, **changes):
    """Return a model away from its initial values that computes in this type."""
    model = randomise(tiny_model(**dict(n_layer=3) | changes))
    model.compute_dtype = name
    return model


def gradients(model):
    return {name: bits(p.grad) for name, p in model.named_parameters()}


def types_used(function):
    """Call a function; return {kernel: the set of types that it was called with}."""
    used = {}

    def call(kernel, args):
        if kernel.__name__ in PRODUCTS:
            used.setdefault(kernel.__name__, set()).add(args[-1] & BFLOAT16)  # without the forms
        kernel(*args)

    with calling(call):
        function()
    return used


# ---------------------------------------------------------------------------------- every product

def test_the_products_are_those_of_the_reference():
    assert PRODUCTS == {"matmul", "linear_forward", "linear_backward_input",
                        "linear_backward_weight", "attention_forward", "attention_backward",
                        "attention_cached", "linear_cross_entropy_forward",
                        "linear_cross_entropy_backward"}


def test_the_settings_name_the_types_of_operands():
    assert COMPUTE_DTYPES == tuple(precision.OPERAND_TYPES) == DTYPES


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", DTYPES)
def test_every_product_of_every_pass_is_called_with_the_type(name, recompute):
    model, used = model_in(name), {}
    model.recompute = recompute

    def evaluated():
        with no_grad():
            model.loss(*BATCH)

    for function in (lambda: model.loss_and_grad(*BATCH), lambda: model.loss(*BATCH).backward(),
                     lambda: ops.sum(model(BATCH[0])).backward(), evaluated,
                     lambda: generate(model, [1, 2, 3], 3, seed=1)):
        for kernel, types in types_used(function).items():
            used.setdefault(kernel, set()).update(types)
    assert used == dict.fromkeys(PRODUCTS, {precision.OPERAND_TYPES[name]})


@pytest.mark.parametrize("recompute", [False, True])
def test_a_recorded_step_is_the_step_run_op_by_op(recompute):
    recorded, eager = model_in("bfloat16"), model_in("bfloat16")
    recorded.recompute = recompute
    eager.transformer.anything = object()  # cannot be compared, so its steps run op by op
    optimizers = [pygpt.AdamW(model, lr=1e-2) for model in (recorded, eager)]
    for _ in range(3):
        losses = [model.loss_and_grad(*BATCH) for model in (recorded, eager)]
        assert losses[0] == losses[1] and gradients(recorded) == gradients(eager)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert not list(eager._steps) and len(list(recorded._steps)) == 1


@pytest.mark.parametrize("threads", [2, 3])
def test_no_bit_depends_on_the_threads_or_on_recomputing(threads):
    def run(model):
        return model.loss_and_grad(*BATCH), gradients(model)

    first, again = model_in("bfloat16"), model_in("bfloat16")
    again.recompute = True
    with shared_among(1):
        expected = run(first)
    with shared_among(threads):
        assert run(again) == expected


def test_both_types_give_nearly_the_same_gradients():
    """Rounding moves an operand by 2^-9 of its size at most. A gradient depends on some dozens of
    products one after another, so 32 such errors are plenty; a mistake gives errors of order 1."""
    models = [model_in(name, n_embd=32) for name in DTYPES]
    losses = [model.loss_and_grad(*BATCH) for model in models]
    assert 0 < abs(losses[0] - losses[1]) < 2 ** -6 * losses[0]
    for (name, p), (_, q) in zip(*(model.named_parameters() for model in models)):
        a, b = p.grad.flat(), q.grad.flat()
        error = math.dist(a, b) / math.hypot(*a)
        assert 0 < error < 32 * 2 ** -9, name


# --------------------------------------------------------------------------- switching in between

def test_the_switch_takes_effect_at_the_next_loss():
    model, constant = model_in("float32"), {name: model_in(name) for name in DTYPES}
    for name in ("float32", "bfloat16", "bfloat16", "float32", "bfloat16"):
        model.compute_dtype = name
        assert model.loss_and_grad(*BATCH) == constant[name].loss_and_grad(*BATCH)
        assert gradients(model) == gradients(constant[name])
        for each in (model, constant[name]):
            each.gradients().forget()
        assert bits(model(BATCH[0])) == bits(constant[name](BATCH[0]))
        with no_grad():
            assert float(model.loss(*BATCH)) == float(constant[name].loss(*BATCH))
    assert float(constant["float32"].loss(*BATCH)) != float(constant["bfloat16"].loss(*BATCH))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("loss", [lambda model: model.loss(*BATCH),
                                  lambda model: ops.sum(model(BATCH[0]))])
def test_a_backward_pass_uses_the_type_of_its_forward_pass(loss, recompute):
    expected, model = model_in("bfloat16"), model_in("bfloat16")
    model.recompute = recompute
    for _ in range(2):  # a loss that is recorded, then one that is replayed
        for each in expected, model:
            each.gradients().forget()
        loss(expected).backward()
        before = loss(model)
        model.compute_dtype = "float32"
        before.backward()
        assert gradients(model) == gradients(expected)
        model.compute_dtype = "bfloat16"


def test_a_type_in_force_is_that_of_ops_outside_a_model_only():
    model, x, weight = model_in("float32"), Tensor([[1 + 2 ** -9]]), Tensor([[1.0]])
    plain = bits(model(BATCH[0]))
    with precision.computing_in("bfloat16"):
        assert precision.dtype_in_force() == "bfloat16"
        assert ops.linear(x, weight).tolist() == [[1.0]]
        assert bits(model(BATCH[0])) == plain
        inherited = PassSettings()
    assert precision.dtype_in_force() == "float32"
    assert ops.linear(x, weight).tolist() == [[1 + 2 ** -9]]
    with inherited:
        assert ops.linear(x, weight).tolist() == [[1.0]]


def test_decoding_is_the_forward_pass_in_the_same_type():
    """Values that lie beside a tie may be rounded the other way, a few of them by 2^-8 of their
    size."""
    model, ids = model_in("bfloat16").eval(), BATCH[0][0]
    with no_grad():
        whole = model([ids]).tolist()[0][-1]
    cache = model.new_cache()
    for token in ids:
        last = model.decode([token], cache).tolist()
    assert max(abs(a - b) for a, b in zip(last, whole)) <= 2 ** -5 * max(map(abs, whole))
    model.compute_dtype = "float32"
    with no_grad():
        assert model([ids]).tolist()[0][-1] != whole


# ------------------------------------------------------------------------------ names and files

@pytest.mark.parametrize("value", WRONG)
def test_another_type_is_refused_by_name(value, tmp_path):
    model = tiny_model()
    makers = (lambda: GPT(model.config, compute_dtype=value),
              lambda: GPT.from_pretrained(tmp_path / "none", compute_dtype=value),
              lambda: setattr(model, "compute_dtype", value),
              lambda: precision.computing_in(value))
    for make in makers:
        with pytest.raises(ValueError) as error:
            make()
        assert str(error.value) == (f"compute_dtype={value!r} is neither 'float32' nor 'bfloat16'")
    assert model.compute_dtype == "float32"


def test_a_copy_computes_in_the_same_type():
    model = model_in("bfloat16")
    loss = model.loss_and_grad(*BATCH)
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.compute_dtype == "bfloat16" and other.loss_and_grad(*BATCH) == loss
        other.compute_dtype = "float32"
    assert model.compute_dtype == "bfloat16"


def test_no_file_of_a_model_tells_the_type(tmp_path):
    for name in DTYPES:
        model_in(name).save_pretrained(tmp_path / name)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
             for name in DTYPES]
    assert files[0] == files[1]
    assert GPT.from_pretrained(tmp_path / "bfloat16").compute_dtype == "float32"
    opened = GPT.from_pretrained(tmp_path / "float32", compute_dtype="bfloat16", attn_pdrop=0.1)
    assert opened.compute_dtype == "bfloat16" and opened.config.attn_pdrop == 0.1
    with no_grad():
        assert bits(opened(BATCH[0])) == bits(model_in("bfloat16").eval()(BATCH[0]))
    assert GPT(opened.config, 1, "bfloat16").compute_dtype == "bfloat16"


# ------------------------------------------------------------------------------- faulty numbers ---

def test_a_weight_that_rounds_to_infinity_is_found_where_it_is_multiplied():
    """3.4e38 is a float32 above 2^128 (1 - 2^-9). Layer norm's small factor keeps the product
    finite in float32."""
    def located(name):
        model = model_in(name)
        parameters = dict(model.named_parameters())
        for of in "weight", "bias":
            flat = parameters[f"transformer.h.1.ln_2.{of}"].flat()
            for i in range(len(flat)):
                flat[i] *= 1e-30
        parameters["transformer.h.1.mlp.c_fc.weight"].flat()[0] = 3.4e38
        return find_nonfinite.locate(model, [BATCH], 1.0)

    found = located("bfloat16")
    assert "from linear_forward in the forward pass of transformer.h.1.mlp" in found, found
    assert "in the forward pass" not in located("float32")


@pytest.mark.parametrize("name", DTYPES)
def test_a_number_that_is_not_finite_is_found_where_it_arises(name):
    """Also where it lies in memory as bfloat16: the result of the MLP's GELU."""
    model = model_in(name)
    model.transformer.h[1].mlp.c_fc.bias.flat()[5] = 3e38
    weight = model.transformer.h[1].mlp.c_fc.weight.flat()
    for row in range(16):
        weight[row * 64 + 5] = 0.0
    model.transformer.h[1].ln_2.bias.flat()[0], weight[5] = 10.0, 1e38
    model.transformer.h[1].ln_2.weight.flat()[0] = 0.0
    found = find_nonfinite.locate(model, [BATCH], 1.0)
    assert "is inf at index 5 of out, from linear_forward" in found or (
        "is inf at index 5 of pre, from linear_forward" in found), found
    assert found.endswith("in the forward pass of transformer.h.1.mlp")
