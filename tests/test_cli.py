"""Tests the command line as a user runs it, bad input included: mostly in a process of its own."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
from dataclasses import fields

import pytest
from commands import COMMAND, ENVIRONMENT, assert_refused, here, pygpt, rest_of_terminal

from pygpt.checkpoint import safetensors
from pygpt.cli import main
from pygpt.config import PRESETS, SampleConfig, TrainConfig
from pygpt.model import GPT
from pygpt.tokenizer import Tokenizer

TEXT = "".join(f"{a} times {b} is {a * b}.\n" for a in range(20) for b in range(20))
TINY = ("--n-layer 1 --n-head 2 --n-embd 16 --n-positions 16 --batch-size 4 --max-steps 30 "
        "--warmup-steps 2 --learning-rate 0.01 --eval-interval 10 --eval-batches 2 "
        "--sample-interval 20 --sample-length 20").split()


def contents(directory):
    """Map every file below a directory to its bytes."""
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tables.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text):
    """Train once; return (the finished process, its output directory)."""
    out = tmp_path_factory.mktemp("run") / "out"
    return pygpt("train", "--data", text, "--out", out, *TINY), out


# --------------------------------------------------------------------------------- the main job

def test_train_tells_what_it_does(trained):
    result, out = trained
    assert result.returncode == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert re.search(r"^[\d,]+ parameters, \w+, \d+ threads?$", lines[0])
    held_out = len(TEXT) // 10
    assert lines[1] == (f"{len(TEXT) - held_out:,} tokens to learn from, {held_out} held out, "
                        f"a vocabulary of {len(set(TEXT))}")
    assert any(re.fullmatch(r"step 30/30  loss \d\.\d{4}  val \d\.\d{4}  lr [\de.-]+  grad [\d.]+  "
                            r"[\d,]+ tokens/s  \d+% of peak  0:00 left", line)
               for line in lines)
    assert [line for line in lines if "validation loss" in line][0].startswith("step 10/30  ")
    assert "-- step 20 writes: " in result.stdout and "-- step 30 writes: " in result.stdout
    assert re.fullmatch(r"val_loss=\d+\.\d{4}", lines[-1])
    assert "\r" not in result.stdout and "\033" not in result.stdout
    assert sorted(os.listdir(out / "last")) == ["config.json", "model.safetensors",
                                                "optimizer.safetensors", "tokenizer.json",
                                                "tokenizer_config.json", "trainer.json"]


def test_train_repeats_to_the_last_digit(trained, text, tmp_path):
    def numbers(result):
        return re.findall(r"loss=? ?(\d\.\d{4})", result.stdout)

    again = pygpt("train", "--data", text, "--out", tmp_path, *TINY, "--threads", 1)
    assert numbers(again) == numbers(trained[0]) and len(numbers(again)) > 20


def test_train_on_a_terminal_rewrites_a_status_line(text, tmp_path):
    controller, terminal = pty.openpty()
    process = subprocess.Popen(COMMAND + ["train", "--data", str(text), "--out", str(tmp_path),
                                          *TINY], stdout=terminal, env=ENVIRONMENT)
    os.close(terminal)
    output = rest_of_terminal(controller)
    assert process.wait(timeout=60) == 0
    assert b"\r\x1b[Kstep 30/30  loss " in output
    assert re.search(rb"val_loss=\d\.\d{4}\r\n$", output)


def test_flags_change_a_preset(text, tmp_path):
    result = pygpt("train", "--preset", "lesson", "--data", text, "--out", tmp_path, "--max-steps",
                   1, "--n-layer", 1, "--eval-batches", 1, "--sample-length", 1)
    assert result.returncode == 0, result.stderr
    V, T, C = len(set(TEXT)), 64, 64
    expected = V * C + T * C + (12 * C * C + 13 * C) + 2 * C
    assert result.stdout.startswith(f"{expected:,} parameters")


def test_the_reference_trains_the_same_toy(text, tmp_path):
    flags = ["train", "--data", text, *TINY, "--n-embd", 8, "--n-positions", 4, "--batch-size", 2,
             "--max-steps", 3, "--sample-length", 2]
    fast = pygpt(*flags, "--out", tmp_path / "fast")
    plain = pygpt(*flags, "--out", tmp_path / "plain", PYGPT_BACKEND="reference")
    assert plain.returncode == 0, plain.stderr
    assert ", python, 1 thread" in plain.stdout
    losses = [[float(loss) for loss in re.findall(r"loss=? ?(\d\.\d{4})", result.stdout)]
              for result in (fast, plain)]
    assert len(losses[0]) == 5 and losses[0] == pytest.approx(losses[1], abs=2e-4)


def test_train_needs_no_flag():
    """Check, without a run, that the defaults are valid and that their text exists."""
    assert TrainConfig().data == () and TrainConfig().out == "out"


def test_ctrl_c_saves_and_says_so(text, tmp_path):
    process = subprocess.Popen(
        COMMAND + ["train", "--data", str(text), "--out", str(tmp_path / "out"), *TINY,
                   "--max-steps", "1000000", "--eval-interval", "1000000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not process.stdout.readline().startswith("step 1/"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stderr == ""
    assert re.search(r"^interrupted after [\d,]+ steps?; the model is saved in (.*/out)/last; to "
                     r"go on: \S+ -m pygpt train --resume --out \1$", stdout.splitlines()[-1])
    result = pygpt("sample", tmp_path / "out", "--max-new-tokens", 5)
    assert result.returncode == 0, result.stderr


# -------------------------------------------------------------------------------------- export

def test_export_writes_a_model_that_samples(trained, tmp_path):
    source, out = trained[1] / "last", tmp_path / "out"
    assert pygpt("export", source, out, "--dtype", "bfloat16").stderr == ""
    tensors, _ = safetensors.read(out / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {"BF16"}
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert {"tokenizer.json"} < set(os.listdir(out)) <= set(os.listdir(source))
    result = pygpt("sample", out, "--prompt", "3 times ", "--max-new-tokens", 5)
    assert result.returncode == 0 and result.stdout.startswith("3 times ")
    before = contents(out)
    assert_refused(pygpt("export", source, out), 1, "out: there is a model or a run already: "
                   "config.json, model.safetensors")
    assert contents(out) == before


@pytest.mark.parametrize("name", ["last", "best", "train.json", "config.json", "model.safetensors",
                                  "model.safetensors.index.json"])
def test_export_leaves_a_model_or_a_run_alone(trained, tmp_path, name, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to("nowhere")  # a link that dangles is there, too
    assert main.main(["export", str(trained[1]), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.endswith(f"out: there is a model or a run already: {name}\n")
    assert os.listdir(tmp_path / "out") == [name]


def test_export_into_a_runs_directory(trained):
    before = contents(trained[1])
    assert_refused(pygpt("export", trained[1], trained[1]), 1, ": last, best, train.json")
    assert contents(trained[1]) == before


def test_an_interrupted_export_is_no_model(trained, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(GPT, "save_pretrained", interrupted)
    assert main.main(["export", str(trained[1]), str(tmp_path)]) == main.INTERRUPTED
    assert "tokenizer.json" in os.listdir(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(Tokenizer, "save_pretrained", interrupted)
    assert main.main(["export", str(trained[1]), str(tmp_path)]) == main.INTERRUPTED
    assert not {"config.json", "model.safetensors"} & set(os.listdir(tmp_path))
    monkeypatch.undo()
    assert main.main(["export", str(trained[1]), str(tmp_path)]) == 0


def test_generation_stops_at_the_end_of_a_text_wherever_the_model_goes(trained, text, tmp_path):
    def ends(directory):
        document = json.loads((directory / "config.json").read_text())
        return document["bos_token_id"], document["eos_token_id"]

    run = tmp_path / "run"
    flags = ["--data", str(text), "--out", str(run), *TINY, "--max-steps", "1"]
    assert main.main(["train", *flags, "--tokenizer", "bpe:300", "--sample-interval", "0"]) == 0
    end = Tokenizer.from_pretrained(run / "last").special_tokens["<|endoftext|>"]
    assert main.main(["export", str(run), str(tmp_path / "out")]) == 0
    assert ends(run / "last") == ends(tmp_path / "out") == (end, end)
    model = GPT.from_pretrained(run)
    model.save_pretrained(tmp_path / "alone")
    assert model.end_of_text == end and ends(tmp_path / "alone") == (end, end)
    assert ends(trained[1] / "last") == (None, None)


def test_export_without_a_tokenizer(trained, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(trained[1] / "last", directory)
    lose_the_tokenizer(directory)
    assert pygpt("export", directory, tmp_path / "out").stderr == ""
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (directory / name).read_bytes()


# ---------------------------------------------------------------------------------------- info

def test_info():
    result = pygpt("info")
    assert result.returncode == 0 and result.stderr == ""
    for name in ("version", "compiler", "isa", "isas", "threads", "openmp", "backend"):
        assert re.search(rf"^{name}: +\S", result.stdout, re.MULTILINE), name


@pytest.mark.parametrize("command, config_class", [("train", TrainConfig),
                                                   ("sample", SampleConfig)])
def test_help_documents_every_flag(command, config_class):
    result = here(command, "--help")
    assert result.returncode == 0
    words = " ".join(result.stdout.split())
    for f in fields(config_class):
        assert f"--{f.name.replace('_', '-')} " in words
        assert f.metadata["help"] in words
        if f.default not in (None, ()):
            assert f"default {f.default}" in words
        if f.metadata["unit"]:
            assert f"({f.metadata['unit']};" in words
    if command == "train":
        for name in PRESETS:
            assert name in re.search("^presets: .*$", result.stdout, re.MULTILINE)[0].split()
        assert re.search("^  --n-embd +128 +64 +384 +768$", result.stdout, re.MULTILINE)
        for heading in ("data", "model", "optimiser", "output"):
            assert f"\n{heading}:\n" in result.stdout


@pytest.mark.parametrize("words, commands", [
    ([], ("train", "sample", "info")), (["tokenizer"], ("train", "encode", "decode"))])
def test_without_a_command_the_commands_are_listed(words, commands):
    result = here(*words)
    assert result.returncode == 2 and result.stdout == ""
    for name in commands:
        assert re.search(rf"^    {name} +\w", result.stderr, re.MULTILINE), name


# ----------------------------------------------------------------------------------- bad input

@pytest.mark.parametrize("arguments, part", [
    ("paint", "'paint'"),
    ("train --n-embd 100 --n-head 6", "--n-embd 100 is not divisible by --n-head 6"),
    ("train --n-layer 0", "--n-layer 0"),
    ("train --batch-size -3", "--batch-size -3"),
    ("train --max-steps 0", "--max-steps 0"),
    ("train --n-positions x", "--n-positions: 'x' is not a whole number"),
    ("train --dropout 1", "--dropout 1"),
    ("train --learning-rate nan", "--learning-rate nan"),
    ("train --learning-rate 0.1 --min-learning-rate 0.2", "--min-learning-rate 0.2"),
    ("train --threads 100000", "--threads 100000"),
    ("train --n-heads 4", "--n-heads"),
    ("train --n-laye 4", "--n-laye"),
    ("train --preset huge", "'huge'"),
    ("train --data", "--data"),
    ("sample", "DIR"),
    ("sample out --temperature -1", "--temperature -1"),
    ("sample out --top-k -1", "--top-k -1"),
    ("sample out --max-new-tokens ten", "'ten'"),
    ("info a more", "more"),
    ("export out", "OUT"),
    ("export out there --dtype int8", "'int8'"),
])
def test_a_command_that_makes_no_sense(arguments, part, tmp_path):
    assert_refused(here(*arguments.split(), cwd=tmp_path), 2, part)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content, parts", [
    (None, ("bad.txt", "No such file")),
    (b"", ("bad.txt", "the file is empty")),
    (b"\x80abc" * 99, ("bad.txt", "not UTF-8", "offset 0")),
    (b"abc" * 40, ("--n-positions 16", "12 of its 120 tokens")),
])
def test_a_text_that_cannot_be_used(content, parts, tmp_path):
    if content is not None:
        (tmp_path / "bad.txt").write_bytes(content)
    result = here("train", "--data", "bad.txt", "--out", "out", *TINY, cwd=tmp_path)
    assert_refused(result, 1, *parts)
    assert not (tmp_path / "out").exists() and result.stdout == ""


def test_a_directory_is_no_text(tmp_path):
    assert_refused(pygpt("train", "--data", tmp_path, "--out", tmp_path / "out", *TINY), 1,
                   str(tmp_path), "directory")


@pytest.mark.parametrize("out", ["file", "file/out", "/proc/out"])
def test_an_output_directory_that_cannot_be_written(out, text, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = pygpt("train", "--data", text, "--out", out, *TINY, cwd=tmp_path)
    assert_refused(result, 1, out)
    assert result.stdout == "" and (tmp_path / "file").read_text() == "kept"


def test_a_failed_command_overwrites_nothing(trained, text, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(trained[1], out, symlinks=True)
    before = contents(out)
    for bad in (["--n-head", 3], ["--n-positions", 5000], ["--data", "none"]):
        assert here("train", "--data", text, "--out", out, *TINY, *bad).returncode in (1, 2)
    assert contents(out) == before


def test_a_model_too_large_for_memory(text, tmp_path):
    result = pygpt("train", "--data", text, "--out", tmp_path, *TINY, "--n-embd", 4_000_000)
    assert_refused(result, 1)


def write_foreign(directory):
    (directory / "model.safetensors").write_bytes(b"\x80\x02}q\x00(X\x05\x00\x00\x00modelq" * 99)


def truncate(directory):
    os.truncate(directory / "model.safetensors", 4000)


def describe_another_model(directory):
    path = directory / "config.json"
    path.write_text(path.read_text().replace('"gpt2"', '"llama"'))


def lose_the_tokenizer(directory):
    os.unlink(directory / "tokenizer.json")


def swap_the_tokenizer(directory):
    from pygpt.tokenizer import CharTokenizer
    CharTokenizer.train("".join(map(chr, range(32, 127)))).save_pretrained(directory)


@pytest.mark.parametrize("damage, part", [
    (write_foreign, "model.safetensors: the header's length"),
    (truncate, "model.safetensors: "),
    (describe_another_model, "config.json: model_type='llama' is not supported"),
    (lose_the_tokenizer, "tokenizer.json"),
    (swap_the_tokenizer, "the tokenizer has 95 tokens, the model vocab_size="),
])
def test_a_model_that_cannot_be_read(trained, damage, part, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(trained[1] / "last", directory)
    damage(directory)
    assert_refused(here("sample", directory), 1, part)


def test_a_model_that_is_not_there(tmp_path):
    assert_refused(pygpt("sample", tmp_path / "none"), 1, "none: no such directory")
    assert_refused(pygpt("sample", tmp_path), 1, "no config.json in it")


def test_an_empty_path_is_seen_in_the_refusal(tmp_path):
    assert_refused(pygpt("train", "--data", "", cwd=tmp_path), 2, "--data '' holds an empty path")
    assert_refused(pygpt("train", "--config", "", cwd=tmp_path), 1, "'': No such file")


def test_bench_prints_its_three_tables():
    result = pygpt("bench", "--seconds", "0.5")
    assert result.returncode == 0, result.stderr
    for part in ("GFLOP/s of float32 multiply-adds", "attention backward", "a training step",
                 "Python"):
        assert part in result.stdout


def test_bench_as_json():
    document = json.loads(pygpt("bench", "--seconds", "0.5", "--json").stdout)
    assert document["machine"]["gflops"] > 0
    assert -1 < document["step"]["python_share"] < 1  # a difference of times, which are noisy


def test_bench_refuses_what_makes_no_sense():
    for flags, message in ((["--seconds", "0"], "--seconds 0 "),
                           (["--threads", "999"], "--threads 999")):
        result = pygpt("bench", *flags)
        assert result.returncode == 2 and message in result.stderr
