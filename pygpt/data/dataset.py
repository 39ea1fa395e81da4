"""Prepares the data of a run: the tokenizer, the training tokens and the validation tokens.

    config.data      ->  Corpus  ->  tokenizer, tokens  ->  train
    config.val_data  ->  Corpus  ->             tokens  ->  val     (else the end of data is val)
"""

import os

from pygpt.config import ConfigError
from pygpt.data.batches import check_length, split
from pygpt.data.corpus import Corpus, DataError
from pygpt.data.stream_copies import Streams
from pygpt.data.token_file import IN_MEMORY, TokenFiles, fingerprint, tokenizer_beside
from pygpt.tokenizer import CharTokenizer, Tokenizer
from pygpt.tokenizer.base import prompt_ids
from pygpt.tokenizer.choice import choose, parse

MOST_BPE_TEXT = 64 << 20  # a BPE is learned from at most this many characters


class Dataset:
    """Holds the text of a run as tokens.

    The files that it writes are provisional: close removes them, unless keep was called before.

    Attributes:
        tokenizer: a Tokenizer.
        train, val: memoryviews of token ids.
        train_fingerprint, val_fingerprint: digests of these tokens.
        prompts: a pair (text, ids) for each sample prompt.
        warnings: sentences about the files that were skipped.
    """

    def __init__(self, config, last, model_config, open_directory, watch=lambda *_: None):
        """Read the text and encode it.

        Args:
            config: a TrainConfig whose model shape is filled in.
            last: the checkpoint directory that the run continues from, or None.
            model_config: the GPTConfig of the model that the run starts from, or None.
            open_directory: called before the first file is written to config.out.
            watch: called while a long text is read, with the purpose of the reading (see "prepare"
                in training/events.py), the bytes read so far and all bytes to read.
        Raises:
            OSError: a file cannot be read or written.
            ValueError: a text or a setting cannot be used.
        """
        self._watch, self._purpose, self.warnings = watch, None, []
        self._streams = Streams(config.out, (*config.data, *config.val_data), bool(last))
        self._files = TokenFiles(os.path.join(config.out, "tokens"), open_directory,
                                 self._set_purpose)
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
        self.prompts = self._prompts(config)  # bad prompts are refused before the long work
        self._purpose = "encoding"
        for corpus in corpora:
            if corpus.size() > IN_MEMORY:
                corpus.read_through()  # a bad byte is found before the long work
        tokens = [self._files.encode(corpus, self.tokenizer) for corpus in corpora]
        try:
            if config.val_data:
                for part, name in zip(tokens, ("data", "val_data")):
                    check_length(part, config.n_positions,
                                 f"{name}: the text is too short: it has {len(part)} tokens")
                self.train, self.val = tokens
            else:
                self.train, self.val = split(*tokens, config.val_fraction, config.n_positions)
        except DataError as error:
            raise DataError("; ".join([str(error), *self.warnings])) from None
        self.train_fingerprint, self.val_fingerprint = (
            fingerprint(part, self._watch) for part in (self.train, self.val))

    def keep(self):
        """Make the written files part of the run, which starts now.

        Raises:
            OSError: a copy cannot be renamed.
        """
        self._streams.keep()
        self._files.keep()

    def remove_unused(self):
        """Remove the tokens files in the run's directory that belong to other texts."""
        self._files.remove_unused()

    def close(self):
        """Remove the files that were written, unless keep made them part of the run."""
        self._streams.discard()
        self._files.discard()

    def changes(self, state):
        """List, as sentences, how the tokens differ from those in a run's saved state."""
        return [f"{name}: the text is no longer the one that the run to resume was begun with"
                for name, ours, theirs in (
                    ("data", self.train_fingerprint, state.train_tokens),
                    ("val_data", self.val_fingerprint, state.val_tokens)) if ours != theirs]

    def _corpora(self, config, open_directory):
        """Return the corpus of data, and that of val_data when it is given."""
        settings = [("data", config.data, 0)]
        if config.val_data:
            settings.append(("val_data", config.val_data, len(config.data)))
        corpora = [Corpus(paths, config.errors, config.out, first, self._streams.find_copy)
                   for _, paths, first in settings]
        self._streams.copy(corpora, open_directory)
        self._purpose = "encoding"
        for corpus, (name, *_) in zip(corpora, settings):
            self._watch_long(corpus, corpus.candidates_size())
            corpus.select()
            if skipped := corpus.describe_skipped():
                self.warnings.append(f"{name}: {skipped}")
            self._watch_long(corpus, corpus.size())
        if any(corpus.size() > IN_MEMORY for corpus in corpora):
            open_directory()  # the tokens go there; it is refused before the long work
        return corpora

    def _watch_long(self, corpus, size):
        """Let a long corpus report how far it has been read."""
        if size > IN_MEMORY:
            corpus.watch = lambda taken: self._watch(self._purpose, taken, size)
        else:
            corpus.watch = lambda taken: None

    def _set_purpose(self, purpose, *progress):
        """Set the purpose of the next reading, or pass on how much of a tokens file is checked."""
        if progress:
            self._watch(purpose, *progress)
        else:
            self._purpose = purpose

    def _prompts(self, config):
        """Encode the sample prompts: a list of (text, ids)."""
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
    """Open the tokenizer that the settings name, or learn one from the text."""
    if last:
        return Tokenizer.from_pretrained(last)
    if config.tokenizer is None and config.init:
        from pygpt.checkpoint.model_files import find_model
        return Tokenizer.from_pretrained(find_model(config.init))
    kind, _ = parse(config.tokenizer or "char")
    if kind in ("directory", "byte"):
        return choose(config.tokenizer, "")
    if corpus.tokens_file:
        tokenizer = tokenizer_beside(corpus.tokens_file)
        if tokenizer is None:
            raise DataError(f"{corpus.tokens_file}: the text of its tokens is not known: there is "
                            "no meta.pkl beside it, and no tokenizer was named")
        return tokenizer
    if kind == "bpe":  # it is learned from the beginning: the whole text may not fit in memory
        return choose(config.tokenizer, _beginning(corpus, MOST_BPE_TEXT))
    characters = set()
    for part in corpus.joined():
        characters.update(part)
    return CharTokenizer.train("".join(characters))


def _beginning(corpus, length):
    """Return about `length` characters from the beginning of a corpus, or all of a shorter one."""
    parts, total = [], 0
    for part in corpus.joined():
        parts.append(part)
        total += len(part)
        if total >= length:
            break
    return "".join(parts)
