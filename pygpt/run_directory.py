"""The output directory of a training run.

    OUT/step-00000500/         a checkpoint: a directory that checkpoint.py describes
    OUT/last -> step-00000500  links, so that each names a complete directory at every instant
    OUT/best -> step-00000250  the checkpoint of lowest validation loss
    OUT/earlier-1/             what an earlier run left in OUT

Imports files; used by train.
"""

import os
import re
import shutil

from pygpt.files import replacing, sync_directory


class RunDirectory:
    """Saves checkpoints so that `last` and `best` are complete at every instant."""

    STEP = re.compile(r"step-\d{8,}")

    def __init__(self, path):
        """Make the directory, or prove that one that exists can be written.

        Raises:
            OSError: neither.
        """
        self.path = os.fspath(path)
        os.makedirs(self.path, exist_ok=True)
        with replacing(os.path.join(self.path, ".writable")) as file:
            file.write(b"")
        os.unlink(os.path.join(self.path, ".writable"))

    def set_aside(self):
        """Move the checkpoints of an earlier run to a directory of their own.

        Returns:
            Its path, OUT/earlier-N; None when there were none.
        """
        names = [name for name in os.listdir(self.path)
                 if name in ("last", "best") or self.STEP.fullmatch(name)]
        if not names:
            return None
        number = 1
        while os.path.lexists(os.path.join(self.path, f"earlier-{number}")):
            number += 1
        earlier = os.path.join(self.path, f"earlier-{number}")
        os.mkdir(earlier)
        for name in names:
            os.rename(os.path.join(self.path, name), os.path.join(earlier, name))
        return earlier

    def save(self, step, is_best, write):
        """Save a checkpoint, which becomes `last`, then drop those that have no name any more.

        Args:
            step: how many steps the run has taken.
            is_best: whether it becomes `best` as well.
            write: called with a directory to write the checkpoint's files into.
        Returns:
            The checkpoint's path.
        Raises:
            OSError: it cannot be written; `last` and `best` are what they were.
        """
        name = f"step-{step:08d}"
        target, aside = os.path.join(self.path, name), os.path.join(self.path, f".{name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed here
        os.mkdir(aside)
        try:
            write(aside)
            sync_directory(aside)
            os.rename(aside, target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_directory(self.path)
        self._link("last", name)
        if is_best:
            self._link("best", name)
        self._drop_unnamed()
        return target

    def _link(self, link, name):
        path = os.path.join(self.path, link)
        aside = path + ".tmp"
        if os.path.lexists(aside):
            os.unlink(aside)
        os.symlink(name, aside)
        os.replace(aside, path)
        sync_directory(self.path)

    def _drop_unnamed(self):
        named = {os.readlink(os.path.join(self.path, link)) for link in ("last", "best")
                 if os.path.islink(os.path.join(self.path, link))}
        for name in os.listdir(self.path):
            if self.STEP.fullmatch(name) and name not in named:
                shutil.rmtree(os.path.join(self.path, name))
