"""Writes and reads OUT/log.jsonl, the log of a run, for `plot` and for other tools.

    {"time": 1700000000.123, "event": "step", "step": 12, "loss": 2.5, ...}

Each line is a record as a JSON object: "time" (seconds since 1970) and the fields that events.py
lists. A resumed run first removes the records after its checkpoint, so the log has each step once.
"""

import contextlib
import json
import os
import time

from pygpt.files import open_regular, replacing, sync

MOST_STEPS = 1 << 63  # the same limit as in trainer.json
LARGEST = 1e30        # number that a log is read for; a run measures no larger ones


class RunLog:
    """Appends the records of a run to a file; it is one of the run's callbacks."""

    def __init__(self, path, interval=1):
        """Open the file, and make it if it is missing.

        Args:
            path: the path of the file.
            interval: the log keeps only the steps that are multiples of this number.
        Raises:
            OSError: the file cannot be written.
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
        """Make sure that the records written so far are on the disk."""
        sync(self._file.fileno(), self._path)

    def close(self):
        """Close the file, and ignore errors of the disk."""
        with contextlib.suppress(OSError):
            self._file.close()


def read_log(path):
    """Read the records of a log, without a last line that is incomplete.

    Returns:
        A list of dicts. In each, "event" is a text and "step" an integer in [0, 2^63). The other
        fields are not checked: a person or another program may have written them.
    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a log; the message names the file and the line.
    """
    return list(each_record(path))


def each_record(path):
    """Yield the records of a log one by one, as read_log() lists them; it raises the same."""
    return (record for record, _ in _lines(path))


def has_numbers(record, *names):
    """Return whether these fields of a record are numbers that a run may have measured."""
    return all(type(record.get(name)) in (int, float) and abs(record[name]) <= LARGEST
               for name in names)  # false for a NaN


def _lines(path):
    """Yield pairs of a record and its line as bytes."""
    with open_regular(path) as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line.decode("utf-8", "replace"))
                if (not isinstance(record["event"], str) or type(record["step"]) is not int
                        or not 0 <= record["step"] < MOST_STEPS):
                    raise ValueError
            except (ValueError, KeyError, TypeError, RecursionError):
                if line.endswith(b"\n"):
                    raise ValueError(f"{path}: line {number} is not a record of a run") from None
                continue
            yield record, line.rstrip(b"\n") + b"\n"


def rewind(path, step):
    """Remove the records after a step from a log, for a run that continues from that step.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: it is not a log; the message names the file and the line.
    """
    if not os.path.exists(path):
        return
    kept = [line for record, line in _lines(path) if record["step"] <= step]
    with replacing(path) as file:
        file.writelines(kept)
