"""Reads added tokens: strings that are one token each, however merging would split them.

A special token counts as one only where a call of encode allows it; the other added tokens count
wherever they occur. Three files beside a vocabulary list them:

    added_tokens.json         {"[PAD]": 50258}
    tokenizer_config.json     {"added_tokens_decoder": {"50258": {"content": "[PAD]", ...}},
                               "pad_token": "[PAD]", and settings}
    special_tokens_map.json   {"pad_token": "[PAD]"}

A token that has a role (pad_token, ...) is special. Every other setting in these files that would
change ids or text is refused; the message has the file, the key and the value.
"""

import os
import re
from itertools import chain
from typing import NamedTuple

from pygpt.backend.arguments import shown
from pygpt.files import read_json_object

MOST_BYTES = 1 << 27  # the largest file that is read; a million tokens take half of this
ADDED_FILE, CONFIG_FILE = "added_tokens.json", "tokenizer_config.json"
ROLES_FILE = "special_tokens_map.json"
END_OF_TEXT = "<|endoftext|>"  # GPT-2's token between two texts

# The settings that can change ids or text, and the values with which they change nothing.
# clean_up_tokenization_spaces is not among them: transformers 4 wrote true for every tokenizer, and
# it only changes the text that transformers prints. Every other key is ignored: the classes of
# transformers do not know it, or they only warn, pad or truncate by it when they are asked to.
_SUPPORTED_VALUES = {
    "auto_map": (None,),  # code that the files bring along
    "errors": (None, "replace"),
} | dict.fromkeys(("add_prefix_space", "add_bos_token", "add_eos_token", "do_lower_case",
                   "split_special_tokens"), (None, False))
# These classes of transformers cut and merge a text as this package does.
_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast",
            "TokenizersBackend")
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
          "mask_token")
_ROLE_LISTS = ("additional_special_tokens", "extra_special_tokens",
               "model_specific_special_tokens")
# These settings change no id. They are written back, for the programs that use them.
_WRITTEN_BACK = ("chat_template", "model_max_length", "padding_side", "truncation_side")
_FLAGS = ("single_word", "lstrip", "rstrip")
_MOST_COMPARED = 1 << 22  # pairs of characters; comparing them takes a second


class AddedToken(NamedTuple):
    """Describes an added token as a file does."""

    index: object            # the id; vocabulary.check_added checks it against the vocabulary
    is_special: bool | None  # None when the file does not say
    is_normalized: bool      # whether the tokenizers library matches it in its second pass
    where: str               # the file or field; error messages begin with it


def read_token(token, where, index=None):
    """Return the (content, AddedToken) that a JSON object describes.

    Raises:
        ValueError: the object describes no token, or one that matches more than its content.
    """
    if not isinstance(token, dict) or not isinstance(token.get("content"), str):
        raise ValueError(f"{where}: is not an object with a content")
    for key, value in token.items():
        if key in _FLAGS and value not in (None, False):
            raise ValueError(f"{where}.{key}: {shown(value)} is not supported; it must be False")
        if key in ("special", "normalized") and value not in (None, False, True):
            raise ValueError(f"{where}.{key}: {shown(value)} is not true or false")
        if key not in ("id", "content", "special", "normalized", "__type", *_FLAGS):
            raise ValueError(f"{where}: the key {shown(key)} is not known")
    return token["content"], AddedToken(index, bool(token.get("special")),
                                        bool(token.get("normalized")), where)


def refuse_two_passes(tokens):
    """Refuse tokens for which the two passes of the tokenizers library give another result.

    That library first matches the tokens that are not normalized, then the normalized ones in the
    rest of the text; this package matches in one pass, from left to right. The results differ where
    a normalized token overlaps one that is not, and begins before it or is longer.

    Args:
        tokens: {content: AddedToken}.
    Raises:
        ValueError: two tokens overlap so; the message names them.
    """
    first = {token for token in tokens if not tokens[token].is_normalized}
    second = [token for token in tokens if tokens[token].is_normalized]
    if not first or not second:
        return
    longest = max(map(len, second))
    if sum(len(token[:longest]) ** 2 for token in (*first, *second)) > _MOST_COMPARED:
        raise ValueError(f"{tokens[second[0]].where}: the tokens, some of them normalized, are "
                         "too many or too long to compare with each other")
    beginnings = {token[:n]: token for token in first for n in range(1, min(len(token), longest))}
    for token in second:
        ends = range(1, len(token) + 1)
        inside = (part for end in ends for start in range(end)
                  if (part := token[start:end]) in first)
        across = (beginnings[token[start:]] for start in ends if token[start:] in beginnings)
        for other in chain(inside, across):
            raise ValueError(f"{tokens[token].where}: {shown(token)} is normalized and overlaps "
                             f"{shown(other)}, which is not; this is not supported")


class SideFiles:
    """Holds the contents of the files beside a vocabulary.

    Args:
        directory: the Path of their directory; each of the files may be missing.
    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged, or asks for something that this package does not compute.
    """

    def __init__(self, directory):
        self.tokens = {}    # content: AddedToken
        self.roles = {}     # content of a special token: the file and field that make it special
        self.settings = {}  # the settings of tokenizer_config.json that are written back
        path = directory / ADDED_FILE
        for content, index in _read(path).items():
            where = f"{path}: {shown(content)}"
            if type(index) is not int:
                raise ValueError(f"{where}: {shown(index)} is not an id")
            self.tokens[content] = AddedToken(index, None, False, where)
        path = directory / CONFIG_FILE
        config = _read(path)
        self._read_decoder(f"{path}: added_tokens_decoder", config.get("added_tokens_decoder"))
        self._class = config.get("tokenizer_class"), f"{path}: tokenizer_class"
        for key, value in config.items():
            self._read_setting(path, key, value)
        path = directory / ROLES_FILE
        for key, value in _read(path).items():
            self._read_role(path, key, value)

    def _read_decoder(self, field, decoder):
        if decoder is None:
            return
        if not isinstance(decoder, dict):
            raise ValueError(f"{field}: {shown(decoder)} is not an object of ids and tokens")
        listed = {}
        for index, token in decoder.items():
            where = f"{field}.{shown(index)}"
            if not re.fullmatch(r"0|[1-9][0-9]{0,9}", index):
                raise ValueError(f"{where}: is not an id")
            content, token = read_token(token, where, int(index))
            earlier = listed.get(content) or self.tokens.get(content)
            if earlier and earlier.index != token.index:
                raise ValueError(f"{where}: {shown(content)} has the id {shown(earlier.index)} "
                                 f"too ({earlier.where})")
            listed[content] = token
        refuse_two_passes(listed)
        self.tokens |= listed

    def _read_setting(self, path, key, value):
        if key in _SUPPORTED_VALUES and value not in _SUPPORTED_VALUES[key]:
            raise ValueError(f"{path}: {key}={shown(value)} is not supported; it must be "
                             f"{_SUPPORTED_VALUES[key][-1]!r}")
        if key in _WRITTEN_BACK:
            self.settings[key] = value
        # transformers 5 reads any key that ends in _token as a role
        is_other = key.endswith("_token") and not isinstance(value, bool)
        if key in (*_ROLES, *_ROLE_LISTS) or is_other and key not in _SUPPORTED_VALUES:
            self._read_role(path, key, value)

    def _read_role(self, path, key, value):
        where = f"{path}: {key}"
        if value is None:
            return
        if key not in _ROLE_LISTS or isinstance(value, dict) and "content" in value:
            found = self._read_role_token(where, value)
        elif isinstance(value, dict):
            found = {name: self._read_role_token(where, token) for name, token in value.items()}
        elif isinstance(value, list):
            found = [self._read_role_token(where, token) for token in value]
        else:
            raise ValueError(f"{where}: {shown(value)} is not a list of tokens")
        self.settings.setdefault(key, found)

    def _read_role_token(self, where, token):
        if isinstance(token, dict):
            token, _ = read_token(token, where)
        if not isinstance(token, str) or not token:
            raise ValueError(f"{where}: {shown(token)} is not a token")
        self.roles.setdefault(token, where)
        return token

    def require_gpt2(self):
        """Refuse merges or ranks of another class of tokenizer, which cuts text into other pieces.

        Raises:
            ValueError: the files name such a class; the message has its name.
        """
        name, where = self._class
        if name not in _CLASSES:
            raise ValueError(f"{where}: {shown(name)} is not supported without a tokenizer.json; "
                             f"it must be {' or '.join(map(repr, _CLASSES[1:]))}")

    def complete(self, special=(), words=()):
        """Return the added tokens of a vocab.json, which has no list of its own.

        Args:
            special: {content: AddedToken} of the words that look special.
            words: the words of vocab.json and their ids.
        Returns:
            {content: AddedToken}, where is_special is never None.
        Raises:
            ValueError: the files contradict one another, or a token that has a role has no id.
        """
        tokens = dict(special)
        for content, token in self.tokens.items():
            if tokens.get(content, token).index != token.index:
                raise ValueError(f"{token.where}: the id {shown(token.index)} is not the one in "
                                 f"vocab.json, {shown(tokens[content].index)}")
            tokens[content] = token
        for content, where in self.roles.items():
            if content not in tokens and content not in words:
                raise ValueError(f"{where}: {shown(content)} is not a token: it has no id")
            if content not in tokens:
                tokens[content] = AddedToken(words[content], True, False, where)
        return self.with_roles(tokens)

    def with_roles(self, tokens):
        """Return added tokens, with those that have a role and <|endoftext|> marked as special.

        Raises:
            ValueError: transformers would match other tokens than this package in a text.
        """
        completed = {}
        for content, token in tokens.items():
            is_special = bool(token.is_special or content in self.roles or content == END_OF_TEXT)
            if token.is_special is None:  # it is from added_tokens.json; transformers adds the same
                token = token._replace(is_normalized=not is_special)
            completed[content] = token._replace(is_special=is_special)
        refuse_two_passes(completed)
        return completed

    def settings_without_roles(self):
        """Return the settings to write back for a vocabulary that names no special token."""
        return {key: value for key, value in self.settings.items() if key in _WRITTEN_BACK}

    def require(self, tokenizer, file):
        """Check these files against a tokenizer that was opened from another file.

        Args:
            tokenizer: a Tokenizer.
            file: the name of the file that it was opened from.
        Raises:
            ValueError: these files contradict it.
        """
        special, added = tokenizer.special_tokens, tokenizer.added_tokens
        for content, token in self.tokens.items():
            index = special.get(content, added.get(content))
            if index is None:
                raise ValueError(f"{token.where}: {shown(content)} is not an added token of {file}")
            if index != token.index:
                raise ValueError(f"{token.where}: {shown(content)} has the id {shown(token.index)} "
                                 f"here, and {index} in {file}")
            if token.is_special not in (None, content in special) and content not in self.roles:
                raise ValueError(f"{token.where}.special: {token.is_special} contradicts {file}")
        for content, where in self.roles.items():
            if not tokenizer._has_special(content):
                raise ValueError(f"{where}: {shown(content)} is not an added token of {file}")


def _read(path):
    return read_json_object(path, MOST_BYTES) if os.path.lexists(path) else {}
