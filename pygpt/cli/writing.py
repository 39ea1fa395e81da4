"""Turns a prompt and settings into text, a piece at a time: the one place of the commands that
generates.

    writer = Writer(model, tokenizer)
    answer = writer.answer(writer.read("Once"), {"temperature": 0.5})
    for piece in answer:        # whole characters, each piece as soon as it is drawn
        print(piece, end="", flush=True)
    answer.ids, answer.text, answer.stop, answer.speeds()
"""

import random
import sys
import time

from pygpt.config import SampleConfig
from pygpt.generate import end_ids, stream, stream_together
from pygpt.stop_strings import StopStrings
from pygpt.tokenizer.base import prompt_ids

LACKING_SHOWN = 5  # a warning names this many of the characters that were left out


def warn(message):
    """Print a warning, one line on standard error."""
    print("pygpt: warning:", " ".join(message.split()), file=sys.stderr)


class Writer:
    """Lets a model write.

    Args:
        model: a GPT.
        tokenizer: its Tokenizer.
        is_strict: whether a prompt that the model cannot read as it is is refused; otherwise it is
            read as far as possible, and a warning says so.
    """

    def __init__(self, model, tokenizer, is_strict=False):
        self.model, self.tokenizer, self.is_strict = model, tokenizer, is_strict
        self._ends = end_ids(model, tokenizer)

    def read(self, prompt):
        """Return the ids of a prompt, in which the text of a special token is read as that token.

        Characters that the vocabulary lacks are left out, and of a prompt that is longer than the
        context the end is kept; one line on standard error warns of each.

        Raises:
            ValueError: the writer is strict, and a warning would have been needed.
        """
        try:
            ids = prompt_ids(self.tokenizer, prompt)
        except ValueError:
            lacking = [] if self.is_strict else self._lacking(prompt)
            if not lacking:
                raise
            ids = prompt_ids(self.tokenizer, prompt.translate(dict.fromkeys(map(ord, lacking))))
            more = len(lacking) - LACKING_SHOWN
            warn("characters that the vocabulary lacks are left out of the prompt: "
                 + ", ".join(map(repr, lacking[:LACKING_SHOWN]))
                 + (f" and {more} more" if more > 0 else ""))
        limit = self.model.config.n_positions
        if len(ids) > limit:
            if self.is_strict:
                raise ValueError(f"the prompt has {len(ids)} tokens; this model takes "
                                 f"1..n_positions={limit}")
            warn(f"the prompt has {len(ids)} tokens, and the model reads the last {limit}")
        return ids[-limit:]

    def _lacking(self, text):
        """List the different characters of a text that the tokenizer cannot encode."""
        lacking = []
        for character in dict.fromkeys(text):
            try:
                self.tokenizer.encode(character, "all")
            except ValueError:
                lacking.append(character)
        return lacking

    def answer(self, ids, settings):
        """Return the Answer that continues ids.

        Args:
            ids: at least one id; the model reads as many of the last ones as fit its context.
            settings: a dict of fields of SampleConfig, without threads. Without a seed, one is
                chosen.
        Raises:
            ValueError: a setting is out of range.
        """
        if settings.get("seed") is None:
            settings = settings | {"seed": random.SystemRandom().getrandbits(31)}
        ids = ids[-self.model.config.n_positions:]
        checked = SampleConfig(**settings)
        settings = {name: value for name, value in settings.items() if name != "stop_strings"}
        drawn = stream(self.model, ids, stop=self._ends, vocab_size=self.tokenizer.vocab_size,
                       **settings)
        return Answer(drawn, self.tokenizer, ids, checked)


    def answers(self, ids, settings, n):
        """Yield n Answers that continue ids. One is made while it is read; several are computed
        together before the first is yielded. Ctrl-C ends that, and interrupts after the last
        Answer. Args and Raises: as of answer()."""
        if n == 1:
            yield self.answer(ids, settings)
            return
        first = settings.get("seed")
        if first is None:
            first = random.SystemRandom().getrandbits(31)
        each = [SampleConfig(**settings | {"seed": first + number}) for number in range(n)]
        settings = {name: value for name, value in settings.items() if name != "stop_strings"}
        ids = ids[-self.model.config.n_positions:]
        began, found, interrupt = time.perf_counter(), [[] for _ in each], None
        steps = stream_together(self.model, [ids] * n, stop=self._ends,
                                vocab_size=self.tokenizer.vocab_size,
                                **settings | {"seed": [checked.seed for checked in each]})
        try:
            for step in steps:
                for text, token in step:
                    found[text].append(token)
        except KeyboardInterrupt as error:
            interrupt = error
        together = time.perf_counter() - began, sum(map(len, found))
        for drawn, checked in zip(found, each):
            yield Answer(iter(drawn), self.tokenizer, ids, checked, together)
        if interrupt:
            raise interrupt


class Answer:
    """Hands out a text while it is made; iterate over it once.

    Attributes:
        prompt: the ids that the text continues.
        ids: the ids drawn so far.
        text: the text handed out so far.
        seed: the seed by which it can be repeated.
        stop: why it ended: "length" (max_new_tokens were drawn), "end" (of the text, as the model
            sees it) or "stop string"; None before.
    """

    def __init__(self, drawn, tokenizer, prompt, settings, together=None):
        """Use writer.answer() instead.

        Args:
            drawn: an iterator of new ids.
            settings: the SampleConfig by which they are drawn.
            together: (seconds, tokens) of all texts that were computed with this one, or None.
        """
        self._together = together
        self.prompt, self.ids, self.stop, self._parts = prompt, [], None, []
        self.seed, self._settings = settings.seed, settings
        self._drawn, self._tokenizer = drawn, tokenizer
        self._began = self._first_at = self._last_at = None

    def __iter__(self):
        stops = StopStrings(self._settings.stop_strings)
        for part in stops.until(self._tokenizer.decode_iterable(self._timed())):
            self._parts.append(part)
            yield part
        if stops.found is not None:
            self.stop = "stop string"

    @property
    def text(self):
        return "".join(self._parts)

    def _timed(self):
        """Yield the ids; keep them and the time at which each was drawn."""
        drawn, self._drawn = self._drawn, ()  # so that its memory is freed when it is left early
        self._began = time.perf_counter()
        for token in drawn:
            self._last_at = time.perf_counter()
            self._first_at = self._first_at or self._last_at
            self.ids.append(token)
            yield token
        is_full = len(self.ids) == self._settings.max_new_tokens
        self.stop = "length" if is_full else "end"

    def speeds(self):
        """Return (tokens per second of the prompt, of the answer); None where too few were drawn.

        The prompt's time ends with the first new token, the answer's begins with it.
        """
        if self._first_at is None:
            return None, None
        reading, writing = self._first_at - self._began, self._last_at - self._first_at
        return (len(self.prompt) / reading if reading > 0 else None,
                (len(self.ids) - 1) / writing if writing > 0 else None)

    def describe(self):
        """Return a line about the number of tokens and their speed."""
        if self._together:
            seconds, tokens = self._together
            return (f"answer: {len(self.ids):,} token{'s' * (len(self.ids) != 1)}; all texts "
                    f"together: {tokens:,} at {tokens / seconds:,.0f} tokens/s")

        def part(name, count, speed):
            return (f"{name}{count:,} token{'s' * (count != 1)}"
                    + (f" at {speed:,.0f} tokens/s" if speed is not None else ""))

        prompt, answer = self.speeds()
        return (part("prompt: ", len(self.prompt), prompt) + "; "
                + part("answer: ", len(self.ids), answer))
