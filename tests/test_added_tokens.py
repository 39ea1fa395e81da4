"""Added tokens: what is a token wherever it occurs, and the files beside a vocabulary."""

import base64
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer

TEXT = "hi the theme of these: the 5th, the 12th! " * 3
MAIN, ADDED = "tokenizer.json", "added_tokens.json"
CONFIG, ROLES = "tokenizer_config.json", "special_tokens_map.json"
LISTED = {"content": "[PAD]", "lstrip": False, "rstrip": False, "single_word": False,
          "normalized": True, "special": False}


def read(path):
    return json.loads(path.read_bytes())


def put(directory, name, document):
    (directory / name).write_text(document if isinstance(document, str) else json.dumps(document))


@pytest.fixture(scope="module")
def plain():
    """261 ids, of which 260 is <|endoftext|>."""
    return BPETokenizer.train(TEXT, 261, ["<|endoftext|>"])


@pytest.fixture
def older(plain, tmp_path):
    """A directory with vocab.json and merges.txt alone."""
    plain.save_pretrained(tmp_path)
    for name in (MAIN, CONFIG):
        (tmp_path / name).unlink()
    return tmp_path


@pytest.fixture
def newer(tmp_path):
    """A directory with a tokenizer.json that has an added token, [PAD], and nothing beside it."""
    tokenizer = BPETokenizer.train(TEXT, 261, ["<|endoftext|>"])
    BPETokenizer(tokenizer._vocab, tokenizer._merges, tokenizer.special_tokens,
                 {"[PAD]": 261}).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt", CONFIG):
        (tmp_path / name).unlink()
    return tmp_path


def refusal(directory):
    with pytest.raises(ValueError) as caught:
        Tokenizer.from_pretrained(directory)
    message = str(caught.value)
    assert message.startswith(str(directory)) and "\n" not in message and len(message) < 500
    return message.removeprefix(str(directory) + os.sep)


# ------------------------------------------------------------------------------- what they do ---

def test_an_added_token_is_a_token_wherever_it_occurs(older, plain):
    put(older, ADDED, {"<|user|>": 261, "[PAD]": 262})
    tokenizer = Tokenizer.from_pretrained(older)
    ids = [261, *plain.encode("hi"), 262]
    for options in ({}, {"allowed_special": "all"}, {"allowed_special": {"[PAD]"}},
                    {"disallowed_special": ()}):
        assert tokenizer.encode("<|user|>hi[PAD]", **options) == ids
        assert list(tokenizer.encode_iterable("<|user|>hi[PAD]", **options)) == ids
    assert tokenizer.decode(ids) == "<|user|>hi[PAD]" and tokenizer.vocab_size == 263
    assert tokenizer.added_tokens == {"<|user|>": 261, "[PAD]": 262}
    assert tokenizer.special_tokens == {"<|endoftext|>": 260}
    with pytest.raises(ValueError, match=r"'<\|endoftext\|>' at position 5"):
        tokenizer.encode("[PAD]<|endoftext|>")
    assert tokenizer.encode("[PAD]<|endoftext|>", "all") == [262, 260]
    with pytest.raises(ValueError, match=r"'\[PAD\]' at position 2"):
        tokenizer.encode("hi[PAD]", disallowed_special={"[PAD]"})
    assert plain.added_tokens == ByteTokenizer().added_tokens == {}


@pytest.mark.parametrize("name, document", [
    (ROLES, {"pad_token": "[PAD]"}),
    (ROLES, {"pad_token": {k: v for k, v in LISTED.items() if k != "special"}}),
    (ROLES, {"additional_special_tokens": ["<|endoftext|>", LISTED]}),
    (CONFIG, {"pad_token": {"__type": "AddedToken", **LISTED}}),
    (CONFIG, {"extra_special_tokens": {"padding": "[PAD]"}}),
    (CONFIG, {"image_token": "[PAD]"}),
    (CONFIG, {"added_tokens_decoder": {"261": LISTED | {"special": True}}}),
])
@pytest.mark.parametrize("layout", ["older", "newer"])
def test_a_token_that_has_a_role_is_special(request, layout, name, document):
    directory = request.getfixturevalue(layout)
    put(directory, ADDED, {"[PAD]": 261})
    if layout == "newer" and "added_tokens_decoder" in document:
        edited = read(directory / MAIN)
        edited["added_tokens"][1]["special"] = True
        put(directory, MAIN, edited)
    put(directory, name, document)
    tokenizer = Tokenizer.from_pretrained(directory)
    assert tokenizer.special_tokens == {"<|endoftext|>": 260, "[PAD]": 261}
    with pytest.raises(ValueError, match="at position 2"):
        tokenizer.encode("hi[PAD]")
    assert tokenizer.encode("[PAD]", {"[PAD]"}) == [261]


def test_a_word_of_the_vocabulary_may_be_an_added_token(older, plain):
    """A role or a list says so; a piece of text is then no longer merged across it."""
    (th,), (the,) = plain.encode("th"), plain.encode("the")
    put(older, ROLES, {"pad_token": "the"})
    tokenizer = Tokenizer.from_pretrained(older)
    assert tokenizer.vocab_size == 261 and tokenizer.special_tokens["the"] == the
    assert plain.encode(" the") != tokenizer.encode(" the", "all") == [ord(" "), the]
    put(older, ROLES, {})
    put(older, ADDED, {"h": ord("h")})
    tokenizer = Tokenizer.from_pretrained(older)
    assert plain.encode("th") == [th] and tokenizer.encode("th") == [ord("t"), ord("h")]
    tokenizer.save_pretrained(older / "again")
    assert Tokenizer.from_pretrained(older / "again").encode("th") == [ord("t"), ord("h")]
    words = read(older / "vocab.json") | {"[PAD]": 261}
    put(older, "vocab.json", words)
    put(older, ADDED, {"[PAD]": 261})
    assert Tokenizer.from_pretrained(older).encode("[PAD]") == [261]
    (older / ADDED).unlink()
    put(older, ROLES, {"pad_token": "[PAD]"})
    assert Tokenizer.from_pretrained(older).special_tokens["[PAD]"] == 261


def test_a_word_that_looks_special_may_be_listed_as_not_special(older):
    put(older, "vocab.json", read(older / "vocab.json") | {"<b>": 261})
    assert Tokenizer.from_pretrained(older).special_tokens["<b>"] == 261
    put(older, CONFIG, {"added_tokens_decoder": {"261": LISTED | {"content": "<b>"}}})
    assert Tokenizer.from_pretrained(older).added_tokens == {"<b>": 261}


def test_a_rank_file_takes_the_added_tokens_beside_it(older, plain):
    ranks = sorted(plain._vocab.items(), key=lambda item: item[1])
    (older / "x.tiktoken").write_bytes(b"".join(
        base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks))
    (older / "vocab.json").unlink()
    put(older, ADDED, {"[PAD]": 260})
    put(older, ROLES, {"eos_token": "<|endoftext|>"})
    tokenizer = Tokenizer.from_pretrained(older)
    assert tokenizer.encode("[PAD]") == [260] and tokenizer.vocab_size == 261
    tokenizer.save_pretrained(older / "again")
    assert Tokenizer.from_pretrained(older / "again").added_tokens == {"[PAD]": 260}


def test_what_changes_no_id_is_read_over_and_kept(older):
    put(older, ADDED, {"[PAD]": 261})
    put(older, ROLES, {"pad_token": "[PAD]", "unk_token": None})
    settings = {"model_max_length": 10 ** 30, "chat_template": "{{ x }}", "padding_side": "left"}
    put(older, CONFIG, settings | {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "add_bos_token": False,
        "errors": "replace", "clean_up_tokenization_spaces": True, "name_or_path": "gpt2",
        "local_files_only": True, "is_local": True, "processor_class": None})
    Tokenizer.from_pretrained(older).save_pretrained(older)
    assert not (older / ADDED).exists() and not (older / ROLES).exists()
    written = read(older / CONFIG)
    assert written | settings == written and written["pad_token"] == "[PAD]"
    (older / MAIN).unlink()
    assert Tokenizer.from_pretrained(older).special_tokens["[PAD]"] == 261


def test_half_a_character_in_a_setting_is_kept(older):
    settings = {"chat_template": "\ud800", "extra_special_tokens": {"\udfff": "<|endoftext|>"}}
    put(older, CONFIG, settings)
    Tokenizer.from_pretrained(older).save_pretrained(older)
    written = read(older / CONFIG)
    assert written | settings == written
    assert Tokenizer.from_pretrained(older).vocab_size == 261


NAMES = st.sampled_from(["[PAD]", "<|user|>", "<b>", "é", "  ", " the", "the", "h", "<|", "a b"])


@given(st.lists(NAMES, unique=True), st.data())
def test_added_tokens_survive_every_round_trip(plain, tmp_path_factory, names, data):
    directory = tmp_path_factory.mktemp("trip")
    own = [name for name in names if name not in ("the", "h")]
    ids = {name: 261 + i for i, name in enumerate(own)}
    ids |= {name: plain._vocab[name.encode()] for name in names if name in ("the", "h")}
    # é alone is how the files spell the byte 0xe9
    ids = {name + "é" * (name == "é"): index for name, index in ids.items()}
    special = data.draw(st.sets(st.sampled_from(sorted(ids)))) if ids else set()
    made = BPETokenizer(plain._vocab, plain._merges,
                        plain.special_tokens | {n: i for n, i in ids.items() if n in special},
                        {n: i for n, i in ids.items() if n not in special})
    text = "".join(data.draw(st.lists(NAMES | st.sampled_from(["éé", "x", " these"]))))
    expected = made.encode(text, "all")
    assert made.decode(expected) == text
    made.save_pretrained(directory)
    opened = [Tokenizer.from_pretrained(directory)]
    (directory / MAIN).unlink()
    opened.append(Tokenizer.from_pretrained(directory))
    opened[1].save_pretrained(directory)
    opened.append(Tokenizer.from_pretrained(directory))
    for tokenizer in opened:
        assert tokenizer.special_tokens == made.special_tokens
        assert tokenizer.added_tokens == made.added_tokens
        assert tokenizer.encode(text, "all") == expected


@pytest.mark.parametrize("special, added, complaint", [
    ({}, {"[PAD]": 260}, r"added_tokens: '\[Q\]' has the id 260, which '\[PAD\]' has too"),
    ({"<s>": 260}, {"<s>": 260}, "added_tokens: '<s>' is a special token too"),
    ({"<s>": 260}, {"": 261}, "added_tokens: '' is not a text"),
    ({"<s>": 260}, {"th": 261}, "added_tokens: 'th' is the files' spelling of another token"),
    ({"<s>": 260}, {"[P]": 262}, r"the id 262 of '\[P\]' is not in 0..261"),
])
def test_bad_added_tokens_of_a_constructor_are_named(plain, special, added, complaint):
    if not special:
        added = added | {"[Q]": 260}
    with pytest.raises(ValueError, match=complaint):
        BPETokenizer(plain._vocab, plain._merges, special, added)


# ---------------------------------------------------------------------------- what is refused ---

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
    make().save_pretrained(tmp_path)  # which removes the file of another tokenizer
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
    """Every value of a good file, in its turn, becomes any other."""
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


# ----------------------------------------------------------------------- GPT-2's own vocabulary ---

def test_gpt2_with_added_tokens(tmp_path):
    source = os.environ.get("PYGPT_GPT2_DIR")
    if not source:
        pytest.skip("PYGPT_GPT2_DIR is not set")
    for name in ("vocab.json", "merges.txt"):
        os.symlink(os.path.join(source, name), tmp_path / name)
    put(tmp_path, ADDED, {"<|user|>": 50257, "[PAD]": 50258})
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    for allowed in ((), "all"):
        assert tokenizer.encode("<|user|>hi[PAD]", allowed) == [50257, 5303, 50258]
    assert tokenizer.decode([50257, 5303, 50258]) == "<|user|>hi[PAD]"
    assert tokenizer.vocab_size == 50259
