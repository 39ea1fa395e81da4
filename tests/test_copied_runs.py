"""Tests that a copy of a run's directory, however it was made, continues, samples and exports."""

import os
import shutil

import pytest
from runs import (FROM_INIT, copy_checkpoints_only, copy_links_followed, numbers, records_of,
                  stop_after, warnings_of, weights)

from pygpt.checkpoint import model_files
from pygpt.cli.main import main
from pygpt.model import GPT
from pygpt.training import trainer_state
from pygpt.training.trainer import train


def copy_last_only(source, target):
    target.mkdir()
    shutil.copytree(source / "last", target / "last")


def copy_with_the_newest_cut_off(source, target):
    """Copy as an scp that broke off: the newest whole checkpoint is an older one."""
    copy_checkpoints_only(source, target)
    torn = target / "step-00000099"
    shutil.copytree(target / "step-00000009", torn)
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-1])


def copy_with_links_to_the_old_place(source, target):
    shutil.copytree(source, target, symlinks=True)
    for name in ("last", "best"):
        link = os.readlink(target / name)
        (target / name).unlink()
        (target / name).symlink_to(source / link)


COPIES = [copy_links_followed, copy_last_only, copy_checkpoints_only, copy_with_the_newest_cut_off,
          copy_with_links_to_the_old_place]


@pytest.mark.parametrize("copy", COPIES)
def test_a_copied_run_goes_on(tiny, tmp_path, whole, stopped, copy):
    out = tmp_path / "copy"
    copy(stopped, out)
    if copy is copy_with_links_to_the_old_place:
        shutil.rmtree(stopped)
    state = trainer_state.load(trainer_state.find_last(out))
    assert state.step == 9
    records = records_of(tiny(out=out), resume=True)
    assert weights(out / "last") == weights(whole / "last")
    assert os.path.islink(out / "last") and trainer_state.load(out / "last").step == 10
    assert [r["loss"] for r in records if r["event"] == "step"] == [numbers(whole)[-2][1]]
    assert bool(warnings_of(records)) is (copy not in (copy_links_followed, copy_last_only))


@pytest.mark.parametrize("copy", COPIES)
def test_a_copied_run_samples_exports_and_begins_others(tiny, tmp_path, stopped, copy, capsys):
    out = tmp_path / "copy"
    copy(stopped, out)
    if copy is copy_with_links_to_the_old_place:
        shutil.rmtree(stopped)
    assert main(["sample", str(out), "--max-new-tokens", "3"]) == 0
    assert main(["export", str(out), str(tmp_path / "exported")]) == 0
    train(tiny(init=out, out=tmp_path / "tuned", max_steps=1, **FROM_INIT))
    assert GPT.from_pretrained(out).config == GPT.from_pretrained(tmp_path / "exported").config
    # a new run there: the earlier one continues from the place that it is moved to
    config = trainer_state.load(trainer_state.find_last(out)).config
    train(tiny(out=out, seed=5, max_steps=2))
    assert trainer_state.load(out / "last").step == 2
    earlier = out / "earlier-1"
    assert trainer_state.load(trainer_state.find_last(earlier)).config == config
    assert train(tiny(out=earlier, keep=2), resume=True).steps == 10


def test_a_copy_with_links_followed_goes_on_twice_and_keeps_its_best(tiny, tmp_path, stopped):
    out = tmp_path / "copy"
    best = trainer_state.load(stopped / "best")
    assert best.step == 8
    copy_links_followed(stopped, out)
    for step in (10, 11, 12):
        train(tiny(out=out, max_steps=12, eval_interval=99), [stop_after(step)], resume=True)
        assert trainer_state.load(out / "last").step == step
        assert (out / "best").is_dir()
    assert not [path for path in out.glob("step-*") if path.name not in
                (os.readlink(out / "last"), os.path.basename(os.path.realpath(out / "best")))]


def test_nothing_to_go_on_from_is_said_of_last(tmp_path, tiny):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError, match="out/last/trainer.json"):
        train(tiny(), resume=True)
    with pytest.raises(FileNotFoundError, match="no config.json in it"):
        model_files.find_model(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
