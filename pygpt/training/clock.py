"""Measures the speed of a run, and estimates the time that it still takes."""

import time


class Clock:
    """Measures tokens per second, and estimates the time that a run has left."""

    def __init__(self, config, first_step, seconds_before):
        """Start to measure a run that took first_step steps in seconds_before seconds so far."""
        self._first_step, self._seconds_before = first_step, seconds_before
        self._max_steps = config.max_steps
        self._tokens = config.batch_size * config.n_positions * config.grad_accumulation_steps
        self._start = self._last = time.perf_counter()
        self._steps, self._step_seconds = 0, 0.0
        self.tokens_per_second = 0.0

    def step_taken(self):
        """Count the time since the last step or pause as one step."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._steps += 1
        # This is a moving average. The second step replaces the first, in which all memory is new.
        weight = 1.0 if self._steps <= 2 else 0.1
        self._step_seconds += weight * (seconds - self._step_seconds)
        self.tokens_per_second = self._tokens / self._step_seconds

    def pause(self):
        """Leave the time since the last step out of the next one."""
        self._last = time.perf_counter()

    def seconds(self):
        """Return the seconds of the run so far, with those of its earlier parts."""
        return self._seconds_before + time.perf_counter() - self._start

    def seconds_left(self, step):
        """Estimate the seconds left from all the time so far, with validations and samples."""
        elapsed = time.perf_counter() - self._start
        return elapsed / (step - self._first_step) * (self._max_steps - step)
