"""Holds the settings of a forward pass, so that a module's own lines show only its equation.

Within `with ForwardPass(...)` in a thread, Dropout finds its seed, attention finds its cache, ops
may fuse (arrays.deferring), and modules that are to be recomputed keep only their input.
"""

import contextlib

from pygpt.autograd.arrays import deferring
from pygpt.autograd.thread_settings import ThreadSettings


class _Settings(ThreadSettings):
    forward_pass = watcher = None


_settings = _Settings()


class ForwardPass:
    """Gives layers their settings in one forward pass: all that they use besides their input.

    Args:
        seed: the ops.Seed of the dropout masks, or None for no dropout.
        dropouts: the Dropout modules. Their shares are stored now, so that a module that is
            recomputed in the backward pass drops the same values, even after a call of eval().
        cache: the keys and values of earlier positions (model.Cache), or None.
        recomputed: the modules that keep only their input for the backward pass.
    """

    def __init__(self, seed=None, dropouts=(), cache=None, recomputed=()):
        self.seed, self.cache = seed, cache
        self.shares = {} if seed is None else {
            id(module): module.share for module in dropouts if module.training}
        self.recomputed = set(map(id, recomputed))
        self._blocks = contextlib.ExitStack()

    def __enter__(self):
        if watcher() is None:  # a watcher needs each kernel call inside its module
            self._blocks.enter_context(deferring())
        self._blocks.enter_context(_settings.set(forward_pass=self))
        return self

    def __exit__(self, *error):
        self._blocks.__exit__(*error)

    def resume(self, function, x):
        """Return function(x), computed as a part of this pass again."""
        with _settings.set(forward_pass=self):
            return function(x)


def current():
    """Return the forward pass in progress in this thread, or None."""
    return _settings.forward_pass


def watcher():
    """Return the function that watching() has set in this thread, or None."""
    return _settings.watcher


def current_cache():
    """Return the cache of the forward pass in progress, or None."""
    in_progress = current()
    return None if in_progress is None else in_progress.cache


def past_positions():
    """Return the number of positions before those of the forward pass in progress."""
    cache = current_cache()
    return 0 if cache is None else cache.past


def watching(function):
    """Within the block (and thread), call function(module, inputs) in place of each module's
    forward(*inputs). The function itself must call that forward."""
    return _settings.set(watcher=function)
