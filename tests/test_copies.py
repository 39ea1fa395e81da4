"""Copies and pickles tokenizers, stream decoders and settings, and sends them to processes."""

import copy
import multiprocessing
import pickle

import pytest
from commands import python

from pygpt import BPETokenizer, ByteTokenizer, CharTokenizer, GPTConfig, Tokenizer, TrainConfig
from pygpt.config import SampleConfig
from pygpt.tokenizer import StreamDecoder, bpe_c

TEXT = "the theme of these, über den Fluß "
PARTED = TEXT + "[P]<s>"


def bpe():
    trained = BPETokenizer.train(TEXT * 3, 280, ["<s>"])
    return BPETokenizer(trained._vocab, trained._merges, trained.special_tokens,
                        {"[P]": trained.vocab_size})


TOKENIZERS = {"char": lambda: CharTokenizer.train(PARTED),
              "skipping": lambda: CharTokenizer.train("aeiou", unknown="skip"),
              "byte": ByteTokenizer, "bpe": bpe}
COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy} | {
    f"pickle {protocol}": lambda value, protocol=protocol:
        pickle.loads(pickle.dumps(value, protocol)) for protocol in range(6)}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture(params=COPIES)
def copied(request):
    return COPIES[request.param]


def test_a_copy_of_a_tokenizer_is_as_good(tokenizer, copied, tmp_path):
    tokenizer._settings = {"chat_template": "{{ x }}"}
    other = copied(tokenizer)
    assert type(other) is type(tokenizer) and other.vocab_size == tokenizer.vocab_size
    ids = tokenizer.encode(PARTED, "all")
    assert other.encode(PARTED, "all") == ids and other.decode(ids) == tokenizer.decode(ids)
    assert other.special_tokens == tokenizer.special_tokens
    assert other.added_tokens == tokenizer.added_tokens
    assert other._files() == tokenizer._files()
    other.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).encode(PARTED, "all") == ids


def test_a_copy_of_an_opened_tokenizer_keeps_what_was_set(copied):
    class Mine(BPETokenizer):
        def __init__(self, name):
            super().__init__({bytes([byte]): byte for byte in range(256)}, [])
            self.name = name

    if copied in (copy.copy, copy.deepcopy):  # a pickle needs a class of a module
        other = copied(Mine("x"))
        assert (type(other), other.name, other.encode("a")) == (Mine, "x", [97])
    simple = CharTokenizer.train("ab")
    simple.unknown = "skip"
    assert copied(simple).encode("axb") == [0, 1]


def test_a_copied_stream_holds_the_same_bytes_and_goes_on_alone(copied):
    for make in (ByteTokenizer, bpe):
        decoder = StreamDecoder(make())
        assert [decoder.feed(index) for index in decoder._tokenizer.encode("😀")[:2]] == ["", ""]
        other, untouched = copied(decoder), copied(decoder)
        rest = decoder._tokenizer.encode("😀")[2:]
        assert "".join(map(other.feed, rest)) == "😀"
        assert other.feed(65) == "A" and other.finish() == ""
        assert decoder.finish() == untouched.finish() == "\ufffd"


def test_a_pickle_of_bpe_holds_no_compiled_table():
    words = [f"{first}{second}{third}" for first in "bcdfgh" for second in "aeiou"
             for third in "klmnprst"]
    tokenizer = BPETokenizer.train(" ".join(words), 500)
    table = bpe_c.ffi.sizeof(tokenizer._codec._table)
    data = pickle.dumps(tokenizer)
    assert bytes(bpe_c.ffi.buffer(tokenizer._codec._table))[:64] not in data
    assert len(data) < 40 * tokenizer.vocab_size < table


@pytest.mark.parametrize("backend", ["c", "reference"])
def test_a_pickle_opens_on_another_backend(backend):
    """Send a pickle to the other backend and back."""
    code = ("import pickle, sys\n"
            "tokenizer, decoder = pickle.load(sys.stdin.buffer)\n"
            "work, text = tokenizer._algorithm.__name__, decoder.feed(0xa9)\n"
            f"ids = tokenizer.encode({PARTED!r}, 'all')\n"
            "pickle.dump((tokenizer, work, text, ids), sys.stdout.buffer)\n")
    decoder = StreamDecoder(ByteTokenizer())
    decoder.feed(0xC3)
    result = python(code, input=pickle.dumps((bpe(), decoder)), PYGPT_BACKEND=backend)
    assert result.returncode == 0, result.stderr
    tokenizer, work, text, ids = pickle.loads(result.stdout)
    assert work == "pygpt.tokenizer." + {"c": "bpe_c"}.get(backend, "bpe_python") and text == "é"
    assert tokenizer.encode(PARTED, "all") == bpe().encode(PARTED, "all") == ids


@pytest.mark.parametrize("config", [
    GPTConfig(), GPTConfig(n_inner=5, n_embd=12), TrainConfig(), SampleConfig(seed=3),
    TrainConfig(data=["a", "b"], init="x", out="y", tokenizer="bpe"),
], ids=lambda config: type(config).__name__)
def test_a_copy_of_settings_is_equal_and_frozen(config, copied):
    other = copied(config)
    assert other == config and hash(other) == hash(config) and type(other) is type(config)
    with pytest.raises(AttributeError):
        other.seed = other.n_embd = 5


def test_spawned_processes_get_them():
    kinds = {name: make() for name, make in TOKENIZERS.items()}
    config = SampleConfig(seed=3)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for tokenizer in kinds.values():
            ids = pool.apply(tokenizer.encode, ("eu",))
            assert ids == tokenizer.encode("eu")
            assert pool.apply(tokenizer.decode, (ids,)) == "eu"
        assert pool.apply(copy.copy, (kinds["bpe"],)).encode("the") == kinds["bpe"].encode("the")
        assert pool.apply(copy.copy, (config,)) == config
