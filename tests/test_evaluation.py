"""Tests how a text is scored: which tokens, from which context, against plain computations."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pygpt
from pygpt.autograd import launch
from pygpt.backend.kernels import lib
from pygpt.config import ConfigError, GPTConfig
from pygpt.evaluation import checked_stride, evaluate, token_losses, windows
from pygpt.model import GPT

V, P = 11, 6
IDS = [(7 * i * i + 3 * i) % V for i in range(40)]


@pytest.fixture(scope="module")
def model():
    """A model whose predictions differ much: weights of 20 times the usual size."""
    model = GPT(GPTConfig(vocab_size=V, n_positions=P, n_embd=8, n_layer=2, n_head=2), seed=3)
    for _, parameter in model.named_parameters():
        values = parameter.flat()
        for i, value in enumerate(values.tolist()):
            values[i] = 20 * value if len(parameter.shape) == 2 else value
    return model.eval()


def loss_after(model, context, token):
    """Compute -log softmax(logits after the context)[token] in double precision."""
    logits = model([context]).tolist()[0][-1]
    top = max(logits)
    return top + math.log(math.fsum(math.exp(x - top) for x in logits)) - logits[token]


def plain_losses(model, ids, stride, n_positions=P):
    """Score a text as the guide of transformers does, a token at a time: each in the first window
    in which a token stands before it. Without overlap, the window before predicts the first."""
    losses = []
    for token in range(1, len(ids)):
        if stride == n_positions:
            begin = (token - 1) // stride * stride
        else:
            begin = next(begin for begin in range(0, len(ids), stride)
                         if begin < token < begin + n_positions)
        losses.append(loss_after(model, ids[begin:token], ids[token]))
    return losses


@pytest.mark.parametrize("stride", range(1, P + 1))
@pytest.mark.parametrize("count", [2, P - 1, P, P + 1, 2 * P, 2 * P + 1, 40])
def test_the_losses_equal_those_computed_one_at_a_time(model, stride, count):
    """The kernel rounds to float32 the logsumexp and the difference, each below 64 here; logits of
    a longer or shorter pass differ by the rounding of its sums, which the factor 16 covers."""
    expected = plain_losses(model, IDS[:count], stride)
    losses = token_losses(model, IDS[:count], stride)
    assert len(losses) == count - 1
    assert max(expected) < 64
    assert losses.tolist() == pytest.approx(expected, abs=16 * 64 * 2 ** -24)
    assert evaluate(model, IDS[:count], stride) == math.fsum(losses) / len(losses)


def test_the_default_stride_is_half_of_the_context(model):
    assert token_losses(model, IDS) == token_losses(model, IDS, P // 2)
    assert token_losses(model, IDS) != token_losses(model, IDS, P)
    assert [checked_stride(None, n) for n in (1, 2, 3, 1024)] == [1, 1, 1, 512]


@given(st.integers(2, 60), st.integers(1, 12), st.data())
def test_each_token_is_scored_once_with_the_context_that_is_promised(count, n_positions, data):
    stride = data.draw(st.integers(1, n_positions))
    scored = []
    for number, (begin, end, first, stop) in enumerate(windows(count, n_positions, stride)):
        assert begin == number * stride and end == min(begin + n_positions, count)
        for token in range(first, stop):
            assert begin < token <= end  # something stands before it in the window
            assert token - begin >= min(token, n_positions - stride)
        scored += range(first, stop)
    assert scored == list(range(1, count))


def test_a_context_of_one_token():
    model = GPT(GPTConfig(vocab_size=V, n_positions=1, n_embd=8, n_layer=1, n_head=1)).eval()
    expected = [loss_after(model, [a], b) for a, b in zip(IDS, IDS[1:])]
    assert token_losses(model, IDS).tolist() == pytest.approx(expected, abs=1e-5)


def test_batches_of_windows_change_nothing(model, monkeypatch):
    """Windows are computed together; alone, each gives the same numbers to rounding."""
    together = token_losses(model, IDS, 2)
    counts = []
    monkeypatch.setattr("pygpt.evaluation.BATCH_TOKENS", 1)
    alone = token_losses(model, IDS, 2, counts.append)
    assert alone.tolist() == pytest.approx(together.tolist(), abs=1e-5)
    assert counts == [stop - 1 for *_, stop in windows(len(IDS), P, 2)]


class OfLogits:
    """A model of another kind, which has only what evaluate() needs: it gives all logits."""

    def __init__(self, model):
        self.config, self.train, self._model = model.config, model.train, model

    training = False

    def __call__(self, ids):
        return self._model(ids)


def test_a_model_that_gives_all_logits(model, monkeypatch):
    expected, counts = token_losses(model, IDS, 2).tolist(), []
    assert token_losses(OfLogits(model), IDS, 2).tolist() == expected
    monkeypatch.setattr("pygpt.evaluation.LOGITS_BYTES", 4 * P * V * 3)  # three windows at once
    assert token_losses(OfLogits(model), IDS, 2, counts.append).tolist() == pytest.approx(
        expected, abs=1e-5)
    assert counts[0] == 5 + 2 + 2 and counts[-1] == len(IDS) - 1


@pytest.mark.parametrize("form", ["float32", "bfloat16 products", "int8", "bfloat16"])
def test_the_head_is_computed_for_a_few_rows_at_a_time(form, monkeypatch):
    """At most `most` rows have logits at once, and no bit depends on how many."""
    T, vocab, most = 150, 300, 64
    model = GPT(GPTConfig(vocab_size=vocab, n_positions=T, n_embd=32, n_layer=1, n_head=2), seed=3,
                compute_dtype="bfloat16" if form == "bfloat16 products" else "float32").eval()
    model = model.quantize(form) if form in ("int8", "bfloat16") else model
    ids = [[(7 * i * i + b) % vocab for i in range(T)] for b in range(2)]
    targets = [row[1:] + [-100] for row in ids]
    expected = model.token_losses(ids, targets)
    monkeypatch.setattr("pygpt.model.HEAD_BYTES", 0)
    sizes, call = [], launch._call

    def noted(kernel, args):
        if kernel == lib.cross_entropy_forward:
            sizes.append(args[4])
        call(kernel, args)

    with launch.calling(noted):
        losses = model.token_losses(ids, targets)
    assert losses.tolist() == expected.tolist()
    assert sum(sizes) == 2 * T and max(sizes) <= most and min(sizes) >= most // 2
    assert [row[-1] for row in losses.tolist()] == [0.0, 0.0]
    if model.weights == "float32":
        assert math.fsum(losses.flat()) / (2 * T - 2) == pytest.approx(
            float(model.loss(ids, targets)), abs=1e-5)


def test_what_has_no_losses_is_refused(model):
    for ids, targets, message in (
            ([[1, 2]], [[1]], r"targets of shape \(1, 1\) for ids of shape \(1, 2\)"),
            ([[1, 2]], [[1, V]], "targets: 11 is outside"),
            ([[1, V]], [[1, 2]], "ids: 11 is outside"),
            ([[1] * (P + 1)], [[1] * (P + 1)], "ids: 7 positions are more than"),
            ([[1]], 3, "targets: expected B lists")):
        with pytest.raises(ValueError, match=message):
            model.token_losses(ids, targets)


def test_threads_change_no_bit(model, kernels):
    results = []
    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        results.append(token_losses(model, IDS))
    assert results[0] == results[1] == results[2]


def test_dropout_is_off_and_comes_back():
    config = GPTConfig(vocab_size=V, n_positions=P, n_embd=8, n_layer=1, n_head=1, resid_pdrop=0.5)
    model = GPT(config)
    assert token_losses(model, IDS) == token_losses(model, IDS)
    assert model.training and all(module.training for module in model.modules())
    model.eval()
    evaluate(model, IDS)
    assert not model.training


def test_the_loss_of_one_window_is_the_models(model):
    ids = IDS[:P + 1]
    assert pygpt.evaluate(model, ids, stride=P) == pytest.approx(
        float(model.loss([ids[:-1]], [ids[1:]])), abs=1e-6)


@pytest.mark.parametrize("ids, stride, message", [
    ([], None, "ids: 0 tokens are too few"),
    ([3], None, "ids: 1 tokens are too few"),
    ([1, V], None, r"ids\[1\]=11 is not in 0\.\.10"),
    ([1, -1], None, r"ids\[1\]=-1 is not in 0\.\.10"),
    ([1, 1.0], None, r"ids\[1\]=1.0 is not an integer"),
    ("text", None, "ids='text' is not a list of ids"),
    (b"\0\0\0\0\0\0\0\0", None, "is not a list of ids"),
    (IDS, 0, r"stride=0 must be in 1\.\.6"),
    (IDS, P + 1, r"stride=7 must be in 1\.\.6"),
    (IDS, 1.5, "stride=1.5 is not an integer"),
    (IDS, True, "stride=True is not an integer"),
])
def test_what_cannot_be_scored_is_refused(model, ids, stride, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        evaluate(model, ids, stride)


def test_ids_of_any_kind(model):
    from array import array

    class Number(int):
        pass

    expected = evaluate(model, IDS)
    for ids in (tuple(IDS), array("q", IDS), iter(IDS), [Number(i) for i in IDS]):
        assert evaluate(model, ids) == expected


def test_logits_that_are_not_finite_are_told():
    model = GPT(GPTConfig(vocab_size=V, n_positions=P, n_embd=8, n_layer=1, n_head=1)).eval()
    model.transformer.ln_f.weight.flat()[0] = math.nan
    with pytest.raises(ValueError, match="the model's logits are not finite"):
        evaluate(model, IDS)


def test_the_public_name_is_the_function_whatever_was_imported_first():
    from commands import python

    for first in "pygpt.evaluation", "pygpt.cli.main":
        result = python(f"import pygpt, {first}; print(pygpt.evaluate.__module__)")
        assert result.stdout == "pygpt.evaluation\n", result.stderr
