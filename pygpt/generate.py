"""Continues sequences of tokens, one token after another.

The model says how likely each token is as the next; a sampler (sampling.py) chooses one of them.
Several sequences are continued together, in less time than one after another, and each as if it
were alone.

A model is anything with `config.n_positions`, `config.vocab_size` and `new_cache(rows, length)`. A
cache is anything with the methods and `pasts` of decoding.Cache; the logits that it returns are
buffers of float32. The model may have `end_of_text`.
"""

from collections import deque

from pygpt.config import (ConfigError, SampleConfig, items_of, refusal, token_id, token_ids,
                          whole_number)
from pygpt.sampling import Sampler, choice_of

MOST_ROWS = 16  # texts that grow at once, decoding.MOST_TOGETHER


def generate(model, ids, max_new_tokens=64, **options):
    """Continue a sequence of tokens, or several at once.

    Args:
        model: a GPT.
        ids: a sequence of 1..n_positions token ids, the prompt; or several: a list, tuple or
            iterator of such sequences, or integers in memory of shape (B, T).
        max_new_tokens: the length of a continuation, at least 0.
        options: those of stream. For several prompts, seed may be a list with a seed for each, and
            sampler is a list with a sampler for each.
    Returns:
        The list of the new ids, without the prompt; with logprobs, a list of sampling.Choice. For
        several prompts a list of such lists, each as if its prompt were alone.
    Raises:
        ValueError: an id or a setting is out of range, a prompt is empty or too long, a logit is
            not finite, or all tokens are banned.
    """
    prompts = _rows_of(ids)
    if not (isinstance(prompts, (list, tuple)) and prompts and hasattr(prompts[0], "__len__")):
        return list(stream(model, prompts, max_new_tokens, **options))
    found = [[] for _ in prompts]
    for step in stream_together(model, prompts, max_new_tokens, **options):
        for text, token in step:
            found[text].append(token)
    return found


def stream(model, ids, max_new_tokens=64, **options):
    """Continue a sequence of tokens, and hand out each new one as it is chosen.

    When the context is full, a quarter of it is dropped: the model reads its last three quarters
    anew, at new positions, and goes on from there. Its positions are absolute, so nothing that it
    computed of the tokens at their old places could be kept.

    Args:
        model, ids, max_new_tokens: as those of generate.
        stop: an id, or a collection of ids, each of which ends the continuation and is not part of
            it; (): nothing ends it early; None: the model's end_of_text does.
        vocab_size: choose only ids below it, at least 1; None: any of the model's. A model may have
            more tokens than its tokenizer (GPT-2's 50257 are often padded to 50304): the
            tokenizer's vocab_size keeps to ids that it can decode.
        logprobs: None, or a number n >= 0: yield for each token a sampling.Choice (token, logprob,
            best): its log-probability, and [(id, logprob)] of the n likeliest tokens. The
            probabilities are the model's own among the ids below vocab_size, whatever the settings.
        sampler: an object whose choose(logits, ids) returns the next id, instead of
            sampling.Sampler, which documents the arguments; it then has no settings. The logits
            that it gets lie in memory that the next step overwrites.
        settings: temperature, top_k and the other fields of config.SampleConfig, which documents
            them, except threads and stop_strings.
    Returns:
        An iterator of the new ids, or of Choices. It may be left at any token.
    Raises:
        As generate does. Errors of the arguments are raised here, those of logits at their token.
    """
    if "sampler" in options and options["sampler"] is not None:
        options["sampler"] = [options["sampler"]]
    steps = stream_together(model, [ids], max_new_tokens, **options)
    return (token for step in steps for _, token in step)


def stream_together(model, prompts, max_new_tokens=64, *, stop=None, vocab_size=None,
                    logprobs=None, sampler=None, **settings):
    """Continue several sequences, and hand out each step.

    At most MOST_ROWS texts grow at once, whose keys and values are in memory. The others wait, and
    no step has them yet; as one ends, the next begins. This changes no text.

    Args and Raises:
        As those of generate for several prompts.
    Returns:
        Steps: an iterator of the steps, which may be left at any step. Each is a list of (the
        number of a text, its new token or Choice), in the order of the numbers: one token of each
        text that grows and did not choose to end, at least one. Its end(text) ends a text.
    """
    if not isinstance(prompts := _rows_of(prompts), (list, tuple)):
        raise refusal("prompts", prompts, "is not a list of prompts, which are lists of ids")
    if not isinstance(sampler, (list, tuple, type(None))):
        raise TypeError(f"sampler={sampler!r} is not a list with a sampler for each prompt")
    _check_settings(settings, sampler)
    seeds = settings.pop("seed", None)
    if not isinstance(seeds, (list, tuple)):
        seeds = [seeds] * len(prompts)
    if len(seeds) != len(prompts):
        raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts")
    each = [SampleConfig(max_new_tokens=max_new_tokens, **settings,
                         **({} if seed is None else {"seed": seed})) for seed in seeds]
    V = model.config.vocab_size
    if vocab_size is not None and whole_number("vocab_size", vocab_size) < 1:
        raise ConfigError(f"vocab_size={vocab_size} leaves no id to draw")
    if logprobs is not None and whole_number("logprobs", logprobs) < 0:
        raise ConfigError(f"logprobs={logprobs} must be at least 0")
    for token, _ in each[0].logit_bias if each else ():
        token_id("logit_bias", token, V)
    prompts = [_check_prompt(ids, model.config, f"prompt {number}: " if len(prompts) > 1 else "")
               for number, ids in enumerate(prompts)]
    if stop is None:
        stop = getattr(model, "end_of_text", None)
    stop = frozenset(token_ids("stop", () if stop is None else stop, V))
    samplers = list(map(Sampler, each)) if sampler is None else list(sampler)
    if len(samplers) != len(prompts):
        raise ConfigError(f"{len(samplers)} samplers for {len(prompts)} prompts")
    return Steps(model, prompts, samplers, stop, vocab_size, max_new_tokens, logprobs)


def _check_settings(settings, sampler):
    """Refuse settings of which stream has no use."""
    if "threads" in settings:  # a setting of the command, not of a draw
        raise TypeError("threads is not a setting of generate and stream: see set_num_threads")
    if "stop_strings" in settings:
        raise TypeError("stop_strings end a text, and generate and stream make ids: see "
                        "stop_strings.StopStrings")
    if sampler is not None and settings:
        raise TypeError(f"{next(iter(settings))} is a setting of Sampler, but another sampler is "
                        "given")


def end_ids(model, tokenizer):
    """Return a tuple of the ids that end a text: the model's own, and the tokenizer's."""
    own, theirs = model.end_of_text, tokenizer.end_of_text
    own = () if own is None else own if isinstance(own, tuple) else (own,)
    return own if theirs is None or theirs in own else (*own, theirs)


def _rows_of(ids):
    """Return a list of the items of an iterator, or of the rows of a matrix in memory; else ids."""
    if hasattr(ids, "__next__"):
        return list(ids)
    try:
        view = memoryview(ids)
    except TypeError:
        return ids
    return view.tolist() if view.ndim == 2 else ids


def _check_prompt(ids, config, begin):
    items = items_of(f"{begin}ids", ids, "is not a list of ids; a tokenizer's encode() makes "
                     "them of a text")
    ids = [token_id(f"{begin}ids[{position}]", token, config.vocab_size)
           for position, token in enumerate(items)]
    if not 1 <= len(ids) <= config.n_positions:
        raise ValueError(f"{begin}the prompt has {len(ids)} tokens; this model takes "
                         f"1..n_positions={config.n_positions}")
    return ids


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

    def __init__(self, model, prompts, samplers, stop, vocab_size, max_new_tokens, logprobs):
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

    def __iter__(self):
        return self

    def __next__(self):
        step = []
        try:
            if not self._is_done:
                step = self._step()
        finally:  # after an error, too, there are no more steps
            if not step:
                self.close()
        if not step:
            raise StopIteration
        return step

    def end(self, text):
        """End a text before the next step: it takes no more work, and no further step has it. A
        text that has ended already stays so.

        Args:
            text: its number, that is, the place of its prompt, 0 or more.
        Raises:
            ValueError: there is no such text.
        """
        if not 0 <= whole_number("text", text) < len(self._ids):
            raise ConfigError(f"text={text} is not the number of one of {len(self._ids)} texts")
        self._is_ended[text] = self._has_ended = True

    def close(self):
        """End all texts."""
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
        token = self._samplers[text].choose(logits, ids)
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
