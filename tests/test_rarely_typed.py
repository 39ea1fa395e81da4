"""Tests flags, messages and errors of the command line that few users meet."""

from types import SimpleNamespace

import pytest

from pygpt.backend import kernels
from pygpt.cli import main, messages
from pygpt.config import GPTConfig
from pygpt.model import GPT
from pygpt.tokenizer import ByteTokenizer


def test_eval_takes_threads(tmp_path, capsys):
    tokenizer = ByteTokenizer()
    GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=8, n_embd=8, n_layer=1, n_head=2),
        seed=5).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "text").write_text("one two three")
    told = set()
    with kernels.use_threads(kernels.get_num_threads()):
        for threads in (1, 2):
            words = ["eval", tmp_path, tmp_path / "text", "--threads", threads]
            assert main.main(words) == 0
            assert kernels.get_num_threads() == threads
            told.add(capsys.readouterr().out)
    assert len(told) == 1


@pytest.mark.parametrize("value, typed", [
    ("[nan]", "--betas [nan]"), ("(0.9, inf)", "--betas (0.9, inf)"), ("[", "--betas ["),
    ("(0.9, 2)", "--betas 0.9 2"), ("'a b'", "--betas 'a b'"), ("[]", "no --betas"),
    ("0.90", "--betas 0.90")])
def test_a_value_that_is_no_literal_is_shown_as_it_is(value, typed):
    action = SimpleNamespace(option_strings=["--betas"])
    assert messages._typed(action, value) == typed


def run_raising(error, monkeypatch):
    def run(arguments):
        raise error

    def parsed(words, parse=main.parse):
        arguments = parse(words)
        arguments.run = run
        return arguments

    monkeypatch.setattr(main, "parse", parsed)
    return main.main(["info"])


def test_a_library_of_older_sources_is_named_in_one_line(monkeypatch, capsys):
    error = AttributeError("module 'pygpt._kernels' has no attribute 'new_kernel'")
    assert run_raising(error, monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "make" in said


def test_any_other_missing_attribute_is_a_mistake_of_ours(monkeypatch):
    with pytest.raises(AttributeError, match="no attribute 'x'"):
        run_raising(AttributeError("'Tensor' object has no attribute 'x'"), monkeypatch)


def test_no_memory_without_a_message_is_said(monkeypatch, capsys):
    assert run_raising(MemoryError(), monkeypatch) == 1
    assert capsys.readouterr().err.endswith("there is not enough memory\n")
