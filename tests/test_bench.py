"""Runs every benchmark for a moment, so that no changed signature breaks one unseen.

Each file of tests/bench runs beside a stand-in for its peer, and beside the peer itself where that
is installed. A measurement this short means nothing and is ignored; the comparisons count.
test_growth.py runs `pygpt bench --growth`, test_ladder.py `make ladder`, and test_schedule.py
runs schedule.py.
"""

import ast
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import python

import pygpt
from conftest import TEXT
from pygpt.bench import kernels as own
from pygpt.backend import kernels
from pygpt.cli import main

TOP = Path(__file__).parent.parent
BENCH = TOP / "tests" / "bench"
NEEDS = {"torch_gpt": ("torch",), "transformers_gpt2": ("torch", "transformers", "safetensors"),
         "other_tokenizers": ("tiktoken", "tokenizers")}
PEERS = {"agree": "torch_gpt", "compare": "torch_gpt", "matmul": "torch_gpt",
         "pretrained": "transformers_gpt2", "tokenizer_speed": "other_tokenizers"}
# B, T, layers, heads, width, vocabulary, dropout
SMALL = {"small": (2, 4, 1, 2, 8, 11, 0.0), "dropped": (1, 5, 2, 1, 6, 7, 0.2)}
TARGETS = ("bench", "growth", "compare", "compare-matmul", "ladder", "schedule")
SPREAD = {"tests/bench/peers.py", "tests/bench/schedule.py",
          *(f"tests/bench/{name}.py" for name in (*PEERS, *NEEDS))}
needs_c = pytest.mark.skipif(kernels.ffi is None, reason="measures the C kernels")


@pytest.fixture
def modules(monkeypatch):
    """Put tests/bench on the module path; forget its modules before and after."""
    def forget():
        for name in (*PEERS, *NEEDS, "peers"):
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
    compare.main([*SMALL, "--seconds", "0.001", "--threads", "1", "--no-compile"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(SMALL)
    assert all(int(line.split()[-2]) > 5 and int(line.split()[-1]) > 5 for line in lines[2:])
    compare.main(["small", "--seconds", "0.001", "--threads", "1", "--no-memory", "--no-compile",
                  "--json"])
    row = json.loads(capsys.readouterr().out)
    assert row["name"] == "small" and set(row["ms"]) == {"pygpt", "eager", "fused"}


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
    assert [line.split()[0] for line in lines[2:-1]] == ["small"] * 15 + ["dropped"] * 15
    assert lines[-1].startswith("30 products: ")
    matmul.main(["small", "--layer", "head", "--seconds", "0", "--threads", "1", "--json"])
    rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [(r["product"], r["R"], r["IN"], r["OUT"]) for r in rows] == [
        (product, 8, 8, 11) for product in ("y", "dx", "dW")]


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


@needs_c
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_pygpt_bench(monkeypatch, capsys, dropout):
    shape = dict(batch_size=2, n_positions=4, n_layer=1, n_head=2, n_embd=8, vocab_size=11,
                 dropout=dropout)
    monkeypatch.setattr(own, "SHAPES", {name: shape for name in own.SHAPES})
    monkeypatch.setattr(own, "machine", lambda seconds: {"gflops": 1.0, "gbytes": 1.0})
    assert main.main(["bench", "--preset", "gpt2", "--seconds", "0.001"]) == 0
    out = capsys.readouterr().out
    for part in ("gpt2: batch_size=2", "dW = x^T dy", "head and loss, both", "gradient norm",
                 "a training step", "Python"):
        assert part in out


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
