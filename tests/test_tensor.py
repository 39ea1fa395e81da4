"""Tests tensors: as Python numbers, made from all kinds of numbers, copied, pickled, too large."""

import copy
import math
import multiprocessing
import pickle
import struct
from array import array
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pygpt
from pygpt import nn
from pygpt.autograd import ops
from pygpt.model import GPT
from pygpt.autograd.tensor import Tensor
from pygpt.backend.kernels import Memory

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


# -------------------------------------------------------------------------------------- numbers ---

@given(FLOATS)
def test_a_tensor_of_one_value_is_a_number(x):
    for t in Tensor(x), Tensor([x]), Tensor([[x]]):
        assert float(t) == t.item() == x and int(t) == int(x) and bool(t) == bool(x)
        assert (t < 1, t <= 1, t > 1.0, t >= 1, 1 > t) == (x < 1, x <= 1, x > 1.0, x >= 1, 1 > x)
    assert math.floor(Tensor(x)) == math.floor(x)


def test_a_tensor_of_ids_is_a_whole_number():
    t = Tensor([7], dtype="int32")
    assert (t.item(), int(t), float(t), t.dtype) == (7, 7, 7.0, "int32")
    assert Tensor([[1, 2], [3, 4]], dtype="int32").tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("number", [float, int, bool, Tensor.item, lambda t: t < 1])
@pytest.mark.parametrize("data", [[], [1.0, 2.0], [[1.0], [2.0]]])
def test_several_values_are_no_number(number, data):
    with pytest.raises(ValueError, match="is not a single number"):
        number(Tensor(data))


def test_arithmetic_with_numbers_has_gradients():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = 3 - (x + 1) * 2 / 4 + Fraction(1, 2) - 1.5 + True
    assert y.tolist() == [2.0, 1.5]
    ops.sum(y).backward()
    assert x.grad.tolist() == [-0.5, -0.5]


def test_comparisons_and_formats():
    one, two = Tensor(1.0), Tensor([2.0])
    assert one == 1.0 and one != 2 and two == 2 and not one == two and one != two
    assert max([one, two]) is two and one < two and f"{one:.2f}" == "1.00"
    assert one in [3, one] and len({one, two, one}) == 2 and Tensor([1.0, 2.0]) != 1.0
    assert [10, 20][Tensor(1, dtype="int32")] == 20
    with pytest.raises(TypeError, match="requires_grad='int32' is not True or False"):
        Tensor(3, "int32")


def test_losses_are_summed():
    losses = [Tensor(1.0, requires_grad=True), Tensor(2.0, requires_grad=True)]
    total = sum(losses)
    assert float(total) == 3.0
    total.backward()
    assert [float(loss.grad) for loss in losses] == [1.0, 1.0]


@pytest.mark.parametrize("operation", [
    lambda t: t + "1", lambda t: "1" * t, lambda t: t * [1.0], lambda t: t - None, lambda t: 1 / t,
    lambda t: t ** 2, lambda t: t < "1", lambda t: t + [1.0], lambda t: t / t, lambda t: t @ 2,
    lambda t: range(t), lambda t: [1, 2][t], lambda t: f"{[t]:d}"])
def test_what_has_no_meaning_is_a_type_error(operation):
    with pytest.raises(TypeError):
        operation(Tensor(1.0))


def test_numpys_numbers_and_arrays():
    numpy = pytest.importorskip("numpy")
    loss = Tensor(3.0, requires_grad=True)
    for half in numpy.float32(0.5), numpy.float64(0.5), numpy.float16(0.5):
        for y in (loss * half, half * loss, loss / numpy.int64(2), loss - half * 3,
                  half * 6 - loss / 2):
            assert isinstance(y, Tensor) and float(y) == 1.5
    for dtype in ("float16", "float32", "float64", "int8", "int64", "uint8", "bool", ">f4",
                  ">i8"):
        a = numpy.array([[1, 0], [1, 1]], dtype)
        assert Tensor(a).tolist() == a.tolist() == Tensor(a.T.copy().T).tolist()
        assert Tensor(list(a[0])).tolist() == [1.0, 0.0]
    assert Tensor(numpy.float32(2.0)).shape == ()
    for dtype in "complex64", "datetime64[s]", "U3", "S2":
        with pytest.raises((TypeError, ValueError), match="number|dtype"):
            Tensor(numpy.zeros(2, dtype))
    assert numpy.asarray(Tensor([[1.0]])).tolist() == [[1.0]]


# ----------------------------------------------------------------------------------- made from ---

def test_half_precision_is_read():
    data = struct.pack("3e", 0.5, -2.0, 65504.0)
    view = memoryview(bytearray(data)).cast("B")
    try:
        halves = view.cast("e")
    except (ValueError, NotImplementedError):
        pytest.skip("this Python makes no view of float16; NumPy's are tested above")
    assert Tensor(halves).tolist() == [0.5, -2.0, 65504.0]


@pytest.mark.parametrize("data", [array("q", [1, -2]), array("d", [1.0, -2.0]), array("h", [1, -2]),
                                  (1, -2), [1.0, -2], [Fraction(1), Tensor(-2.0)],
                                  range(1, -3, -3), map(int, ["1", "-2"])])
def test_numbers_of_any_kind_are_taken(data):
    assert Tensor(data).tolist() == [1.0, -2.0]


@pytest.mark.parametrize("data, message", [
    ("12", "not of str"), ({1: 2}, "not of dict"), ({1}, "not of set"), (None, "not of NoneType"),
    (["1"], "'1' is not a real number"), ([1, None], "None is not"), ([1j], "1j is not"),
    ([b"1"], "is not a real number"), ([[1], ["x"]], "'x' is not")])
def test_what_is_no_number_is_a_type_error(data, message):
    with pytest.raises(TypeError, match=message):
        Tensor(data)


@pytest.mark.parametrize("data, dtype, message", [
    ([1e39], "float32", r"1e\+39 is out of the range of float32"),
    ([1, -10 ** 400], "float32", r"^-1000.* is out of the range of float32"),
    ([2 ** 31], "int32", "2147483648 is out of the range of int32"),
    ([1], "int64", "dtype='int64' is not 'float32' or 'int32'"),
    ([[1, 2], [3]], "float32", "ragged lists")])
def test_numbers_that_do_not_fit_are_named(data, dtype, message):
    with pytest.raises(ValueError, match=message):
        Tensor(data, dtype=dtype)


def test_ids_are_whole_numbers():
    with pytest.raises(TypeError, match="1.0 is not a whole number"):
        Tensor([1.0], dtype="int32")
    with pytest.raises(ValueError, match="only float32 has gradients"):
        Tensor([1], dtype="int32", requires_grad=True)
    wte = Tensor([[1.0, 2.0], [3.0, 4.0]])
    ids = Tensor([[1, 0]], dtype="int32")
    assert ops.embedding(ids, wte).tolist() == [[[3.0, 4.0], [1.0, 2.0]]]


def test_infinities_and_nans_are_numbers():
    assert Tensor([math.inf, -math.inf]).tolist() == [math.inf, -math.inf]
    assert math.isnan(Tensor(math.nan).item())


# -------------------------------------------------------------------------------- requires_grad ---

def test_requires_grad_is_set_on_leaves_only():
    x = Tensor([1.0])
    x.requires_grad = True
    ops.sum(x * 2.0).backward()
    assert x.grad.tolist() == [2.0]
    x.requires_grad = True  # changes nothing
    assert x.grad.tolist() == [2.0]
    x.requires_grad = False
    assert x.grad is None and not (x * 2.0).requires_grad
    x.requires_grad = True
    for wanted in True, False:
        with pytest.raises(ValueError, match="the result of an op"):
            (x * 2.0).requires_grad = wanted


# --------------------------------------------------------------------------- copies and pickles ---

def copies(thing):
    yield copy.copy(thing)
    yield copy.deepcopy(thing)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(thing, protocol))


def test_tensors_are_copied_and_pickled():
    leaf = Tensor([2.0], requires_grad=True)
    for t in (Tensor([[1.5, -2.0]]), Tensor([3], dtype="int32"), Tensor([]), Tensor(1.0), leaf,
              leaf * 3.0):
        for twin in copies(t):
            assert (twin.tolist(), twin.shape, twin.dtype) == (t.tolist(), t.shape, t.dtype)
            assert twin.memory is not t.memory
            assert twin.requires_grad == (t is leaf)


CONFIG = pygpt.GPTConfig(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=4)
BATCH = [[1, 2, 3], [4, 5, 6]], [[2, 3, 4], [5, 6, 7]]


def a_model():
    model = GPT(CONFIG, seed=2)
    model.transformer.h[0].ln_1.weight.requires_grad = False
    model.loss_and_grad(*BATCH)
    return model


def test_models_are_copied_and_pickled():
    model = a_model()
    for twin in [copy.deepcopy(model), *list(copies(model))[1:]]:
        assert float(twin.loss(*BATCH)) == float(model.loss(*BATCH))
        assert twin.transformer.wte.weight.grad is None
        assert not twin.transformer.h[0].ln_1.weight.requires_grad
        pygpt.AdamW(twin, lr=0.1)
        twin.loss_and_grad(*BATCH)
        before = model.transformer.wte.weight.tolist()
        optimizer = pygpt.AdamW(twin, lr=0.1)
        optimizer.step()
        assert model.transformer.wte.weight.tolist() == before
        model.next_seed(), twin.next_seed()


def test_a_model_from_a_file_is_copied(tmp_path):
    a_model().save_pretrained(tmp_path)
    model = GPT.from_pretrained(tmp_path)
    assert float(copy.deepcopy(model).loss(*BATCH)) == float(model.loss(*BATCH))


def test_a_parameter_that_stands_in_two_places_does_so_in_a_copy():
    model = a_model()
    model.head = nn.Module()
    model.head.weight = model.transformer.wte.weight
    twin = pickle.loads(pickle.dumps(model))
    assert twin.head.weight is twin.transformer.wte.weight


def test_a_module_without_values_is_copied():
    assert copy.deepcopy(nn.Linear(2, 3)).weight.shape == (2, 3)


def test_a_model_and_its_optimizer_go_on_alike_in_a_copy():
    model = GPT(CONFIG, seed=2)
    optimizer = pygpt.AdamW(model, lr=0.1)

    def step(model, optimizer):
        loss = model.loss_and_grad(*BATCH)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    step(model, optimizer)
    pairs = [(model, optimizer), copy.deepcopy((model, optimizer)),
             pickle.loads(pickle.dumps((model, optimizer)))]
    assert len({tuple(step(*pair) for _ in range(3)) for pair in pairs}) == 1


def loss_of(model):
    return float(model.eval().loss(*BATCH))


def test_a_model_goes_to_a_process_that_is_spawned():
    model = a_model().eval()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(loss_of, (model,)) == loss_of(model)


def test_memoryview_is_the_tensor_itself():
    t = Tensor([[1.0, 2.0], [3.0, 4.0]])
    view = memoryview(t)
    assert (view.shape, view.format, view.tolist()) == ((2, 2), "f", [[1.0, 2.0], [3.0, 4.0]])
    view[1, 0] = 7.0
    assert t.tolist() == [[1.0, 2.0], [7.0, 4.0]]


@pytest.mark.parametrize("nbytes, text", [(2 ** 60, "1,152,921,504,606,846,976 bytes"),
                                          (2 ** 63, "9,223,372,036,854,775,808 bytes"),
                                          (2 ** 70, "1,180,591,620,717,411,303,424 bytes")])
def test_memory_that_cannot_be_had_is_an_error_with_the_bytes(nbytes, text):
    with pytest.raises(MemoryError, match=text):
        Memory(nbytes)


def test_a_shape_whose_size_overflows_is_an_error_with_the_bytes():
    with pytest.raises(MemoryError, match=f"{4 * 3 ** 90:,} bytes"):
        Tensor.empty((3 ** 40, 3 ** 50))
