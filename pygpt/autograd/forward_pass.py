"""Holds the settings of a forward pass, so that a module's own lines show only its equation.

Within `with PassSettings(...)` in a thread, Dropout finds its seed, attention finds its cache, ops
find the type of their products' operands (precision.py) and may fuse (arrays.deferring), and
modules that are to be recomputed keep only their input.
"""

import contextlib

from pygpt.autograd.arrays import deferring
from pygpt.autograd.precision import computing_in, dtype_in_force
from pygpt.autograd.thread_settings import ThreadSettings


class PassSettings:
    """Gives layers their settings in one forward pass: all that they use besides their input.

    Args:
        seed: the ops.Seed of the dropout masks, or None for no dropout.
        dropouts: the Dropout modules. Their shares are stored now, so that a module that is
            recomputed in the backward pass drops the same values, even after a call of eval().
        cache: the keys and values of earlier positions (decoding.CacheRows), or None.
        recomputed: the modules that keep only their input for the backward pass.
        compute_dtype: the type to which products round their operands, "float32" or "bfloat16";
            None: the one in force now.
    """

    def __init__(self, seed=None, dropouts=(), cache=None, recomputed=(), compute_dtype=None):
        self.seed, self.cache = seed, cache
        shares = () if seed is None else shares_in_force(dropouts)
        self.shares = dict(zip(map(id, dropouts), shares))
        self.recomputed = set(map(id, recomputed))
        self.compute_dtype = dtype_in_force() if compute_dtype is None else compute_dtype
        self._blocks = contextlib.ExitStack()

    def __enter__(self):
        if _settings.call_module is None:  # calling_modules needs each kernel call in its module
            self._blocks.enter_context(deferring())
        self._blocks.enter_context(_settings.set(forward_pass=self))
        self._blocks.enter_context(computing_in(self.compute_dtype))
        return self

    def __exit__(self, *error):
        self._blocks.__exit__(*error)

    def resume(self, function, x):
        """Return function(x), computed as a part of this pass again (tape.recomputed restores the
        type of the operands)."""
        with _settings.set(forward_pass=self):
            return function(x)


class _Settings(ThreadSettings):
    forward_pass = PassSettings()  # outside all passes: no dropout, no cache
    call_module = None             # the function of calling_modules()


_settings = _Settings()


def shares_in_force(dropouts):
    """Return the share of each Dropout module, which is 0 after eval(); or () if all are 0."""
    shares = tuple([module.share if module.training else 0.0 for module in dropouts])
    return shares if any(shares) else ()


def current_pass():
    """Return the PassSettings in force in this thread. Without a forward pass in progress, they are
    those of a pass without dropout and cache."""
    return _settings.forward_pass


def call_forward(module, inputs):
    """Return module.forward(*inputs), by the function of calling_modules() if that is in force."""
    call = _settings.call_module
    return module.forward(*inputs) if call is None else call(module, inputs)


def past_positions():
    """Return the numbers of positions before those of the forward pass in progress, an int32 tensor
    (B,), or None if there are none."""
    cache = current_pass().cache
    return None if cache is None else cache.past


def calling_modules(call):
    """Within the block (and thread), let call(module, inputs) make the call of each module's
    forward(*inputs) and return its result."""
    return _settings.set(call_module=call)
