"""Reads a run's directory, log and records for the tests, and copies its directory."""

import json
import os
import pathlib
import shutil

from pygpt.checkpoint import model_files
from pygpt.data.corpus import Corpus
from pygpt.training.run_log import read_log
from pygpt.training.trainer import train

TINY = ("--n-layer 1 --n-head 2 --n-embd 16 --n-positions 8 --batch-size 4 --max-steps 4 "
        "--warmup-steps 2 --eval-interval 4 --eval-batches 2 --sample-interval 0").split()
TEXT = "".join(f"{a} and {b} make {a + b}.\n" for a in range(9) for b in range(9))
OTHER = TEXT.replace("make", "are")
FROM_INIT = dict.fromkeys(("n_layer", "n_head", "n_embd", "n_positions"))  # init's model gives them
PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0" + bytes(range(256)) * 4


def text_of(*paths, **options):
    return "".join(Corpus([str(path) for path in paths], **options).joined())


def tree(path):
    """Map each path below a directory to a file's bytes, a link's target, or None."""
    return {os.path.relpath(name, path): os.readlink(name) if os.path.islink(name) else
            None if os.path.isdir(name) else pathlib.Path(name).read_bytes()
            for name in map(str, pathlib.Path(path).rglob("*"))}


def records_of(config, *callbacks, **options):
    """Train a run with this configuration and return its records."""
    records = []
    train(config, [records.append, *callbacks], **options)
    return records


def loss_of(records):
    """Return the loss of the only step."""
    (loss,) = [record["loss"] for record in records if record["event"] == "step"]
    return loss


def warnings_of(records):
    return [record["text"] for record in records if record["event"] == "warning"]


def stop_after(step):
    """Return a callback that ends a run after this step, as Ctrl-C does."""
    return lambda record: record["event"] == "step" and record["step"] == step


def contents(directory):
    """Map each path below a directory to (is a directory, bytes or target, modification time)."""
    found = {}
    for path in sorted(pathlib.Path(directory).rglob("*")):
        status = path.lstat()
        data = (os.readlink(path) if path.is_symlink()
                else path.read_bytes() if path.is_file() else None)  # a pipe is not read
        found[str(path)] = path.is_dir(), data, status.st_mtime_ns
    return found


def snapshot(directory):
    """Return the contents of a directory and its own modification time."""
    return contents(directory) | {str(directory): directory.stat().st_mtime_ns}


def checkpoint_files(directory):
    """Return a checkpoint's files, without the seconds and the settings that change no number."""
    found = {name: (directory / name).read_bytes() for name in os.listdir(directory)}
    state = json.loads(found.pop("trainer.json"))
    del state["seconds"]
    for name in ("out", "threads", "recompute"):
        del state["config"][name]
    return found | {"trainer.json": state}


def numbers(out):
    """List (step, loss, gradient norm, validation loss) of each step and validation in the log."""
    return [(r["step"], r.get("loss"), r.get("grad_norm"), r.get("val_loss"))
            for r in read_log(out / "log.jsonl") if r["event"] in ("step", "eval")]


def weights(directory):
    return pathlib.Path(model_files.find_model(directory), "model.safetensors").read_bytes()


def copy_links_followed(source, target):
    shutil.copytree(source, target)


def copy_checkpoints_only(source, target):
    target.mkdir()
    for path in source.glob("step-*"):
        shutil.copytree(path, target / path.name)
