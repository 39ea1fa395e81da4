"""Starts processes of pygpt that a drill kills or sends signals to, and trains runs in them.

A process is forked from one that has imported pygpt: a start would take a hundred times as long.
It computes with one thread, and results do not depend on their number.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import sys
import time
import traceback
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from runs import TEXT, numbers, weights  # noqa: E402

from pygpt import TrainConfig, train  # noqa: E402
from pygpt.backend import kernels  # noqa: E402
from pygpt.checkpoint import model_files, safetensors  # noqa: E402
from pygpt.data import dataset, token_file  # noqa: E402
from pygpt.model import GPT  # noqa: E402
from pygpt.tokenizer import Tokenizer  # noqa: E402
from pygpt.training import trainer_state  # noqa: E402

STEPS = 24
NOTED = 64  # plus the signal: the exit status of a run that a signal ended after its step
PATIENCE = 120  # seconds after which a process counts as stuck


class Child:
    """A process that calls a function and exits with its result, or 99 after an exception.

    What it prints goes to a file. SIGINT and the other signals have the effect that they have in a
    program that a shell starts.
    """

    def __init__(self, function, output):
        self.output, self.status = pathlib.Path(output), None
        self.pid = os.fork()
        if self.pid == 0:
            status = 99
            try:
                self._redirect()
                status = function()
            except KeyboardInterrupt:
                status = 130
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status or 0)

    def _redirect(self):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        descriptor = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        kernels.set_num_threads(1)

    def is_running(self):
        """Return whether the process has not ended yet."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def send(self, number):
        """Send a signal, unless the process has ended."""
        if self.is_running():
            os.kill(self.pid, number)

    def wait(self):
        """Wait for the end; return the exit status, or minus the signal that ended the process.

        Raises:
            AssertionError: the process is stuck, or an unexpected exception ended it.
        """
        limit = time.monotonic() + PATIENCE
        while self.is_running():
            if time.monotonic() > limit:
                self.send(signal.SIGKILL)
                raise AssertionError(f"a process is stuck: {self.output.read_text()}")
            time.sleep(0.001)
        assert self.status != 99, self.output.read_text()
        return self.status


def temporaries(directory):
    """List the paths of temporary files and directories below a directory."""
    found = []
    for path, directories, files in os.walk(directory):
        found += [os.path.join(path, name) for name in directories + files
                  if name.endswith(".tmp")]
    return found


def pause(rng, child, directory, longest):
    """Wait for a random moment of a process: any, or one within a write.

    Args:
        rng: a random.Random.
        longest: the seconds that the process takes in all, roughly.
    """
    if rng.random() < 0.4:
        limit = time.monotonic() + rng.uniform(0, longest)
        while child.is_running() and time.monotonic() < limit:
            time.sleep(0.0005)
        return
    for _ in range(rng.randint(1, 6)):  # wait for this many writes, one after another
        while child.is_running() and temporaries(directory):
            time.sleep(0.0002)
        while child.is_running() and not temporaries(directory):
            time.sleep(0.0002)
    time.sleep(rng.choice((0, rng.uniform(0, 0.004))))


# ------------------------------------------------------------------------------------ training runs

def config(out, seed, **settings):
    """Return the TrainConfig of a run of STEPS steps that saves after every second one."""
    text = pathlib.Path(out).parent / "text.txt"
    if not text.exists():
        text.write_text(TEXT * 2)
    return TrainConfig(data=str(text), out=str(out), seed=seed, n_layer=1, n_head=2, n_embd=16,
                       n_positions=8, batch_size=4, max_steps=STEPS, warmup_steps=2,
                       eval_interval=2, eval_batches=1, sample_interval=0, dropout=0.1,
                       **settings)


def state_of(out):
    """Return the TrainerState of the last checkpoint, or None where there is none."""
    last = trainer_state.find_last(out)
    return trainer_state.load(last) if os.path.isdir(last) else None


def go_on(run, is_mapped=False):
    """Train a run to its end: resume it if its directory holds it, else begin it."""
    state = state_of(run.out)
    memory = 100 if is_mapped else 1 << 24
    with (mock.patch.object(token_file, "IN_MEMORY", memory),
          mock.patch.object(dataset, "IN_MEMORY", memory)):
        result = train(run, resume=state is not None and state.config["seed"] == run.seed)
    return NOTED + result.signal if result.signal else 0


def go_on_after_the_lock(run, is_mapped=False):
    """Do the same as soon as no other process works in the directory."""
    limit = time.monotonic() + PATIENCE
    while True:
        try:
            return go_on(run, is_mapped)
        except BlockingIOError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.002)


def step_of_whole(directory):
    """Check that the parts of a checkpoint fit together; return its step."""
    model = GPT.from_pretrained(directory)
    assert Tokenizer.from_pretrained(directory).vocab_size == model.config.vocab_size
    tensors, _ = safetensors.read(os.path.join(directory, "optimizer.safetensors"))
    assert len(tensors) == 2 * sum(1 for _ in model.named_parameters())
    return trainer_state.load(directory).step


class Reference:
    """What a run leaves that nothing disturbed, for each seed.

    Attributes:
        seconds: the time that a run takes.
    """

    def __init__(self, home):
        self._home, self._found, self.seconds = pathlib.Path(home), {}, 1.0

    def of(self, seed):
        """Return (the numbers in the log, the bytes of the last weights)."""
        if seed not in self._found:
            out, began = self._home / f"undisturbed-{seed}", time.monotonic()
            assert Child(lambda: go_on(config(out, seed)), self._home / "output").wait() == 0
            self.seconds = time.monotonic() - began
            self._found[seed] = numbers(out), weights(out / "last")
        return self._found[seed]


class Run:
    """A run that is disturbed over and over: when one seed has finished, the next one begins in
    the same directory; after three of them the directory is removed.

    Attributes:
        out: the directory.
        finished: how many runs have finished, each equal to its reference.
    """

    def __init__(self, home, name, reference, is_mapped=False):
        self.home, self.out = pathlib.Path(home), pathlib.Path(home, name)
        self._reference, self._is_mapped = reference, is_mapped
        self.seed, self.finished, self._step, self._earlier = 1, 0, 0, []
        reference.of(1)

    def start(self, must_wait=False):
        """Return a Child that begins or continues the run."""
        work, run = go_on_after_the_lock if must_wait else go_on, config(self.out, self.seed)
        return Child(lambda: work(run, self._is_mapped),
                     self.home / f"output-{self.out.name}-{must_wait}")

    def pause(self, rng, child):
        """Wait for a random moment of the process."""
        pause(rng, child, self.out, self._reference.seconds)

    def check(self):
        """Check what a process that ended somehow has left, and the finished runs beside it."""
        for name in ("last", "best"):
            if os.path.lexists(self.out / name):
                step_of_whole(self.out / name)
        state = state_of(self.out)
        is_ours = state is not None and state.config["seed"] == self.seed
        if is_ours:
            assert state.step >= self._step, f"step {self._step} was lost: {state.step}"
            self._step = state.step
        else:
            assert self._step == 0, f"step {self._step} was lost"
        for seed in self._earlier:
            self._check_earlier(seed)
        return is_ours

    def _check_earlier(self, seed):
        for home in (self.out, *sorted(self.out.glob("earlier-*"))):
            state = state_of(home)
            if state is not None and (state.config["seed"], state.step) == (seed, STEPS):
                assert weights(trainer_state.find_last(home)) == self._reference.of(seed)[1]
                assert numbers(home) == self._reference.of(seed)[0], f"{home}: its log differs"
                return
        raise AssertionError(f"{self.out}: the finished run of seed {seed} is lost")

    def finish(self):
        """Check a run whose process has ended well, and go over to the next seed."""
        was_finished = self._step == STEPS  # then the last process changed nothing
        assert self.check()
        expected_numbers, expected_weights = self._reference.of(self.seed)
        assert numbers(self.out) == expected_numbers, f"{self.out}: the losses differ"
        assert weights(self.out / "last") == expected_weights, f"{self.out}: the weights differ"
        found = temporaries(self.out)
        assert was_finished or not found, f"left: {found}"
        broken = [link for name in ("last", "best") for link in self.out.glob(f"earlier-*/{name}")
                  if not link.exists()]
        assert not broken, f"links that lead nowhere: {broken}"
        if self._is_mapped:
            assert len(list((self.out / "tokens").iterdir())) == 1
        self.finished += 1
        self._earlier.append(self.seed)
        self.seed, self._step = self.seed + 1, 0
        if self.seed > 3:
            shutil.rmtree(self.out)
            self.seed, self._earlier = 1, []


@contextlib.contextmanager
def counted(name, counts):
    """Count a round under a name; an AssertionError within it is printed and counted."""
    counts[name] = counts.get(name, 0) + 1
    try:
        yield
    except (AssertionError, OSError, ValueError) as error:
        failures = counts.setdefault("failures", [])
        failures.append(f"{name}: {str(error).strip().splitlines()[-1:]}")
        print(f"{name}: {traceback.format_exc()}", flush=True)


def find(directory):
    """Return the path of the model in a directory, or None."""
    try:
        return model_files.find_model(directory)
    except FileNotFoundError:
        return None
