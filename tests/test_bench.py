"""Runs every benchmark for a moment, so that no changed signature breaks one unseen.

Each file of tests/bench runs beside a stand-in for its peer, and beside the peer itself where that
is installed. A measurement this short means nothing and is ignored; the comparisons count.
test_growth.py runs `pygpt bench --growth`, test_ranks.py `pygpt bench --mpi` and scaling.py,
test_ladder.py `make ladder`, test_schedule.py schedule.py, test_compare_generation.py
generation.py, and test_networks.py networks.py; test_gguf.py reads back what gguf.py writes.
"""

import ast
import importlib
import importlib.util
import inspect
import itertools
import json
import math
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from commands import python

import pygpt
from conftest import TEXT
from pygpt.autograd.precision import OPERAND_TYPES
from pygpt.backend import kernels, reference
from pygpt.bench import denormals
from pygpt.bench import kernels as own
from pygpt.cli import main

TOP = Path(__file__).parent.parent
BENCH = TOP / "tests" / "bench"
NEEDS = {"torch_gpt": ("torch",), "transformers_gpt2": ("torch", "transformers", "safetensors"),
         "other_tokenizers": ("tiktoken", "tokenizers")}
PEERS = {"agree": "torch_gpt", "compare": "torch_gpt", "matmul": "torch_gpt",
         "perplexity": "transformers_gpt2", "pretrained": "transformers_gpt2",
         "tokenizer_speed": "other_tokenizers"}
# B, T, layers, heads, width, vocabulary, dropout
SMALL = {"small": (2, 4, 1, 2, 8, 11, 0.0), "dropped": (1, 5, 2, 1, 6, 7, 0.2)}
TARGETS = ("bench", "growth", "compare", "compare-matmul", "compare-generation", "ladder",
           "schedule")
SPREAD = {"tests/bench/peers.py", "tests/bench/schedule.py", "tests/bench/rounding.py",
          "tests/bench/few_rows.py", "tests/bench/generation.py", "tests/bench/gguf.py",
          "tests/bench/llama_cpp.py", "tests/bench/rest_perplexity.py", "tests/bench/hover.py",
          "tests/bench/networks.py", "tests/bench/scaling.py",
          *(f"tests/bench/{name}.py" for name in (*PEERS, *NEEDS))}
needs_c = pytest.mark.skipif(kernels.ffi is None, reason="measures the C kernels")


@pytest.fixture
def modules(monkeypatch):
    """Put tests/bench on the module path; forget its modules before and after."""
    def forget():
        for name in (*PEERS, *NEEDS, "peers", "rounding"):
            sys.modules.pop(name, None)

    monkeypatch.syspath_prepend(str(BENCH))
    forget()
    yield
    forget()


@pytest.fixture(params=["stand-in", "peer"])
def opened(request, modules, monkeypatch):
    """Return a function that imports a benchmark beside its peer or beside the stand-in."""
    def load(name):
        peer = PEERS[name]
        if request.param == "stand-in":
            spec = importlib.util.spec_from_file_location(peer, BENCH / "standin" / f"{peer}.py")
            sys.modules[peer] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[peer])
        elif not all(map(importlib.util.find_spec, NEEDS[peer])):
            pytest.skip(f"needs {' and '.join(NEEDS[peer])}")
        return importlib.import_module(name)

    return load


def test_rounding_shows_each_gradient(modules, tmp_path, capsys):
    model = pygpt.GPT(pygpt.GPTConfig(vocab_size=256, n_positions=6, n_embd=8, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path)
    tokenizer = pygpt.CharTokenizer.train(TEXT)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "text").write_text(TEXT)
    importlib.import_module("rounding").main([str(tmp_path), "--data", str(tmp_path / "text")])
    lines = capsys.readouterr().out.splitlines()
    names = [name for name, _ in model.named_parameters()]
    assert [line.split()[0] for line in lines[3:]] == names
    errors = [float(line.split()[1]) for line in lines[3:]]
    assert 0 < max(errors) < 5 and all(float(line.split()[3]) > 0.99 for line in lines[3:])


def test_agree(opened, monkeypatch, capsys):
    agree = opened("agree")
    monkeypatch.setattr(agree, "SIZES", ((11, 6, 8, 2, 2, 3, 5),))
    assert agree.main() == 0
    out = capsys.readouterr().out
    names = [name for name, _ in pygpt.GPT(pygpt.GPTConfig(
        vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2)).named_parameters()]
    for part in ("logits", "  loss ", *(f"d {name} " for name in names), "after 10 steps"):
        assert part in out


def test_agree_sees_a_difference(opened, monkeypatch, capsys):
    agree = opened("agree")
    monkeypatch.setattr(agree, "SIZES", ((11, 6, 8, 1, 2, 3, 5),))
    torch_gpt, models = agree.peer("torch_gpt"), []
    random_model, twin = agree.random_model, torch_gpt.Twin

    def and_then_changed(*args):
        both = twin(*args)
        memoryview(dict(models[0].named_parameters())["transformer.wpe.weight"])[2, 3] += 0.1
        return both

    monkeypatch.setattr(agree, "random_model",
                        lambda *args: models.append(random_model(*args)) or models[0])
    monkeypatch.setattr(torch_gpt, "Twin", and_then_changed)
    assert agree.main() == 1
    assert "the largest error is" in capsys.readouterr().out


@needs_c
def test_compare(opened, monkeypatch, capsys):
    compare = opened("compare")
    monkeypatch.setattr(compare, "CONFIGURATIONS", SMALL)
    monkeypatch.setattr(compare, "TURN", 0)
    compare.main([*SMALL, "--seconds", "0.001", "--threads", "1", "--no-compile", "--dtype",
                  "bfloat16"])
    lines = capsys.readouterr().out.splitlines()
    assert "; caches " in lines[0] and compare.peer("torch_gpt").VERSION in lines[1]
    assert lines[1].endswith("; ours in bfloat16")
    assert lines[2].split()[:6] == ["pygpt", "quartiles", "eager", "fused", "bf16", "best"]
    assert [line.split()[0] for line in lines[3:]] == list(SMALL)
    assert all(int(line.split()[-2]) > 5 and int(line.split()[-1]) > 5 for line in lines[3:])
    assert all(line.count("-") == 3 for line in lines[3:])  # quartiles of both sides, and the ratio
    compare.main(["small", "--seconds", "0.001", "--threads", "1", "--no-memory", "--no-compile",
                  "--no-bfloat16", "--json"])
    row = json.loads(capsys.readouterr().out)
    assert row["name"] == "small" and row["dtype"] == "float32"
    assert set(row["ms"]) == {"pygpt", "eager", "fused"}
    assert all(low <= row["ms"][v] <= high for v, (low, high) in row["ms_quartiles"].items())
    assert row["ms"].keys() == row["ms_quartiles"].keys()
    low, high = row["ms_quartiles"]["pygpt"]
    assert low < row["ms"]["pygpt"] < high
    assert_machine(row, compare.peer("torch_gpt"))


def assert_machine(row, torch_gpt):
    """Check what a row says of the machine that it was measured on."""
    machine = row["machine"]
    assert machine.pop("cpu") and machine.pop("caches")
    assert machine == {"threads": 1, "isa": kernels.isa(), "compiler": kernels.info()["compiler"],
                       "torch": torch_gpt.VERSION, "torch_capability": torch_gpt.CAPABILITY}


CPUINFO = """processor\t: 0
cpu family\t: 25
model\t\t: 1
model name\t: A CPU @ 2.00GHz \u00ae
stepping\t: 1

model name\t: Another
"""
LSCPU = [{"field": "Vendor ID:", "data": "Them", "children": [
            {"field": "Model name:", "data": "The same CPU"},
            {"field": "Caches (sum of all):", "data": None, "children": [
                {"field": "L1d cache:", "data": "64 KiB (2 instances)"},
                {"field": "L3 cache:", "data": "32 MiB (1 instance)"}]}]}]


def test_the_machine_is_described(opened, monkeypatch, tmp_path):
    compare = opened("compare")
    (tmp_path / "cpuinfo").write_text(CPUINFO, encoding="utf-8")
    assert compare.model_name(tmp_path / "cpuinfo") == "A CPU @ 2.00GHz \u00ae"
    for said, found in ((json.dumps({"lscpu": LSCPU}), "The same CPU"), ("[]", None), ("", None),
                        ('{"lscpu": null}', None)):
        (tmp_path / "said").write_text(said)
        system = compare.lscpu(["cat", tmp_path / "said"])
        assert system.get("Model name") == found
        monkeypatch.setattr(compare.cpu, "found_caches", lambda *root: (0, 0, 0))
        assert compare.caches(system) == (
            "L1d 64 KiB (2 instances), L3 32 MiB (1 instance)" if found else "")
        monkeypatch.setattr(compare.cpu, "found_caches", lambda *root: (32 << 10, 0, 32 << 20))
        assert compare.caches(system) == "L1d 32 KiB, L3 32 MiB"


def test_what_the_system_does_not_tell_is_unknown(opened, monkeypatch, tmp_path):
    compare = opened("compare")
    assert compare.model_name(tmp_path / "missing") == ""
    assert compare.lscpu([tmp_path / "missing"]) == compare.lscpu(["false"]) == {}
    for name, answer in (("lscpu", {}), ("model_name", "")):
        monkeypatch.setattr(compare, name, lambda answer=answer: answer)
    monkeypatch.setattr(compare.cpu, "found_caches", lambda *root: (0, 0, 0))
    machine = compare.machine(2, compare.peer("torch_gpt"))
    assert machine["cpu"] == machine["caches"] == "unknown"


@needs_c
@pytest.mark.parametrize("name", ["compare", "matmul"])
def test_a_configuration_that_is_not_there_is_named(opened, capsys, name):
    with pytest.raises(SystemExit):
        opened(name).main(["large"])
    assert "'large' is not one of lesson, char-small, " in capsys.readouterr().err


@needs_c
def test_matmul(opened, monkeypatch, capsys):
    matmul = opened("matmul")
    hurry(matmul, monkeypatch)
    matmul.main([*SMALL, "--seconds", "0", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert "; caches " in lines[0] and lines[1].endswith("; the peak is the sustained one")
    assert [line.split()[0] for line in lines[3:-1]] == ["small"] * 15 + ["dropped"] * 15
    assert lines[-1].startswith("30 products: ") and " of a sustained peak of " in lines[-1]
    milliseconds = itertools.cycle(range(1, 11))  # PyTorch's turn comes first; five turns
    monkeypatch.setattr(matmul, "turn", lambda call: next(milliseconds) / 1e3)
    matmul.main(["small", "--layer", "head", "--seconds", "0", "--threads", "1", "--json"])
    rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [(r["product"], r["R"], r["IN"], r["OUT"]) for r in rows] == [
        (product, 8, 8, 11) for product in ("y", "dx", "dW")]
    for row in rows:
        # quartiles of 2, 4, 6, 8, 10 ms, and of 1, 3, 5, 7, 9 ms
        assert (*row["ms_quartiles"], row["ms"]) == pytest.approx((3, 9, 6))
        assert (*row["torch_ms_quartiles"], row["torch_ms"]) == pytest.approx((2, 8, 5))
        speed = 2 * row["R"] * row["IN"] * row["OUT"] / row["ms"] / 1e6
        assert row["of_peak"] == pytest.approx(speed / row["sustained_gflops"])
        assert_machine(row, matmul.peer("torch_gpt"))


def hurry(matmul, monkeypatch):
    for name, value in dict(CONFIGURATIONS=SMALL, WARM=0, TURN=0, PEAK_ROUNDS=1000).items():
        monkeypatch.setattr(matmul, name, value)


@needs_c
@pytest.mark.parametrize("layer", ["c_fc", "head"])
@pytest.mark.parametrize("product", ["y", "dx", "dW"])
def test_matmul_sees_a_difference(opened, monkeypatch, layer, product):
    matmul = opened("matmul")
    hurry(matmul, monkeypatch)
    products = matmul.products

    def with_a_wrong_one(*args):
        return [(p, (lambda: None) if p == product else ours, *rest)
                for p, ours, *rest in products(*args)]

    monkeypatch.setattr(matmul, "products", with_a_wrong_one)
    with pytest.raises(SystemExit, match=f"the two sides' {product} differ by"):
        matmul.main(["small", "--layer", layer, "--seconds", "0", "--threads", "1"])


def test_pretrained(opened, capsys):
    pretrained = opened("pretrained")
    assert pretrained.main(["--dtype", "float32", "bfloat16"]) == 0
    out = capsys.readouterr().out
    assert "bfloat16, exported here" in out and "float32" in out


def test_pretrained_sees_a_difference(opened, monkeypatch, capsys):
    pretrained = opened("pretrained")
    ours = pretrained.our_logits
    monkeypatch.setattr(pretrained, "our_logits", lambda directory, ids: ours(
        directory, [[(i + 1) % 101 for i in row] for row in ids]))
    assert pretrained.main(["--dtype", "float32"]) == 1


def test_perplexity(opened, capsys):
    assert opened("perplexity").main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("stride")] == ["4", "16", "31"]
    assert lines[-1].startswith("worst difference ")


def test_perplexity_sees_a_difference(opened, monkeypatch):
    perplexity = opened("perplexity")
    evaluate = pygpt.evaluate
    monkeypatch.setattr(pygpt, "evaluate", lambda *words: 1.0001 * evaluate(*words))
    monkeypatch.setattr(perplexity.peer("transformers_gpt2"), "nats_per_token",
                        lambda directory, *words: evaluate(
                            pygpt.GPT.from_pretrained(directory), *words))
    assert perplexity.main([]) == 1


def test_tokenizer_speed(opened, monkeypatch, capsys, tmp_path):
    tokenizer_speed = opened("tokenizer_speed")
    monkeypatch.setattr(tokenizer_speed, "MERGES", 20)
    monkeypatch.setattr(tokenizer_speed, "LONG", (50, 100))
    (tmp_path / "text").write_text(TEXT)
    directory = tmp_path / "tokenizer"
    pygpt.BPETokenizer.train(TEXT, 300, ["<|endoftext|>"]).save_pretrained(directory)
    tokenizer_speed.main([str(directory), str(tmp_path / "text")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith(" MB/s")] == [
        "pygpt", "tiktoken", "tokenizers"] * 2
    assert len([line for line in lines if line.startswith("  spaces")]) == 2


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_that_is_missing_is_one_line(name, tmp_path):
    """Run it in a process that cannot import any of the libraries."""
    missing = sorted({library for names in NEEDS.values() for library in names})
    code = (f"import runpy, sys; sys.modules.update(dict.fromkeys({missing!r})); "
            f"sys.argv = [{str(BENCH / (name + '.py'))!r}, *sys.argv[1:]]; "
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    arguments = [tmp_path, tmp_path / "text"] if name == "tokenizer_speed" else []
    result = python(code, *arguments, cwd=tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith(f"{name}: error: ") and result.stderr.count("\n") == 1
    assert "is not installed (pip install " in result.stderr


def test_there_is_a_test_for_every_benchmark():
    assert {str(path.relative_to(TOP)) for path in BENCH.glob("*.py")} == SPREAD
    assert {path.stem for path in (BENCH / "standin").glob("*.py")} == set(NEEDS)


def test_weights_at_rest_score_a_text_alike(modules, tmp_path, capsys):
    """The line of each form has nats and a perplexity, of all contexts that the text fills."""
    tokenizer = pygpt.CharTokenizer.train(TEXT)
    config = pygpt.GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=8, n_embd=16, n_layer=1,
                             n_head=2)
    pygpt.GPT(config, seed=1).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text").write_text(TEXT[:24], encoding="utf-8")
    importlib.import_module("rest_perplexity").main([str(tmp_path / "model"),
                                                     str(tmp_path / "text")])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "3 contexts of 8 tokens"
    assert [line.split()[0] for line in lines] == ["float32", "bfloat16", "int8"]
    nats = [float(line.split()[1]) for line in lines]
    assert max(nats) - min(nats) < 0.01 and abs(nats[0] - math.log(tokenizer.vocab_size)) < 0.5


@pytest.mark.parametrize("name", PEERS)
def test_a_stand_in_offers_what_is_used_of_the_peer(name):
    """Find every name, and its arguments, that a benchmark takes from its peer in both files."""
    peer = PEERS[name]
    real, standin = (defined(parsed(BENCH / folder / f"{peer}.py")) for folder in ("", "standin"))
    used = {node.attr for node in ast.walk(parsed(BENCH / f"{name}.py"))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            and node.value.id == peer}
    assert used and used <= real.keys() & standin.keys()
    for function in real.keys() & standin.keys():
        if real[function] and standin[function]:
            assert real[function] == standin[function], function


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def defined(node, prefix=""):
    """Map each name that a module's or class's body defines to its arguments' names, or None."""
    names = {}
    for part in node.body:
        if isinstance(part, ast.ClassDef):
            names |= {part.name: None} | defined(part, f"{part.name}.")
        elif isinstance(part, ast.FunctionDef):
            names[prefix + part.name] = [argument.arg for argument in part.args.args]
        elif isinstance(part, ast.Assign):
            names |= {prefix + target.id: None for target in part.targets
                      if isinstance(target, ast.Name)}
    return names


@pytest.fixture
def hurried(monkeypatch):
    """Let `pygpt bench` measure small sizes, and no limits of the machine."""
    def hurry(dropout=0.0):
        shape = dict(batch_size=2, n_positions=4, n_layer=1, n_head=2, n_embd=8, vocab_size=11,
                     dropout=dropout)
        monkeypatch.setattr(own, "SHAPES", {name: shape for name in own.SHAPES})
        monkeypatch.setattr(own, "machine", lambda seconds, dtype: {"gflops": 2.0, "gbytes": 1.0})
        monkeypatch.setattr(own, "sustained_gflops", lambda step, seconds, dtype: 1.5)

    return hurry


@needs_c
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_pygpt_bench(hurried, capsys, dropout):
    hurried(dropout)
    assert main.main(["bench", "--preset", "gpt2", "--seconds", "0.001"]) == 0
    out = capsys.readouterr().out
    for part in ("gpt2: batch_size=2",
                 "2 GFLOP/s of float32 multiply-adds in a burst (the peak below)",
                 "dW = x^T dy", "head and loss, both", "gradient norm",
                 "inputs that make denormals", "gradients and moments of 1e-39",
                 "a training step", "of the burst peak", "Python"):
        assert part in out
    assert "sustained" not in out
    assert main.main(["bench", "--preset", "gpt2", "--seconds", "0.001", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["denormals"]
    assert len({row["kernel"] for row in rows}) == len(rows) == 11
    assert all(row["ratio"] == row["denormal_ms"] / row["ordinary_ms"] > 0 for row in rows)


@needs_c
def test_pygpt_bench_in_bfloat16(hurried, capsys):
    hurried()
    flags = ["bench", "--seconds", "0.001", "--dtype", "bfloat16"]
    assert main.main(flags) == 0
    out = capsys.readouterr().out
    for part in ("products of bfloat16: ", "2 GFLOP/s of float32 multiply-adds in a burst"):
        assert part in out
    assert main.main([*flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == "bfloat16"


@needs_c
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_every_product_is_measured_in_the_type_asked_for(hurried, monkeypatch, name):
    hurried()
    shape, dtype = own.SHAPES["char"], OPERAND_TYPES[name]
    seen = set()

    class Noting:
        def __getattr__(self, kernel):
            def noting(*args):
                if "dtype" in inspect.signature(getattr(reference, kernel)).parameters:
                    seen.add((kernel, args[-1]))
                return getattr(lib, kernel)(*args)

            return noting

    lib = kernels.lib
    for module in own, denormals:
        monkeypatch.setattr(module, "lib", Noting())
    cases, memory = own.kernel_cases(shape, dtype)
    pairs, inputs = denormals.denormal_cases(shape, dtype)
    for call in [call for _, call, *_ in cases] + [call for _, _, *pair in pairs for call in pair]:
        call()
    del memory, inputs  # the calls read it
    assert {number for _, number in seen} == {dtype} and len(seen) == 7
    assert own.MeasuredStep(shape, name).model.compute_dtype == name


@needs_c
@pytest.mark.parametrize("flags, kind, peak", [([], "burst", 2.0),
                                               (["--sustained"], "sustained", 1.5)])
def test_shares_are_of_the_peak_that_is_named(hurried, capsys, flags, kind, peak):
    hurried()
    assert main.main(["bench", "--seconds", "0.001", "--json", *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["peak"] == kind and result["machine"]["gflops"] == 2.0
    assert result["machine"]["sustained_gflops"] == (1.5 if flags else None)
    for row in (*result["kernels"], result["step"]):
        assert row["of_peak"] == row["gflops"] / peak and row["of_burst"] == row["gflops"] / 2.0


@needs_c
def test_the_report_of_both_peaks(hurried, capsys):
    hurried()
    assert main.main(["bench", "--seconds", "0.001", "--sustained"]) == 0
    out = capsys.readouterr().out
    for part in ("2 GFLOP/s of float32 multiply-adds sustained (the peak below), 2 in a burst",
                 "% burst", "% of the sustained peak, ", "% of the burst's"):
        assert part in out
    percents = {line[:12]: line.count("%") for line in out.splitlines()}
    assert percents["mlp fc: y = "] == 3


def test_the_sustained_peak_is_measured_after_a_second_of_steps(monkeypatch):
    """Give it a clock of its own, on which a step takes 0.4 s and a measurement 1 ms."""
    events, clock = "", 0.0

    def event(name, seconds, operations=None):
        nonlocal events, clock
        events, clock = events + name, clock + seconds
        return operations

    monkeypatch.setattr(own, "lib", types.SimpleNamespace(
        pygpt_measure_peak=lambda rounds, dtype: event("peak ", 0.001, 2e6)))
    monkeypatch.setattr(own, "time", types.SimpleNamespace(perf_counter=lambda: clock))
    assert own.sustained_gflops(lambda: event("step ", 0.4), 0.0) == pytest.approx(2.0)
    assert events == "peak " + 6 * "step step step peak "


def test_inputs_that_make_denormals_do_and_ordinary_ones_do_not(monkeypatch):
    """Run the pairs on the reference, which flushes nothing, and count denormals in the arrays."""
    monkeypatch.setattr(kernels, "ffi", None)  # memory is Python's
    monkeypatch.setattr(denormals, "lib", reference)
    monkeypatch.setattr(denormals, "NULL", None)
    cases, inputs = denormals.denormal_cases(dict(
        batch_size=1, n_positions=64, n_layer=1, n_head=1, n_embd=8, vocab_size=50))
    pairs = {label: pair for label, _, *pair in cases}
    for label, pair in pairs.items():
        counts = [denormals_after(call) for call in pair]
        assert pair[0].func is pair[1].func and counts[0] == 0, label
        if label not in ("attention forward", "attention backward", "cross entropy forward",
                         "gelu forward", "gelu backward"):
            assert counts[1] > 0, label
    # in attention and the loss denormals arise on the way to a sum
    assert (pairs["cross entropy forward"][1].args[2]
            is pairs["cross entropy backward"][1].args[2])
    assert share_that_vanishes(*pairs["attention forward"][0].args[1:3]) == 0
    assert share_that_vanishes(*pairs["attention forward"][1].args[1:3]) > 0.4
    # the reference's tanh rounds to -1, and its gelu to 0, where the formula gives x / (1 + e^-z)
    for call, arg, share in zip(pairs["gelu forward"] + pairs["gelu backward"], (1, 1, 2, 2),
                                (0, 1, 0, 1)):
        tails = [x * math.exp(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))
                 for x in call.args[arg]]
        assert (sum(abs(y) < 2 ** -126 for y in tails) > 0.8 * len(tails)) == share


def denormals_after(call):
    call()
    return sum(0 < abs(x) < 2 ** -126 for arg in call.args
               if isinstance(arg, memoryview) and arg.format == "f" for x in arg)


def share_that_vanishes(lse, qkv, T=64, C=8):
    """Return how many of one head's probabilities, of those left of the diagonal, are below
    e^-87."""
    def score(i, j):
        q, k = 3 * C * i, 3 * C * j + C
        return sum(qkv[q + c] * qkv[k + c] for c in range(C)) / math.sqrt(C)

    small = [score(i, j) - lse[i] < -87 for i in range(T) for j in range(i + 1)]
    return sum(small) / len(small)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("target", TARGETS)
def test_what_a_target_runs_is_there(target):
    """Ask make for the commands it would run: each file or command of pygpt in them exists."""
    said = subprocess.run(["make", "-n", target], cwd=TOP, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    words = said.stdout.split()
    scripts = [word for word in words if word.startswith("tests/") or word.endswith(".c")]
    assert all((TOP / script).exists() for script in scripts), scripts
    assert scripts or "pygpt bench" in said.stdout
