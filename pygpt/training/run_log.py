"""OUT/log.jsonl: every record of a run, one JSON object a line, for people's own tools and `plot`.

The records are those that trainer.py's head describes, each with the time (seconds since 1970) it
was written. A resumed run takes out what was written after its checkpoint and goes on, so a step is
there once. Imports files; used by train and plot.
"""

import json
import os
import time

from pygpt.files import open_regular, replacing

MOST_STEPS = 1 << 63  # as trainer.json's


class RunLog:
    """A callback that appends the records to a file."""

    def __init__(self, path, interval=1):
        """Open the file, which is made if it is missing.

        Args:
            path: of the file.
            interval: of the records of steps, only every interval-th is written.
        Raises:
            OSError: it cannot be written.
        """
        self._interval, self._path = interval, path
        self._file = open(path, "a", encoding="utf-8")

    def __call__(self, record):
        """Write one record."""
        if record["event"] == "step" and record["step"] % self._interval:
            return
        try:
            self._file.write(json.dumps({"time": round(time.time(), 3)} | record) + "\n")
            self._file.flush()
        except OSError as error:
            error.filename = self._path
            raise

    def sync(self):
        """Make what was written durable."""
        os.fsync(self._file.fileno())

    def close(self):
        """Close the file, whatever its disk says."""
        try:
            self._file.close()
        except OSError:
            pass


def read_log(path):
    """The records of a log; a last line that was cut off is left out.

    Returns:
        A list of dicts, each with an event, which is text, and a step, an integer in [0, 2^63).
        Nothing is known of the other fields: a person or another program may have written them.
    Raises:
        OSError: the file cannot be read.
        ValueError: it is no log; the message names file and line.
    """
    return [record for record, _ in _lines(path)]


def _lines(path):
    """Yield (record, its line as bytes)."""
    with open_regular(path) as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line.decode("utf-8", "replace"))
                if not isinstance(record["event"], str) or type(record["step"]) is not int:
                    raise TypeError
                if not 0 <= record["step"] < MOST_STEPS:
                    raise ValueError
            except (ValueError, KeyError, TypeError, RecursionError):
                if line.endswith(b"\n"):
                    raise ValueError(f"{path}: line {number} is no record of a run") from None
                continue
            yield record, line.rstrip(b"\n") + b"\n"


def rewind(path, step):
    """Take out of a log what happened after a step, for a run that goes on from there.

    Raises:
        OSError, ValueError: as read_log; or the file cannot be written.
    """
    if not os.path.exists(path):
        return
    kept = [line for record, line in _lines(path) if record["step"] <= step]
    with replacing(path) as file:
        file.writelines(kept)
