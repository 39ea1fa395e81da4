"""Measures the kernels and a training step on this machine: `pygpt bench`."""

import math

from pygpt.cli.flags import real_number
from pygpt.cli.loading import add_threads_flag, set_threads
from pygpt.config import COMPUTE_DTYPES, PRESETS, ConfigError


def add_command(add):
    """Add the command."""
    command = add("bench", run, "measure each kernel and a training step on this machine")
    command.add_argument("--preset", choices=PRESETS,
                         help="measure the shapes of this preset (default lesson)")
    command.add_argument("--growth", action="store_true",
                         help="measure instead how a step's cost grows with length, width and "
                         "threads, and what awkward sizes cost")
    command.add_argument("--mpi", action="store_true",
                         help="measure instead how the ranks of mpirun or srun exchange gradients, "
                         "how much of that the backward pass hides, and how the step scales")
    command.add_argument("--reduce-dtype", choices=COMPUTE_DTYPES, default="float32",
                         help="with --mpi: type in which ranks send gradients (default float32)")
    command.add_argument("--shard-optimizer", action="store_true",
                         help="with --mpi: let each rank update its share of the parameters")
    command.add_argument("--sustained", action="store_true",
                         help="compare with the rate of multiply-adds measured between training "
                         "steps, not with that of a burst; takes a quarter longer, at least 6 s")
    command.add_argument("--dtype", choices=COMPUTE_DTYPES, default="float32",
                         help="type to which matrix products round their operands (default "
                         "float32)")
    command.add_argument("--seconds", type=real_number, metavar="X",
                         help="measure for about this many seconds (default 20; with --growth 60)")
    add_threads_flag(command)
    command.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments):
    default = 60.0 if arguments.growth else 20.0
    seconds = default if arguments.seconds is None else arguments.seconds
    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds={seconds:g} must be above 0")
    if arguments.growth and arguments.preset:
        raise ConfigError("--growth has sizes of its own: leave out --preset")
    if arguments.growth and arguments.sustained:
        raise ConfigError("--growth measures the peak between its steps: leave out --sustained")
    if not arguments.mpi and (arguments.shard_optimizer or arguments.reduce_dtype != "float32"):
        raise ConfigError("--reduce-dtype and --shard-optimizer are of ranks: add --mpi")
    if arguments.mpi and (arguments.growth or arguments.sustained):
        raise ConfigError("--mpi measures ranks: leave out --growth and --sustained")
    import json

    from pygpt.backend import kernels
    from pygpt.bench import growth, kernels as bench

    if kernels.ffi is None:
        raise ConfigError("bench measures the C kernels: unset PYGPT_BACKEND")
    if arguments.mpi:
        return _measure_ranks(arguments, seconds)
    set_threads(arguments.threads)
    if arguments.growth:
        module, tables = growth, growth.tables(kernels.get_num_threads())
        result = growth.measure(tables, seconds, arguments.dtype)
    else:
        module = bench
        result = bench.measure(arguments.preset or "lesson", seconds, arguments.sustained,
                               arguments.dtype)
    print(json.dumps(result) if arguments.json else module.report(result))
    return 0


def _measure_ranks(arguments, seconds):
    import json

    from pygpt.backend import kernels
    from pygpt.bench import ranks
    from pygpt.bench.kernels import SHAPES
    from pygpt.parallel import launcher
    from pygpt.parallel.team import Team

    launch = launcher.found()
    if launch is None:
        raise ConfigError("--mpi measures several ranks: start it by mpirun -n 2 or srun")
    shape = dict(SHAPES[arguments.preset or "lesson"])
    if shape["batch_size"] < launch.size:
        shape["batch_size"] = launch.size
    team = Team(launch)
    kernels.set_num_threads(arguments.threads or team.threads())
    result = ranks.measure(team, shape, seconds, arguments.dtype, arguments.reduce_dtype,
                           arguments.shard_optimizer)
    print(json.dumps(result) if arguments.json else ranks.report(result))
    return 0
