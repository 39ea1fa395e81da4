"""Checks what models, tensors, tokenizers and the other public objects show of themselves."""

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pygpt
from pygpt import nn
from pygpt.autograd import launch, ops
from pygpt.autograd.arrays import deferring
from pygpt.autograd.convert import nest
from pygpt.parameters import Parameter
from pygpt.training.trainer import TrainResult

CONFIG = pygpt.GPTConfig(vocab_size=96, n_positions=64, n_embd=64, n_layer=4, n_head=8)
MODEL = """\
GPT of 210,304 parameters
  (transformer): Transformer                                             210,304
    (wte): Embedding: weight (96, 64)                                      6,144
    (wpe): Embedding: weight (64, 64)                                      4,096
    (drop): Dropout: share=0.0
    (h.0 to h.3): 4 x Block                                          49,984 each
      (ln_1): LayerNorm: weight (64), bias (64), eps=1e-05                   128
      (attn): CausalSelfAttention: n_head=8                               16,640
        (c_attn): Linear: weight (64, 192), bias (192)                    12,480
        (c_proj): Linear: weight (64, 64), bias (64)                       4,160
        (attn_dropout): Dropout: share=0.0
        (resid_dropout): Dropout: share=0.0
      (ln_2): LayerNorm: weight (64), bias (64), eps=1e-05                   128
      (mlp): MLP                                                          33,088
        (c_fc): Linear: weight (64, 256), bias (256)                      16,640
        (c_proj): Linear: weight (256, 64), bias (64)                     16,448
        (dropout): Dropout: share=0.0
    (ln_f): LayerNorm: weight (64), bias (64), eps=1e-05                     128"""


@pytest.fixture(scope="module")
def model():
    return pygpt.GPT(CONFIG, seed=1).eval()


# ------------------------------------------------------------------------------------- models ---

def test_a_model_is_a_tree_with_shapes_and_counts(model):
    assert repr(model) == MODEL


def test_a_model_at_rest_has_the_same_tree_with_the_form_of_its_matrices(model):
    tree = repr(model.quantize("int8"))
    assert "(wte): Embedding: weight (96, 64) int8" in tree
    assert tree.replace(") int8", ")     ").replace(" ", "") == MODEL.replace(" ", "")


def test_blocks_that_differ_are_drawn_apart():
    model = pygpt.GPT(CONFIG)
    model.transformer.h[2].mlp.dropout.share = 0.5
    tree = repr(model)
    assert "(h.0 to h.1): 2 x Block" in tree and "(h.2): Block  " in tree
    assert "(h.3): Block  " in tree and "share=0.5" in tree


def test_a_weight_of_two_modules_counts_once():
    class Tied(nn.Module):
        def __init__(self):
            self.table, self.head = nn.Embedding(3, 4), nn.Embedding(3, 4)
            self.head.weight = self.table.weight

    assert repr(Tied()).startswith("Tied of 12 parameters\n")


def test_a_module_that_is_there_twice_counts_once():
    class Tied(nn.Module):
        def __init__(self):
            self.first = nn.Linear(3, 3)
            self.layers = {"second": self.first, "own": [Parameter((2,)), Parameter(())]}

    tree = repr(Tied())
    assert tree.splitlines() == [
        "Tied of 15 parameters: layers.own.0 (2), layers.own.1 ()",
        "  (first): Linear: weight (3, 3), bias (3)".ljust(78) + "12",
        "  (layers.second): Linear: weight (3, 3), bias (3)".ljust(78) + "12"]


def test_a_module_that_contains_itself_ends():
    module = nn.Linear(2, 3)
    module.child, module.some = module, [module]
    module.some.append(module.some)
    assert repr(module).splitlines() == [
        "Linear of 9 parameters: weight (2, 3), bias (3)",
        "  (child): Linear, which is above".ljust(79) + "9",
        "  (some.0): Linear, which is above".ljust(79) + "9"]


@given(st.lists(st.integers(1, 10 ** 12), max_size=12), st.text("ab", min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_lines_have_at_most_80_columns(lengths, name):
    class Wide(nn.Module):
        def __init__(self):
            for number, length in enumerate(lengths):
                setattr(self, f"{name}{number}", Parameter((length, 2)))

    class Outer(nn.Module):
        def __init__(self):
            self.inner = Wide()

    tree = repr(Outer())
    assert max(map(len, tree.splitlines())) <= 80
    assert all(f"({length}, 2)" in tree for length in lengths)
    assert tree.startswith(f"Outer of {2 * sum(lengths):,} parameters")


# ------------------------------------------------------------------------------------ tensors ---

@pytest.mark.parametrize("data, shown", [
    (3, "Tensor(3.0, shape=(), dtype=float32)"),
    ([1 / 3, -1e-9, 3e20, 12345.6, 0.0, -0.0],
     "Tensor([0.3333, -1e-09, 3e+20, 1.235e+04, 0.0, -0.0], shape=(6,), dtype=float32)"),
    ([math.nan, math.inf, -math.inf], "Tensor([nan, inf, -inf], shape=(3,), dtype=float32)"),
    ([[1, 2], [3, 4]], "Tensor([[1.0, 2.0], [3.0, 4.0]], shape=(2, 2), dtype=float32)"),
    ([[], []], "Tensor([[], []], shape=(2, 0), dtype=float32)"),
    ([[0.5] * 4] * 2,
     f"Tensor([{[0.5] * 4}, {[0.5] * 4}], shape=(2, 4), dtype=float32)"),
    ([0.5] * 9, "Tensor([0.5, 0.5, 0.5, ...], shape=(9,), dtype=float32)"),
    ([[[1.0, 2.0, 3.0]] * 2] * 3,
     "Tensor([[[1.0, 2.0, 3.0], ...], ...], shape=(3, 2, 3), dtype=float32)"),
    ([[n] for n in range(9)], "Tensor([[0.0], ...], shape=(9, 1), dtype=float32)"),
])
def test_a_tensor_shows_a_few_values_its_shape_and_its_dtype(data, shown):
    assert repr(pygpt.Tensor(data)) == shown


def test_an_int32_tensor_shows_whole_numbers():
    assert repr(pygpt.Tensor([[1, -20000]], dtype="int32")) == (
        "Tensor([[1, -20000]], shape=(1, 2), dtype=int32)")


def test_requires_grad_is_shown_for_leaves_and_results():
    leaf = pygpt.Tensor([1.0], requires_grad=True)
    assert repr(leaf) == "Tensor([1.0], shape=(1,), dtype=float32, requires_grad=True)"
    assert repr(leaf * 2).endswith("requires_grad=True)")
    leaf.requires_grad = False
    assert "requires_grad" not in repr(leaf)


def test_a_parameter_without_values_says_so():
    assert repr(Parameter((2, 3))) == (
        "Parameter(no values yet, shape=(2, 3), dtype=float32, requires_grad=True)")


@given(st.lists(st.integers(0, 5), max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_tensor_of_any_shape_takes_a_line(shape):
    text = repr(pygpt.Tensor.empty(shape) if 0 in shape else
                pygpt.Tensor(nest([-1.2345e-30] * math.prod(shape), shape)))
    assert "\n" not in text and f"shape={tuple(shape)}" in text and len(text) < 200


def test_a_look_at_a_deferred_result_computes_nothing():
    x, layer = pygpt.Tensor([[1.0, 2.0]]), nn.Linear(2, 2).initialise(seed=1)
    made = []

    def call(kernel, args):
        made.append(kernel)
        launch._call(kernel, args)

    with launch.calling(call), deferring():
        y = layer(x)
        before = list(made)
        assert repr(y).startswith("Tensor(not computed yet, shape=(1, 2)")
        assert made == before and y.deferred is not None
    assert "not computed" not in repr(y)


def test_a_look_at_every_tensor_changes_no_recorded_step(monkeypatch):
    """The kernel calls that are recorded are those of a model that nobody looks at."""
    def looking(op):
        def run(*inputs, **options):
            result = op(*inputs, **options)
            looks.append(repr((inputs, result, model)))
            return result
        return run

    looks, seen = [], []
    for looked_at in False, True:
        if looked_at:
            for name in "linear", "mlp", "layernorm", "attention", "embedding":
                monkeypatch.setattr(ops, name, looking(getattr(ops, name)))
        model = pygpt.GPT(CONFIG, seed=3)
        optimizer = pygpt.AdamW(model)
        losses = []
        for _ in range(3):
            losses.append(model.loss_and_grad([[1, 2, 3]], [[2, 3, 4]]))
            repr([optimizer, *(p.grad for _, p in model.named_parameters())])
            optimizer.step()
            optimizer.zero_grad()
        ((step,),) = model._steps._by_key.values()
        seen.append((losses, [call.func for call in step.program.forward]))
    assert seen[0] == seen[1] and seen[0][1]
    assert any("not computed yet" in look for look in looks)


def test_a_look_does_not_wait_for_a_computation_of_another_thread():
    """A debugger shows tensors while the thread that computes is stopped."""
    shown = threading.Event()
    with launch._lock:
        threading.Thread(target=lambda: (repr(pygpt.Tensor.empty((2,))), shown.set()),
                         daemon=True).start()
        assert shown.wait(20)


# ------------------------------------------------------------------------------ other objects ---

def test_tokenizers_show_their_kind_and_size():
    assert repr(pygpt.CharTokenizer.train("banana")) == "CharTokenizer(3 tokens)"
    assert repr(pygpt.ByteTokenizer()) == "ByteTokenizer(256 tokens)"
    bpe = pygpt.BPETokenizer.train("banana", vocab_size=259, special_tokens=["<a>", "<b>"])
    assert repr(bpe) == "BPETokenizer(259 tokens, 2 of them special)"


def test_pipelines_and_caches_show_what_they_hold(model):
    pipeline = pygpt.Pipeline(model, pygpt.CharTokenizer.train("abc"), strict=True)
    assert repr(pipeline) == (
        "Pipeline(GPT of 210,304 parameters, CharTokenizer(3 tokens), strict=True)")
    small = pygpt.Pipeline(model.quantize("int8"), pipeline.tokenizer)
    assert repr(small) == "Pipeline(GPT of 210,304 parameters, CharTokenizer(3 tokens))"
    cache = model.new_cache(2, 9)
    model.decode([1, 2, 3], cache)
    assert repr(cache) == "Cache(rows=2, length=9, pasts=[3, 0])"
    assert len(repr(model.new_cache(64, 1))) < 80


def test_continuations_show_the_beginning_of_their_text(model):
    pipeline = pygpt.Pipeline(model, pygpt.CharTokenizer(map(chr, range(32, 127))))
    text = pipeline("a", max_new_tokens=60, seed=5)
    assert repr(text) == (f"Continuation({text.text[:50]!r}..., 60 tokens, stop='length', seed=5)")
    unread = pipeline.stream("a", seed=5)
    assert repr(unread) == "Continuation('', 0 tokens, stop=None, seed=5)"
    assert unread.drawn == 0  # the look has drawn nothing


def test_optimizers_show_their_settings(model):
    optimizer = pygpt.AdamW(pygpt.GPT(CONFIG), lr=0.5)
    assert repr(optimizer) == (
        "AdamW(lr=0.5, betas=(0.9, 0.95), eps=1e-08, weight_decay=0.1, steps=0)")


def test_configs_show_their_fields_and_results_one_line(model):
    assert repr(CONFIG).startswith("GPTConfig(vocab_size=96, n_positions=64, n_embd=64, ")
    assert eval(repr(CONFIG), vars(pygpt) | {"GPTConfig": pygpt.GPTConfig}) == CONFIG
    result = TrainResult(model, pygpt.ByteTokenizer(), 3, 1.5, 1.5, 2, False, "max_steps", None)
    assert repr(result) == ("TrainResult(tokenizer=ByteTokenizer(256 tokens), steps=3, "
                            "val_loss=1.5, best_val_loss=1.5, best_step=2, interrupted=False, "
                            "reason='max_steps', signal=None)")
