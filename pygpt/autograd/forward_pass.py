"""The circumstances of a forward pass, so that a module's own lines are its equation alone.

Within `with ForwardPass(...)` in a thread, Dropout finds its seed, attention finds its cache, ops
may fuse (arrays.deferring), and modules that are to be recomputed keep only their input.
"""

import contextlib
import threading

from pygpt.autograd.arrays import deferring

_context = threading.local()  # .forward_pass, .watcher: of the blocks below


class ForwardPass:
    """What layers need to know of the forward pass they take part in, besides their input.

    Args:
        seed: the ops.Seed of the dropout masks; None: nothing is dropped.
        dropouts: the Dropout modules. Their shares are noted now, so that a module that is run
            again in the backward pass drops the same, though eval() may come in between.
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
        is_watched = watcher() is not None  # wants each call in its place
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
        """function(x), with this pass in progress once more."""
        before, _context.forward_pass = current(), self
        try:
            return function(x)
        finally:
            _context.forward_pass = before


def current():
    """The forward pass in progress in this thread, or None."""
    return getattr(_context, "forward_pass", None)


def watcher():
    """The function that watching() has set in this thread, or None."""
    return getattr(_context, "watcher", None)


def current_cache():
    """The cache of the forward pass in progress, or None."""
    now = current()
    return None if now is None else now.cache


def past_positions():
    """How many positions came before those of the forward pass in progress."""
    cache = current_cache()
    return 0 if cache is None else cache.past


@contextlib.contextmanager
def watching(function):
    """Within the block (and thread), function(module, inputs) is called in place of each module's
    forward(*inputs), which it is to call."""
    before, _context.watcher = watcher(), function
    try:
        yield
    finally:
        _context.watcher = before
