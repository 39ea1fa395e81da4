"""How fast a run is, and how long it still takes.

Standard library only; used by train.
"""

import time


class Clock:
    """Tokens per second, and the time a run has left."""

    def __init__(self, config, first_step=0, seconds_before=0.0):
        """Start, for a run that has taken first_step steps in seconds_before already."""
        self._first_step, self._before = first_step, seconds_before
        self._max_steps = config.max_steps
        self._tokens = config.batch_size * config.n_positions * config.grad_accumulation_steps
        self._start = self._last = time.perf_counter()
        self._steps, self._step_seconds = 0, 0.0
        self.tokens_per_second = 0.0

    def step_taken(self):
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._steps += 1
        # a moving average; the first step, in which all memory is new, is forgotten at the second
        share = 1.0 if self._steps <= 2 else 0.1
        self._step_seconds += share * (seconds - self._step_seconds)
        self.tokens_per_second = self._tokens / self._step_seconds

    def pause(self):
        """What took time until now was not part of a step."""
        self._last = time.perf_counter()

    def seconds(self):
        return self._before + time.perf_counter() - self._start

    def seconds_left(self, step):
        """From the whole time so far, validations and samples included."""
        here = time.perf_counter() - self._start
        return here / (step - self._first_step) * (self._max_steps - step)
