"""Runs tests/bench/generation.py for a moment beside a stand-in for llama-bench.

The stand-in is a program that answers as llama-bench does. It has speeds of its own, and what it
says of the model comes from the GGUF file.
"""

import importlib
import itertools
import json
import math
import subprocess
import sys
import types
from pathlib import Path

import pytest

import pygpt
from pygpt.backend import kernels
from pygpt.decoding import Cache

TOP = Path(__file__).parent.parent
BENCH = TOP / "tests" / "bench"
SHAPE = dict(vocab_size=131, n_positions=32, n_embd=64, n_layer=2, n_head=2)
needs_c = pytest.mark.skipif(kernels.ffi is None, reason="measures the C kernels")

STAND_IN = f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(TOP / 'tests')!r})\n" + '''
import json, math
from ggufreader import read
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert sorted(given) == ["-m", "-n", "-ngl", "-o", "-p", "-r", "-t"], given
assert (given["-ngl"], given["-o"], given["-r"]) == ("0", "json", "1")
metadata, tensors = read(given["-m"])
kind = {0: "all F32", 7: "Q8_0", 32: "BF16"}[metadata["general.file_type"]]
row = dict(model_type="gpt2 ?B " + kind, n_threads=int(given["-t"]),
           model_n_params=sum(math.prod(sizes) for sizes, *_ in tensors.values()),
           model_size=sum(len(data) for *_, data in tensors.values()),
           build_number=7, build_commit="c0ffee")
rows = [row | dict(n_prompt=int(given["-p"]), n_gen=0, avg_ts=40.0),
        row | dict(n_prompt=0, n_gen=int(given["-n"]), avg_ts=20.0)]
FAULT
print(json.dumps(rows))
'''
QUICK = ("--seconds", "0", "--threads", "1", "--tokens", "4", "--prompt", "6")


@pytest.fixture
def benchmark(monkeypatch):
    """Import generation.py, with a small model and as few turns as there can be."""
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.delenv("LLAMA_BENCH", raising=False)
    names = ("generation", "gguf", "llama_cpp", "compare", "peers")
    for name in names:
        sys.modules.pop(name, None)
    module = importlib.import_module("generation")
    monkeypatch.setattr(module, "SHAPE", SHAPE)
    monkeypatch.setattr(module, "LEAST_TURNS", 2)
    yield module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def stand_in(tmp_path):
    """Return a function that writes a stand-in with a fault, and returns its path."""
    def make(fault=""):
        path = tmp_path / "llama-bench"
        path.write_text(STAND_IN.replace("FAULT", fault))
        path.chmod(0o755)
        return str(path)

    return make


@needs_c
def test_both_sides_are_compared(benchmark, stand_in, tmp_path, capsys):
    directory = tmp_path / "made" / "gguf"
    benchmark.main(["--llama-bench", stand_in(), "--gguf", str(directory), *QUICK])
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in err.splitlines()] == ["turn 1", "turn 2"]
    lines = out.splitlines()
    assert " 1 threads; reads " in lines[0] and lines[0].endswith(" GB/s; medians of 2 turns")
    assert kernels.isa() in lines[1] and "llama.cpp build 7 (c0ffee); tokens/s, 4 " in lines[1]
    assert [line[10:22].strip() for line in lines[4:16]] == 3 * list(benchmark.ROWS)
    assert [line.split()[0] for line in lines[4:16:4]] == list(benchmark.FORMS)
    assert [line.count("%") for line in lines[4:16]] == 3 * [2, 0, 1, 0]
    assert [line.count("-") for line in lines[4:16]] == 3 * [1, 0, 0, 1]  # of quartiles
    assert lines[17].startswith("prompt, the fastest of each: ") and " and 40 (" in lines[17]
    assert {path.name for path in directory.iterdir()} == {
        "gpt2-f32.gguf", "gpt2-bf16.gguf", "gpt2-q8_0.gguf"}


def test_the_figures_of_a_table(benchmark):
    """Follow each figure from speeds that are easy to divide."""
    parameters = {"transformer.wte.weight": (10, 64), "transformer.wpe.weight": (5, 64),
                  "transformer.h.0.attn.c_attn.weight": (64, 192), "bias": (64,)}
    read = {form: 12_928 * b + 4 * 64 for form, b in
            (("float32", 4), ("bfloat16", 2), ("int8", 1.0625))}
    for form, nbytes in read.items():
        assert benchmark.weight_bytes(parameters, form) == nbytes
        assert benchmark.weight_bytes(parameters, form, False) == nbytes + 4 * 320
    ours = [{"one text": 20.0 * k, "generate()": 15.0 * k, "16 texts": 160.0 * k,
             "prompt": 500.0 * k} for k in (1, 2, 3)]
    theirs = [{"one text": 10.0, "prompt": 2000.0, "build": "b"}] * 3
    rows = benchmark.summary([2e6, 1e6, 9e6], dict.fromkeys(read, ours),
                             dict.fromkeys(read, theirs), parameters)
    for row in rows:
        nbytes = read[row["form"]]
        wanted = {
            "one text": dict(tokens_per_second=40, of_one_text=1, of_reading=40 * nbytes / 2e6,
                             llama_cpp=10, ratio=4, quartiles=[3, 5],
                             llama_cpp_of_reading=10 * nbytes / 2e6),
            "generate()": dict(tokens_per_second=30, of_one_text=0.75),
            "16 texts": dict(tokens_per_second=320, of_one_text=8, of_reading=20 * nbytes / 2e6),
            "prompt": dict(tokens_per_second=1000, of_one_text=25, llama_cpp=2000, ratio=0.5,
                           quartiles=[0.375, 0.625])}[row["row"]]
        assert row == {"form": row["form"], "row": row["row"]} | {
            key: pytest.approx(value) for key, value in wanted.items()}
    assert [(row["form"], row["row"]) for row in rows] == [
        (form, name) for form in benchmark.FORMS for name in benchmark.ROWS]


def test_tokens_are_divided_by_the_time_that_they_took(benchmark, monkeypatch):
    """Give it a clock that goes on by two seconds each time it is read, and note what it does."""
    model, clock, events = pygpt.GPT(pygpt.GPTConfig(**SHAPE)).eval(), itertools.count(0, 2), []
    step, read = Cache.step, Cache.read
    monkeypatch.setattr(Cache, "step", lambda *given: (events.append("step"), step(*given))[1])
    monkeypatch.setattr(Cache, "read", lambda *given: (events.append("read"), read(*given))[1])
    monkeypatch.setattr(benchmark, "time", types.SimpleNamespace(
        perf_counter=lambda: (events.append("clock"), next(clock))[1]))
    assert benchmark.decoding(model, 1, 6) == 3
    assert events == ["read", "step", "clock", *6 * ["step"], "clock"]
    events.clear()
    assert benchmark.decoding(model, 16, 3) == 24
    assert events == [*16 * ["read"], "step", "clock", *3 * ["step"], "clock"]
    events.clear()
    assert benchmark.reading(model, 9) == 4.5
    assert events == ["read", "clock", "read", "clock"]
    assert benchmark.generating(model, 5) == 2.5


def test_each_side_goes_first_in_every_other_turn(benchmark, monkeypatch):
    calls = []
    monkeypatch.setattr(benchmark, "in_a_process", lambda form, sizes: (
        calls.append(("ours", form)), {"reading": 1.0})[1])
    monkeypatch.setattr(benchmark.llama_cpp, "measured", lambda program, directory, form, *rest:
                        calls.append(("theirs", form)))
    benchmark.take_turns(benchmark.parse(QUICK), {}, "a program")
    ours, theirs = ([(side, form) for form in benchmark.FORMS] for side in ("ours", "theirs"))
    pairs = list(itertools.chain(*zip(ours, theirs))), list(itertools.chain(*zip(theirs, ours)))
    assert calls == [("ours", "reading"), *pairs[0], ("ours", "reading"), *pairs[1]]


def test_the_fastest_prompts_are_compared_across_forms(benchmark, capsys):
    benchmark.print_table([
        {"form": form, "row": "prompt", "tokens_per_second": ours, "of_one_text": 1,
         "llama_cpp": theirs, "ratio": ours / theirs, "quartiles": [0.1, 0.2]}
        for form, ours, theirs in (("float32", 300, 200), ("bfloat16", 100, 400), ("int8", 5, 6))])
    assert capsys.readouterr().out.endswith(
        "\nprompt, the fastest of each: 300 (float32) and 400 (BF16) tokens/s: "
        "0.75 times as fast\n")


@needs_c
def test_without_llama_bench_our_side_is_measured(benchmark, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(benchmark, "LEAST_TURNS", 1)
    benchmark.main([*QUICK, "--json"])
    out, err = capsys.readouterr()
    assert "pip download" in err and "--target llama-bench" in err
    found = json.loads(out)
    assert found["llama.cpp"] == "" and found["turns"] == 1 and found["threads"] == 1
    assert len(found["rows"]) == 12 and not any("ratio" in row for row in found["rows"])
    assert all(row["tokens_per_second"] > 0 for row in found["rows"])


@pytest.mark.parametrize("fault, message", [
    ("rows[0]['model_type'] = 'gpt2 ?B F16'", "model_type 'gpt2 ?B F16' is not BF16"),
    ("rows[1]['model_n_params'] += 1", "model_n_params "),
    ("rows[0]['model_size'] *= 1.02", "model_size "),
    ("rows[1]['n_threads'] = 3", "n_threads 3 is not 1"),
    ("del rows[1]", "KeyError"),
    ("rows = 'x'", "TypeError"),
    ("sys.exit('no such model')", "status 1: no such model"),
    ("json.dumps = str", "JSONDecodeError")])
def test_what_llama_bench_did_not_measure_is_one_line(benchmark, stand_in, tmp_path, fault,
                                                      message):
    sizes, model = benchmark.parse(QUICK), pygpt.GPT(pygpt.GPTConfig(**SHAPE))
    benchmark.gguf.write(tmp_path / "gpt2-bf16.gguf", model, "bfloat16")
    parameters = {name: p.shape for name, p in model.named_parameters()}
    expected = ("bfloat16", sizes, sum(map(math.prod, parameters.values())),
                benchmark.weight_bytes(parameters, "bfloat16", is_step=False))
    found = benchmark.llama_cpp.measured(stand_in(), tmp_path, *expected)
    assert found == {"one text": 20.0, "prompt": 40.0, "build": "build 7 (c0ffee)"}
    with pytest.raises(ChildProcessError) as error:
        benchmark.llama_cpp.measured(stand_in(fault), tmp_path, *expected)
    assert message in str(error.value) and "\n" not in str(error.value)


@needs_c
def test_an_error_is_one_line(benchmark, stand_in):
    program, line = stand_in("sys.exit('no such model')"), "status 1: no such model"
    with pytest.raises(SystemExit, match=f"^generation: error: .* -o json: {line}$"):
        benchmark.main(["--llama-bench", program, *QUICK])


def test_llama_bench_is_found(benchmark, stand_in, monkeypatch, tmp_path):
    find, program = benchmark.llama_cpp.found, stand_in()
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert find() is None and find(program) == program
    monkeypatch.setenv("LLAMA_BENCH", program)
    assert find() == program
    with pytest.raises(FileNotFoundError, match="'other' is not a program"):
        find("other")
    monkeypatch.setenv("LLAMA_BENCH", str(tmp_path))  # a directory
    with pytest.raises(FileNotFoundError):
        find()
    monkeypatch.delenv("LLAMA_BENCH")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find() == program


@pytest.mark.parametrize("flag, message", [
    ("--tokens=17", "--tokens 17: from 1 to 16"), ("--tokens=0", "--tokens 0: from 1 to 16"),
    ("--prompt=33", "--prompt 33: from 1 to 32"), ("--threads=0", "--threads 0: at least 1")])
def test_numbers_out_of_range_are_refused(benchmark, capsys, flag, message):
    with pytest.raises(SystemExit):
        benchmark.main([*QUICK, flag])
    assert message in capsys.readouterr().err


@needs_c
def test_the_most_tokens_fit(benchmark, tmp_path):
    """Measure every row at the largest sizes that the command line takes."""
    pygpt.GPT(pygpt.GPTConfig(**SHAPE)).save_pretrained(tmp_path)
    out = subprocess.run(
        [sys.executable, BENCH / "generation.py", "--measure", "int8", "--model", tmp_path,
         "--tokens", str(SHAPE["n_positions"] - 16), "--prompt", str(SHAPE["n_positions"])],
        capture_output=True, text=True, check=True).stdout
    assert json.loads(out).keys() == set(benchmark.ROWS) and "nan" not in out.lower()
    assert not math.isinf(sum(json.loads(out).values()))
