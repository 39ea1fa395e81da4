"""Holds the settings of a forward pass, so that a module's own lines show only its equation.

Within `with ForwardPass(...)` in a thread, Dropout finds its seed, attention finds its cache, ops
may fuse (arrays.deferring), and modules that are to be recomputed keep only their input.
"""

import contextlib
import threading

from pygpt.autograd.arrays import deferring

_context = threading.local()  # .forward_pass, .watcher: set by the blocks below


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
        self._blocks = []

    def __enter__(self):
        is_watched = watcher() is not None  # a watcher needs each kernel call inside its module
        block = contextlib.nullcontext() if is_watched else deferring()
        block.__enter__()
        self._blocks.append((current(), block))
        _context.forward_pass = self
        return self

    def __exit__(self, *error):
        before, block = self._blocks.pop()
        _context.forward_pass = before
        block.__exit__(*error)

    def resume(self, function, x):
        """Return function(x), computed as a part of this pass again."""
        before, _context.forward_pass = current(), self
        try:
            return function(x)
        finally:
            _context.forward_pass = before


def current():
    """Return the forward pass in progress in this thread, or None."""
    return getattr(_context, "forward_pass", None)


def watcher():
    """Return the function that watching() has set in this thread, or None."""
    return getattr(_context, "watcher", None)


def current_cache():
    """Return the cache of the forward pass in progress, or None."""
    in_progress = current()
    return None if in_progress is None else in_progress.cache


def past_positions():
    """Return the number of positions before those of the forward pass in progress."""
    cache = current_cache()
    return 0 if cache is None else cache.past


@contextlib.contextmanager
def watching(function):
    """Within the block (and thread), call function(module, inputs) in place of each module's
    forward(*inputs). The function itself must call that forward."""
    before, _context.watcher = watcher(), function
    try:
        yield
    finally:
        _context.watcher = before
