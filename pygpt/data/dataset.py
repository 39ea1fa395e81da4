"""The tokens that a run learns from and is held to, and the tokenizer that they come from.

Uses config, corpus, streams, tokens, data and tokenizer; used by train.
"""

import os

from pygpt.config import ConfigError
from pygpt.data.corpus import Corpus, DataError
from pygpt.data.batches import check_length, split
from pygpt.data.stream_copies import Streams
from pygpt.tokenizer import CharTokenizer, Tokenizer
from pygpt.tokenizer.base import prompt_ids
from pygpt.tokenizer.choice import choose, parse
from pygpt.data.token_file import IN_MEMORY, TokenFiles, characters_beside, fingerprint

BPE_TEXT = 64 << 20  # characters that a BPE is learned from, at most


class Dataset:
    """The text of a run as tokens.

    What it writes is provisional: keep makes it the run's, else close takes it away.

    Attributes:
        tokenizer: a Tokenizer.
        train, val: memoryviews of tokens.
        train_fingerprint, val_fingerprint: what tells other tokens from them.
        prompts: (text, ids) of each sample prompt.
        warnings: sentences about the files that were skipped.
    """

    def __init__(self, config, last, model_config, open_directory, watch=lambda *_: None):
        """Read the text.

        Args:
            config: a TrainConfig whose shape is known.
            last: the checkpoint that the run goes on from, or None.
            model_config: the GPTConfig of the model that the run begins with, or None.
            open_directory: called before something is written to config.out.
            watch: called, while a long text is read, with what for ("encoding", "vocabulary",
                "tokens", "integrity", "fingerprint": trainer.py says more), the bytes taken and
                those of all.
        Raises:
            OSError: a file cannot be read or written.
            ValueError: a text or a setting cannot be used.
        """
        self._watch, self._purpose, self.warnings = watch, None, []
        self._streams = Streams(config.out, (*config.data, *config.val_data), bool(last))
        self._files = TokenFiles(os.path.join(config.out, "tokens"), open_directory,
                                 self._begin_reading)
        try:
            self._prepare(config, last, model_config, open_directory)
        except BaseException:
            self.close()
            raise

    def _prepare(self, config, last, model_config, open_directory):
        corpora = self._corpora(config, open_directory)
        self._purpose = "vocabulary"
        self.tokenizer = _tokenizer(config, last, corpora[0])
        if model_config and model_config.vocab_size < self.tokenizer.vocab_size:
            raise ConfigError(f"tokenizer={config.tokenizer!r} has {self.tokenizer.vocab_size} "
                              f"tokens, but the model in init={config.init!r} has "
                              f"vocab_size={model_config.vocab_size}")
        self.prompts = self._prompts(config)  # refused before the work
        self._purpose = "encoding"
        for corpus in corpora:
            if corpus.size() > IN_MEMORY:
                corpus.read_through()  # a bad byte is found before the work
        tokens = [self._files.encode(corpus, self.tokenizer) for corpus in corpora]
        try:
            self.train, self.val = self._parted(config, tokens)
        except DataError as error:
            raise DataError("; ".join([str(error), *self.warnings])) from None
        self.train_fingerprint, self.val_fingerprint = (
            fingerprint(part, self._watch) for part in (self.train, self.val))

    def _parted(self, config, tokens):
        """The tokens to learn from, and those held out."""
        if not config.val_data:
            return split(*tokens, config.val_fraction, config.n_positions)
        for part, name in zip(tokens, ("data", "val_data")):
            check_length(part, config.n_positions, name)
        return tokens

    def keep(self):
        """Make what was written the run's, which starts now.

        Raises:
            OSError: a copy cannot be renamed.
        """
        self._streams.keep()
        self._files.keep()

    def remove_unused(self):
        """Remove the files of tokens in the run's directory that are of other texts."""
        self._files.remove_unused()

    def close(self):
        """Take away what was written, if the run has not started."""
        self._streams.discard()
        self._files.discard()

    def changes(self, state):
        """How the tokens differ from those that a run began with: a list of sentences."""
        return [f"{name}: the text is no longer the one that the run to resume was begun with"
                for name, ours, theirs in (
                    ("data", self.train_fingerprint, state.train_tokens),
                    ("val_data", self.val_fingerprint, state.val_tokens)) if ours != theirs]

    def _corpora(self, config, open_directory):
        """The corpus of data, and that of val_data when it is given."""
        settings = [("data", config.data, 0)]
        if config.val_data:
            settings.append(("val_data", config.val_data, len(config.data)))
        corpora = [Corpus(paths, config.errors, config.out, first, self._streams.kept)
                   for _, paths, first in settings]
        self._streams.copy(corpora, open_directory)
        self._purpose = "encoding"
        for corpus, (name, *_) in zip(corpora, settings):
            self._tell(corpus, corpus.candidates_size())
            corpus.select()
            if skipping := corpus.skipping():
                self.warnings.append(f"{name}: {skipping}")
            self._tell(corpus, corpus.size())
        if any(corpus.size() > IN_MEMORY for corpus in corpora):
            open_directory()  # the tokens go there; refused before the work
        return corpora

    def _tell(self, corpus, size):
        """Have a corpus tell how far its reading is, when it is long."""
        if size > IN_MEMORY:
            corpus.watch = lambda taken: self._watch(self._purpose, taken, size)
        else:
            corpus.watch = lambda taken: None

    def _begin_reading(self, purpose, *progress):
        """Tell what the text is read for from now on, or how far a file of tokens is checked."""
        if progress:
            self._watch(purpose, *progress)
        else:
            self._purpose = purpose

    def _prompts(self, config):
        prompts = []
        for text in config.sample_prompts or ("",):
            try:
                ids = prompt_ids(self.tokenizer, text)
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
        from pygpt.checkpoint.model_files import find_model
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
