"""Kills processes at random moments, most of them within a write: `make kill-drill KILLS=500`.

What a process with SIGKILL leaves must open; what it had saved must be there; and a run that is
resumed after each kill must in the end have the losses and the weights of an undisturbed run, bit
for bit. The next process in a directory removes the temporary files of the killed one. A hundred
rounds of other signals follow (signal_drill.py).

    python tests/checks/kill_drill.py KILLS [SEED]
"""

import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

import drills
import signal_drill
from drills import Child, Reference, Run, counted, find, pause, temporaries

from pygpt.cli.export import MARK
from pygpt.cli.main import main as pygpt
from pygpt.tokenizer import Tokenizer

SIGNALS = 100


class TrainingDrill:
    """Kills a training run, as it begins, continues, or moves an earlier run aside.

    Args:
        must_wait: whether another process waits for the directory meanwhile; it then takes over.
    """

    def __init__(self, home, name, reference, must_wait=False, is_mapped=False):
        self.run, self._must_wait = Run(home, name, reference, is_mapped), must_wait

    def round(self, rng):
        """Kill once; return whether it was within a write."""
        child = self.run.start(self._must_wait)
        if self._must_wait:  # the one that is killed may be the one that waits
            waiting = self.run.start(must_wait=True)
        self.run.pause(rng, child)
        child.send(signal.SIGKILL)
        status, is_within = child.wait(), bool(temporaries(self.run.out))
        if self._must_wait:
            is_within = False  # the other may write already
            assert waiting.wait() == 0, waiting.output.read_text()
            self.run.finish()
        elif status == 0:
            self.run.finish()
        else:
            assert status == -signal.SIGKILL, child.output.read_text()
            self.run.check()
        return is_within


class ExportDrill:
    """Kills `pygpt export`: the next one must write the model, and leave nothing else there."""

    def __init__(self, home, run):
        self._home, self._run, self._out = home, run, home / "exported"
        began = time.monotonic()
        assert self._start("whole").wait() == 0
        self._seconds = time.monotonic() - began
        self._whole = self._files("whole")

    def _start(self, name="exported"):
        arguments = ["export", str(self._run), str(self._home / name)]
        return Child(lambda: pygpt(arguments), self._home / "output-export")

    def _files(self, name="exported"):
        return {path.name: path.read_bytes() for path in (self._home / name).iterdir()}

    def round(self, rng):
        """Kill once; return whether it was within a write."""
        shutil.rmtree(self._out, ignore_errors=True)
        child = self._start()
        pause(rng, child, self._out, self._seconds)
        child.send(signal.SIGKILL)
        status, is_within = child.wait(), bool(temporaries(self._out))
        if find(self._out) is None:
            assert status != 0
            again = self._start()
            assert again.wait() == 0, again.output.read_text()
        (self._out / MARK).unlink(missing_ok=True)  # it was killed when all was written
        assert self._files() == self._whole, sorted(self._files())
        return is_within


class TokenizerDrill:
    """Kills `pygpt tokenizer train` over another tokenizer: one of the two must be there."""

    def __init__(self, home, text):
        self._home, self._text, self._out = home, text, home / "tokenizer"
        self._encoded = {}
        for size in (300, 270):
            began = time.monotonic()
            assert self._start(size).wait() == 0
            self._seconds = time.monotonic() - began
            self._encoded[size] = Tokenizer.from_pretrained(self._out).encode(drills.TEXT)
        self._old = 270

    def _start(self, size):
        arguments = ["tokenizer", "train", "--data", str(self._text), "--out", str(self._out),
                     "--vocab-size", str(size), "--special-token", f"<|{size}|>"]
        return Child(lambda: pygpt(arguments), self._home / "output-tokenizer")

    def _check(self, *sizes):
        found = Tokenizer.from_pretrained(self._out).encode(drills.TEXT)
        assert found in [self._encoded[size] for size in sizes]

    def round(self, rng):
        """Kill once; return whether it was within a write."""
        new = 570 - self._old
        child = self._start(new)
        pause(rng, child, self._out, self._seconds)
        child.send(signal.SIGKILL)
        child.wait()
        is_within = bool(temporaries(self._out))
        self._check(self._old, new)
        again = self._start(new)
        assert again.wait() == 0, again.output.read_text()
        self._check(new)
        assert temporaries(self._out) == [], sorted(os.listdir(self._out))
        self._old = new
        return is_within


def drill(home, kills, rng):
    """Kill this many processes; return {what was counted: number}."""
    reference, counts, within = Reference(home), {}, 0
    reference.of(1)
    kinds = {  # name: (share of the kills, drill)
        "training": (5, TrainingDrill(home, "run", reference)),
        "training from mapped tokens": (2, TrainingDrill(home, "mapped", reference,
                                                         is_mapped=True)),
        "training while another waits": (1, TrainingDrill(home, "awaited", reference,
                                                          must_wait=True)),
        "export": (1, ExportDrill(home, home / "undisturbed-1")),
        "tokenizer": (1, TokenizerDrill(home, home / "text.txt")),
    }
    names = [name for name, (share, _) in kinds.items() for _ in range(share)]
    for number in range(kills):
        name = names[number % len(names)]
        with counted(name, counts):
            within += kinds[name][1].round(rng)
        if number % 50 == 49:
            print(f"{number + 1} kills, {within} within a write", flush=True)
        if len(counts.get("failures", ())) > 5:
            break
    runs = [one.run.finished for _, one in kinds.values() if isinstance(one, TrainingDrill)]
    return counts | {"within a write": within, "runs finished": sum(runs)}


def main(arguments):
    kills, seed = int(arguments[0]), int(arguments[1]) if arguments[1:] else 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        home = pathlib.Path(directory)
        killed = drill(home, kills, random.Random(seed))
        print(f"kills ({time.monotonic() - began:.0f} s): {shown(killed)}")
        signalled = signal_drill.drill(home, SIGNALS * kills // 500, random.Random(seed))
        print(f"signals ({time.monotonic() - began:.0f} s): {shown(signalled)}")
    failures = killed.get("failures", []) + signalled.get("failures", [])
    print(*failures, sep="\n", end="\n" if failures else "")
    print(f"kill-drill: {kills} kills, {killed['within a write']} within a write, "
          f"{killed['runs finished']} runs equal to undisturbed ones; "
          f"{SIGNALS * kills // 500} other signals; {len(failures)} failures")
    return 1 if failures else 0


def shown(counts):
    return ", ".join(f"{name} {number}" for name, number in counts.items() if name != "failures")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
