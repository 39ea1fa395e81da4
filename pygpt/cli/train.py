"""Trains a model: `pygpt train`."""

from pygpt.cli.bus_errors import bus_errors_explained
from pygpt.cli.flags import add_settings, flag, settings_of
from pygpt.cli.messages import as_typed
from pygpt.cli.streams import drop_output
from pygpt.config import PRESETS, TrainConfig

SIGNALLED = 128  # the exit status of a run that a signal ended is this plus the signal
GROUPS = {  # heading in --help -> settings; the others are "options"
    "data": "data val_data val_fraction errors tokenizer".split(),
    "model": "init n_layer n_head n_embd n_positions dropout".split(),
    "optimiser": "max_steps patience batch_size grad_accumulation_steps recompute dtype "
                 "learning_rate min_learning_rate warmup_steps beta1 beta2 weight_decay "
                 "grad_clip".split(),
    "several ranks, started by mpirun or srun": "reduce_dtype shard_optimizer".split(),
    "output": "out eval_interval eval_batches keep log_interval sample_interval sample_length "
              "sample_prompts".split(),
}


def add_command(add):
    """Add the command."""
    command = add("train", run, "train a model; no flag is needed", epilog=preset_table())
    command.set_defaults(on_ranks=True)
    command.add_argument("--preset", choices=PRESETS,
                         help="start from the settings of the table below; other flags change "
                         "them")
    command.add_argument("--config", metavar="FILE",
                         help="read settings from a JSON or TOML file, such as the train.json that "
                         "a run leaves in its output directory; other flags change them")
    command.add_argument("--resume", action="store_true",
                         help="continue the run in --out from its last checkpoint")
    command.add_argument("--force", action="store_true",
                         help="resume although settings, text or kernels differ; train although "
                         "memory does not suffice; a warning is printed for each")
    add_settings(command, TrainConfig, GROUPS)


def preset_table():
    """Return a table of the presets, with a row for each setting that one of them changes."""
    configs = [TrainConfig(), *(TrainConfig(**settings) for settings in PRESETS.values())]
    names = dict.fromkeys(name for settings in PRESETS.values() for name in settings)
    rows = [("presets:", "(none)", *PRESETS)]
    rows += [(f"  {flag(name)}", *(f"{getattr(config, name):g}" for config in configs))
             for name in names]
    return "\n".join(f"{row[0]:<28}" + "".join(f"{value:>8}" for value in row[1:])
                     for row in rows)


@bus_errors_explained()
def run(arguments):
    from pygpt.cli.terminal import Reporter
    from pygpt.parallel import launcher
    from pygpt.parallel.training import train
    from pygpt.training.settings import read_settings
    from pygpt.training.trainer_state import last_settings

    launch = launcher.found()
    if launch and launch.rank:  # the leader reads the files and checks the settings
        result = train()
        return SIGNALLED + result.signal if result.signal else 0
    settings = read_settings(arguments.config) if arguments.config is not None else {}
    flags = settings_of(arguments, TrainConfig)
    arguments.in_file = settings.keys() - flags.keys()
    settings = PRESETS.get(arguments.preset, {}) | settings | flags
    if arguments.resume:
        settings = last_settings(settings.get("out", TrainConfig.out)) | settings
    config = TrainConfig(**settings)
    reporter = Reporter(translate=lambda text: as_typed(text, arguments))
    if launch:  # it gives rank 0 a terminal of its own, wherever the output goes
        reporter.is_terminal = False
    try:
        result = train(config, [reporter], resume=arguments.resume, force=arguments.force)
    except ArithmeticError:  # the losses are no longer finite; the curve shows how that came
        reporter.draw_curve()
        raise
    finally:
        reporter.close()
        if reporter.is_gone:
            drop_output()
    return SIGNALLED + result.signal if result.signal else 0
