"""Writes a model and its tokenizer to a directory of its own: `pygpt export`."""

import errno
import os
import re
from contextlib import contextmanager

from pygpt.cli.bus_errors import bus_errors_explained

DTYPES = "float32", "float16", "bfloat16"  # checkpoint.weights.DTYPES, without its imports
MARK = ".export.tmp"  # is in OUT while an export writes there, and after one that was killed


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
    from pygpt.checkpoint.model_files import find_model, read_found

    out = arguments.out
    find_model(arguments.directory)  # that there is none is said first
    _refuse_other_models(out)
    model, tokenizer = read_found(arguments.directory, _read)
    with _only_writer(out):
        if tokenizer is not None:
            # first: a directory with a config.json must be complete
            tokenizer.save_pretrained(out)
            if model.end_of_text is None:
                model.end_of_text = tokenizer.end_of_text
        model.save_pretrained(out, arguments.dtype)
    return 0


def _read(directory):
    """Return the model in a directory, and its tokenizer or None."""
    from pygpt.checkpoint.model_files import CONFIG_FILE
    from pygpt.model import GPT
    from pygpt.tokenizer import Tokenizer

    model = GPT.from_pretrained(directory)
    try:
        return model, Tokenizer.from_pretrained(directory)
    except FileNotFoundError:
        if not os.path.exists(os.path.join(directory, CONFIG_FILE)):
            raise  # a run has just removed this checkpoint
        return model, None  # a directory may hold weights alone


def _refuse_other_models(out):
    """Refuse a directory that holds a run, or a model other than one half written by an export.

    A model beside the checkpoints of a run would later be read in their place.
    """
    from pygpt.checkpoint.model_files import CONFIG_FILE
    from pygpt.checkpoint.shards import INDEX_FILE, WEIGHTS_FILE
    from pygpt.training.run_directory import NAMES, SETTINGS_FILE

    names = *NAMES, SETTINGS_FILE, CONFIG_FILE  # config.json is written last
    if not os.path.lexists(os.path.join(out, MARK)):
        names += WEIGHTS_FILE, INDEX_FILE
    if there := [name for name in names if os.path.lexists(os.path.join(out, name))]:
        raise ValueError(f"{out}: there is a model or a run already: {', '.join(there)}")


@contextmanager
def _only_writer(out):
    """Make a directory, and lock and mark it while an export writes there.

    What a killed export left is removed first: the next one may be of weights alone, and must not
    leave the tokenizer of another model beside them.

    Raises:
        BlockingIOError: another export is writing there.
        ValueError: another export has just written there.
    """
    from pygpt.files import try_lock

    os.makedirs(out, exist_ok=True)
    mark, lock = os.path.join(out, MARK), os.open(out, os.O_RDONLY)
    try:
        try:
            is_locked = try_lock(lock)
        except OSError:  # the file system has no locks
            is_locked = True
        if not is_locked:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process is writing to this directory",
                                  out)
        _refuse_other_models(out)
        if os.path.lexists(mark):
            _remove_unfinished(out)
        open(mark, "wb").close()
        yield
        os.unlink(mark)
    finally:
        os.close(lock)


def _remove_unfinished(out):
    """Remove what an export writes before config.json, with which it is complete."""
    from pygpt.checkpoint.model_files import CONFIG_FILE
    from pygpt.checkpoint.shards import WEIGHTS_FILE
    from pygpt.files import is_temporary_name
    from pygpt.tokenizer.base import SAVED_FILES

    names = *SAVED_FILES, WEIGHTS_FILE
    temporary = "|".join(map(re.escape, (*names, CONFIG_FILE)))
    for name in os.listdir(out):
        if name in names or is_temporary_name(name, temporary):
            os.unlink(os.path.join(out, name))
