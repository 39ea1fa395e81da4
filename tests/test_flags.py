"""Tests flags: the names that messages give settings, and proposals for unknown flags."""

import argparse
import json
import math
import os
import shlex
from dataclasses import fields

import pytest
from commands import assert_refused, pygpt, python
from hypothesis import given
from hypothesis import strategies as st

from pygpt.cli import main
from pygpt.cli.flags import UsageError
from pygpt.cli.messages import in_flags
from pygpt.config import SampleConfig, TrainConfig, number_type
from pygpt.nearest import nearest


def parser_of(*words):
    """Return the parser that reads a command's flags."""
    return main.parse(list(words)).command


TRAIN, SAMPLE = parser_of("train"), parser_of("sample", "DIR")
BENCH, LEARN = parser_of("bench"), parser_of("tokenizer", "train", "--out", "x")


# ------------------------------------------------------------------- messages speak of flags ---

@pytest.mark.parametrize("message, told", [
    ("n_embd=100 is not divisible by n_head=6", "--n-embd 100 is not divisible by --n-head 6"),
    ("data=('',) holds an empty path", "--data '' holds an empty path"),
    ("data=('a b', 'c') is", "--data 'a b' c is"),
    ("val_data=['a'] is", "--val-data a is"),
    ("val_data=() and init=None", "no --val-data and no --init"),
    ("out='' names no directory", "--out '' names no directory"),
    ("tokenizer='it\\'s' is", "--tokenizer 'it'\"'\"'s' is"),
    ('tokenizer="it\'s" is', "--tokenizer 'it'\"'\"'s' is"),
    ("recompute=True or recompute=False.", "--recompute or --no-recompute."),
    ("recompute (47 MB), a smaller batch_size with grad_accumulation_steps, n_positions or n_embd "
     "needs less (force=True continues anyway)", "--recompute (47 MB), a smaller --batch-size with "
     "--grad-accumulation-steps, --n-positions or --n-embd needs less (--force continues anyway)"),
    ("bad.txt: is not UTF-8 (errors=replace goes on)",
     "bad.txt: is not UTF-8 (--errors replace goes on)"),
    ("learning_rate=nan must be", "--learning-rate nan must be"),
    ("learning_rate=-1e-05, beta1=1.5.", "--learning-rate -1e-05, --beta1 1.5."),
    ("(val_fraction=0.1)", "(--val-fraction 0.1)"),
    # other words, and parts of paths, stay
    ("the model has vocab_size=96", "the model has vocab_size=96"),
    ("runs/seed=3/x: No such file", "runs/seed=3/x: No such file"),
    ("a-seed=3 seed=3.txt seed=3/x", "a-seed=3 seed=3.txt seed=3/x"),
    ("out/data: no such directory", "out/data: no such directory"),
    ("data: No such file", "data: No such file"),
    ("my_batch_size batch_size.txt batch_size/x", "my_batch_size batch_size.txt batch_size/x"),
    ("it takes 1..n_positions=16", "it takes 1..n_positions=16"),
])
def test_a_message_in_flags(message, told):
    assert in_flags(message, TRAIN) == told


def test_words_of_the_command_line_stay():
    words = ["--data", "seed=3", "--init", "n_layer=9 is", "--seed", "3"]
    assert in_flags("seed=3: No such file, unlike seed=4", TRAIN, words) == (
        "seed=3: No such file, unlike --seed 4")
    assert in_flags("n_layer=9 is", TRAIN, words) == "n_layer=9 is"
    assert in_flags("seed=3: No such file", TRAIN, ["--data=seed=3"]) == "seed=3: No such file"
    assert in_flags("batch_size: no such directory", TRAIN, ["--init", "batch_size"]) == (
        "batch_size: no such directory")


def test_a_setting_from_a_file_is_said_to_be_from_it():
    assert in_flags("n_embd=100 is not divisible by n_head=6", TRAIN, (), "s.json", {"n_head"}) == (
        "--n-embd 100 is not divisible by n_head=6 in s.json")


@pytest.mark.parametrize("parser, config_class", [(TRAIN, TrainConfig), (SAMPLE, SampleConfig)])
def test_every_setting_is_told_as_its_flag(parser, config_class):
    """Give each setting wrong types and values: every message speaks of flags."""
    refused = set()
    for f in fields(config_class):
        for value in (-1, math.nan, math.inf, "", "x", (), ("",), None, 5, [1], 1e300, 10 ** 30):
            try:
                config_class(**{f.name: value})
            except ValueError as error:
                told = in_flags(str(error), parser)
                assert f"--{f.name.replace('_', '-')}" in told
                assert f"{f.name}=" not in told and "_" not in told.partition("; ")[0]
                refused.add(f.name)
    assert refused >= {f.name for f in fields(config_class) if number_type(f)}


@pytest.mark.parametrize("command, config_class, before", [
    ("train", TrainConfig, []), ("sample", SampleConfig, ["none"])])
def test_a_number_out_of_range_is_refused_as_it_was_typed(command, config_class, before, capsys):
    for f in fields(config_class):
        if number_type(f):
            flag = f"--{f.name.replace('_', '-')}"
            assert main.main([command, *before, flag, "-7"]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"pygpt: error: {flag} -7") and f"{f.name}=" not in error


@pytest.mark.parametrize("words, told", [
    (["bench", "--seconds", "0"], "--seconds 0 must be above 0"),
    (["bench", "--seconds", "nan"], "--seconds nan must be above 0"),
    (["bench", "--seconds", "-1e-3"], "--seconds -0.001 must be above 0"),
    (["bench", "--threads", "257"], "--threads 257 must be in [0, 256]"),
    (["tokenizer", "train", "--out", "x", "--vocab-size", "9"],
     "--vocab-size 9 must be at least 257: 256 bytes and 1 special token"),
    (["tokenizer", "train", "--out", "x", "--special-token", "<s>", "--special-token", "<s>"],
     "--special-token '<s>' '<s>' holds a token twice"),
    (["tokenizer", "train", "--out", "x", "--special-token", ""],
     "--special-token: '' is not a text of one character or more"),
    (["train", "--errors", "ignore"], "--errors ignore is not 'strict' or 'replace'"),
    (["train", "--dtype", "float16"], "--dtype float16 is not 'float32' or 'bfloat16'"),
    (["train", "--reduce-dtype", "float16"],
     "--reduce-dtype float16 is not 'float32' or 'bfloat16'"),
    (["train", "--tokenizer", "word"], "--tokenizer word is not char, byte, bpe, "),
    (["train", "--tokenizer", "bpe:9"], "--tokenizer bpe:9: '9' is not a vocabulary of 257 "),
    (["train", "--learning-rate", "-1e-3"], "--learning-rate -0.001 must be at least 0"),
    (["sample", "x", "--logit-bias", "5=inf"], "--logit-bias 5=inf must be finite, or -inf to ban"),
    (["sample", "x", "--logit-bias=-5=1"], "--logit-bias -5 is not a token id: it is below 0"),
    *((["sample", "x", "--logit-bias", word],
       f"argument --logit-bias: {word!r} is not a token id and a number, such as 50256=-inf")
      for word in ("5", "5=a", "a=5", "=5")),
    (["sample", "x", "--stop-strings", ""], "--stop-strings '' holds an empty text"),
    (["sample", "x", "--presence-penalty", "-2.5"], "--presence-penalty -2.5 must be in [-2, 2]"),
])
def test_other_settings_are_told_as_flags(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(words) == (1 if "--special-token" in words else 2)
    assert capsys.readouterr().err.startswith(f"pygpt: error: {told}")
    assert os.listdir() == []


def test_a_setting_in_a_file_is_refused_with_the_files_name(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"n_head": 6, "n_layer": 2}))
    assert_refused(pygpt("train", "--config", path, "--n-embd", 100, cwd=tmp_path), 2,
                   f"error: --n-embd 100 is not divisible by n_head=6 in {path}")
    assert_refused(pygpt("train", "--config", path, "--n-embd", 100, "--n-head", 7, cwd=tmp_path),
                   2, "error: --n-embd 100 is not divisible by --n-head 7\n")
    path.write_text(json.dumps({"n_head": 0}))
    assert_refused(pygpt("train", "--config", path, cwd=tmp_path), 2, f"n_head=0 in {path} must be")


def test_what_a_models_file_holds_is_no_flag(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(
        {"model_type": "gpt2", "n_embd": 100, "n_head": 7}))
    (tmp_path / "t.txt").write_text("abc" * 99)
    result = pygpt("train", "--init", tmp_path, "--data", tmp_path / "t.txt", cwd=tmp_path)
    assert_refused(result, 1, "config.json: n_embd=100 is not divisible by n_head=7")


@given(value=st.one_of(st.text(max_size=9), st.lists(st.text(max_size=9), max_size=3).map(tuple)))
def test_any_text_is_told_as_a_shell_takes_it(value):
    told = in_flags(f"data={value!r} is not it", TRAIN)
    words = [value] if isinstance(value, str) else list(value)
    assert told == (f"{shlex.join(['--data', *words])} is not it" if value != () else
                    "no --data is not it")


# --------------------------------------------------------------------------- unknown flags ---

@pytest.mark.parametrize("word, meant", [
    ("--lr", "--learning-rate"), ("--epochs", "--max-steps"), ("--n-layers", "--n-layer"),
    ("--batchsize", "--batch-size"), ("--output", "--out"), ("--n_head", "--n-head"),
    ("--wd", "--weight-decay"), ("--N-Embd", "--n-embd"), ("--droput", "--dropout"),
    ("--block-size", "--n-positions"), ("--bs", "--batch-size"), ("--heads", "--n-head"),
    ("--data-dir", "--data"), ("--precision", "--dtype"), ("--bf16", "--dtype"), ("--xyzzy", None),
    ("--shard-optimiser", "--shard-optimizer"), ("-q", None), ("--", None),
])
def test_the_nearest_flag(word, meant):
    assert nearest(word, TRAIN._option_string_actions) == meant


@pytest.mark.parametrize("words, parts", [
    ("train --lr 1e-3", ["--lr is no flag of pygpt train; did you mean --learning-rate?",
                         "(see pygpt train --help)"]),
    ("train --epochs=3", ["--epochs is no flag of pygpt train; did you mean --max-steps?"]),
    ("train --data x --batchsize 3", ["--batchsize is no", "did you mean --batch-size?"]),
    ("train --n-laye 3", ["did you mean --n-layer?"]),
    ("sample --temprature 1", ["did you mean --temperature?", "(see pygpt sample --help)"]),
    ("sample out --temp 1", ["did you mean --temperature?"]),
    ("sample out more", ["more is no argument of pygpt sample (see pygpt sample --help)"]),
    ("smaple out", ["'smaple' is not one of train, sample, ", "did you mean sample?"]),
    ("generate", ["did you mean sample?", "(see pygpt --help)"]),
    ("tokenizer trian", ["did you mean train?", "(see pygpt tokenizer --help)"]),
    ("tokenizer train --vocab 300", ["did you mean --vocab-size?",
                                     "(see pygpt tokenizer train --help)"]),
    ("tokenizer train --output x", ["did you mean --out?"]),
    ("--verison", ["--verison is no flag of pygpt; did you mean --version?"]),
    ("--lr 3 train", ["--lr is no flag of pygpt (see pygpt --help)"]),
    ("train --preset lessen", ["--preset: 'lessen' is not one of lesson, char, gpt2; did you mean "
                               "lesson?", "(see pygpt train --help)"]),
    ("export a b --dtype fp16", ["'fp16' is not one of float32, float16, bfloat16"]),
    ("info a more", ["more is no argument of pygpt info"]),
    ("bench --second 3", ["did you mean --seconds?"]),
    ("bench --dtype float64", ["'float64' is not one of float32, bfloat16"]),
    ("plot", ["OUT", "(see pygpt plot --help)"]),
])
def test_a_wrong_word_is_named_with_the_nearest_one_and_the_right_help(words, parts, capsys):
    assert main.main(words.split()) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    for part in ["pygpt: error: ", *parts]:
        assert part in output.err


def test_abbreviations_are_off():
    for command, known in ((TRAIN, "--max-step"), (SAMPLE, "--temp"), (LEARN, "--vocab")):
        with pytest.raises(UsageError, match="is no flag"):
            command.parse_known_args([known, "1"])


def test_a_negative_number_and_a_dash_are_values():
    arguments = main.parse(["train", "--learning-rate", "-1e-3", "--data", "-", "--dropout", "-.5"])
    assert (arguments.learning_rate, arguments.data, arguments.dropout) == (-1e-3, ["-"], -0.5)


def test_the_version_is_printed():
    import pygpt as package

    result = pygpt("--version")
    assert (result.returncode, result.stdout, result.stderr) == (
        0, f"pygpt {package.__version__}\n", "")


# ------------------------------------------------------------------ a flag given more than once ---

def every_flag():
    """Yield (the command's words, action) for each flag of each command."""
    def below(parser, words):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, command in action.choices.items():
                    yield from below(command, [*words, name])
            elif action.option_strings and action.dest not in ("help", "version"):
                yield words, action

    return list(below(main.make_parser(), []))


def test_the_values_of_a_flag_given_again_are_joined():
    many = {(*words, action.dest) for words, action in every_flag() if action.nargs == "+"}
    assert many == {("train", "data"), ("train", "val_data"), ("train", "sample_prompts"),
                    ("tokenizer", "train", "data"), ("study", "ablations", "data"),
                    ("study", "ablations", "only")}
    each = {(*words, action.dest) for words, action in every_flag()
            if isinstance(action, argparse._AppendAction)}
    assert each >= {("sample", "stop_strings"), ("sample", "logit_bias"), ("check", "set")}
    for *words, dest in many:
        flag = "--" + dest.replace("_", "-")
        required = ["--out", "x"] if words[0] == "tokenizer" else []
        arguments = main.parse([*words, flag, "a", "b", *required, flag, "c"])
        assert getattr(arguments, dest) == ["a", "b", "c"]
        assert "may be given again" in " ".join(arguments.command.format_help().split())
    arguments = main.parse(["tokenizer", "train", "--out", "x", "--data", "a"])
    assert arguments.data == ["a"]  # nothing is left of the parse before


def test_of_another_flag_given_twice_the_last_counts():
    arguments = main.parse(["train", "--seed", "1", "--out", "a", "--recompute", "--seed", "2",
                            "--out", "b", "--no-recompute"])
    assert (arguments.seed, arguments.out, arguments.recompute) == (2, "b", False)


def test_training_on_two_texts_named_by_two_flags(tmp_path):
    (tmp_path / "a.txt").write_text("abcab" * 40)
    (tmp_path / "b.txt").write_text("xyzxy" * 40)
    flags = ("--n-layer 1 --n-head 1 --n-embd 8 --n-positions 8 --max-steps 1 --eval-batches 1 "
             "--sample-length 1").split()
    result = pygpt("train", "--data", "a.txt", *flags, "--data", "b.txt", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "a vocabulary of 7" in result.stdout  # abc, xyz and the newline between two texts


# --------------------------------------------------------------------------------------- help ---

def test_help_imports_nothing_that_takes_time():
    code = ("import sys; from pygpt.cli.main import main; "
            "main({words!r}); print('MODULES', *sorted(sys.modules))")
    for words in (["--help"], ["train", "--help"], ["tokenizer", "train", "--help"], ["--version"]):
        result = python(code.format(words=words))
        assert result.returncode == 0, result.stderr
        modules = set(result.stdout.rpartition("MODULES")[2].split())
        assert "pygpt.cli" in modules
        ours = {name for name in modules if name.startswith("pygpt.")}
        assert ours == {
            "pygpt.config", "pygpt.nearest", "pygpt.backend", "pygpt.backend.arguments",
            "pygpt.backend.single_precision",
            "pygpt.cli",
            *(f"pygpt.cli.{name}" for name in (
                "main flags messages streams bus_errors train sample eval explain play study "
                "export bench check plot tokenizer info loading").split()),
            "pygpt.parallel", "pygpt.parallel.launcher"}  # it reads the environment alone
        assert not modules & {"json", "difflib", "ctypes", "_cffi_backend", "subprocess"}


@pytest.mark.parametrize("words, message", [
    ("train --beta2 0.99999999", "--beta2 0.99999999 becomes 1 in single precision"),
    ("train --learning-rate 1e-50", "--learning-rate 1e-50 becomes 0 in single precision"),
    ("train --weight-decay 1e39", "--weight-decay 1e+39 becomes inf in single precision"),
    ("train --dropout 0.99999999", "--dropout 0.99999999 becomes 1 in single precision"),
    ("train --grad-clip 1e-60", "--grad-clip 1e-60 becomes 0 in single precision"),
    ("train --n-embd abc", "argument --n-embd: 'abc' is not a whole number"),
    ("train --dropout x", "argument --dropout: 'x' is not a number"),
    ("bench --seconds x", "argument --seconds: 'x' is not a number"),
])
def test_numbers_that_do_not_fit_are_told_by_flag(words, message, capsys):
    assert main.main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_directory_without_a_run_is_named(tmp_path, capsys):
    for out, told in ((tmp_path, "holds no run to resume"),
                      (tmp_path / "no", "there is no such directory")):
        assert main.main(["train", "--resume", "--out", str(out)]) == 1
        assert capsys.readouterr().err == f"pygpt: error: {out}: {told}\n"


def test_a_flag_of_several_values_leaves_the_directory_alone():
    """`sample` takes one value for each flag, as a word after it may be DIR."""
    arguments = main.parse(["sample", "--stop-strings", "a", "--logit-bias", "3=-inf",
                            "--stop-strings", "b c", "--logit-bias", "4=1e-1", "out"])
    assert arguments.directory == "out" and arguments.stop_strings == ["a", "b c"]
    assert SampleConfig(logit_bias=arguments.logit_bias).logit_bias == ((3, -math.inf), (4, 0.1))
