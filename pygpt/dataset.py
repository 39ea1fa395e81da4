"""The tokens that a run learns from and is held to, and the tokenizer that they come from.

Uses config, corpus, tokens, data and tokenizer; used by train.
"""

import os

from pygpt.config import ConfigError
from pygpt.corpus import STDIN, Corpus, DataError, copy_stdin
from pygpt.data import check_length, split
from pygpt.files import aside_of
from pygpt.generate import first_ids
from pygpt.tokenizer import CharTokenizer, Tokenizer
from pygpt.tokenizer.choice import choose, parse
from pygpt.tokens import IN_MEMORY, characters_beside, encode, fingerprint

BPE_TEXT = 64 << 20  # characters that a BPE is learned from, at most


class Dataset:
    """The text of a run as tokens.

    Attributes:
        tokenizer: a Tokenizer.
        train, val: memoryviews of tokens.
        train_fingerprint, val_fingerprint: what tells other tokens from them.
        prompts: (text, ids) of each sample prompt.
    """

    def __init__(self, config, last, model_config, open_directory, watch=lambda *_: None):
        """Read the text.

        Args:
            config: a TrainConfig whose shape is known.
            last: the checkpoint that the run goes on from, or None.
            model_config: the GPTConfig of the model that the run begins with, or None.
            open_directory: called before something is written to config.out.
            watch: called, while a long text is read, with what for ("vocabulary", "tokens"), the
                bytes taken and those of the whole text.
        Raises:
            OSError: a file cannot be read or written.
            ValueError: a text or a setting cannot be used.
        """
        self._purpose = "vocabulary"
        self._copy, self._aside = os.path.join(config.out, "stdin.txt"), None
        try:
            self._read(config, last, model_config, open_directory, watch)
        except BaseException:
            self.close()
            raise

    def _read(self, config, last, model_config, open_directory, watch):
        corpora = self._corpora(config, last, open_directory, watch)
        self.tokenizer = _tokenizer(config, last, corpora[0])
        if model_config and model_config.vocab_size < self.tokenizer.vocab_size:
            raise ConfigError(f"tokenizer={config.tokenizer!r} has {self.tokenizer.vocab_size} "
                              f"tokens, but the model in init={config.init!r} has "
                              f"vocab_size={model_config.vocab_size}")
        cache, self._purpose = os.path.join(config.out, "tokens"), "tokens"
        tokens = [encode(corpus, self.tokenizer, cache) for corpus in corpora]
        if config.val_data:
            self.train, self.val = tokens
            check_length(self.train, config.n_positions, "data")
            check_length(self.val, config.n_positions, "val_data")
        else:
            self.train, self.val = split(*tokens, config.val_fraction, config.n_positions)
        self.train_fingerprint, self.val_fingerprint = map(fingerprint, (self.train, self.val))
        self.prompts = self._prompts(config)

    def changes(self, state):
        """How the tokens differ from those that a run began with: a list of sentences."""
        return [f"{name}: the text is no longer the one that the run to resume was begun with"
                for name, ours, theirs in (
                    ("data", self.train_fingerprint, state.train_tokens),
                    ("val_data", self.val_fingerprint, state.val_tokens)) if ours != theirs]

    def keep(self):
        """Let the copy of standard input, if it was read, be the one that this run resumes from."""
        if self._aside:
            os.replace(self._aside, self._copy)
            self._aside = None

    def close(self):
        """Remove what was written for a run that did not begin."""
        if self._aside and os.path.exists(self._aside):
            os.unlink(self._aside)
        self._aside = None

    def _corpora(self, config, last, open_directory, watch):
        """The corpus of data, and that of val_data when it is given."""
        if (*config.data, *config.val_data).count(STDIN) > 1:
            raise ConfigError(f"data and val_data name standard input ({STDIN}) more than once")
        copy = self._copy
        if STDIN in (*config.data, *config.val_data) and not (last and os.path.exists(copy)):
            open_directory()
            # aside: an earlier run may need its own copy until this one begins
            copy = self._aside = aside_of(copy)
            copy_stdin(copy)
        corpora = [Corpus(paths, config.errors, copy)
                   for paths in (config.data, *([config.val_data] if config.val_data else []))]
        for corpus in corpora:
            if (size := corpus.size()) > IN_MEMORY:
                corpus.watch = lambda taken, size=size: watch(self._purpose, taken, size)
        if any(corpus.size() > IN_MEMORY for corpus in corpora):
            open_directory()  # the tokens go there
        return corpora

    def _prompts(self, config):
        prompts = []
        for text in config.sample_prompts or ("",):
            try:
                ids = self.tokenizer.encode(text) or first_ids(self.tokenizer)
            except ValueError as error:
                raise DataError(f"sample_prompts={text!r}: {error}") from None
            if len(ids) > config.n_positions:
                raise DataError(f"sample_prompts={text!r} has {len(ids)} tokens, more than "
                                f"n_positions={config.n_positions}")
            prompts.append((text, ids))
        return prompts


def _tokenizer(config, last, corpus):
    """The tokenizer of a run: opened where there is one, else learned from the text."""
    if last:
        return Tokenizer.from_pretrained(last)
    if config.tokenizer is None and config.init:
        from pygpt.checkpoint import find_model
        return Tokenizer.from_pretrained(find_model(config.init))
    kind, _ = parse(config.tokenizer or "char")
    if kind in ("directory", "byte"):
        return choose(config.tokenizer, "")
    if corpus.tokens_file:
        characters = characters_beside(corpus.tokens_file)
        if characters is None:
            raise DataError(f"{corpus.tokens_file}: what its tokens stand for is not known: there "
                            "is no meta.pkl beside it, and no tokenizer was named")
        return CharTokenizer(characters)
    if kind == "bpe":  # learned from the beginning of a text that memory should not hold
        return choose(config.tokenizer, _beginning(corpus, BPE_TEXT))
    characters = set()
    for part in corpus.joined():
        characters.update(part)
    return CharTokenizer.train("".join(characters))


def _beginning(corpus, length):
    """At most about `length` characters of a corpus."""
    parts, total = [], 0
    for part in corpus.joined():
        parts.append(part)
        total += len(part)
        if total >= length:
            break
    return "".join(parts)
