"""Tests of reading a model while a run saves the next one and removes the checkpoint being read."""

import os
import shutil

import pytest
from runs import records_of, stop_after

from pygpt import GPT, Pipeline
from pygpt.checkpoint import model_files
from pygpt.cli.main import main
from pygpt.tokenizer import Tokenizer


@pytest.fixture
def without_links(tiny, tmp_path, monkeypatch):
    """Train a run on a file system without links; return its directory and save_next, a function
    that does what the run's next save does."""
    def refuse(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    records_of(tiny(), stop_after(1))
    out = tmp_path / "out"

    def save_next():
        (old,) = out.glob("step-*")
        new = out / f"step-{int(old.name[5:]) + 1:08d}"
        shutil.copytree(old, new)
        for name in ("last", "best"):
            (out / name).write_text(new.name + "\n")
        shutil.rmtree(old)

    save_next()  # and so there is a best
    return out, save_next


def then(monkeypatch, owner, name, action):
    """Let the first call of a function be followed by an action."""
    real, calls = getattr(owner, name), []

    def followed(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.append(args)
        if len(calls) == 1:
            action()
        return result

    monkeypatch.setattr(owner, name, followed)
    return calls


def test_a_model_is_read_again_where_the_run_has_saved_meanwhile(without_links, monkeypatch):
    out, save_next = without_links
    calls = then(monkeypatch, model_files, "_read_config", save_next)
    assert GPT.from_pretrained(out).config.n_positions == 8
    assert len(calls) == 2


def test_a_pipeline_takes_both_parts_from_one_checkpoint(without_links, monkeypatch):
    out, save_next = without_links
    calls = then(monkeypatch, GPT, "from_pretrained", save_next)
    assert Pipeline.from_pretrained(out)("1", max_new_tokens=2).drawn == 2
    assert [os.path.basename(path) for path, in calls] == ["step-00000002", "step-00000003"]


def test_an_export_has_its_tokenizer(without_links, tmp_path, monkeypatch):
    out, save_next = without_links
    then(monkeypatch, GPT, "from_pretrained", save_next)
    assert main(["export", str(out), str(tmp_path / "exported")]) == 0
    assert Tokenizer.from_pretrained(tmp_path / "exported").vocab_size > 1


def test_what_is_missing_for_good_is_an_error(without_links):
    out, _ = without_links
    (checkpoint,) = out.glob("step-*")
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        Pipeline.from_pretrained(out)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        GPT.from_pretrained(out)
