"""Reads and writes tokenizer.json, the format of the tokenizers library, for byte-level BPE.

    {"pre_tokenizer": {"type": "ByteLevel", ...},     cuts the text and spells bytes as characters
     "model": {"type": "BPE", "vocab": {"a": 97, ...}, "merges": ["t h", ...], ...},
     "added_tokens": [{"id": 256, "content": "<|endoftext|>", "special": true, ...}], ...}

Every field that this package does not compute with is refused, unless its value changes no id. Each
refusal is a ValueError whose message begins with the field.
"""

from pygpt.backend.arguments import shown
from pygpt.tokenizer.added import read_token, refuse_two_passes
from pygpt.tokenizer.vocabulary import (by_index, check_added, merge_lines, read_merges, read_vocab,
                                        spelled, split_added)

# The known fields. A field whose values are not checked below changes no id of a tokenizer that has
# a token for each byte.
_FIELDS = {
    "": ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
         "post_processor", "decoder", "model"),
    "model.": ("type", "vocab", "merges", "unk_token", "fuse_unk", "dropout", "byte_fallback",
               "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"),
    "pre_tokenizer.": ("type", "add_prefix_space", "use_regex", "trim_offsets"),
}
_HARMLESS_ENVELOPE = {"version": (None, "1.0"), "truncation": (None,), "padding": (None,),
                      "normalizer": (None,)}
_HARMLESS = {
    "pre_tokenizer.add_prefix_space": (False,),
    "pre_tokenizer.use_regex": (None, True),
    "decoder.type": (None, "ByteLevel"),
    "model.dropout": (None, 0),
    "model.continuing_subword_prefix": (None, ""),
    "model.end_of_word_suffix": (None, ""),
    "model.byte_fallback": (None, False),
    "model.ignore_merges": (None, False),
}


# -------------------------------------------------------------------------------------- writing ---

def empty_document() -> dict:
    """Return a tokenizer.json without its model."""
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}


def byte_level(use_regex: bool) -> dict:
    """Return the step of a tokenizer.json that spells bytes as characters.

    Args:
        use_regex: whether it also cuts the text into pieces.
    """
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
            "use_regex": use_regex}


def bpe_document(vocab, merges, special_tokens, added_tokens) -> dict:
    """Return a tokenizer.json of byte-level BPE."""
    entries = added_tokens_decoder(special_tokens, added_tokens)
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "vocab": spelled(vocab, special_tokens | added_tokens),
             "merges": merge_lines(merges)}
    return empty_document() | {
        "added_tokens": [{"id": int(index)} | entry for index, entry in entries.items()],
        "pre_tokenizer": byte_level(use_regex=True), "decoder": byte_level(use_regex=True),
        "model": model}


def added_tokens_decoder(special_tokens, added_tokens) -> dict:
    """Return the entry of tokenizer_config.json that lists the added tokens."""
    return {str(index): {"content": token, "single_word": False, "lstrip": False, "rstrip": False,
                         "normalized": False, "special": token in special_tokens}
            for token, index in by_index(special_tokens | added_tokens)}


# -------------------------------------------------------------------------------------- reading ---

def _value_of(document, path):
    """Return the value at a path such as "model.type", or None when a key is missing."""
    for key in path.split("."):
        document = document.get(key) if isinstance(document, dict) else None
    return document


def is_bytes(document) -> bool:
    """Tell whether a tokenizer.json gives each byte an id and has no merges, as ByteTokenizer's."""
    return (document.get("pre_tokenizer") == byte_level(use_regex=False)
            and _value_of(document, "model.merges") == [])


def _refuse_harmful(document, harmless):
    """Refuse a field in `harmless` that has another value than those listed there."""
    for path, values in harmless.items():
        if (value := _value_of(document, path)) not in values:
            raise ValueError(f"{path}: {shown(value)} is not supported")


def _refuse_unknown(value, prefix=""):
    """Refuse a key of an object that _FIELDS does not list for the object's prefix."""
    for key in value:
        if key not in _FIELDS[prefix]:
            raise ValueError(f"{prefix}{shown(key)}: is not known")


def check_envelope(document, takes_added=True):
    """Refuse the steps of a tokenizer.json, other than its model, that would change ids.

    Args:
        document: the tokenizer.json.
        takes_added: whether this kind of tokenizer can have added tokens.
    Raises:
        ValueError: there is such a step; the message has the field and its value.
    """
    _refuse_unknown(document)
    _refuse_harmful(document, _HARMLESS_ENVELOPE)
    _check_post_processor(document.get("post_processor"))
    if not takes_added and document.get("added_tokens", []) != []:
        raise ValueError(f"added_tokens: {shown(document['added_tokens'])} are not supported by "
                         "this kind of tokenizer")


def _check_post_processor(step, field="post_processor"):
    """Refuse a step that adds tokens around a text."""
    kind = _value_of(step, "type")
    if kind == "Sequence" and isinstance(step.get("processors"), list):
        for i, each in enumerate(step["processors"]):
            _check_post_processor(each, f"{field}.processors[{i}]")
    elif kind == "TemplateProcessing":
        single = step.get("single")
        if not isinstance(single, list) or [_value_of(piece, "Sequence.id")
                                            for piece in single] != ["A"]:
            raise ValueError(f"{field}.type: {shown(kind)} with single={shown(single)} is not "
                             "supported; it may hold nothing but the text")
    elif kind != "ByteLevel" and step is not None:
        raise ValueError(f"{field}.type: {shown(kind)} is not supported")


def read_bpe_document(document, roles=()):
    """Read byte-level BPE from a tokenizer.json.

    Args:
        document: the tokenizer.json.
        roles: the contents of added tokens that are special, even if the document denies it.
    Returns:
        (vocab, merges, special tokens, other added tokens), as BPETokenizer takes them; None when
        the document is not byte-level BPE.
    Raises:
        ValueError: a field is damaged, not known or not supported.
    """
    model = document.get("model")
    if (not isinstance(model, dict) or model.get("type") not in (None, "BPE")
            or _value_of(document, "pre_tokenizer.type") != "ByteLevel" or is_bytes(document)):
        return None
    check_envelope(document)
    _refuse_harmful(document, _HARMLESS)
    _refuse_unknown(model, "model.")
    _refuse_unknown(document["pre_tokenizer"], "pre_tokenizer.")
    if not isinstance(model.get("merges"), list):
        raise ValueError("model.merges: is not a list")
    added = _read_added(document.get("added_tokens", []), roles)
    merges = read_merges(model["merges"], "model.merges[{}]")
    vocab = read_vocab(model.get("vocab"), "model.vocab", added, merges)
    check_added(added, vocab)
    return vocab, merges, *split_added(added)


def _read_added(entries, roles):
    if not isinstance(entries, list):
        raise ValueError("added_tokens: is not a list")
    added = {}
    for i, entry in enumerate(entries):
        field = f"added_tokens[{i}]"
        content, token = read_token(entry, field, _value_of(entry, "id"))
        if content in added:
            raise ValueError(f"{field}: {shown(content)} comes twice")
        added[content] = token._replace(is_special=token.is_special or content in roles)
    refuse_two_passes(added)
    return added
