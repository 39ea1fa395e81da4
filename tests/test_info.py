"""Tests `pygpt info DIR`: its numbers are those of the model; its estimates follow from them."""

import json
import re

import pytest
from commands import assert_refused, here, pygpt
from runs import stop_after

from pygpt.backend import kernels
from pygpt.checkpoint import model_files, shards
from pygpt.cli import info
from pygpt.config import GPTConfig
from pygpt.decoding import Cache
from pygpt.model import GPT
from pygpt.training import cost
from pygpt.training.model_summary import LAST, summarise
from pygpt.training.trainer import train

CONFIGS = [GPTConfig(vocab_size=50, n_positions=12, n_embd=24, n_layer=3, n_head=2),
           GPTConfig(vocab_size=70, n_positions=7, n_embd=130, n_layer=1, n_head=1, n_inner=65)]


MACHINE = {"gflops": 100.0, "gbytes": 10.0, "isa": "x", "threads": 3}
measure = info._measured


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Put MACHINE in place of the measurement, which takes a second and 128 MB."""
    monkeypatch.setattr(info, "_measured", lambda dtype: MACHINE)
    monkeypatch.setattr(info, "SECONDS", 0.0)


@pytest.fixture(params=CONFIGS, ids=["even", "odd"])
def model(request, tmp_path):
    """Return a model, saved in tmp_path/model."""
    model = GPT(request.param)
    model.save_pretrained(tmp_path / "model")
    return model


# ----------------------------------------------------------------------------------- the summary

def test_the_parameters_are_those_of_the_model(model, tmp_path):
    found = summarise(tmp_path / "model")
    assert found["parameters"] == model.num_parameters()
    assert found["parameters"] == sum(part["total"] for part in found["parts"])
    sizes = {name.removeprefix("transformer."): p.size for name, p in model.named_parameters()}
    blocks = 0
    for part in found["parts"]:
        is_block = part["times"] > 1 or f"h.0.{part['name']}.weight" in sizes
        prefix = "h.0." * is_block + part["name"]
        of_part = {name: size for name, size in sizes.items() if name.startswith(prefix + ".")}
        assert part["each"] == sum(of_part.values()) and len(of_part) == len(part["shapes"])
        blocks += is_block
        assert part["times"] == (model.config.n_layer if is_block else 1)
    assert blocks == 6 and len(found["parts"]) == 9


def test_the_bytes_at_rest_are_those_of_quantized_models(model, tmp_path):
    found = summarise(tmp_path / "model")["bytes"]
    assert found["float32"] == 4 * model.num_parameters()
    for form in ("bfloat16", "int8"):
        small, total = model.quantize(form), 0
        for module, matrix in _weights(small):
            total += (len(matrix.values.view) + (len(matrix.scales.view) if matrix.scales else 0)
                      if hasattr(matrix, "form") else 4 * matrix.size)
        assert found[form] == total


def _weights(model):
    """Yield (name, tensor or WeightAtRest) of each weight and bias of a model's modules."""
    modules = [("wte", model.transformer.wte), ("wpe", model.transformer.wpe),
               ("ln_f", model.transformer.ln_f)]
    for block in model.transformer.h:
        modules += [("", part) for part in (block.ln_1, block.attn.c_attn, block.attn.c_proj,
                                            block.ln_2, block.mlp.c_fc, block.mlp.c_proj)]
    for name, module in modules:
        for kind in ("weight", "bias"):
            if getattr(module, kind, None) is not None:
                yield name, getattr(module, kind)


def test_operations_and_memory_are_those_of_the_step(model, tmp_path):
    config, found = model.config, summarise(tmp_path / "model", 5)
    T = config.n_positions
    assert found["step"] == {"batch_size": 5, "n_positions": T, "grad_accumulation_steps": 1,
                             "dtype": "float32", "recompute": False, "is_of_run": False}
    per_token = cost.flops_per_token(config, T)
    assert found["flops"] == {"forward_per_token": per_token / 3, "step": 5 * T * per_token,
                              "training_per_token": per_token}
    needed = cost.memory_needed(config, 5, T)
    assert needed.items() <= found["memory"].items()
    cache = Cache(model)
    cache.read(0, [1])
    held = sum(4 * tensor.size for i in range(config.n_layer) for tensor in cache.layer(i))
    assert found["memory"]["cache"] == held
    assert found["memory"]["generation"] == 4 * model.num_parameters() + held + cost.PROCESS_BYTES
    wpe = 4 * T * config.n_embd
    assert found["read_per_token"] == {form: size - wpe for form, size in found["bytes"].items()}


def test_a_run_gives_its_batch_and_how_fast_it_was(tiny, tmp_path):
    train(tiny(grad_accumulation_steps=2, recompute=True), [stop_after(9)])
    log = tmp_path / "out" / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if record["event"] == "step"]
    for record, share in zip(steps, [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, None, "x"]):
        record["peak_share"] = share
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = summarise(tmp_path / "out")
    evals = [record for record in records if record["event"] == "eval"]
    best = min(evals, key=lambda record: record["val_loss"])
    assert found["run"] == {
        "step": best["step"], "max_steps": 10, "best_val_loss": best["val_loss"],
        "best_step": best["step"], "peak_share": 0.4, "isa": kernels.isa(),
        "threads": records[0]["threads"]}
    assert found["step"] == {"batch_size": 4, "n_positions": 8, "grad_accumulation_steps": 2,
                             "dtype": "float32", "recompute": True, "is_of_run": True}
    assert found["flops"]["step"] == 2 * 4 * 8 * found["flops"]["training_per_token"]
    config = GPTConfig(**found["config"])
    with_recompute, without = (cost.memory_needed(config, 4, 8, flag) for flag in (True, False))
    assert with_recompute.items() <= found["memory"].items() and with_recompute != without
    assert summarise(tmp_path / "out" / "last")["run"]["step"] == 9
    assert summarise(tmp_path / "out", 4)["step"]["is_of_run"]
    changed = summarise(tmp_path / "out", 6)["step"]
    assert (changed["batch_size"], changed["is_of_run"]) == (6, False)
    log.unlink()
    assert summarise(tmp_path / "out")["run"]["peak_share"] is None


def test_only_the_last_steps_say_how_fast_a_run_is(tiny, tmp_path):
    train(tiny(max_steps=1))
    log = tmp_path / "out" / "log.jsonl"
    with open(log, "a") as file:
        for share in [0.9] * 3 * LAST + [0.2] * LAST:
            file.write(json.dumps({"event": "step", "step": 1, "peak_share": share}) + "\n")
    assert summarise(tmp_path / "out")["run"]["peak_share"] == 0.2


# ----------------------------------------------------------------------------------- estimates

def test_the_estimates_follow_from_the_speed_of_the_machine(tiny, tmp_path):
    train(tiny(max_steps=1))
    summary = summarise(tmp_path / "out")
    for share, of_peak in ((0.25, 0.25), (None, info.OF_PEAK)):
        summary["run"]["peak_share"] = share
        found = info.estimates(summary, MACHINE)
        assert found["of_peak"] == of_peak and found["of_peak_is_of_run"] is (share is not None)
        seconds = summary["flops"]["step"] / (100e9 * of_peak)
        assert found["step_seconds"] == pytest.approx(seconds, rel=1e-12)
        assert found["train_tokens_per_second"] == pytest.approx(4 * 8 / seconds, rel=1e-12)
    for form, size in summary["read_per_token"].items():
        assert found["generated_per_second"][form] == pytest.approx(7e9 / size, rel=1e-12)


def test_the_estimates_are_near_what_was_measured(tmp_path, monkeypatch):
    """docs/speed.md, two cores of an AMD EPYC (Zen 3): 185 GFLOP/s, 27 GB/s; steps of 2290 and 7031
    ms; 40.8, 77.2 and 128 tokens/s of GPT-2. docs/training.md has the estimates."""
    monkeypatch.setattr(model_files, "read_config", lambda directory: config)
    monkeypatch.setattr(shards, "read_tensors", lambda directory: ("", {}))
    machine = MACHINE | {"gflops": 185.0, "gbytes": 27.0}
    (tmp_path / "config.json").write_text("{}")
    for config, B, measured, estimate in (
            (GPTConfig(vocab_size=65, n_positions=256, n_embd=384, n_layer=6, n_head=6), 16, 2.290,
             "2.3 s"), (GPTConfig(), 1, 7.031, "6.8 s")):
        found = info.estimates(summarise(tmp_path, B), machine)
        assert found["step_seconds"] == pytest.approx(measured, rel=0.05)
        assert info._seconds(found["step_seconds"]) == estimate
    rates = found["generated_per_second"]
    assert list(rates.values()) == pytest.approx([40.8, 77.2, 128], rel=0.15)
    assert [f"{rate:.0f}" for rate in rates.values()] == ["38", "76", "143"]


@pytest.mark.parametrize("n, text", [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"),
                                     (9_994, "9.99 kB"), (9_996, "10.0 kB"), (99_960, "100 kB"),
                                     (999_499, "999 kB"), (999_600, "1.00 MB"),
                                     (10**28, "10,000 YB")])
def test_bytes_have_three_digits(n, text):
    assert info._bytes(n) == text


def test_rates_and_seconds_have_about_three_digits():
    assert [info._rate(x) for x in (0.5, 9.99, 9.999, 41.23, 861.4, 10_849, 123_456)] == [
        "0.50", "9.99", "10.0", "41.2", "861", "10,800", "123,000"]
    assert [info._seconds(x) for x in (0.00012345, 0.25, 1.44, 60.4, 100, 4000)] == [
        "0.123 ms", "250 ms", "1.4 s", "60 s", "1:40", "1:06:40"]


# -------------------------------------------------------------------------------- the command

def test_a_run_is_shown(tiny, tmp_path):
    train(tiny())
    result = here("info", "out", cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    text = result.stdout
    V = 18
    assert text.startswith(f"out: a model of {V * 16 + 8 * 16 + 2 * (12 * 256 + 13 * 16) + 32:,} "
                           "parameters, in out/best\nsaved after step ")
    assert "\n2 blocks of 2 heads, width 16, context 8, vocabulary 18\n" in text
    assert re.search(r"^attn\.c_attn +16 x 48 \+ 48 +816 +2 +1,632  queries, keys", text, re.M)
    for heading in ("weights", "operations", "a step", "memory", "this machine", "training",
                    "generating"):
        assert re.search(rf"^{heading} ", text, re.M)
    assert "for 4 x 8 tokens (the run's)" in text
    assert re.search(r"^generating +at most [\d,]+ tokens/s in float32, [\d,]+ in bfloat16, [\d,]+ "
                     r"in int8:$", text, re.M)
    assert max(map(len, text.splitlines())) <= 110


def test_as_json_it_is_the_summary(model, tmp_path):
    found = json.loads(here("info", tmp_path / "model", "--json").stdout)
    machine, times = found.pop("machine"), found.pop("estimates")
    assert found == json.loads(json.dumps(summarise(tmp_path / "model")))
    assert found["run"] is None and "for example" in here("info", tmp_path / "model").stdout
    assert machine == MACHINE and times["step_seconds"] > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_machine_is_measured(dtype):
    found = measure(dtype)
    if kernels.ffi is None:
        assert found is None
    else:
        assert found["gflops"] > 0 < found["gbytes"] and found["isa"] == kernels.isa()


def test_the_machine_as_json():
    found = json.loads(here("info", "--json").stdout)
    assert found["isa"] == kernels.isa() and {"version", "threads"} <= found.keys()


def test_a_model_in_int8_is_shown_with_the_types_of_its_file(model, tmp_path):
    model.quantize("int8").save_pretrained(tmp_path / "small")
    small = summarise(tmp_path / "small")
    assert small["in_file"]["dtypes"] == ["F32", "I8"]
    assert small["in_file"]["bytes"] == small["bytes"]["int8"]
    assert small["parts"] == summarise(tmp_path / "model")["parts"]
    assert "on disk, of type F32 and I8\n" in here("info", tmp_path / "small").stdout


def test_a_model_that_fits_into_no_memory_is_summarised(model, tmp_path):
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": 10**9}))
    found = summarise(tmp_path / "model", 10**9)
    each = sum(part["each"] for part in found["parts"] if part["times"] > 1)
    assert found["parameters"] > 10**9 * each
    assert here("info", tmp_path / "model").returncode == 0


def test_the_reference_measures_nothing(tiny, tmp_path, monkeypatch):
    train(tiny(max_steps=1))
    result = pygpt("info", tmp_path / "out", PYGPT_BACKEND="reference")
    assert result.returncode == 0 and "\nmemory " in result.stdout
    assert "this machine" not in result.stdout
    monkeypatch.setattr(info, "_measured", lambda dtype: None)
    found = json.loads(here("info", tmp_path / "out", "--json").stdout)
    assert found["machine"] is found["estimates"] is None


def test_bad_input_is_one_line(tiny, tmp_path):
    train(tiny(max_steps=1))
    for words, status, part in (
            ("info none", 1, "none: no such directory"), ("info .", 1, "no config.json in it"),
            ("info out --batch-size 0", 2, "--batch-size 0 must be in [1, 9223372036854775807]"),
            (f"info out --batch-size {1 << 63}", 2, "must be in"),
            ("info out --batch-size x", 2, "--batch-size: 'x' is not a whole number"),
            ("info --batch-size 3", 2, "--batch-size 3 is of a model's step: name its DIR"),
            ("info out out", 2, "out")):
        assert_refused(here(*words.split(), cwd=tmp_path), status, part)
    state = tmp_path / "out" / "last" / "trainer.json"
    state.write_text("{}")
    assert_refused(here("info", "out", cwd=tmp_path), 1, "trainer.json: ", " is missing")
    (tmp_path / "out" / "last" / "model.safetensors").write_bytes(b"x" * 20)
    assert_refused(here("info", "out", cwd=tmp_path), 1)
