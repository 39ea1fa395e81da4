"""Writes a model and its tokenizer to a directory of its own: `pygpt export`."""

import os

from pygpt.cli.bus_errors import bus_errors_explained

DTYPES = "float32", "float16", "bfloat16"  # checkpoint.weights.DTYPES, without its imports


def add_command(add):
    """Add the command."""
    command = add("export", run, "write a model, and its tokenizer, to a directory of its own")
    command.add_argument("directory", metavar="DIR",
                         help="a GPT-2 directory, a training run's output directory, or one of its "
                         "checkpoints")
    command.add_argument("out", metavar="OUT", help="the directory to make")
    command.add_argument("--dtype", choices=DTYPES, default="float32",
                         help="type of the weights in the file (default float32)")


@bus_errors_explained()
def run(arguments):
    from pygpt.checkpoint.model_files import CONFIG_FILE, find_model
    from pygpt.checkpoint.shards import INDEX_FILE, WEIGHTS_FILE
    from pygpt.model import GPT
    from pygpt.tokenizer import Tokenizer
    from pygpt.training.run_directory import NAMES, SETTINGS_FILE

    directory, out = find_model(arguments.directory), arguments.out
    # A model beside the checkpoints of a run would later be read in their place.
    there = [name for name in (*NAMES, SETTINGS_FILE, CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE)
             if os.path.lexists(os.path.join(out, name))]
    if there:
        raise ValueError(f"{out}: there is a model or a run already: {', '.join(there)}")
    model = GPT.from_pretrained(directory)
    try:
        tokenizer = Tokenizer.from_pretrained(directory)
    except FileNotFoundError:
        pass  # a directory may hold weights alone
    else:
        tokenizer.save_pretrained(out)  # first: a directory with a config.json must be complete
        if model.end_of_text is None:
            model.end_of_text = tokenizer.end_of_text
    model.save_pretrained(out, arguments.dtype)
    return 0
