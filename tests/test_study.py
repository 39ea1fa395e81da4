"""Tests `pygpt study`: models without a part, what their curves show, and the gradient of one
weight by the tape, by the chain rule and by finite differences."""

import math
import os
import random
import re
import signal
import subprocess
from array import array

import browser
import pytest
from commands import COMMAND, ENVIRONMENT, assert_refused, here
from hypothesis import given, settings
from hypothesis import strategies as st
from models import bits, draw_ids, randomise, tiny

import pygpt
from pygpt.autograd import ops
from pygpt.cli.study import _Progress
from pygpt.data.batches import TrainingBatches, split
from pygpt.study import ablations, differences, findings, variants
from pygpt.study.ablations import NAMES, VARIANTS, Experiment, Result, chosen
from pygpt.study.differences import loss_in_doubles
from pygpt.study.gradient import WEIGHT, find_weight, journey, tiny_model
from pygpt.study.kernel_calls import calls_of_step
from pygpt.tokenizer import CharTokenizer

CONFIG = dict(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=4)
LACKING = [variants.WithoutResiduals, variants.WithoutNorm, variants.WithoutPositions,
           variants.WithoutMLP]
needs_chromium = pytest.mark.skipif(browser.found() is None, reason="no Chromium (Debian: "
                                    "apt-get install chromium)")


# ------------------------------------------------------------------------------- the variants ---

def stream_of(model, ids):
    """Return the final vectors of a variant, by the equation in layers and ops."""
    stack, kind = model.transformer, type(model)
    has_norm = kind is not variants.WithoutNorm
    x = ops.embedding(ids, stack.wte.weight,
                      None if kind is variants.WithoutPositions else stack.wpe.weight)
    for block in stack.h:
        a = block.attn(block.ln_1(x) if has_norm else x)
        x = a if kind is variants.WithoutResiduals else x + a
        if kind is not variants.WithoutMLP:
            m = block.mlp(block.ln_2(x) if has_norm else x)
            x = m if kind is variants.WithoutResiduals else x + m
    return stack.ln_f(x) if has_norm else x


@pytest.mark.parametrize("kind", LACKING)
def test_a_variant_computes_what_its_name_says(kind):
    model = randomise(kind(pygpt.GPTConfig(**CONFIG), seed=4))
    ids = draw_ids(random.Random(1))
    x = stream_of(model, model._ids(ids))
    expected = ops.matmul(x, model.transformer.wte.weight, transpose_b=True)
    assert model(ids).read().tolist() == pytest.approx(expected.read().tolist(), abs=1e-4)
    whole = randomise(pygpt.GPT(pygpt.GPTConfig(**CONFIG), seed=4))
    assert model(ids).read().tolist() != pytest.approx(whole(ids).read().tolist(), abs=1e-2)


@pytest.mark.parametrize("kind", LACKING)
def test_a_variant_is_recorded_and_learns(kind):
    model = kind(pygpt.GPTConfig(**CONFIG), seed=4)
    assert model.step_dependencies() is not None
    optimizer, batch = pygpt.AdamW(model, lr=1e-2), draw_ids(random.Random(2))
    losses = []
    for _ in range(20):
        losses.append(model.loss_and_grad(batch, batch))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.5


def test_what_is_left_out_has_no_parameters():
    C, L, T = CONFIG["n_embd"], CONFIG["n_layer"], CONFIG["n_positions"]
    whole = tiny().num_parameters()

    def missing(kind):
        return whole - kind(pygpt.GPTConfig(**CONFIG)).num_parameters()

    assert missing(variants.WithoutResiduals) == 0
    assert missing(variants.WithoutNorm) == (2 * L + 1) * 2 * C
    assert missing(variants.WithoutPositions) == T * C
    assert missing(variants.WithoutMLP) == L * (2 * 4 * C * C + 4 * C + C + 2 * C)


def test_without_positions_the_order_of_two_earlier_tokens_does_not_matter_to_one_block():
    model = randomise(variants.WithoutPositions(pygpt.GPTConfig(**CONFIG | {"n_layer": 1})))
    first, second = model([[1, 2, 3]]).tolist()[0][2], model([[2, 1, 3]]).tolist()[0][2]
    assert first == pytest.approx(second, abs=1e-5)


def test_depth_and_width_have_equal_weights_in_their_blocks():
    config = ablations.settings()
    wide = next(v.changes for v in VARIANTS if v.name == "wide")
    assert config.n_layer * config.n_embd ** 2 == wide["n_layer"] * wide["n_embd"] ** 2


# ------------------------------------------------------------------------------ the experiment ---

@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return str(path)


def test_an_experiment_repeats_to_the_last_bit(text):
    first, second = (ablations.run(chosen(["no-residuals"]), 2, [text]).results for _ in range(2))
    assert first == second and [r.variant.name for r in first] == ["whole", "no-residuals"]
    assert first[0].steps == 2 and first[0].val_loss != first[1].val_loss


def test_a_table_of_pairs_knows_a_text_in_which_each_letter_has_one_follower(tmp_path):
    (tmp_path / "x.txt").write_text("abcd" * 900)
    experiment = ablations.run(chosen(["no-mlp"])[:1], 1, [str(tmp_path / "x.txt")])
    assert experiment.pairs_loss == pytest.approx(-math.log((809 + 1 / 4) / (809 + 1)), rel=0.1)
    assert "only" in findings.context(experiment)
    (tmp_path / "x.txt").write_text("".join(random.Random(1).choices("abcd", k=4000)))
    experiment = ablations.run(chosen(["no-mlp"])[:1], 1, [str(tmp_path / "x.txt")])
    assert experiment.pairs_loss == pytest.approx(math.log(4), rel=0.02)
    better = Experiment([made_up("whole", 1.0)], 1.1, [])
    assert "further back than one token." in findings.context(better)


def test_the_gradient_norms_of_the_blocks_are_those_of_the_first_step(text):
    wanted = chosen(["one-head"])
    whole = ablations.run(wanted, 1, [text]).results[0]
    config, content = ablations.settings(1, [text]), open(text).read()
    tokenizer = CharTokenizer.train(content)
    model = pygpt.GPT(config.model_config(tokenizer.vocab_size), seed=config.seed)
    tokens = memoryview(array("i", tokenizer.encode(content)))
    train, _ = split(tokens, config.val_fraction, config.n_positions)
    batch = TrainingBatches(train, config.batch_size, config.n_positions, config.seed)[0]
    first = next(record for record in whole.records if record["event"] == "step")
    assert model.loss_and_grad(*batch) == first["loss"]
    squares = [sum(x * x for x in p.grad.flat())
               for _, p in model.transformer.h[0].named_parameters()]
    assert math.sqrt(sum(squares)) == pytest.approx(whole.first_block, rel=1e-6)


def test_the_measure_of_chance_is_another_seed(text):
    whole, other = ablations.run(chosen(["other-seed"]), 1, [text]).results
    assert whole.parameters == other.parameters and whole.val_loss != other.val_loss
    assert findings.chance([whole, other]) == abs(whole.val_loss - other.val_loss)
    assert findings.chance([whole]) is None


def test_a_stopped_variant_is_dropped(text):
    count = []

    def is_stopped():
        count.append(1)
        return len(count) > 3

    results = ablations.run(chosen([]), 2, [text], is_stopped=is_stopped).results
    assert [r.variant.name for r in results] == ["whole"]


def made_up(name, val_loss, first=1.0, last=1.0, steps=3, parameters=100):
    variant = next(v for v in VARIANTS if v.name == name)
    records = [{"event": "step", "step": s, "loss": val_loss + 1 / s, "grad_norm": 1.0 * s}
               for s in range(1, steps + 1)] + [ablations.validation(steps, val_loss)]
    return Result(variant, parameters, records, first, last, val_loss)


def claim_of(name):
    return next(claim for claim in findings.CLAIMS if claim.variant == name)


@pytest.mark.parametrize(("name", "val_loss", "said"), [
    ("no-residuals", 2.5, "shows what the lesson says"), ("no-mlp", 2.02, "none shows"),
    ("no-norm", 1.5, "opposite"), ("wide", 1.5, "better"), ("wide", 2.5, "worse"),
    ("wide", 2.05, "none shows"), ("no-norm", math.nan, "no longer finite")])
def test_what_is_seen_follows_from_the_numbers(name, val_loss, said):
    results = [made_up("whole", 2.0), made_up("other-seed", 2.03), made_up(name, val_loss)]
    sentences = findings.seen(claim_of(name), results)
    assert said in sentences and "2.000" in sentences
    if val_loss == val_loss:
        assert f"{val_loss:.3f}" in sentences and f"{val_loss - 2:+.3f}" in sentences


def test_a_claim_is_never_confirmed_without_a_measure_of_chance_below_the_least_difference():
    results = [made_up("whole", 2.0), made_up("no-mlp", 2.029)]
    assert "not measured" in findings.seen(claim_of("no-mlp"), results)
    assert "none shows" in findings.seen(claim_of("no-mlp"), results)


@pytest.mark.parametrize(("first", "last", "said"), [
    (1e-6, 1.0, "1e-06 times as much: it fades"), (1.0, 1.2, "about equal"), (10.0, 1.0, "grows"),
    (0.0, 1.0, "0 in the first block and 1 in the last.")])
def test_gradients_are_described_by_their_numbers(first, last, said):
    results = [made_up("whole", 2.0), made_up("no-residuals", 3.0, first, last)]
    assert said in findings.seen(claim_of("no-residuals"), results)


def test_the_command_writes_a_page_and_a_table(text, tmp_path):
    target = tmp_path / "x.html"
    done = here("study", "ablations", "--data", text, "--steps", "2", "--only", "one-head",
                "--output", target)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^whole +6\d\d,\d{3} ", done.stdout, re.M) and str(target) in done.stdout
    assert done.stderr.count("\n") == 2 and "2 of 2  one-head" in done.stderr
    source = target.read_text(encoding="utf-8")
    assert "What is seen" in source and source.count("<figure") == 2
    assert not re.search(r"https?:|\bsrc=|\bimport\b|url\(|@import|@[A-Z]+@", source)


def test_the_parser_tells_the_defaults_and_the_names():
    words = " ".join(here("study", "ablations", "--help").stdout.split())
    assert f"(default {ablations.STEPS})" in words
    assert ", ".join(NAMES[1:]) in words
    assert WEIGHT in here("study", "gradient", "--help").stdout


def test_progress_at_a_terminal_is_one_line_that_changes(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = _Progress(1, 2)
    progress(VARIANTS[0], 1, 3.0)
    progress(VARIANTS[0], 2, 2.0)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("words", "status", "parts"), [
    (["--steps", "0"], 2, ["--steps", "0"]), (["--only", "no-brain"], 2, ["no-brain", "no-mlp"]),
    (["--data", "none.txt"], 1, ["none.txt"]), (["--output", "none/x.html"], 1, ["none/x.html"]),
    (["--threads", "999"], 2, ["999"])])
def test_an_experiment_that_cannot_be_made_is_refused_in_one_line(tmp_path, words, status, parts):
    done = here("study", "ablations", *words, cwd=tmp_path)
    assert_refused(done, status, *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_keeps_what_is_complete(text, tmp_path):
    process = subprocess.Popen([*COMMAND, "study", "ablations", "--data", text, "--steps", "4"],
                               cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert "whole" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error
    assert "whole " in output and (tmp_path / "study.html").exists() and "wide " not in output


# ----------------------------------------------------------------------- one weight's gradient ---

def weights_of(model):
    """One number of every parameter."""
    rng = random.Random(5)
    return [f"{name}[{','.join(str(rng.randrange(n)) for n in p.shape)}]"
            for name, p in model.named_parameters()]


def test_the_three_gradients_of_every_kind_of_parameter_agree():
    model = randomise(tiny())
    ids = draw_ids(random.Random(3), B=1, T=9)[0]
    for weight in weights_of(model):
        found = journey(model, weight, ids)
        assert found.agrees, (weight, found.rule.total, found.tape, found.difference)
        assert found.tape_bound < 0.02 * max(abs(found.tape), 1e-3), weight


@given(seed=st.integers(0, 999), spread=st.sampled_from((0.0, 0.1, 0.5, 1.0)),
       length=st.integers(2, 9), data=st.data())
@settings(max_examples=25, deadline=None)
def test_they_agree_for_any_model_and_text(seed, spread, length, data):
    model = randomise(tiny(n_embd=8, n_head=2), spread, seed)
    weight = data.draw(st.sampled_from(weights_of(model)))
    found = journey(model, weight, draw_ids(random.Random(seed), B=1, T=length)[0])
    assert found.agrees, (found.rule.total, found.tape, found.difference, found.tape_bound)


def test_the_loss_in_double_precision_is_the_models():
    model = randomise(tiny())
    ids = draw_ids(random.Random(3), B=1, T=9)[0]
    values = {name: p.read() for name, p in model.named_parameters()}
    found = loss_in_doubles(model, values, ids[:-1], ids[1:])
    assert found == pytest.approx(float(model.loss([ids[:-1]], [ids[1:]])), rel=1e-5)


def broken_layernorm(x, weight, bias, eps=1e-5, right=ops.layernorm):
    """A layer norm whose gradient is 1 % too large."""
    out = right(x, weight, bias, eps)
    backward = out.node.backward

    def wrong(dout):
        for i in range(dout.array.size):
            dout.array.flat()[i] *= 1.01
        backward(dout)

    out.node.backward = wrong
    return out


def test_the_error_of_finite_differences_is_not_underestimated(monkeypatch):
    name = "transformer.ln_f.weight"  # whose initial values are 1
    monkeypatch.setattr(differences, "loss_in_doubles", lambda _, values, *__: values[name][2] ** 3)
    found, error = differences.finite_difference(tiny(), name, 2, [], [], 1)
    assert 0 < abs(found - 3) <= error < 1e-6


def test_a_wrong_gradient_of_an_op_is_seen(monkeypatch):
    monkeypatch.setattr(ops, "layernorm", broken_layernorm)
    done = here("study", "gradient", "--weight", "h.0.attn.c_attn.weight[0,17]")
    assert done.returncode == 1 and "DISAGREES" in done.stdout and "do not agree" in done.stdout


def test_a_step_that_is_looked_at_leaves_the_gradients_of_any_other():
    model = randomise(tiny())
    ids = draw_ids(random.Random(3))
    loss, calls = calls_of_step(model, ids, ids)
    found = {name: bits(p.grad) for name, p in model.named_parameters()}
    model.gradients().forget()
    other = model.loss(ids, ids)
    other.backward()
    assert loss == float(other)
    results = [call.at["out"] for call in calls if not call.is_backward and "out" in call.at]
    assert len(set(results)) == len(results)  # no address stands for two tensors
    assert found == {name: bits(p.grad) for name, p in model.named_parameters()}
    model.gradients().forget()


def test_the_paths_are_those_of_the_model():
    model, tokenizer = tiny_model()
    ids = tokenizer.encode("to be")

    def kernels(weight, way):
        return [call.kernel.rsplit("_", 1)[0] if way == "forward" else call.kernel
                for call, _ in getattr(journey(model, weight, ids), way)]

    assert kernels("ln_f.weight[0]", "forward") == ["layernorm", "linear_cross_entropy"]
    assert kernels("ln_f.weight[0]", "backward") == ["linear_cross_entropy_backward",
                                                     "layernorm_backward"]
    assert kernels("h.1.mlp.c_proj.bias[1]", "forward") == ["linear", "layernorm",
                                                            "linear_cross_entropy"]
    assert kernels("h.1.mlp.c_proj.bias[1]", "backward") == [
        "linear_cross_entropy_backward", "layernorm_backward", "linear_backward_weight"]
    assert kernels("wpe.weight[0,0]", "forward") == ["embedding", *(
        2 * ["layernorm", "linear", "attention", "linear", "layernorm", "linear", "linear"]),
        "layernorm", "linear_cross_entropy"]
    path = journey(model, "wte.weight[3,2]", ids).backward
    assert [call.kernel for call, is_own in path if is_own] == [
        "linear_cross_entropy_backward", "embedding_backward"]


def test_a_model_keeps_its_mode_and_has_no_gradient_afterwards():
    model = tiny(resid_pdrop=0.5).train()
    model.transformer.h[0].eval()
    assert journey(model, "ln_f.bias[3]", [1, 2, 3]).agrees  # which dropout would prevent
    assert model.training and not model.transformer.h[0].training
    assert all(p.grad is None for _, p in model.named_parameters())


def test_the_command_shows_all_four_parts_and_a_model_on_disk(tmp_path):
    done = here("study", "gradient")
    assert done.returncode == 0 and done.stderr == ""
    for part in "1  Forward", "2  Backward", "3  The chain rule", "4  Side by side", "p - y = -0.9":
        assert part in done.stdout
    assert done.stdout.count("agrees") == 2
    tokenizer = CharTokenizer.train("abc ")
    pygpt.GPT(pygpt.GPTConfig(vocab_size=4, n_positions=40, n_embd=8, n_layer=1, n_head=1)
              ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    done = here("study", "gradient", tmp_path, "--text", "ab c" * 9, "--weight", "wte.weight[0,1]")
    assert done.returncode == 0 and "more" in done.stdout and "add up to" in done.stdout


@pytest.mark.parametrize(("words", "parts"), [
    (["--weight", "ln_f.weight"], ["ln_f.weight", "h.0.mlp"]),
    (["--weight", "ln_g.weight[0]"], ["ln_g", "ln_f.weight"]),
    (["--weight", "ln_f.weight[8]"], ["(8,)", "[8]"]),
    (["--weight", "ln_f.weight[1,1]"], ["(8,)"]), (["--text", "T"], ["1 token"]),
    (["--text", "T1"], ["'1'"]), (["none"], ["none"])])
def test_a_weight_that_cannot_be_followed_is_refused_in_one_line(words, parts):
    assert_refused(here("study", "gradient", *words), 1, *parts)


def test_a_weight_at_rest_has_no_gradient():
    with pytest.raises(ValueError, match="int8"):
        journey(tiny().quantize("int8"), "ln_f.bias[0]", [1, 2])


def test_a_weight_is_found_with_and_without_the_prefix():
    model = tiny()
    short = find_weight(model, "wte.weight[1, 2]")
    assert short == find_weight(model, "transformer.wte.weight[1,2]")


# ----------------------------------------------------------------------------- in a browser ---

@pytest.fixture(scope="module")
def page(tmp_path_factory):
    results = [made_up(name, 2.0 + 0.1 * i, 1e-3, 1.0) for i, name in enumerate(NAMES)]
    path = tmp_path_factory.mktemp("page") / "study.html"
    path.write_text(findings.page(Experiment(results, 2.5, [])), encoding="utf-8")
    return path


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, True)])
def test_the_page_fits_every_screen_and_asks_for_nothing(page, width, dark):
    with browser.Browser() as chromium:
        chromium.size(width, 900, dark, touch=width < 500)
        chromium.open(page.as_uri())
        assert chromium.errors == [] and chromium.requests == [page.as_uri()]
        assert chromium.run("document.documentElement.scrollWidth") <= width
        count = len(findings.CLAIMS)
        assert chromium.run("document.querySelectorAll('figure').length") == 2 * count
        assert chromium.run("document.querySelectorAll('h2').length") == count + 1
        assert chromium.run("document.querySelector('main').textContent").count("What is seen") == (
            count)
