"""Tests a run's signals, diagnosis, memory, settings files, fine-tuning and samples."""

import json
import math
import os
import re
import signal
import subprocess
import sys

import pytest
from commands import COMMAND, ENVIRONMENT, pygpt
from conftest import TEXT
from runs import FROM_INIT, records_of

from pygpt.autograd import ops
from pygpt.backend import kernels
from pygpt.training import cost, find_nonfinite, trainer_state
from pygpt.checkpoint.model_files import read_config
from pygpt.cli.main import main
from pygpt.config import PRESETS, ConfigError, GPTConfig, TrainConfig
from pygpt.training.run_log import read_log
from pygpt.training.settings import read_settings, write_settings
from pygpt.model import GPT
from pygpt.autograd.tape import no_grad
from pygpt.training.trainer import TrainingError, train



@pytest.fixture
def tiny(tiny):
    """Give the tiny run six steps."""
    return lambda **changes: tiny(**dict(max_steps=6) | changes)


def started(tiny, tmp_path, **options):
    """Start a process that trains for very long; return it after its first step."""
    write_settings(tmp_path / "c.json", tiny(max_steps=10**6, eval_interval=10**6))
    process = subprocess.Popen([*COMMAND, "train", "--config", str(tmp_path / "c.json")], text=True,
                               env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               **options)
    while not process.stdout.readline().startswith("step 1/"):
        assert process.poll() is None
    return process


# ------------------------------------------------------------------------------------- signals

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(tiny, tmp_path, number):
    process = started(tiny, tmp_path)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number and stderr == ""
    said = re.search(r"interrupted after ([\d,]+) steps?; the model is saved in .*/out/last; to go "
                     r"on: \S+ -m pygpt (train --resume --out (.*/out))\n", stdout)
    step = trainer_state.load(tmp_path / "out" / "last").step
    assert int(said[1].replace(",", "")) == step
    again = pygpt(*said[2].split(), "--max-steps", step + 2, "--force")
    assert again.returncode == 0, again.stderr
    assert f"continuing from step {step} of" in again.stdout


def test_a_second_sigterm_leaves_at_once(tiny, tmp_path):
    def twice(record):
        if record["event"] == "step" and record["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    child = os.fork()
    if child == 0:
        kernels.set_num_threads(1)
        train(tiny(threads=1), [twice])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert trainer_state.load(tmp_path / "out" / "last").step == 4


def test_a_reader_that_goes_away_does_not_end_the_run(tiny, tmp_path):
    process = started(tiny, tmp_path)
    process.stdout.close()
    log = tmp_path / "out" / "log.jsonl"
    size = log.stat().st_size
    while log.stat().st_size < size + 50_000:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM and process.stderr.read() == ""
    process.stderr.close()
    assert trainer_state.load(tmp_path / "out" / "last").step > 1


def test_a_callback_can_end_the_run(tiny):
    result = train(tiny(), [lambda record: record["step"] == 3])
    assert result.steps == 3 and result.interrupted and result.signal is None


# ------------------------------------------------------------------------------------ diagnosis

@pytest.fixture(params=[(0.0, False), (0.1, False), (0.1, True)])
def model_and_batch(request):
    dropout, recompute = request.param
    config = GPTConfig(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=2,
                       attn_pdrop=dropout, resid_pdrop=dropout)
    ids = [[(i * j) % 11 for i in range(8)] for j in range(3)]
    model = GPT(config, seed=1)
    model.recompute = recompute
    return model, (ids, ids)


def spoil(model, name, value, index=None):
    """Set one of a parameter's values, or all of them."""
    flat = memoryview(dict(model.named_parameters())[name]).cast("B").cast("f")
    for place in range(len(flat)) if index is None else [index]:
        flat[place] = value


@pytest.mark.parametrize("values, kernel, scope", [
    ({"h.1.attn.c_attn.bias": 3e38}, "attention_forward", "transformer.h.1.attn"),
    ({"h.0.mlp.c_fc.bias": 3e38, "h.0.mlp.c_proj.weight": 1e3}, "linear_forward",
     "transformer.h.0.mlp"),
    ({"h.0.ln_2.weight": 3e38}, "layernorm_forward", "transformer.h.0.ln_2"),
    ({"wpe.weight": 3e38, "wte.weight": 3e38}, "embedding_forward", "transformer"),
])
def test_the_first_bad_number_is_found(model_and_batch, values, kernel, scope):
    model, batch = model_and_batch
    for name, value in values.items():
        spoil(model, f"transformer.{name}", value)
    sentence = find_nonfinite.locate(model, [batch, batch], 0.5)
    assert re.fullmatch(rf"the first number that is not finite is -?(inf|nan) at index \d+ of "
                        rf"\w+, from {kernel} in the forward pass of {re.escape(scope)}, "
                        "batch 1 of 2", sentence)


def test_a_bad_gradient_is_found(model_and_batch):
    model, batch = model_and_batch
    spoil(model, "transformer.ln_f.weight", 1e4)  # the loss is fine, its gradients are not
    assert re.search(r"of the gradient of transformer\.wte\.weight, from "
                     "linear_cross_entropy_backward in the backward pass of the loss$",
                     find_nonfinite.locate(model, [batch], 3e38))


@pytest.mark.parametrize("kernel, number, scope", [
    ("layernorm_backward", 1, "transformer.ln_f"),
    ("layernorm_backward", 3, "transformer.h.1.ln_1"),
    ("attention_backward", 2, "transformer.h.0.attn"),
    ("linear_backward_input", 1, "transformer.h.1.mlp"),
    ("linear_backward_input", 3, "transformer.h.1.attn.c_proj"),
    ("linear_backward_input", 7, "transformer.h.0.attn.c_proj"),
    ("layernorm_backward", 5, "transformer.h.0.ln_1"),
])
def test_a_backward_call_is_placed(model_and_batch, monkeypatch, kernel, number, scope):
    model, batch = model_and_batch
    calls = []

    def broken(*args):
        calls.append(getattr(ops_lib, kernel)(*args))
        if len(calls) == number:
            args[0][5] = math.nan
        return calls[-1]

    class Broken:
        def __getattr__(self, name):
            return broken if name == kernel else getattr(ops_lib, name)

    ops_lib, broken.__name__ = ops.layers.lib, kernel
    monkeypatch.setattr(ops.layers, "lib", Broken())
    assert re.search(rf"is nan at index 5 of \w+, from {kernel} in the backward pass of "
                     rf"{re.escape(scope)}$", find_nonfinite.locate(model, [batch], 1.0))


def test_a_bad_parameter_and_a_good_step(model_and_batch):
    model, batch = model_and_batch
    assert "all numbers are finite" in find_nonfinite.locate(model, [batch], 1.0)
    before = model.loss_and_grad(*batch)
    assert math.isfinite(before) and type(model.transformer.h[0]).__call__.__name__ == "__call__"
    spoil(model, "transformer.h.1.ln_2.bias", math.nan, 3)
    assert find_nonfinite.locate(model, [batch], 1.0).startswith(
        "transformer.h.1.ln_2.bias is not finite at index 3 from the beginning")


def test_the_error_of_a_run_holds_the_diagnosis(tiny, tmp_path):
    train(tiny(dropout=0.1, grad_accumulation_steps=2), [lambda record: record["step"] == 4])
    with pytest.raises(TrainingError, match=r"running step \d again .*transformer\."):
        train(tiny(dropout=0.1, grad_accumulation_steps=2, learning_rate=1e30, grad_clip=0,
                   max_steps=50), resume=True, force=True)
    assert trainer_state.load(tmp_path / "out" / "last").step == 4


# --------------------------------------------------------------------------------------- memory

@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_memory_is_predicted_to_the_byte(compute_dtype, dropout, recompute):
    config = GPTConfig(vocab_size=50, n_positions=16, n_embd=32, n_layer=3, n_head=4,
                       embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout)
    parts = cost.memory_needed(config, 5, 16, recompute, compute_dtype=compute_dtype)
    model = GPT(config, compute_dtype=compute_dtype)
    model.recompute = recompute
    ids = [[1] * 16] * 5
    model.loss_and_grad(ids, ids)
    with no_grad():
        model.loss(ids, ids)
    assert parts["activations"] == sum(step.program.pool.nbytes for step in model._steps)
    assert parts["weights"] == parts["gradients"] == 4 * model.layout().n
    halves = model.values().halves
    assert parts["halves"] == (2 * model.layout().n if compute_dtype == "bfloat16" else 0)
    assert parts["halves"] == (halves.nbytes if halves else 0)
    assert parts["state"] == 2 * parts["weights"]


def test_the_memory_predicted_with_init_is_that_of_its_model(tiny, tmp_path):
    GPT(GPTConfig(vocab_size=99, n_positions=11, n_embd=12, n_layer=3, n_head=3, n_inner=37,
                  layer_norm_epsilon=1e-3)).save_pretrained(tmp_path / "gpt2")
    records = []
    result = train(tiny(init=tmp_path / "gpt2", tokenizer="char", dropout=0.1, max_steps=1,
                        **FROM_INIT | dict(n_positions=7)), [records.append])
    config = result.model.config
    assert (config.n_inner, config.n_positions, config.attn_pdrop) == (37, 11, 0.1)
    assert records[0]["memory_needed"] == cost.memory_needed(config, 4, 7)["total"]


def test_a_run_that_cannot_fit_is_refused_before_it_begins(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "memory_limits", lambda: (50 << 20, 10 << 20))
    with pytest.raises(MemoryError, match=r"needs \d+ MB of memory, and this machine has 52 MB"):
        train(tiny(n_embd=512))
    # 55 MB, 46 with recompute; then 146, and 145 with it
    with pytest.raises(MemoryError, match=r"; recompute \(46 MB\), a smaller batch_size with "
                       "grad_accumulation_steps, n_positions or n_embd needs less"):
        train(tiny(n_layer=8, batch_size=256))
    for recompute in (False, True):
        with pytest.raises(MemoryError, match=r"activations \d+ MB; a smaller batch_size with"):
            train(tiny(n_embd=512, recompute=recompute))
    GPT(GPTConfig(vocab_size=18, n_positions=8, n_embd=512, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "wide")
    with pytest.raises(MemoryError, match="grad_accumulation_steps or n_positions needs less"):
        train(tiny(init=tmp_path / "wide", tokenizer="char", **FROM_INIT))
    assert not (tmp_path / "out").exists()
    records = records_of(tiny(max_steps=1))
    assert records[0]["memory_free"] == 10 << 20 < records[0]["memory_needed"] < 50 << 20


@pytest.mark.parametrize("changes", [dict(n_layer=10 ** 12), dict(n_embd=2 ** 50),
                                     dict(batch_size=10 ** 12), dict(batch_size=2 ** 62)])
def test_absurd_sizes_are_refused_before_anything_is_made_of_them(tiny, tmp_path, changes):
    with pytest.raises(MemoryError, match=r"[\d,.]+ (GB of memory, and this machine|bytes)"):
        train(tiny(**changes))
    assert not (tmp_path / "out").exists()


def test_the_limits_of_this_machine():
    most, free = cost.memory_limits()
    assert most is None or 0 < free <= most
    assert cost.gigabytes(1_940_000_000) == "1.9 GB"


def test_flops_per_token_counts_every_multiply_add():
    config = GPTConfig(vocab_size=7, n_positions=10, n_embd=4, n_layer=3, n_head=2)
    matrices = sum(p.size for name, p in GPT(config).named_parameters()
                   if len(p.shape) == 2 and "wpe" not in name)
    assert cost.flops_per_token(config, 10) == 6 * matrices + 6 * 3 * 10 * 4
    assert cost.peak_flops(0.01) > 1e8


# ------------------------------------------------------------------------- settings, fine-tuning

def test_the_settings_a_run_leaves_reproduce_it(tiny, tmp_path):
    train(tiny(dropout=0.1))
    path = tmp_path / "out" / "train.json"
    assert TrainConfig(**read_settings(path)) == tiny(dropout=0.1)
    assert pygpt("train", "--config", path, "--out", tmp_path / "again").returncode == 0
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert ((tmp_path / "again" / "last" / name).read_bytes()
                == (tmp_path / "out" / "last" / name).read_bytes())


def test_settings_files(tmp_path):
    (tmp_path / "a.json").write_text('{"n_layer": 3, "data": ["x"]}')
    (tmp_path / "a.toml").write_text('# a comment\nn_layer = 3\ndata = ["x"]\n')
    for name in ("a.json", *(["a.toml"] if sys.version_info >= (3, 11) else [])):
        assert read_settings(tmp_path / name) == dict(n_layer=3, data=["x"])
    for name, text, part in (("b.json", '{"n_layers": 3, "x": 1}',
                              "'n_layers', 'x' are not settings"),
                             ("b.json", "[]", "is not a JSON object"),
                             ("b.toml", "n_layers = 3", "'n_layers' is not a setting"),
                             ("b.toml", "n_layer 3", "TOML")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=part):
            read_settings(tmp_path / name)
    for bad in (dict(out=5), dict(data=5), dict(errors="ignore"), dict(sample_prompts=[1])):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            TrainConfig(**bad)


def test_a_switch_in_a_settings_file_is_turned_either_way_by_a_flag(tiny, tmp_path):
    for stored, flags, expected in ((True, [], True), (True, ["--no-recompute"], False),
                                    (False, ["--recompute"], True)):
        write_settings(tmp_path / "c.json", tiny(max_steps=1, recompute=stored))
        assert main(["train", "--config", str(tmp_path / "c.json"), *flags]) == 0
        left = read_settings(tmp_path / "out" / "train.json")
        assert left["recompute"] is expected


def test_fine_tuning_begins_with_the_given_weights(tiny, tmp_path):
    train(tiny(max_steps=30, out=tmp_path / "base"))
    base = GPT.from_pretrained(tmp_path / "base")
    base.save_pretrained(tmp_path / "gpt2")
    records = []
    config = TrainConfig(**dict(
        data=tmp_path / "text", out=tmp_path / "out", init=tmp_path / "gpt2", n_positions=6,
        tokenizer=tmp_path / "base" / "last", dropout=0.1, batch_size=4, max_steps=4,
        learning_rate=1e-3, eval_interval=2, eval_batches=2, sample_interval=0, sample_length=4))
    result = train(config, [records.append])
    assert [r["loss"] for r in records if r["event"] == "step"][0] < 2.6 < math.log(18)
    assert result.model.config.n_positions == 8 and result.model.config.attn_pdrop == 0.1
    assert read_config(tmp_path / "out" / "last").n_layer == 2
    whole = (tmp_path / "out" / "last" / "model.safetensors").read_bytes()
    train(config, [lambda record: record["step"] == 1])
    train(config, resume=True)
    assert (tmp_path / "out" / "last" / "model.safetensors").read_bytes() == whole
    for bad in (dict(n_embd=32), dict(n_positions=9), dict(n_layer=1)):
        with pytest.raises(ConfigError, match=f"{next(iter(bad))}=.* but the model in init="):
            train(TrainConfig(**dict(data=tmp_path / "text", out=tmp_path / "x",
                                     tokenizer=tmp_path / "base" / "last",
                                     init=tmp_path / "gpt2") | bad))


def test_a_model_of_more_tokens_than_the_tokenizer_draws_only_its(tiny, tmp_path, capsys):
    GPT(GPTConfig(vocab_size=512, n_positions=8, n_embd=16, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "gpt2")
    result = train(tiny(init=tmp_path / "gpt2", tokenizer="char", sample_interval=2, max_steps=3,
                        **FROM_INIT))
    assert result.model.config.vocab_size == 512 > result.tokenizer.vocab_size
    samples = [r for r in read_log(tmp_path / "out" / "log.jsonl") if r["event"] == "sample"]
    assert [(r["step"], len(r["text"])) for r in samples] == [(2, 5), (3, 20)]
    assert main(["sample", str(tmp_path / "out"), "--prompt", "3", "--max-new-tokens", "40"]) == 0
    written = capsys.readouterr().out
    assert len(written) == 42 and set(written) <= set(TEXT)


def test_samples_of_fixed_prompts_go_to_the_log(tiny, tmp_path):
    train(tiny(sample_interval=3, sample_prompts=["3 times", "7"]))
    samples = [r for r in read_log(tmp_path / "out" / "log.jsonl") if r["event"] == "sample"]
    assert [(r["step"], r["prompt"], len(r["text"])) for r in samples] == [
        (3, "3 times", 5), (3, "7", 5), (6, "3 times", 20), (6, "7", 20)]


@pytest.mark.parametrize("max_steps", [1, 4, 6])
def test_no_samples_means_none_at_the_end_either(tiny, max_steps):
    records = records_of(tiny(sample_interval=0, max_steps=max_steps))
    assert not [record for record in records if record["event"] == "sample"]


def test_every_field_of_the_log_is_documented(tiny, tmp_path):
    from pygpt.training import events
    train(tiny(sample_interval=3))
    for record in read_log(tmp_path / "out" / "log.jsonl"):
        for field in record.keys() - {"time", "event", "step"}:
            assert re.search(rf"\b{field}\b", events.__doc__), field
    assert json.loads((tmp_path / "out" / "train.json").read_text())["n_embd"] == 16


def test_the_presets_that_are_promised():
    assert {"lesson", "char", "gpt2"} <= PRESETS.keys()
