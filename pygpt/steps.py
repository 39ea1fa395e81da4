"""Takes the steps of texts that grow together: a step reads and chooses one token of each text.

generate.stream_together makes Steps, and says what a model, a cache and a sampler are. The model's
cache has fewer rows than there may be texts:

    texts     0 1 2 3 4 5 6 ...        in the order of their prompts
    rows      0 1 2                    0 and 1 grow; 2 has ended, and text 3 begins in its row
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from typing import Any

from pygpt.config import refusal, token_id, whole_number
from pygpt.sampling import choice_of

MOST_ROWS = 16  # texts that grow at once, decoding.MOST_TOGETHER


def _view_of(logits):
    """Return a read-only memoryview of a Tensor, which in some Pythons is no buffer (its module
    _buffer may be missing with the reference backend), or of a buffer."""
    return logits.read() if hasattr(logits, "read") else memoryview(logits).toreadonly()


class Steps:
    """Iterates over the steps of several texts; made by stream_together, which says what a step is.

    A row of the cache holds a text while it grows. There are at most MOST_ROWS rows, so memory does
    not grow with the number of texts: a text that has no row waits, in the order of the prompts,
    and begins in the step after the one in which a row became free.

    Equal prompts are computed once where a row is at hand that still begins with the prompt, of a
    text that grows or one that has ended: its keys and values are copied. Otherwise, as when a
    different prompt took the row meanwhile, the prompt is computed again.
    """

    def __init__(self, model: Any, prompts: list[list[int]], samplers: list[Any],
                 stop: Collection[int], vocab_size: int | None, max_new_tokens: int,
                 logprobs: int | None) -> None:
        """Use stream_together instead; prompts are lists of ids, and all arguments are checked."""
        self._model, self._samplers, self._stop = model, samplers, stop
        self._vocab_size, self._logprobs, self._ids = vocab_size, logprobs, prompts
        self._ends = [len(ids) + max_new_tokens for ids in prompts]  # the most ids of each text
        self._is_ended = [max_new_tokens == 0] * len(prompts)
        self._has_ended = False  # since _remove_ended()
        self._waiting, self._of_row = deque(range(len(prompts))), []  # the text in each row
        numbers = {}  # of each text, the number of the first text with its prompt
        self._prompt = [numbers.setdefault(tuple(ids), text) for text, ids in enumerate(prompts)]
        self._rows = min(len(prompts), MOST_ROWS)
        self._held = [None] * self._rows  # the number of the prompt with which each row begins
        self._first_logits = {}  # after each prompt that a row holds
        # No generator runs the steps: it would hold this object and be held by it, and the cache
        # would outlive them until Python looks for such circles.
        self._cache, self._is_done = None, False
        self._lock = threading.RLock()  # of the thread that takes a step

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> list[tuple[int, Any]]:
        step = []
        with self._lock:
            try:
                if not self._is_done:
                    step = self._step()
            finally:  # after an error, too, there are no more steps
                if not step:
                    self.close()
        if not step:
            raise StopIteration
        return step

    def end(self, text: int) -> None:
        """End a text before the next step: it takes no more work, and no further step has it. A
        text that has ended already stays so.

        Args:
            text: its number, that is, the place of its prompt, 0 or more.
        Raises:
            ValueError: there is no such text.
        """
        if not 0 <= whole_number("text", text) < len(self._ids):
            raise refusal("text", text, f"is not the number of one of {len(self._ids)} texts")
        self._is_ended[text] = self._has_ended = True

    def close(self) -> None:
        """End all texts."""
        with self._lock:
            self._is_done, self._cache = True, None

    def _step(self):
        """Return the next step, or [] if there is none."""
        if self._cache is None:
            if all(self._is_ended):
                return []
            self._cache = self._model.new_cache(self._rows, min(self._model.config.n_positions,
                                                                max(self._ends)))
        while True:
            if self._has_ended:
                self._remove_ended()
            all_logits = self._next() if self._of_row else []
            if self._waiting:
                all_logits = [*all_logits, *self._begin()]
            if not all_logits:
                return []
            step = []
            for text, logits in zip(self._of_row, all_logits):
                token = self._choose(text, _view_of(logits))
                if token is not None:
                    step.append((text, token))
            if step:
                return sorted(step)

    def _choose(self, text, logits):
        """Return the new token or Choice of a text; None if it ends the text."""
        ids = self._ids[text]
        if self._vocab_size is not None:
            logits = logits[:self._vocab_size]
        count = len(ids)
        token = self._samplers[text].choose(logits, ids)
        if len(ids) != count:
            raise ValueError("the sampler changed the length of the list of ids that it was given; "
                             "it must return the next id and leave the list as it is")
        if type(token) is not int or not 0 <= token < len(logits):
            token = token_id("token", token, len(logits))
        if token in self._stop:
            self._is_ended[text] = self._has_ended = True
            return None
        ids.append(token)
        if len(ids) == self._ends[text]:
            self._is_ended[text] = self._has_ended = True
        return token if self._logprobs is None else choice_of(token, logits, self._logprobs)

    def _begin(self):
        """Put waiting texts into the free rows; yield the logits of each."""
        while self._waiting and len(self._of_row) < self._rows:
            text = self._waiting.popleft()
            if not self._is_ended[text]:
                self._of_row.append(text)
                yield self._read(text, len(self._of_row) - 1)

    def _read(self, text, row):
        """Put a prompt into a row; return the logits after it."""
        prompt, ids = self._prompt[text], self._ids[text]
        if prompt in self._held:
            source = row if self._held[row] == prompt else self._held.index(prompt)
            self._cache.move(source, row, len(ids))
        else:
            self._cache.forget(row)
            self._first_logits[prompt] = self._cache.read(row, ids)
        self._held[row] = prompt
        self._first_logits = {number: logits for number, logits in self._first_logits.items()
                              if number in self._held}
        return self._first_logits[prompt]

    def _next(self):
        """Read the last token of each text that has a row; return the logits of each."""
        n_positions, pasts, last = self._model.config.n_positions, self._cache.pasts, []
        for row, text in enumerate(self._of_row):
            ids = self._ids[text]
            if pasts[row] == n_positions:  # the context is full
                kept = n_positions - max(1, n_positions // 4)
                self._cache.forget(row)
                self._held[row] = None
                if kept > 1:
                    self._cache.read(row, ids[-kept:-1])
            last.append(ids[-1])
        return self._cache.step(last)

    def _remove_ended(self):
        """Take the ended texts out of the first rows; the last row's text takes the place of one.
        """
        self._has_ended = False
        for row in reversed(range(len(self._of_row))):
            if self._is_ended[self._of_row[row]]:
                last = len(self._of_row) - 1
                if row != last:
                    self._cache.move(last, row)
                    self._of_row[row], self._held[row] = self._of_row[last], self._held[last]
                self._of_row.pop()
