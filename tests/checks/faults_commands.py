"""Runs commands whose calls of the system fail, and judges how they ended, for `make faults`."""

import contextlib
import io
import os
import re
import shutil
from pathlib import Path

from pygpt.checkpoint import saved
from pygpt.cli.main import main
from pygpt.data import dataset, token_file
from pygpt.training import cost

TINY = ("--n-layer 1 --n-head 2 --n-embd 16 --n-positions 8 --batch-size 4 --max-steps 4 "
        "--warmup-steps 2 --eval-interval 2 --eval-batches 2 --sample-interval 0 "
        "--threads 1 --learning-rate 0.01").split()
# OpenMP's runtime ends the process by itself if it has no memory for its threads.
ERROR = "pygpt: error: .*(/|memory|allocate|standard output)|libgomp: Out of memory"
TEXT = "".join(f"{a} and {b} make {a + b}.\n" for a in range(9) for b in range(9))


class Commands:
    """Makes the directories in which commands are tried, and judges how they ended.

    Attributes:
        folder: a directory of its own.
        right: the weights of the undisturbed run.
    """

    NAMES = "train", "resume", "again", "sample", "eval", "export", "tokenizer"

    def __init__(self, folder, run_with):
        """Prepare.

        Args:
            folder: an empty directory.
            run_with: a function of a plan and a function that returns an Outcome (faults.py).
        """
        self.folder, self._run_with = Path(folder), run_with
        self.of_interpreter = 0  # the errors that is_of_interpreter has found
        self._good = set()  # the states of a run's directory from which it went on well
        cost.peak_flops = lambda *_, **__: None  # it takes long to measure
        dataset.IN_MEMORY = token_file.IN_MEMORY = 100  # the text counts as long
        (self.folder / "text").write_text(TEXT)
        warm, stopped = self.folder / "warm", self.folder / "stopped"
        for name in self.NAMES:  # so that a fork has no module left to import
            with contextlib.redirect_stdout(io.StringIO()):
                assert main(self.words(name, warm)) == 0, name
        self.right = weights(warm)
        stopped.mkdir()
        assert self.run("half", stopped, "").status == 0

    def words(self, name, place):
        """Return the words of a command that works in a directory."""
        train = ["train", "--data", self.folder / "text", "--out", place / "out", *TINY]
        return [str(word) for word in {
            "train": train, "again": train,
            "half": [*train, "--max-steps", "2"],
            "resume": ["train", "--resume", "--out", place / "out", "--max-steps", "4"],
            "sample": ["sample", place / "out", "--max-new-tokens", "3", "--seed", "1",
                       "--prompt", "1"],
            "eval": ["eval", place / "out", self.folder / "text"],
            "export": ["export", place / "out", place / "exported"],
            "tokenizer": ["tokenizer", "train", "--data", self.folder / "text", "--out",
                          place / "tokenizer", "--vocab-size", "260"],
        }[name]]

    def run(self, name, place, plan):
        words = self.words(name, place)
        return self._run_with(plan, lambda: main(words))

    def tried(self, name, plan):
        """Run a command with a plan of faults; return its Outcome, and the problem or None."""
        place = self.folder / "place"
        if name == "train":
            place.mkdir()
        else:
            shutil.copytree(self.folder / "stopped", place, symlinks=True)
        try:
            outcome = self.run(name, place, plan)
            if not place.exists():
                place.mkdir()
                return outcome, "it removed a directory that it had not made"
            return outcome, self.problem(name, place, outcome)
        finally:
            shutil.rmtree(place)

    def problem(self, name, place, outcome):
        """Say what is wrong with an outcome and what it left in a directory, or return None."""
        lines = outcome.error.strip().splitlines()
        if is_of_interpreter(outcome.error):
            self.of_interpreter += 1
        elif outcome.status not in (0, 1, 2):
            return f"status {outcome.status}"
        elif outcome.status and not (len(lines) == 1 and re.match(ERROR, lines[0])):
            return "its error is not one line that names a file or the memory"
        if name in ("sample", "eval", "tokenizer", "export"):
            return self.problem_without_training(name, place, outcome)
        if outcome.status == 0 and weights(place) != self.right:
            return "it succeeded with other weights"
        state = state_of(place / "out")
        if state not in self._good:
            if problem := self.problem_after(place, outcome):
                return problem
            self._good.add(state)
        return None

    def problem_after(self, place, outcome):
        """Let the run go on, or begin again, and say what is wrong then."""
        has_run = next((place / "out").glob("step-*/trainer.json"), None)
        after = self.run("resume" if has_run else "train", place, "")
        if after.status:
            return f"the run cannot go on: {after.error}"
        if weights(place) != self.right:
            return "the run went on to other weights"
        left = [path for path in (place / "out").rglob("*") if path.name.endswith(".tmp")]
        if left and outcome.status:  # a run that has ended well is not opened again
            return f"it left {left}"
        return None

    def problem_without_training(self, name, place, outcome):
        for path in ("exported", "tokenizer"):
            if outcome.status:
                shutil.rmtree(place / path, ignore_errors=True)
        after = self.run(name, place, "") if outcome.status else outcome
        if after.status:
            return f"it cannot be done after that: {after.error}"
        if name == "export":
            exported = (place / "exported/model.safetensors").read_bytes()
            if exported != weights(place):
                return "the exported weights differ"
        return None


def is_of_interpreter(error):
    """Tell whether a traceback ends outside pygpt in another error than MemoryError. Where CPython
    itself has no memory it raises here and there a SystemError or a TypeError in its place."""
    lines = error.splitlines()
    places = [line for line in lines if line.startswith("  File ")]
    return (bool(places) and "/pygpt/" not in places[-1]
            and lines[-1].startswith(("SystemError", "TypeError")))


def state_of(out):
    """Return the names and contents of a run's files, without process ids and times: from equal
    states a run goes on equally."""
    def content(path):
        data = os.readlink(path).encode() if path.is_symlink() else (
            path.read_bytes() if path.is_file() else b"")
        return re.sub(rb'"(time|seconds|tokens_per_second|seconds_left|memory_free)": ?[^,}]+', b"",
                      data)

    return frozenset((re.sub(r"\.[0-9]+\.tmp$", ".tmp", str(path.relative_to(out))), content(path))
                     for path in out.rglob("*"))


def weights(place):
    """Return the bytes of the last checkpoint's weights; `last` may be a link or a file."""
    return Path(saved.named(place / "out", "last"), "model.safetensors").read_bytes()
