"""Tests the claims of the lesson, and the model as a whole: gradients, training, determinism.

Small models on the public interface."""

import copy
import gc
import math
import random
from array import array
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from models import TINY, draw_ids, randomise, tiny

import pygpt
from pygpt.autograd import ops
from pygpt.autograd.replay import COUNTS_REFERENCES
from pygpt.model import GPT
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor
from sharing import needs_threads, shared_among

LESSON = dict(vocab_size=96, n_positions=64, n_embd=64, n_layer=4, n_head=8)


def flat(tensor):
    return memoryview(tensor).cast("B").cast("f").tolist()


# ---------------------------------------------------------------------------- the lesson's claims -

def test_eight_heads_of_eight_are_a_width_of_64():
    # Each head alone, as attention over its own 8 channels, is that slice of what the eight give.
    rng, T = random.Random(1), 10
    qkv = [[[rng.gauss(0, 1) for _ in range(192)] for _ in range(T)]]
    together = ops.attention(Tensor(qkv), 8)
    assert together.shape == (1, T, 64)
    for h in range(8):
        own = [[[row[64 * part + 8 * h + c] for part in range(3) for c in range(8)]
                for row in qkv[0]]]
        alone = ops.attention(Tensor(own), 1).tolist()[0]
        assert [row[8 * h:8 * h + 8] for row in together.tolist()[0]] == alone


def test_without_positions_attention_sees_a_set():
    # One layer: from the second on, the causal mask itself tells the order.
    model = randomise(tiny(n_layer=1))
    wpe = dict(model.named_parameters())["transformer.wpe.weight"]
    ids = [3, 1, 4, 2, 5]
    swapped = [2, 4, 1, 3, 5]
    with no_grad():
        different = model([ids]).tolist()[0][-1], model([swapped]).tolist()[0][-1]
        for i in range(wpe.size):
            memoryview(wpe).cast("B").cast("f")[i] = 0.0
        same = model([ids]).tolist()[0][-1], model([swapped]).tolist()[0][-1]
    assert max(abs(a - b) for a, b in zip(*different)) > 1e-2
    # the last token sees the same set; only the order of its sums differs
    assert max(abs(a - b) for a, b in zip(*same)) < 1e-4


def test_later_tokens_do_not_move_earlier_logits():
    model = randomise(tiny())
    ids = [1, 2, 3, 4, 5, 6, 7, 8]
    for t in range(7):
        changed = ids[:t + 1] + [9] * (7 - t)
        assert model([ids]).tolist()[0][:t + 1] == model([changed]).tolist()[0][:t + 1]


def test_residuals_carry_the_gradient_to_the_first_of_many_blocks():
    rng = random.Random(2)
    model = GPT(pygpt.GPTConfig(**TINY | dict(n_layer=48)), seed=1)
    model.loss(draw_ids(rng, 4), draw_ids(rng, 4)).backward()
    grads = dict(model.named_parameters())

    def size(layer):
        g = flat(grads[f"transformer.h.{layer}.mlp.c_fc.weight"].grad)
        return math.sqrt(sum(x * x for x in g))

    assert size(0) > 0.1 * size(47) > 0


@pytest.mark.parametrize("zeroed", [("attn", "mlp"), ("attn",), ("mlp",)])
def test_a_block_adds_what_each_part_computes_to_its_input(zeroed):
    """A part whose projection is 0 adds nothing; of the other, half the weights add half."""
    model = randomise(tiny())
    block, x = model.transformer.h[0], Tensor([[[0.25 * i - 2 for i in range(16)]] * 3])
    for part in zeroed:
        for _, p in getattr(block, part).c_proj.named_parameters():
            p.flat()[:] = array("f", [0.0]) * p.size
    whole = flat(block(x))
    for part in {"attn", "mlp"}.difference(zeroed):
        for _, p in getattr(block, part).c_proj.named_parameters():
            p.flat()[:] = array("f", [y / 2 for y in p.flat()])
    for a, b, inp in zip(whole, flat(block(x)), flat(x)):
        assert abs((a - inp) - 2 * (b - inp)) <= 1e-5
    assert (whole == flat(x)) == (len(zeroed) == 2)


def test_shapes_stay_t_by_width_until_the_head():
    model = tiny()
    seen = []
    block = type(model.transformer.h[0])
    original = block.__call__
    try:
        block.__call__ = lambda self, x, *rest: seen.append(x.shape) or original(self, x, *rest)
        logits = model([[1, 2, 3], [4, 5, 6]])
    finally:
        block.__call__ = original
    assert seen == [(2, 3, 16)] * 2 and logits.shape == (2, 3, 11)


def test_the_gradient_at_the_logits_is_p_minus_y():
    rng = random.Random(4)
    logits = Tensor([[rng.gauss(0, 2) for _ in range(7)] for _ in range(3)], requires_grad=True)
    targets = Tensor.empty((3,), "i")
    memoryview(targets)[:] = memoryview(array("i", [2, 0, 6]))
    ops.cross_entropy(logits, targets).backward()
    p = ops.softmax(logits).tolist()
    for r, target in enumerate((2, 0, 6)):
        for v in range(7):
            expected = (p[r][v] - (v == target)) / 3
            assert abs(logits.grad.tolist()[r][v] - expected) <= 4 * 2 ** -24


def test_the_loss_starts_near_ln_v():
    rng = random.Random(5)
    model = GPT(pygpt.GPTConfig(**LESSON), seed=1337)
    loss = float(model.loss(draw_ids(rng, 16, 64, 96), draw_ids(rng, 16, 64, 96)))
    assert abs(loss - math.log(96)) < 0.05 * math.log(96)


def test_one_batch_can_be_memorised():
    rng = random.Random(6)
    model = GPT(pygpt.GPTConfig(**LESSON), seed=1337)
    optimizer = pygpt.AdamW(model, lr=2e-3)
    ids, targets = draw_ids(rng, 4, 32, 96), draw_ids(rng, 4, 32, 96)
    for _ in range(90):
        loss = model.loss(ids, targets)
        loss.backward()
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss) < 0.05


# -------------------------------------------------------------------------------- the whole model -

@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_models_gradient_along_a_direction(dropout):
    rng = random.Random(7)
    model = randomise(tiny(embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout))
    ids, targets = draw_ids(rng, 3), draw_ids(rng, 3)
    model.loss(ids, targets).backward()
    parameters = [p for _, p in model.named_parameters()]
    directions = [[rng.gauss(0, 1) for _ in range(p.size)] for p in parameters]
    slope = math.fsum(g * u for p, direction in zip(parameters, directions)
                      for g, u in zip(flat(p.grad), direction))

    def along(t):
        saved = [flat(p) for p in parameters]
        for p, d in zip(parameters, directions):
            view = memoryview(p).cast("B").cast("f")
            for i, u in enumerate(d):
                view[i] += t * u
        model.forward_passes = 0  # the same dropout masks again
        loss = float(model.loss(ids, targets))
        for p, old in zip(parameters, saved):
            memoryview(p).cast("B").cast("f")[:] = memoryview(array("f", old))
        return loss

    # Halving h divides the truncation error by four; Richardson's combination removes it. What is
    # left is rounding: the loss is good to a few ulps of 3, over h = 5e-4.
    h = 1e-3
    coarse, fine = ((along(s) - along(-s)) / (2 * s) for s in (h, h / 2))
    assert abs(slope - (4 * fine - coarse) / 3) <= 2e-3 * (1 + abs(slope))


def same_gradients(a, b):
    return all(flat(p.grad) == flat(q.grad)
               for (_, p), (_, q) in zip(a.named_parameters(), b.named_parameters()))


def test_the_fused_pass_gives_the_same_loss_and_gradients():
    rng = random.Random(8)
    ids, targets = draw_ids(rng, 3), draw_ids(rng, 3)
    eager, fused = randomise(tiny()), randomise(tiny())
    for _ in range(3):  # the first records, the second replays, the third adds
        loss = eager.loss(ids, targets)
        (loss * 0.5).backward()
        assert fused.loss_and_grad(ids, targets, 0.5) == float(loss)
        assert same_gradients(eager, fused)


@pytest.mark.parametrize("way", [
    lambda model, ids: (model.loss(ids, ids) * 0.25).backward(),
    lambda model, ids: model.loss(ids, ids).backward(Tensor(0.25)),
    lambda model, ids: model.loss_and_grad(ids, ids, scale=0.25),
], ids=["product", "gradient", "loss_and_grad"])
def test_the_gradient_of_a_quarter_of_the_loss_is_a_quarter_of_its_gradient(way):
    """To the last bit, because a product with a power of two is not rounded."""
    model, whole, ids = randomise(tiny()), randomise(tiny()), draw_ids(random.Random(8))
    whole.loss(ids, ids).backward()
    optimizer = pygpt.AdamW(model)
    for _ in range(3):  # the first records, the others replay
        optimizer.zero_grad()
        way(model, ids)
        for (_, p), (_, q) in zip(model.named_parameters(), whole.named_parameters()):
            assert flat(p.grad) == [0.25 * g for g in flat(q.grad)]


def test_each_step_adds_its_gradient_to_those_since_zero_grad():
    model, ids = randomise(tiny()), draw_ids(random.Random(8))
    optimizer = pygpt.AdamW(model)
    model.loss(ids, ids).backward()
    once = [g for _, p in model.named_parameters() for g in flat(p.grad)]
    for _ in range(2):
        optimizer.zero_grad()
        for count in 1, 2, 3:
            model.loss(ids, ids).backward()
            found = [g for _, p in model.named_parameters() for g in flat(p.grad)]
            # in up to four passes, a sum for each of 16 tokens, rounded to single precision
            most = 4 * 16 * 2 ** -24 * count * max(map(abs, once))
            assert found == pytest.approx([count * g for g in once], rel=0, abs=most)


def test_a_loss_has_a_gradient_unless_it_was_computed_within_no_grad():
    rng, model = random.Random(8), tiny()
    model.loss(draw_ids(rng), draw_ids(rng)).backward()
    for T, story in (5, (True, False, True)), (6, (False, True, False)):
        ids = draw_ids(rng, 2, T)
        for trains in story:
            with nullcontext() if trains else no_grad():
                assert model.loss(ids, ids).requires_grad == trains


def test_losses_of_one_shape_do_not_disturb_one_another():
    rng = random.Random(9)
    model, other = randomise(tiny()), randomise(tiny())
    first, second = ([draw_ids(rng), draw_ids(rng)] for _ in range(2))
    a, b = model.loss(*first), model.loss(*second)
    (a + b).backward()
    assert (float(a), float(b)) == (float(other.loss(*first)), float(other.loss(*second)))
    for pair in (second, first):
        other.loss(*pair).backward()
    assert same_gradients(model, other)


def test_an_evaluation_sees_a_part_that_was_moved_and_trained(tmp_path):
    tiny().save_pretrained(tmp_path)
    model, ids = GPT.from_pretrained(tmp_path), draw_ids(random.Random(2))
    with no_grad():
        before = float(model.loss(ids, ids))
    block = model.transformer.h[0]
    optimizer = pygpt.AdamW(block, lr=0.1)  # its parameters come to a buffer of their own
    x = block(Tensor([[[0.5] * model.config.n_embd]]))
    ops.sum(ops.mul(x, x)).backward()
    optimizer.step()
    with no_grad():
        after = float(model.loss(ids, ids))
    assert after != before
    fresh = copy.deepcopy(model)  # without what was recorded
    with no_grad():
        assert float(fresh.loss(ids, ids)) == after


def test_a_loss_keeps_its_value_when_the_next_one_is_computed():
    rng, model = random.Random(10), tiny()
    losses = [model.loss(draw_ids(rng), draw_ids(rng)) for _ in range(4)]
    assert len({float(loss) for loss in losses}) == 4


@pytest.mark.parametrize("trains", [False, True])
def test_a_loss_keeps_its_value_when_its_step_computes_the_next_one(trains):
    rng, model, losses = random.Random(10), tiny(), []
    with nullcontext() if trains else no_grad():
        for _ in range(4):
            loss = model.loss(draw_ids(rng), draw_ids(rng))
            losses.append((loss, float(loss)))
            if trains:
                loss.backward()
    assert len({value for _, value in losses}) == 4
    assert [float(loss) for loss, _ in losses] == [value for _, value in losses]


def test_a_loss_composes_with_other_ops_and_leaves_no_trace():
    # The first gradient of the step's own pass may find one that the outer pass has added.
    rng = random.Random(20)
    ids = draw_ids(rng)
    model, plain = randomise(tiny()), randomise(tiny())
    wte = model.transformer.wte.weight
    for _ in range(3):
        model.gradients()
        (model.loss(ids, ids) + ops.sum(ops.mul(wte, wte))).backward()
        for _, p in model.named_parameters():
            p.node.valid = False
    model.loss(ids, ids).backward()
    plain.loss(ids, ids).backward()
    assert same_gradients(model, plain)


def test_an_interrupted_recording_is_recorded_again(monkeypatch):
    rng, model, plain = random.Random(21), randomise(tiny()), randomise(tiny())
    ids, launches = draw_ids(rng), [0]
    real = ops.layers.launch

    def interrupted(*args, **options):
        launches[0] += 1
        if launches[0] == 40:
            raise KeyboardInterrupt
        real(*args, **options)

    for module in ops.glue, ops.layers, ops.loss:
        monkeypatch.setattr(module, "launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.loss(ids, ids).backward()
    monkeypatch.undo()
    for _, p in model.named_parameters():
        p.node.valid = False
    model.loss(ids, ids).backward()
    plain.loss(ids, ids).backward()
    assert same_gradients(model, plain)


def test_threads_may_evaluate_one_model_at_once():
    rng, model = random.Random(22), randomise(tiny())
    data = [draw_ids(rng) for _ in range(6)]
    with no_grad():
        expected = [float(model.loss(ids, ids)) for ids in data]

    def evaluate(_):
        with no_grad():
            return [float(model.loss(ids, ids)) for ids in data for _ in range(20)][::20]

    for threads in (1, 2):
        with shared_among(threads), ThreadPoolExecutor(3) as pool:
            assert list(pool.map(evaluate, range(6))) == [expected] * 6


def test_dropout_follows_the_switch_of_each_module():
    rng, model = random.Random(23), randomise(tiny(resid_pdrop=0.5))
    ids = draw_ids(rng)
    on = {float(model.loss(ids, ids)) for _ in range(3)}
    for block in model.transformer.h:
        block.eval()
    off = {float(model.loss(ids, ids)) for _ in range(3)}
    assert len(on) == 3 and len(off) == 1


def test_steps_of_many_shapes_are_forgotten():
    model = tiny()
    for T in range(1, 9):
        for B in (1, 2, 3):
            model.loss([[1] * T] * B, [[1] * T] * B)
    assert len(list(model._steps)) <= 8


@pytest.mark.skipif(not COUNTS_REFERENCES, reason="needs a Python that counts references")
def test_a_loss_that_is_dropped_gives_its_step_back_at_once():
    model = tiny()
    gc.disable()  # the step must not wait for the collector of cycles
    try:
        for _ in range(3):
            model.loss([[1, 2]], [[2, 3]])
        assert len(list(model._steps)) == 1
    finally:
        gc.enable()


def losses_of_a_run(threads, dropout=0.1):
    rng = random.Random(11)
    model = GPT(pygpt.GPTConfig(vocab_size=50, n_positions=40, n_embd=48, n_layer=2, n_head=3,
                                embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout),
                seed=1)
    optimizer, losses = pygpt.AdamW(model, lr=1e-3), []
    with shared_among(threads):
        for _ in range(4):
            losses.append(model.loss_and_grad(draw_ids(rng, 9, 40, 50), draw_ids(rng, 9, 40, 50)))
            losses.append(optimizer.clip_grad_norm(0.5))
            optimizer.step()
            optimizer.zero_grad()
    return losses, [flat(p) for _, p in model.named_parameters()]


@needs_threads
def test_runs_repeat_bit_for_bit_on_any_number_of_threads():
    runs = [losses_of_a_run(threads) for threads in (1, 1, 2, 3)]
    assert runs[1:] == runs[:1] * 3


@needs_threads
def test_generation_is_the_same_on_any_number_of_threads():
    model = randomise(tiny())
    runs = []
    for threads in (1, 2, 3):
        with shared_among(threads):
            logits = model.decode([1, 2, 3], model.new_cache()).tolist()
            runs.append((logits, model.generate([1, 2, 3], max_new_tokens=20, seed=4)))
    assert runs[1:] == runs[:1] * 2


def test_decode_with_a_cache_agrees_with_the_whole_forward_pass():
    model = randomise(tiny())
    ids, cache = [5, 0, 7, 7, 2, 10], model.new_cache()
    with no_grad():
        whole = model([ids]).tolist()[0]
    got = [model.decode(ids[:2], cache).tolist()] + [model.decode([i], cache).tolist()
                                                     for i in ids[2:]]
    worst = max(abs(a - b) for x, y in zip(whole[1:], got) for a, b in zip(x, y))
    assert worst < 1e-4 and cache.past == 6


def test_saved_and_opened_it_is_the_same_model(tmp_path):
    model = randomise(tiny(resid_pdrop=0.1))
    model.save_pretrained(tmp_path / "m")
    opened = GPT.from_pretrained(tmp_path / "m")
    with no_grad():
        expected = model.eval()([[1, 2, 3]]).tolist()
        assert opened([[1, 2, 3]]).tolist() == expected
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    pygpt.AdamW(opened, lr=0.1)  # training copies the weights: the file stays as it is
    opened.loss([[1, 2]], [[2, 3]]).backward()
    assert opened([[1, 2, 3]]).tolist() == expected
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


# ------------------------------------------------------------------------------------- bad input -

@pytest.mark.parametrize("ids, message", [
    ([[1, 11]], r"ids: 11 is outside 0..10 \(vocab_size=11\)"),
    ([[-1, 1]], r"ids: -1 is outside 0..10"),
    ([[1] * 9], "9 positions are more than n_positions=8"),
    ([[1, 2], [1]], r"\[1\] is not a list of 2 ids like the first"),
    ([[]], "1 sequences of 0 positions"),
    ([], "expected B lists"),
    ([1, 2], "expected B lists"),
    ([["a"]], "not a list of ids"),
    ("text", "expected B lists of T ints or an int32 buffer, got str"),
    (b"bytes", "not int32"),
    (memoryview(array("q", [1, 2])).cast("B").cast("q", (1, 2)), "64-bit items of format 'q'"),
])
def test_bad_ids_are_named(ids, message):
    model = tiny()
    with pytest.raises(ValueError, match=message):
        model(ids)
    with pytest.raises(ValueError, match=message):
        model.loss(ids, ids)


@pytest.mark.parametrize("ignore_index", [-100, -1, 10])
def test_ignored_targets_take_no_part(ignore_index):
    """Compare the loss and gradients with those of a batch without the ignored targets."""
    rng, model = random.Random(1), tiny().eval()
    ids, targets = draw_ids(rng, 1), draw_ids(rng, 1, 8, 10)
    masked = [targets[0][:5] + [ignore_index] * 3]
    options = {} if ignore_index == -100 else dict(ignore_index=ignore_index)
    optimizer = pygpt.AdamW(model)
    short = model.loss_and_grad([ids[0][:5]], [targets[0][:5]])
    expected = [list(p.grad.flat()) for _, p in model.named_parameters()]
    for _ in range(2):  # op by op, then replayed
        optimizer.zero_grad()
        loss = model.loss(ids, masked, **options)
        assert float(loss) == pytest.approx(short, rel=1e-6)
        loss.backward()
        for (_, p), wanted in zip(model.named_parameters(), expected):
            assert list(p.grad.flat()) == pytest.approx(wanted, abs=1e-6)
        optimizer.zero_grad()
        assert model.loss_and_grad(ids, masked, **options) == float(loss)
    eager = ops.cross_entropy(model(ids), Tensor(masked, dtype="int32"), **options)
    assert float(eager) == pytest.approx(short, rel=1e-6)
    assert float(model.loss(ids, [[ignore_index] * 8], **options)) == 0.0
    with pytest.raises(ValueError, match=fr"targets: -7 is outside 0..10 .*{ignore_index} is ign"):
        model.loss(ids, [[-7] * 8], **options)


@pytest.mark.parametrize("ignore_index", [1.0, None, "x", True, 2 ** 31])
def test_an_ignore_index_that_is_no_id_is_named(ignore_index):
    with pytest.raises(ValueError, match="ignore_index=.* is not a whole number of 32 bits"):
        tiny().loss([[1]], [[1]], ignore_index=ignore_index)


def test_bad_targets_are_named_and_the_model_goes_on():
    model = tiny()
    with pytest.raises(ValueError, match=r"targets: 99 is outside 0..10"):
        model.loss([[1, 2]], [[1, 99]])
    with pytest.raises(ValueError, match=r"targets of shape \(1, 1\) for ids of shape \(1, 2\)"):
        model.loss([[1, 2]], [[1]])
    loss = model.loss([[1, 2]], [[2, 3]])
    loss.backward()
    assert float(loss) > 0


def test_the_cache_says_when_it_is_full():
    model = tiny()
    cache = model.new_cache()
    model.decode([1] * 8, cache)
    with pytest.raises(ValueError, match=r"8 \+ 1 positions are more than n_positions=8"):
        model.decode([1], cache)


@pytest.mark.parametrize("form", ["int8", "bfloat16"])
def test_a_model_in_fewer_bits_computes_without_gradients_and_refuses_training(form, tmp_path):
    whole = tiny().eval()
    whole.quantize(form).save_pretrained(tmp_path)
    for model in whole.quantize(form), GPT.from_pretrained(tmp_path, weights=form):
        logits, loss = model([[1, 2]]), model.loss([[1, 2]], [[2, 3]])
        with no_grad():
            assert model([[1, 2]]).tolist() == logits.tolist()
            assert float(model.loss([[1, 2]], [[2, 3]])) == float(loss)
        assert not any(p.requires_grad for _, p in model.named_parameters())
        before = logits.tolist()
        for use, message in (
                (lambda: pygpt.AdamW(model),
                 f"^AdamW: transformer.wte.weight rests in {form}, for"),
                (lambda: model.initialise(),
                 rf"^initialise\(\): transformer.wte.weight rests in {form}, for"),
                (lambda: model.transformer.initialise(),
                 rf"^initialise\(\): wte.weight rests in {form}, for"),
                (lambda: model.transformer.h[0].mlp.initialise(),
                 rf"^initialise\(\): c_fc.weight rests in {form}, for"),
                (lambda: model.loss_and_grad([[1]], [[2]]),
                 rf"^loss_and_grad\(\): a weight at rest in {form} passes no gradient on"),
                (lambda: loss.backward(), "grad")):
            with pytest.raises(ValueError, match=message):
                use()
        assert model([[1, 2]]).tolist() == before
    assert all(p.requires_grad for _, p in whole.named_parameters())
    pygpt.AdamW(whole.initialise(3))
