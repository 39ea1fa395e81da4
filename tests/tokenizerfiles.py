"""Writes and reads the files of a tokenizer's directory, and the message that refuses one."""

import json
import os

import pytest

from pygpt import Tokenizer

TEXT = "hi the theme of these: the 5th, the 12th! " * 3
MAIN, ADDED = "tokenizer.json", "added_tokens.json"
CONFIG, ROLES = "tokenizer_config.json", "special_tokens_map.json"
LISTED = {"content": "[PAD]", "lstrip": False, "rstrip": False, "single_word": False,
          "normalized": True, "special": False}


def read(path):
    return json.loads(path.read_bytes())


def put(directory, name, document):
    (directory / name).write_text(document if isinstance(document, str) else json.dumps(document))


def refusal(directory):
    """Return the message that refuses a directory, without the directory's path."""
    with pytest.raises(ValueError) as caught:
        Tokenizer.from_pretrained(directory)
    message = str(caught.value)
    assert message.startswith(str(directory)) and "\n" not in message and len(message) < 500
    return message.removeprefix(str(directory) + os.sep)
