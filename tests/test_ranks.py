"""Tests training on several ranks: the same losses as one process, and an end in good order.

Runs of mpirun need a launcher and mpi4py; `make test-mpi` installs both. Elsewhere they are
skipped, and the other tests run.
"""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import mpi
import pytest
from commands import COMMAND, here, python
from mpi import needs_mpi

import pygpt
from pygpt.bench import scaling
from pygpt.parallel import launcher
from pygpt.parallel.reduction import ALIGN, LEAST_FLOATS, MOST_FLOATS, chunks_of
from pygpt.parallel.sharding import ShardedMemory
from pygpt.parallel.shared_step import rows_of

KILLS = int(os.environ.get("PYGPT_TEST_RANK_KILLS", 1))  # of each rank; 20 in `make kill-ranks`
BENCH = str(Path(__file__).parent / "bench")
TEXT = "".join(f"{number} squared is {number * number}.\n" for number in range(400))
FLAGS = ["--n-layer", 2, "--n-head", 2, "--n-embd", 32, "--n-positions", 16, "--batch-size", 7,
         "--grad-accumulation-steps", 2, "--dropout", 0.2, "--max-steps", 8, "--eval-interval", 4,
         "--eval-batches", 2, "--sample-interval", 0, "--warmup-steps", 2]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory):
    """The records of a run of one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    pygpt.train(pygpt.TrainConfig(data=text, out=str(out), **{
        flag[2:].replace("-", "_"): value for flag, value in zip(FLAGS[::2], FLAGS[1::2])}))
    return numbers(out)


def numbers(out, event="step"):
    """List the numbers of the records of an event in a run's log."""
    names = {"step": ("loss", "grad_norm"), "eval": ("val_loss",)}[event]
    records = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [record[name] for record in records if record["event"] == event for name in names]


def train(ranks, text, out, *flags):
    result = mpi.pygpt(ranks, "train", "--data", text, "--out", out, *FLAGS, *flags)
    assert result.returncode == 0, result.stderr
    return result


# ---------------------------------------------------------------------------- without a launcher

def test_without_a_launcher_nothing_of_mpi_is_imported(text, tmp_path):
    code = ("import sys, pygpt; pygpt.train(pygpt.TrainConfig(data=sys.argv[1], out=sys.argv[2], "
            "max_steps=1, n_layer=1, n_embd=8, n_head=1, sample_interval=0))\n"
            "print(sorted(name for name in sys.modules if 'mpi4py' in name or "
            "'parallel.' in name))")
    result = python(code, text, tmp_path / "out")
    assert result.stdout == "['pygpt.parallel.launcher', 'pygpt.parallel.training']\n", result


@pytest.mark.parametrize("names", [names for _, *names in launcher.LAUNCHERS])
def test_a_launcher_is_known_by_its_variables(names, monkeypatch):
    for _, *others in launcher.LAUNCHERS:
        for name in others:
            monkeypatch.delenv(name, raising=False)
    assert launcher.found() is None
    for value, expected in (("4", (2, 4)), ("1", None), ("x", None), ("", None)):
        monkeypatch.setenv(names[0], "2")
        monkeypatch.setenv(names[1], value)
        assert (launcher.found() and launcher.found()[1:]) == expected


def test_the_innermost_launcher_counts(monkeypatch):
    for name, value in (("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "4"),
                        ("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    assert launcher.found() is None


def test_a_missing_mpi4py_is_named():
    code = ("import sys; sys.modules['mpi4py'] = None\nfrom pygpt.cli.main import main\n"
            "sys.exit(main(['train']))")
    result = python(code, OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="2")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "mpirun started 2 processes, which need mpi4py: " in result.stderr
    silent = python(code, OMPI_COMM_WORLD_RANK="1", OMPI_COMM_WORLD_SIZE="2")
    assert silent.returncode == 1 and silent.stdout == ""
    assert silent.stderr.startswith("pygpt: error: rank 1: mpirun started 2 processes")


@pytest.mark.parametrize("words", [["eval", "out", "x.txt"], ["sample", "out"],
                                   ["bench"], ["tokenizer", "encode"]])
def test_a_command_of_one_process_refuses_ranks(words):
    result = python("import sys; from pygpt.cli.main import main; sys.exit(main(sys.argv[1:]))",
                    *words, PMI_RANK="0", PMI_SIZE="3")
    assert result.returncode == 2
    assert "runs in one process, and mpiexec started 3: start it alone" in result.stderr or (
        "required" in result.stderr)


@pytest.mark.parametrize("n", [1, ALIGN, 1000, LEAST_FLOATS, 3 * LEAST_FLOATS + 1, MOST_FLOATS + 17,
                               20 * MOST_FLOATS])
@pytest.mark.parametrize("size", [2, 3, 4, 7, 256])
def test_each_float_has_one_owner(n, size):
    chunks, end = chunks_of(n, size), 0
    for chunk in chunks:
        assert chunk.first == end and len(chunk.bounds) == size + 1
        assert list(chunk.bounds) == sorted(chunk.bounds)
        assert all(bound % ALIGN == 0 or bound == n for bound in chunk.bounds)
        assert sum(chunk.counts()) == chunk.end - chunk.first
        assert max(chunk.counts()) - ALIGN <= (chunk.end - chunk.first) / size
        end = chunk.end
    assert end == n


def test_a_sharded_memory_finds_its_parts():
    memory = ShardedMemory([(32, 16), (96, 32), (128, 0), (160, 16)])
    assert memory.nbytes == 4 * 64
    assert [memory.place(4 * first) // 4 for first in (32, 47, 96, 127, 160)] == [0, 15, 16, 47, 48]
    assert len(memory.part(96, 32)) == 128 and len(memory.part(128, 0)) == 0
    for first in 0, 31, 48, 95, 128, 176:
        with pytest.raises(ValueError, match=f"byte {4 * first} of the state is another rank's"):
            memory.pointer("f", 4 * first)


def test_rows_of_a_batch():
    batch = memoryview(bytes(range(4 * 6))).cast("i", (3, 2))
    assert rows_of(batch, 1, 3).tolist() == batch.tolist()[1:]


# ------------------------------------------------------------------------- the numbers of a run

@needs_mpi
@pytest.mark.parametrize("ranks, flags, within", [
    (2, [], 1e-6), (3, [], 1e-6), (4, [], 1e-6), (3, ["--shard-optimizer"], 1e-6),
    (2, ["--recompute"], 1e-6),
    # Rounding to bfloat16 changes each number of a gradient by at most 2^-9 twice.
    (2, ["--reduce-dtype", "bfloat16"], 2 ** -8),
    (4, ["--reduce-dtype", "bfloat16", "--shard-optimizer"], 2 ** -8)])
def test_losses_are_those_of_one_process(ranks, flags, within, text, alone, tmp_path):
    result = train(ranks, text, tmp_path / "out", *flags)
    assert numbers(tmp_path / "out") == pytest.approx(alone, rel=within)
    assert result.stdout.count("parameters, ") == 1 and result.stdout.count("val_loss=") == 1
    assert f"{ranks} ranks of " in result.stdout


@needs_mpi
@pytest.mark.parametrize("flags", [[], ["--shard-optimizer"], ["--dtype", "bfloat16"]])
def test_a_resumed_run_takes_the_very_steps(flags, text, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    train(3, text, whole, *flags)
    code = ("import sys, pygpt; from pygpt.cli.main import parse\n"
            "from pygpt.cli.flags import settings_of\n"
            "config = pygpt.TrainConfig(**settings_of(parse(sys.argv[1:]), pygpt.TrainConfig))\n"
            "pygpt.train(config, [lambda r: r['event'] == 'step' and r['step'] == 3])")
    result = mpi.script(3, code, "train", "--data", text, "--out", part, *FLAGS, *flags)
    assert result.returncode == 0, result.stderr
    assert os.readlink(part / "last") == "step-00000003"
    assert mpi.pygpt(3, "train", "--resume", "--out", part).returncode == 0
    for name in "model.safetensors", "optimizer.safetensors":
        assert (part / "last" / name).read_bytes() == (whole / "last" / name).read_bytes()
    assert numbers(part) == numbers(whole)


@needs_mpi
@pytest.mark.parametrize("before, after", [(3, 1), (1, 2), (2, 4)])
def test_a_run_goes_on_with_another_number_of_ranks(before, after, text, alone, tmp_path):
    out = tmp_path / "out"
    runs = [(before, ["--data", text, "--out", out, *FLAGS, "--max-steps", 8]),
            (after, ["--resume", "--out", out, "--max-steps", 12])]
    for ranks, words in runs:
        if ranks > 1:
            result = mpi.pygpt(ranks, "train", *words)
        else:
            result = subprocess.run([*COMMAND, "train", *map(str, words)], capture_output=True,
                                    text=True)
        assert result.returncode == 0, result.stderr
    assert numbers(out)[:16] == pytest.approx(alone, rel=1e-6)
    assert len(numbers(out)) == 24
    assert f"the run had {before} rank" in result.stdout and f"now has {after}" in result.stdout


@needs_mpi
def test_every_rank_returns_the_same_result(text, tmp_path):
    code = ("import sys, pygpt, hashlib\n"
            "r = pygpt.train(pygpt.TrainConfig(data=sys.argv[1], out=sys.argv[2], max_steps=3,"
            " n_layer=1, n_embd=8, n_head=1, batch_size=4, sample_interval=0))\n"
            "weights = b''.join(p.read().tobytes() for _, p in r.model.named_parameters())\n"
            "print('got', r.steps, r.val_loss, hashlib.sha1(weights).hexdigest(),"
            " r.tokenizer.decode([1, 2]))")
    result = mpi.script(3, code, text, tmp_path / "out")
    lines = [line for line in result.stdout.splitlines() if line.startswith("got")]
    assert len(lines) == 3 and len(set(lines)) == 1, result


@needs_mpi
def test_info_shows_the_place_of_each_rank():
    document = json.loads(mpi.pygpt(3, "info", "--json").stdout)
    assert [place["rank"] for place in document["ranks"]] == [0, 1, 2]
    cores = max(1, len(os.sched_getaffinity(0)))
    assert all(place["threads"] <= cores for place in document["ranks"])
    assert sum(place["threads"] for place in document["ranks"]) <= max(3, cores)
    lines = mpi.pygpt(2, "info").stdout.splitlines()
    assert sum("rank 1 on " in line for line in lines) == 1


# ------------------------------------------------------------------------------------- measuring

# Two chunks of 1 MB, final after 10 and 20 ms of 20. At N = 2 a link of 1 GB/s takes half a
# millisecond for each of the two rounds of a chunk. Unless there are other costs, the second round
# of the first chunk is started at the mark after 11 ms, and that of the second ends after 21 ms.
PROFILE = scaling.Profile(0.02, 0.004, ((0.01, 10 ** 6), (0.02, 10 ** 6)), (0.01, 0.011, 0.02))
FREE = scaling.Link(0.0, 1e9, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("link, N, options, seconds", [
    (FREE, 1, {}, 0.024), (FREE, 2, {}, 0.025), (FREE, 2, {"wire": 2}, 0.0245),
    (FREE, 2, {"is_sharded": True}, 0.0205 + 0.002 + 0.001),  # half the update, then the values
    # The first chunk waits for the mark after 20 ms, and takes the link until 20.5 ms. The second
    # chunk takes it until 21 ms, arrives after 22, leaves again until 22.5, and arrives after 23.5.
    (replace(FREE, latency=1e-3), 2, {}, 0.0275),
    # The first chunk delays the second to 21 ms, and this one the end of the passes to 22 ms, at
    # which its second round starts.
    (replace(FREE, per_chunk=1e-3), 2, {}, 0.0265),
    (replace(FREE, held=1.0), 2, {}, 0.0265),  # the same: both rounds take 1 ms of the core
    # Rounds of 5 ms: from 10, 20, 25 and 30 ms on.
    (replace(FREE, bandwidth=1e8), 2, {}, 0.039)])
def test_the_simulation_of_a_step_is_that_by_hand(link, N, options, seconds):
    assert scaling.simulate(PROFILE, link, N, **options) == pytest.approx(seconds, rel=1e-9)


def test_a_profile_that_is_made_up_has_all_gradients():
    profile = scaling.made_up({"block": 10 ** 6, "rest": 10 ** 5}, 3.0, 0.1, 4)
    assert sum(size for _, size in profile.chunks) == 4 * 4_100_000
    assert [at for at, _ in profile.chunks] == sorted(at for at, _ in profile.chunks)
    assert 1.0 < profile.chunks[0][0] < profile.chunks[-1][0] == pytest.approx(3.0)
    assert scaling.simulate(profile, FREE, 1) == 3.1


@needs_mpi
@pytest.mark.parametrize("flags", [[], ["--shard-optimizer", "--reduce-dtype", "bfloat16"]])
def test_ranks_are_measured_and_predicted(flags, capsys, monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import scaling as table

    result = mpi.pygpt(2, "bench", "--mpi", "--json", "--seconds", 0.1, *flags)
    measured = [{"rate": None, "delay": None, "preset": "lesson", "result": json.loads(
        result.stdout), "link": {"round_trip_seconds": 1e-4, "bytes_per_second": 1e9}}]
    assert all(row["seconds"] > 0 for row in measured[0]["result"]["exchange"])
    table.compare(measured)
    table.predict(measured)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4 * (2 + 16) and "lesson" in lines[1]
    report = mpi.pygpt(2, "bench", "--mpi", "--seconds", 0.1, *flags).stdout
    assert report.startswith("2 ranks on 1 machine") and "which hides" in report


def test_bench_of_ranks_needs_them():
    for words in ["--mpi"], ["--shard-optimizer"], ["--mpi", "--growth"]:
        assert here("bench", *words).returncode == 2


# ----------------------------------------------------------------------------------- bad endings

@needs_mpi
def test_what_is_wrong_is_said_once(text, tmp_path):
    out = tmp_path / "out"
    for words, expected in (
            (["--foo"], "pygpt: error: --foo is no flag"),
            (["--data", tmp_path / "none"], f"rank 0: {tmp_path / 'none'}: No such file"),
            (["--data", text, "--out", out, "--batch-size", 1],
             "--batch-size 1 is less than the 2 ranks"),
            # 1e37 times a gradient of some tenths is more than float32 holds
            (["--data", text, "--out", out, *FLAGS, "--learning-rate", 1e37, "--warmup-steps", 0],
             "rank 0: step ")):
        result = mpi.pygpt(2, "train", *words)
        said = mpi.messages(result)
        assert result.returncode in (1, 2) and len(said) == 1 and expected in said[0], result


@needs_mpi
def test_ranks_that_would_round_otherwise_are_refused(text, tmp_path):
    code = ("import os, sys\n"
            "if os.environ['OMPI_COMM_WORLD_RANK'] == '1': os.environ['PYGPT_ISA'] = 'baseline'\n"
            "from pygpt.cli.main import main\n"
            "sys.exit(main(sys.argv[1:]))")
    result = mpi.script(2, code, "train", "--data", text, "--out", tmp_path / "out", *FLAGS)
    said = mpi.messages(result)
    assert result.returncode in (1, 2) and len(said) == 1, result
    assert "rank 1 has isa='baseline', and rank 0 " in said[0]


@needs_mpi
def test_ranks_that_are_not_of_one_mpi_are_refused():
    result = python("import sys; from pygpt.cli.main import main; sys.exit(main(['train']))",
                    OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="4", **mpi.ALLOWING)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result
    assert "mpirun started 4 processes, and MPI finds 1 of them" in result.stderr


@needs_mpi
def test_what_a_lost_rank_takes_with_it_is_said(text, tmp_path):
    code = FAILING.replace("raise MemoryError(\"there is none\")", "os.kill(os.getpid(), 9)")
    code = code.replace("eval_interval=", "shard_optimizer=True, eval_interval=").replace(
        "[callback]", "[callback, lambda r: r['event'] == 'warning' and print(r['text'])]")
    result = mpi.script(2, code, "step", 1, text, tmp_path / "out")
    assert result.returncode != 0 and "there is no checkpoint yet" in result.stdout, result


FAILING = """
import os, resource, sys, pygpt
from pygpt.parallel import shared_step
where, rank, data, out = sys.argv[1:]
mine = os.environ["OMPI_COMM_WORLD_RANK"] == rank
update, steps = shared_step.SharedStep.update, []
def failing(self, batches, stop=0):
    steps.append(1)
    if mine and where == "step" and len(steps) == 3:
        raise MemoryError("there is none")
    return update(self, batches, stop)
shared_step.SharedStep.update = failing
def callback(record):
    if record["event"] == "step" and record["step"] == 2:
        if where == "disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        if where == "callback":
            raise ValueError("the callback failed")
pygpt.train(pygpt.TrainConfig(data=data, out=out, max_steps=6, n_layer=1, n_embd=32, n_head=1,
                              eval_interval=1 if where == "disk" else 50, sample_interval=0),
            [callback])
"""


@needs_mpi
@pytest.mark.parametrize("where, rank, expected", [
    ("step", 0, "pygpt: error: rank 0: there is none"),
    ("step", 2, "pygpt: error: rank 2: there is none"),
    ("disk", 0, "File too large"), ("callback", 0, "ValueError: the callback failed")])
def test_the_trouble_of_one_rank_ends_all(where, rank, expected, text, tmp_path):
    result = mpi.script(3, FAILING, where, rank, text, tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.count(expected) == 1, result.stderr
    assert not list((tmp_path / "out").glob(".*.tmp"))


def rank_process(process, rank):
    """Return the number of the process that is a rank of a launcher, once it runs."""
    for _ in range(500):
        for entry in os.listdir("/proc"):
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
                with open(f"/proc/{entry}/environ", "rb") as file:
                    environment = file.read().split(b"\0")
            except (OSError, ValueError):
                continue
            if parent == process.pid and f"OMPI_COMM_WORLD_RANK={rank}".encode() in environment:
                return int(entry)
        time.sleep(0.02)
    raise AssertionError(f"rank {rank} did not start")


@pytest.fixture
def endless(text, tmp_path):
    """A run of three ranks that has taken some steps, as (process, output directory)."""
    out = tmp_path / "out"
    process = mpi.start(3, [*COMMAND, "train", "--data", text, "--out", out, *FLAGS, "--max-steps",
                            10 ** 6, "--eval-interval", 20], start_new_session=True)
    for _ in range(1000):
        if (out / "last").exists():
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    yield process, out
    process.kill()
    process.communicate()


def check_end(process, out, began):
    """Check that a run has ended soon after `began`, and can go on; return what it printed."""
    output, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    step = int((out / "last").resolve().name.split("-")[1])
    result = mpi.pygpt(3, "train", "--resume", "--out", out, "--max-steps", step + 2)
    assert result.returncode == 0, result.stderr
    assert f"continuing from step {step} " in result.stdout
    return step, output, errors


@needs_mpi
@pytest.mark.parametrize("time_", range(KILLS))
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_killed_rank_ends_all_and_the_run_can_go_on(rank, time_, endless):
    process, out = endless
    os.kill(rank_process(process, rank), signal.SIGKILL)
    step, output, errors = check_end(process, out, time.monotonic())
    assert f"process rank {rank} " in errors  # the launcher names it
    if rank:  # the leader saved the run as it was after its last step
        assert f"interrupted after {step} steps" in output


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1, None])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_rank_or_to_the_launcher_ends_all(number, rank, endless):
    process, out = endless
    os.kill(process.pid if rank is None else rank_process(process, rank), number)
    step, output, errors = check_end(process, out, time.monotonic())
    assert f"interrupted after {step} steps" in output, errors
    if rank is not None:
        assert f"{signal.Signals(number).name} came to rank {rank}" in output
        assert process.returncode == 128 + number
