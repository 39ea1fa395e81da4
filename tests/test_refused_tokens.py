"""Tests that files which would change ids, or hold arbitrary bytes, are refused by name."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizerfiles import ADDED, CONFIG, LISTED, MAIN, ROLES, TEXT, put, read, refusal

from pygpt import ByteTokenizer, CharTokenizer, Tokenizer


@pytest.mark.parametrize("document, complaint", [
    ({"[PAD]": 262}, "'[PAD]': the id 262 of '[PAD]' is not in 0..261"),
    ({"[PAD]": -1}, "'[PAD]': the id -1 of '[PAD]' is not in 0..261"),
    ({"[PAD]": 10 ** 30}, "'[PAD]': the id 1000000000000000000000000000000 of"),
    ({"[PAD]": 5}, "'[PAD]': '[PAD]' has the id 5, which 'ą' has too"),
    ({"[PAD]": 260}, "'[PAD]': '[PAD]' has the id 260, which '<|endoftext|>' has too"),
    ({"[A]": 261, "[B]": 261}, "'[B]': '[B]' has the id 261, which '[A]' has too"),
    ({"[A]": 261, "[B]": 263}, "'[B]': the id 263 of '[B]' is not in 0..262"),
    ({"[PAD]": 261.0}, "'[PAD]': 261.0 is not an id"),
    ({"[PAD]": True}, "'[PAD]': True is not an id"),
    ({"[PAD]": "261"}, "'[PAD]': '261' is not an id"),
    ({"[PAD]": None}, "'[PAD]': None is not an id"),
    ({"": 261}, "'': '' is not a text of one character or more"),
    ({"\ud800": 261}, r"'\ud800': '\ud800' is not a text of one character or more"),
    ({"<|endoftext|>": 261}, "'<|endoftext|>': the id 261 is not the one in vocab.json, 260"),
    ({"the": 261}, None),
    ([], "is not a JSON object"),
    ("{", "is not JSON"),
])
def test_wrong_added_tokens_are_refused_by_file_and_token(older, document, complaint):
    put(older, ADDED, document)
    message = refusal(older)
    if complaint:
        assert message.startswith(f"{ADDED}: {complaint}")
    else:  # vocab.json has the word with another id
        assert "is not its id as an added token, 261" in message


@pytest.mark.parametrize("name, document, complaint", [
    (CONFIG, {"add_prefix_space": True}, "add_prefix_space=True is not supported"),
    (CONFIG, {"add_bos_token": True}, "add_bos_token=True is not supported"),
    (CONFIG, {"add_eos_token": 1}, "add_eos_token=1 is not supported"),
    (CONFIG, {"errors": "ignore"}, "errors='ignore' is not supported; it must be 'replace'"),
    (CONFIG, {"do_lower_case": True}, "do_lower_case=True is not supported"),
    (CONFIG, {"split_special_tokens": True}, "split_special_tokens=True is not supported"),
    (CONFIG, {"auto_map": {"AutoTokenizer": ["x.X", None]}}, "auto_map={'AutoTokenizer': "),
    (CONFIG, {"added_tokens_decoder": []}, "added_tokens_decoder: [] is not an object"),
    (CONFIG, {"added_tokens_decoder": {"x": LISTED}}, "added_tokens_decoder.'x': is not an id"),
    (CONFIG, {"added_tokens_decoder": {"-1": LISTED}}, "added_tokens_decoder.'-1': is not an id"),
    (CONFIG, {"added_tokens_decoder": {"261": "[PAD]"}},
     "added_tokens_decoder.'261': is not an object with a content"),
    (CONFIG, {"added_tokens_decoder": {"261": LISTED | {"lstrip": True}}},
     "added_tokens_decoder.'261'.lstrip: True is not supported"),
    (CONFIG, {"added_tokens_decoder": {"261": LISTED | {"rstrip": 1}}},
     "added_tokens_decoder.'261'.rstrip: 1 is not supported"),
    (CONFIG, {"added_tokens_decoder": {"261": LISTED | {"single_word": True}}},
     "added_tokens_decoder.'261'.single_word: True is not supported"),
    (CONFIG, {"added_tokens_decoder": {"261": LISTED | {"special": "no"}}},
     "added_tokens_decoder.'261'.special: 'no' is not true or false"),
    (CONFIG, {"added_tokens_decoder": {"261": LISTED | {"strip": True}}},
     "added_tokens_decoder.'261': the key 'strip' is not known"),
    (CONFIG, {"added_tokens_decoder": {"261": LISTED, "262": LISTED}},
     "added_tokens_decoder.'262': '[PAD]' has the id 261 too"),
    (ROLES, {"pad_token": "[NONE]"}, "pad_token: '[NONE]' is "),
    (ROLES, {"pad_token": 5}, "pad_token: 5 is not a token"),
    (ROLES, {"pad_token": ""}, "pad_token: '' is not a token"),
    (ROLES, {"pad_token": LISTED | {"lstrip": True}}, "pad_token.lstrip: True is not supported"),
    (ROLES, {"additional_special_tokens": "[PAD]"},
     "additional_special_tokens: '[PAD]' is not a list of tokens"),
    (ROLES, {"additional_special_tokens": ["[PAD]", ["x"]]},
     "additional_special_tokens: ['x'] is not a token"),
    (CONFIG, {"mask_token": LISTED | {"lstrip": True}}, "mask_token.lstrip: True is not supported"),
    (CONFIG, {"eos_token": True}, "eos_token: True is not a token"),
    (CONFIG, {"bos_token": "<s>"}, "bos_token: '<s>' is "),
    (CONFIG, "[]", "is not a JSON object"),
    (ROLES, b"\xff".decode("latin-1") + "{}", "is not JSON"),
])
@pytest.mark.parametrize("layout", ["older", "newer"])
def test_what_would_change_ids_is_refused_by_file_and_key(request, layout, name, document,
                                                          complaint):
    directory = request.getfixturevalue(layout)
    put(directory, ADDED, {"[PAD]": 261})
    put(directory, name, document)
    assert refusal(directory).startswith(f"{name}: {complaint}")


def test_another_class_of_tokenizer_needs_a_tokenizer_json(older, plain):
    put(older, CONFIG, {"tokenizer_class": "Qwen2Tokenizer"})
    assert refusal(older).startswith(f"{CONFIG}: tokenizer_class: 'Qwen2Tokenizer' is not supp")
    os.rename(older / "vocab.json", older / "some.tiktoken")
    assert refusal(older).startswith(f"{CONFIG}: tokenizer_class: 'Qwen2Tokenizer' is not supp")
    plain.save_pretrained(older)
    put(older, CONFIG, {"tokenizer_class": "Qwen2Tokenizer"})
    assert Tokenizer.from_pretrained(older).encode("these") == plain.encode("these")


@pytest.mark.parametrize("name, document, complaint", [
    (ADDED, {"[PAD]": 260}, "'[PAD]': '[PAD]' has the id 260 here, and 261 in tokenizer.json"),
    (ADDED, {"[PAD]": 261, "[X]": 262}, "'[X]': '[X]' is not an added token of tokenizer.json"),
    (ADDED, {"the": 258}, "'the': 'the' is not an added token of tokenizer.json"),
    (CONFIG, {"added_tokens_decoder": {"260": LISTED}},
     "added_tokens_decoder.'260': '[PAD]' has the id 260 here, and 261 in tokenizer.json"),
    (CONFIG, {"added_tokens_decoder": {"261": LISTED | {"special": True}}},
     "added_tokens_decoder.'261'.special: True contradicts tokenizer.json"),
    (ROLES, {"pad_token": "the"}, "pad_token: 'the' is not an added token of tokenizer.json"),
])
def test_a_contradiction_of_tokenizer_json_is_refused(newer, name, document, complaint):
    put(newer, name, document)
    assert refusal(newer).startswith(f"{name}: {complaint}")


@pytest.mark.parametrize("path, value, complaint", [
    (("version",), "2.0", "version: '2.0' is not supported"),
    (("truncation",), {"max_length": 5, "direction": "Right"}, "truncation: {"),
    (("padding",), {"strategy": "BatchLongest"}, "padding: {"),
    (("normalizer",), {"type": "Lowercase"}, "normalizer: {"),
    (("pre_tokenizer",), {"type": "Sequence", "pretokenizers": []},
     "model.type: 'BPE', pre_tokenizer.type: 'Sequence': describes a kind"),
    (("pre_tokenizer",), None, "model.type: 'BPE', pre_tokenizer: None: describes a kind"),
    (("pre_tokenizer", "add_prefix_space"), None, "pre_tokenizer.add_prefix_space: None"),
    (("pre_tokenizer", "behaviour"), 1, "pre_tokenizer.'behaviour': is not known"),
    (("post_processor",), {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}]}, "post_processor.type: 'TemplateProcessing' wi"),
    (("post_processor",), {"type": "Sequence", "processors": [
        {"type": "ByteLevel"}, {"type": "RobertaProcessing"}]},
     "post_processor.processors[1].type: 'RobertaProcessing' is not supported"),
    (("model", "ignore_merges"), True, "model.ignore_merges: True is not supported"),
    (("model", "scores"), [], "model.'scores': is not known"),
    (("steps",), [], "'steps': is not known"),
    (("added_tokens", 1, "single_word"), True, "added_tokens[1].single_word: True is not supp"),
    (("added_tokens", 1, "rstrip"), True, "added_tokens[1].rstrip: True is not supported"),
    (("added_tokens", 1, "id"), 262, "model.vocab: the id 261 of '[PAD]' is not its id as an add"),
])
def test_steps_of_tokenizer_json_that_change_ids_are_refused(newer, path, value, complaint):
    document = read(newer / MAIN)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    put(newer, MAIN, document)
    assert refusal(newer).startswith(f"{MAIN}: {complaint}")


@pytest.mark.parametrize("step", [
    {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
     "pair": [], "special_tokens": {}},
    {"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True}]},
    {"type": "ByteLevel", "trim_offsets": True}, None])
def test_steps_that_add_no_token_are_read_over(newer, step):
    put(newer, MAIN, read(newer / MAIN) | {"post_processor": step})
    assert Tokenizer.from_pretrained(newer).encode("[PAD]") == [261]


@pytest.mark.parametrize("make", [lambda: CharTokenizer.train("abc"),
                                  lambda: CharTokenizer.train("abc", unknown="skip"),
                                  lambda: CharTokenizer.train("abc", unknown="b"), ByteTokenizer])
def test_the_simple_tokenizers_refuse_what_changes_their_ids(tmp_path, make):
    make().save_pretrained(tmp_path)
    good = read(tmp_path / MAIN)
    for key, value in (("normalizer", {"type": "NFC"}), ("truncation", {"max_length": 1}),
                       ("post_processor", {"type": "BertProcessing"}), ("padding", {}),
                       ("added_tokens", [LISTED | {"id": 2}])):
        put(tmp_path, MAIN, good | {key: value})
        assert refusal(tmp_path).startswith(f"{MAIN}: {key}")
    put(tmp_path, MAIN, good)
    put(tmp_path, ADDED, {"[PAD]": 3})
    assert refusal(tmp_path).startswith(f"{ADDED}: '[PAD]': '[PAD]' is not an added token of")
    make().save_pretrained(tmp_path)  # removes the file of the other tokenizer
    assert type(Tokenizer.from_pretrained(tmp_path)) is type(make())


@pytest.mark.parametrize("first, second, is_refused", [
    ("[P]", "<|b|>", False), ("xaby", "ab", False), ("abc", "ab", False), ("bc", "ab", True),
    ("ab", "xaby", True), ("ab", "abc", True), ("ab", "bc", False)])
def test_two_passes_are_refused_where_they_would_find_other_tokens(newer, first, second,
                                                                   is_refused):
    document = read(newer / MAIN)
    document["added_tokens"] = [
        {"id": 260, "content": first, "normalized": False, "special": False},
        {"id": 261, "content": second, "normalized": True, "special": False}]
    document["model"]["vocab"] = {
        token: index for token, index in document["model"]["vocab"].items() if index < 260}
    put(newer, MAIN, document)
    if is_refused:
        assert f"{second!r} is normalized and overlaps {first!r}, which is not" in refusal(newer)
    else:
        assert Tokenizer.from_pretrained(newer).encode(first + "-" + second) == [260, 45, 261]


def test_two_passes_over_the_older_layout_are_refused_too(older):
    put(older, ADDED, {"[ab": 261, "bc]": 262})
    assert Tokenizer.from_pretrained(older).encode("[abc]") == [261, *b"c]"]
    put(older, ROLES, {"pad_token": "bc]"})  # transformers would look for it first
    assert refusal(older) == (f"{ADDED}: '[ab': '[ab' is normalized and overlaps 'bc]', which is "
                              "not; this is not supported")


# ---------------------------------------------------------------------------------- any bytes ---

@pytest.mark.parametrize("name", [ADDED, ROLES, CONFIG, MAIN, "vocab.json"])
@given(data=st.data())
def test_any_json_beside_a_vocabulary_opens_or_is_refused(tmp_path_factory, plain, name, data):
    """Replace values of a good file by arbitrary ones."""
    directory = tmp_path_factory.mktemp("any")
    plain.save_pretrained(directory)
    put(directory, ADDED, {"<|endoftext|>": 260})
    put(directory, ROLES, {"eos_token": "<|endoftext|>", "additional_special_tokens": []})
    put(directory, CONFIG, {"added_tokens_decoder": {"260": LISTED | {
        "content": "<|endoftext|>", "special": True}}, "pad_token": "<|endoftext|>"})
    if name != MAIN and data.draw(st.booleans()) or name == "vocab.json":
        (directory / MAIN).unlink()
    assert Tokenizer.from_pretrained(directory).vocab_size == 261
    document = read(directory / name)
    places = []

    def walk(value):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in list(entries)[:12]:
            places.append((value, key))
            if isinstance(each, (dict, list)):
                walk(each)

    walk(document)
    scalars = st.sampled_from([None, True, False, 0, 1, -1, 260, 261, 1 << 70, 0.5, "", "a", "th",
                               "[PAD]", "<|endoftext|>", "\ud800", "AddedToken", "BPE"])
    keys = st.sampled_from(["content", "id", "special", "260", "type", "pad_token", "é", "lstrip"])
    values = scalars
    for _ in range(2):  # levels
        values |= st.lists(values, max_size=2) | st.dictionaries(keys, values, max_size=3)
    for _ in range(data.draw(st.integers(1, 2))):
        place, key = data.draw(st.sampled_from(range(len(places))).map(places.__getitem__))
        value = data.draw(values)
        if isinstance(place, dict) and data.draw(st.booleans()):
            place[data.draw(st.sampled_from(["pad_token", "id", "x_token", "content", "\ud800",
                                             "extra_special_tokens", "errors"]))] = value
        else:
            place[key] = value
    put(directory, name, document)
    try:
        tokenizer = Tokenizer.from_pretrained(directory)
        ids = tokenizer.encode(TEXT + "<|endoftext|>[PAD]a", "all", ())
        assert tokenizer.decode(ids) == TEXT + "<|endoftext|>[PAD]a"
        assert all(index in range(tokenizer.vocab_size) for index in ids)
        tokenizer.save_pretrained(directory)
        opened = Tokenizer.from_pretrained(directory)
        assert opened.encode(TEXT, "all") == tokenizer.encode(TEXT, "all")
    except ValueError as error:
        message = str(error)
        assert message.startswith(str(directory)) and "\n" not in message and len(message) < 600


@pytest.mark.parametrize("name", [ADDED, ROLES, CONFIG])
@given(content=st.binary(max_size=40))
def test_any_bytes_beside_a_vocabulary_open_or_are_refused(tmp_path_factory, plain, name, content):
    directory = tmp_path_factory.mktemp("bytes")
    plain.save_pretrained(directory)
    (directory / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        Tokenizer.from_pretrained(directory)
    assert str(caught.value).startswith(f"{directory / name}: ")


def test_a_pipe_beside_a_vocabulary_is_refused(newer):
    os.mkfifo(newer / ROLES)
    assert refusal(newer) == f"{ROLES}: is not a regular file"
