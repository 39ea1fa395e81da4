"""Shows what a model is and takes, or what the machine offers: `pygpt info`."""

from pygpt.cli.flags import whole_number
from pygpt.config import ConfigError
from pygpt.parallel import launcher

SECONDS = 1.0      # of the measurement of the machine
OF_PEAK = 0.65     # of the peak that a step reaches: 65 to 74 % in docs/speed.md
OF_READING = 0.7   # of the speed of reading that generation reaches: 62 to 75 % in docs/speed.md
MOST_BATCH = (1 << 63) - 1


def add_command(add):
    """Add the command."""
    command = add("info", run, "show what a model is and takes; without one, the version, how the "
                  "library was built and what the machine offers", epilog=EXPLANATION)
    command.set_defaults(on_ranks=True)
    command.add_argument("directory", metavar="DIR", nargs="?",
                         help="a GPT-2 directory, a training run's output directory, or one of its "
                         "checkpoints")
    command.add_argument("--batch-size", type=whole_number, metavar="N",
                         help="sequences of the training step that is counted (sequences; at least "
                         "1; unset: those of the run, or 1)")
    command.add_argument("--json", action="store_true", help="print one JSON object instead")


EXPLANATION = f"""Operations are floating-point ones: each weight of a matrix takes a multiply-add,
2 of them, for each token forward, and twice as many backward; attention takes 2 multiply-adds for
each channel and earlier position. Memory is predicted by recording a step without computing it. The
times are estimates: the machine's multiply-adds and reads are measured for about a second, and a
step is taken to reach the share of the first that its run reached, or else {OF_PEAK:.0%}, and
generation {OF_READING:.0%} of the second (docs/speed.md). While other programs run, both are
lower.""".replace("\n", " ")


def run(arguments):
    import json

    if arguments.directory is not None and launcher.found():
        raise ConfigError(f"info of a model ({arguments.directory}) runs in one process: start it "
                          "alone")
    if arguments.directory is None:
        if arguments.batch_size is not None:
            raise ConfigError(f"batch_size={arguments.batch_size} is of a model's step: name its "
                              "DIR")
        return _show_machine(arguments.json)
    if arguments.batch_size is not None and not 1 <= arguments.batch_size <= MOST_BATCH:
        raise ConfigError(f"batch_size={arguments.batch_size} must be in [1, {MOST_BATCH}]")
    from pygpt.training.model_summary import summarise

    summary = summarise(arguments.directory, arguments.batch_size)
    summary["machine"] = machine = _measured(summary["step"]["dtype"])
    summary["estimates"] = machine and estimates(summary, machine)
    print(json.dumps(summary) if arguments.json else report(summary))
    return 0


def _show_machine(is_json):
    import json

    import pygpt

    places = _places()
    info = pygpt.info() | places
    if is_json:
        print(json.dumps(info))
        return 0
    for name, value in info.items():
        if name == "ranks":
            text = f"\n{'':<10} ".join(map(_place, value))
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        print(f"{name + ':':<10} {text}")
    return 0


def _places():
    """Return {"mpi": version, "ranks": Team.place of each}; the empty dict without a launcher."""
    launch = launcher.found()
    if launch is None:
        return {}
    from pygpt.backend import kernels
    from pygpt.parallel.team import Team

    team = Team(launch)
    kernels.set_num_threads(team.threads())
    return {"mpi": team.MPI.Get_library_version().partition(",")[0].partition("\n")[0].strip("\0 "),
            "ranks": team.gathered(team.place())}


def _place(place):
    return (f"rank {place['rank']} on {place['host']}, {_plural(place['threads'], 'thread')}, "
            f"allowed CPUs {ranges(place['cpus']) or 'unknown'}")


def ranges(numbers):
    """Format sorted whole numbers as Linux does: 0-3,8."""
    parts = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in parts)


def _measured(dtype):
    """Measure the machine; return {"gflops", "gbytes", "isa", "threads"}, or None if the C library
    is not in use."""
    from pygpt.autograd.precision import OPERAND_TYPES
    from pygpt.backend import kernels
    from pygpt.bench.kernels import machine

    if kernels.ffi is None:
        return None
    info = kernels.info()
    return machine(SECONDS, OPERAND_TYPES[dtype]) | {key: info[key] for key in ("isa", "threads")}


def estimates(summary, machine):
    """Estimate times from the operations and bytes of a summary and the speed of a machine.

    Args:
        summary: of model_summary.summarise.
        machine: {"gflops": of multiply-adds, in 10^9 operations per second, "gbytes": of reads, in
            10^9 bytes per second}.
    Returns:
        {"of_peak", "of_peak_is_of_run", "of_reading": the assumptions; "step_seconds";
        "train_tokens_per_second"; "generated_per_second": {form: tokens}}.
    """
    run, step = summary["run"], summary["step"]
    share = run and run["peak_share"]
    of_peak = share or OF_PEAK
    seconds = summary["flops"]["step"] / (machine["gflops"] * 1e9 * of_peak)
    tokens = step["batch_size"] * step["n_positions"] * step["grad_accumulation_steps"]
    return {"of_peak": of_peak, "of_peak_is_of_run": bool(share), "of_reading": OF_READING,
            "step_seconds": seconds, "train_tokens_per_second": tokens / seconds,
            "generated_per_second": {form: machine["gbytes"] * 1e9 * OF_READING / size
                                     for form, size in summary["read_per_token"].items()}}


# --------------------------------------------------------------------------------- the report ---

def report(summary):
    """Return the text of a summary with "machine" and "estimates"."""
    return "\n\n".join("\n".join(part(summary)) for part in (_heading, _parts, _costs, _times)
                       if part is not _times or summary["machine"])


def _heading(s):
    c, run = s["config"], s["run"]
    lines = [f"{s['directory']}: a model of {s['parameters']:,} parameters"]
    if s["model"] != s["directory"]:
        lines[0] += f", in {s['model']}"
    if run:
        best = (f", best validation loss {run['best_val_loss']:.4f}"
                if run["best_val_loss"] is not None else "")
        at = f" at step {run['best_step']:,}" if run["best_step"] else ""
        lines.append(f"saved after step {run['step']:,} of {run['max_steps']:,}{best}{at}")
    lines.append(f"{_plural(c['n_layer'], 'block')} of {_plural(c['n_head'], 'head')}, width "
                 f"{c['n_embd']:,}, context {c['n_positions']:,}, vocabulary {c['vocab_size']:,}")
    return lines


def _parts(s):
    rows = [("part", "shape", "each", "times", "parameters", "")]
    for part in s["parts"]:
        shape = " + ".join(" x ".join(map(str, shape)) for shape in part["shapes"].values())
        rows.append((part["name"], shape, f"{part['each']:,}", f"{part['times']:,}",
                     f"{part['total']:,}", part["what"]))
    rows.append(("all", "", "", "", f"{s['parameters']:,}", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return ["  ".join([f"{row[0]:<{widths[0]}}", f"{row[1]:<{widths[1]}}",
                       *(f"{row[i]:>{widths[i]}}" for i in (2, 3, 4)), row[5]]).rstrip()
            for row in rows]


def _costs(s):
    memory, step, flops = s["memory"], s["step"], s["flops"]
    whose = "the run's" if step["is_of_run"] else "for example"
    accumulated = (f" x {step['grad_accumulation_steps']}" if step["grad_accumulation_steps"] > 1
                   else "")
    of_training = ", ".join(f"{_bytes(memory[key])} {name}" for key, name in (
        ("weights", "weights"), ("halves", "weights in bfloat16"), ("gradients", "gradients"),
        ("state", "AdamW's moments"), ("activations", "activations")) if memory[key])
    at_rest = ", ".join(f"{_bytes(size)} in {form}" for form, size in s["bytes"].items())
    return [
        f"weights      {at_rest}",
        f"             {_bytes(s['in_file']['bytes'])} on disk, of type "
        + " and ".join(s["in_file"]["dtypes"]),
        f"operations   {_count(flops['forward_per_token'])} for a token forward, "
        f"{_count(flops['training_per_token'])} with the backward pass",
        f"a step       {_count(flops['step'])} operations for {step['batch_size']:,} x "
        f"{step['n_positions']:,}{accumulated} tokens ({whose})",
        f"memory       {_bytes(memory['total'])} to train, and of these",
        f"             {of_training}",
        f"             {_bytes(memory['generation'])} to generate: the weights and "
        f"{_bytes(memory['cache'])} of keys and values",
    ]


def _times(s):
    machine, found = s["machine"], s["estimates"]
    share = f"{found['of_peak']:.0%} of these multiply-adds"
    why = ("as its run reached" if found["of_peak_is_of_run"] else "as in docs/speed.md")
    rates = ", ".join(f"{_rate(rate)} in {form}"
                      for form, rate in found["generated_per_second"].items())
    rates = rates.replace(" in", " tokens/s in", 1)
    return [
        f"this machine {machine['gflops']:.0f} GFLOP/s of multiply-adds and "
        f"{machine['gbytes']:.1f} GB/s of reads ({machine['isa']}, "
        f"{_plural(machine['threads'], 'thread')}; measured now)",
        f"training     about {_seconds(found['step_seconds'])} a step, "
        f"{_rate(found['train_tokens_per_second'])} tokens/s,",
        f"             at {share}, {why}",
        f"generating   at most {rates}:",
        f"             a token reads all weights but wpe, at {found['of_reading']:.0%} of these "
        "reads; small models take longer",
    ]


def _plural(count, noun):
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _bytes(n):
    """Format a number of bytes with three digits: 512 B, 3.28 MB."""
    return f"{_scaled(n)}B"


def _count(n):
    """Format a number of operations with three digits: 1.71 M."""
    return _scaled(n).rstrip()


def _scaled(n):
    """Return n / 1000^i with three digits and the letter of that power of 1000."""
    i = 0
    while n >= 999.5 and i < len(_LETTERS) - 1:
        n, i = n / 1000, i + 1
    digits = 0 if i == 0 or n >= 99.95 else 1 if n >= 9.995 else 2
    return f"{n:,.{digits}f} {_LETTERS[i]}"


_LETTERS = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def _rate(x):
    """Format a rate with about three digits: 9.31, 41.2, 10,800."""
    if x >= 99.95:
        step = 10 ** max(0, len(f"{x:.0f}") - 3)
        return f"{round(x / step) * step:,}"
    return f"{x:.{1 if x >= 9.995 else 2}f}"


def _seconds(x):
    from pygpt.cli.terminal import duration

    if x >= 100:
        return duration(x)
    return f"{x:.2g} s" if x >= 1 else f"{1e3 * x:.3g} ms"
