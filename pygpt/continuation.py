"""Turns the tokens that a model draws into texts that grow, which pipeline.Pipeline hands out.

The ids of a text are those of the text that was shown, so that whoever goes on from them continues
what was seen. A text that is cut off, by a stop string or because it was left, may end within a
token. Then the tokens of which all the text was shown are kept, and the rest of the text is encoded
anew:

    drawn   |On|ce |upo|n a t|ime|           stop string "a t"
    shown   |On|ce |upo|n |
    ids     |On|ce |upo|  and those of encode("n ")
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pygpt.stop_strings import StopStrings
from pygpt.tokenizer.base import StreamDecoder

if TYPE_CHECKING:
    from typing_extensions import Self

    from pygpt.sampling import Choice

CHARACTERS_SHOWN = 50  # a repr shows so many of a text


@dataclass(frozen=True)
class Progress:
    """Says how far the texts of a stream are.

    Attributes:
        tokens: the number of tokens drawn so far, of all texts.
        most: the number that would be drawn if none of them ended early.
        ended, texts: the number of texts that have ended, and of all.
        seconds: the time spent on them.
    """

    tokens: int
    most: int
    ended: int
    texts: int
    seconds: float


class Text:
    """Collects the tokens of one text.

    Args:
        tokenizer: a Tokenizer.
        prompt_ids: the ids that it continues.
        settings: the SampleConfig by which they are drawn.

    Attributes:
        prompt_ids, settings: the same.
        drawn: the tokens so far, ids or Choices.
        unread: the pieces of text that were not read yet, a deque.
        stop, is_over: why it ended, or None; whether it takes no more tokens.
    """

    def __init__(self, tokenizer, prompt_ids, settings):
        self.prompt_ids, self.settings, self._tokenizer = prompt_ids, settings, tokenizer
        self.drawn, self.unread, self.stop, self.is_over = [], deque(), None, False
        self._decoder, self._stops = StreamDecoder(tokenizer), StopStrings(settings.stop_strings)
        self._shown = []             # pieces
        self._length = 0             # characters of all tokens
        self._borders = [(0, 0)]     # (tokens, characters) where a token ends with a character

    def take(self, drawn):
        """Add a token: an id, or a Choice."""
        piece = self._decoder.feed(getattr(drawn, "token", drawn))
        self.drawn.append(drawn)
        self._note_border(piece)
        piece = self._stops.feed(piece)
        if self._stops.found is not None:
            self._end("stop string", piece)
        elif len(self.drawn) == self.settings.max_new_tokens:
            self.end(piece)
        else:
            self._show(piece)

    def end(self, piece=""):
        """Take no more tokens, because the model has ended the text or because there are
        max_new_tokens. Show a last piece, and what was held back."""
        rest = self._decoder.finish()
        self._note_border(rest)
        piece += self._stops.feed(rest) + self._stops.finish()
        is_full = len(self.drawn) == self.settings.max_new_tokens
        self._end("stop string" if self._stops.found is not None else
                  "length" if is_full else "end", piece)

    def _end(self, reason, piece):
        self._show(piece)
        self.stop, self.is_over = reason, True

    def _note_border(self, piece):
        self._length += len(piece)
        if self._decoder.is_whole:
            self._borders.append((len(self.drawn), self._length))

    def _show(self, piece):
        if piece:
            self._shown.append(piece)
            self.unread.append(piece)

    @property
    def text(self):
        return "".join(self._shown)

    def kept(self):
        """Return (number of drawn tokens of which all the text was shown, ids of the text after
        them)."""
        text = self.text
        count, length = next(border for border in reversed(self._borders)
                             if border[1] <= len(text))
        try:
            return count, self._tokenizer.encode(text[length:], disallowed_special=())
        except ValueError:  # the vocabulary has no smaller tokens
            return count, []


class Together:
    """Computes several texts, a step at a time. Its methods may be called by several threads.

    An error ends the computation, and each text that is not complete: who reads it on gets the
    error as well.

    Args:
        steps: a steps.Steps, which begins the texts in order, some of them in the first step.
        texts: a list of Text.
        at_first: the number of texts of the first step.
        on_step: called after each step with a Progress, or None.

    Attributes:
        texts: the same.
        first_seconds, seconds: the time that the first step took, which reads the prompts, and all.
    """

    def __init__(self, steps, texts, at_first, on_step=None):
        self.texts, self._steps, self._on_step = texts, steps, on_step
        self._begun = at_first
        self._error = None
        self._lock = threading.RLock()  # on_step may leave a text
        self.first_seconds = self.seconds = 0.0

    def next_piece(self, number):
        """Return the next piece of a text, after the steps that it needs; None: there is none.

        Another thread may take a turn between two steps.
        """
        text = self.texts[number]
        while True:
            with self._lock:
                if text.unread:
                    return text.unread.popleft()
                if text.is_over:
                    return None
                self._advance()

    def _advance(self):
        """Compute the next token of each text that is not over."""
        if self._error is not None:
            raise copy.copy(self._error)
        try:
            self._take_step()
        except BaseException as error:  # Ctrl-C too: the texts stay as they are
            self._error = _without_traceback(error)
            self._drop_steps()
            raise
        if self._on_step is not None:
            self._on_step(self.progress())

    def _take_step(self):
        began = time.perf_counter()
        step = dict(next(self._steps, ()))
        self.seconds += time.perf_counter() - began
        self.first_seconds = self.first_seconds or self.seconds
        # Texts begin in order; without a step, all have begun.
        self._begun = max(self._begun, max(step) + 1) if step else len(self.texts)
        for number, text in enumerate(self.texts):
            if text.is_over:
                continue
            if number in step:
                text.take(step[number])
                if text.is_over:
                    self.leave(number)
            elif number < self._begun:  # the others wait
                text.end()
        self._drop_steps_if_over()

    def leave(self, number):
        """Compute no more of a text."""
        self.texts[number].is_over = True  # before it waits: a thread that computes it then stops
        with self._lock:
            self._drop_steps_if_over()
            if self._steps is not None:
                self._steps.end(number)

    def _drop_steps_if_over(self):
        if all(text.is_over for text in self.texts):
            self._drop_steps()

    def _drop_steps(self):
        """Free the keys and values of the texts."""
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.close()

    def progress(self):
        """Return a Progress."""
        return Progress(sum(len(text.drawn) for text in self.texts),
                        sum(text.settings.max_new_tokens for text in self.texts),
                        sum(text.is_over for text in self.texts), len(self.texts), self.seconds)


class Continuation:
    """The text that continues a prompt: an iterator of its pieces, each whole characters.

    Reading it computes what is missing, and with it the other texts of the same stream. It may be
    left at any piece; nothing goes on by itself. Several threads may read the texts of a stream. An
    error ends the texts that are not complete: reading any of them raises it, until it is left by
    close(). pipeline.Pipeline makes it.
    """

    def __init__(self, together: Together, number: int, has_logprobs: bool) -> None:
        self._together, self._number, self._text = together, number, together.texts[number]
        self._has_logprobs = has_logprobs

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        piece = self._together.next_piece(self._number)
        if piece is None:
            raise StopIteration
        return piece

    def finish(self) -> Self:
        """Compute the rest of the text; return self."""
        for _ in self:
            pass
        return self

    def close(self) -> None:
        """Leave the text where it is: the other texts of the stream go on without it."""
        if not self._text.is_over:
            self._together.leave(self._number)

    @property
    def text(self) -> str:
        """The text so far, without its prompt and without a stop string."""
        return self._text.text

    @property
    def ids(self) -> list[int]:
        """The ids of the text so far (see the top of continuation.py): decoded, they give text."""
        count, rest = self._text.kept()
        return [getattr(drawn, "token", drawn) for drawn in self._text.drawn[:count]] + rest

    @property
    def logprobs(self) -> list[Choice | None] | None:
        """For each of ids the sampling.Choice by which it was drawn, or None if it was encoded
        anew; None for a stream without logprobs."""
        if not self._has_logprobs:
            return None
        count, rest = self._text.kept()
        return self._text.drawn[:count] + [None] * len(rest)

    @property
    def drawn(self) -> int:
        """The number of tokens that were drawn: with those whose text is not shown."""
        return len(self._text.drawn)

    @property
    def prompt_ids(self) -> list[int]:
        """The ids that the text continues, as the model read them."""
        return list(self._text.prompt_ids)

    @property
    def stop(self) -> str | None:
        """Why the text ended: "length" (max_new_tokens were drawn), "end" (as the model sees it) or
        "stop string"; None while it has not, or if it was left."""
        return self._text.stop

    @property
    def seed(self) -> int | None:
        """The seed that repeats it; None if a sampler of one's own chose the tokens."""
        return self._text.settings.seed

    def speeds(self) -> tuple[float | None, float | None]:
        """Return (tokens per second of the prompts, of the new text), of all texts of the stream
        together; None where too few were drawn.

        The prompts' time ends with the first new token, that of the new text begins with it.
        """
        together, texts = self._together, self._together.texts
        reading, writing = together.first_seconds, together.seconds - together.first_seconds
        first = sum(bool(text.drawn) for text in texts)
        new = sum(len(text.drawn) for text in texts) - first
        return (sum(len(text.prompt_ids) for text in texts) / reading if reading and first
                else None, new / writing if writing > 0 and first else None)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        more = "..." * (len(self.text) > CHARACTERS_SHOWN)
        return (f"Continuation({self.text[:CHARACTERS_SHOWN]!r}{more}, {self.drawn} tokens, "
                f"stop={self.stop!r}, seed={self.seed})")


def _without_traceback(error):
    """Return a copy of an error. It can be kept: a traceback would hold what it passed through,
    with the keys and values of the texts."""
    try:
        return copy.copy(error)
    except Exception:  # a class whose arguments are not those of its exceptions
        return RuntimeError(f"{type(error).__name__}: {error}")
