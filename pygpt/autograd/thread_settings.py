"""Holds settings that are in force within a `with` block and in one thread."""

import contextlib
import threading


class ThreadSettings(threading.local):
    """Settings of the thread that reads them; a subclass gives their defaults as attributes."""

    @contextlib.contextmanager
    def set(self, **values):
        """Within the block, replace settings; restore the old values at its end."""
        before = {name: getattr(self, name) for name in values}
        vars(self).update(values)
        try:
            yield
        finally:
            vars(self).update(before)
