"""Calls every public function with wrong values in place of one or two arguments.

badcalls.py has the rule, wrongvalues.py the values, publiccalls.py a valid call of each function.
`make test-long` tries more of the values.
"""

import enum
import inspect
import os
import subprocess
import sys
from array import array

import pytest
from badcalls import problems, public_names, single
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny
from publiccalls import BPE, CALLS, CHARS, World
from wrongvalues import VALUES, Popping

import pygpt
from pygpt import nn, sampling
from pygpt.autograd import ops
from pygpt.autograd.tensor import Tensor

# Public names without a call in CALLS, and why.
LEFT_OUT = {
    "abstract": {"Tokenizer.__init__", "Tokenizer.encode", "Tokenizer.encode_parts"},
    "takes no argument": {"ByteTokenizer.__init__"},
    "for layers of one's own and for the library's parts, which call them with right values": {
        *(f"GPT.{name}" for name in (
            "dropout_shares", "forward", "forward_loss", "gradients", "last_logits", "layout",
            "modules", "next_seed", "parameter_ids", "pass_settings", "prepare_halves",
            "step_dependencies", "values", "weights_at_rest")),
        *(f"Tensor.{name}" for name in (
            "deferrable", "empty", "getter_for_backward", "operand", "rows")),
        *(f"AdamW.{name}" for name in (
            "bytes_per_parameter", "checked_settings", "from_config", "update"))},
    "made by dataclasses": {f"{name}.__eq__" for name in (
        "GPTConfig", "SampleConfig", "TrainConfig")},
    "takes no argument, and is read only": {
        "GPTConfig.mlp_width", *(f"{name}Tokenizer.{part}" for name in ("", "BPE", "Byte", "Char")
                                 for part in ("vocab_size", "special_tokens", "added_tokens",
                                              "end_of_text"))},
    "the same function as that of the tokenizers below it": {
        f"Tokenizer.{name}" for name in ("decode", "decode_bytes", "decode_iterable",
                                         "encode_iterable", "from_pretrained", "save_pretrained")},
}


def test_every_public_function_has_a_call():
    public = set()
    for name in pygpt.__all__:
        thing = getattr(pygpt, name)
        public |= ({f"{name}.{part}" for part in public_names(thing)} if inspect.isclass(thing)
                   else {name})
    left_out = set().union(*LEFT_OUT.values())
    assert public - set(CALLS) == left_out, "give each a call in publiccalls.py"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Some texts among the values are names of directories that a call would make."""
    monkeypatch.chdir(tmp_path)


def parts():
    """Return the names of the calls; those of many arguments are several times among them."""
    return [pytest.param(name, id=name) for name, call in CALLS.items() if call.kinds]


@pytest.mark.parametrize("name", parts())
def test_a_wrong_value_is_refused_or_means_what_it_says(name):
    call = CALLS[name]
    number = settings.default.max_examples
    every = list(single(call))
    step = max(1, len(every) // (2 * number)) if number < 100 else 1
    offset = sum(map(ord, name)) % step  # other values for other calls
    assert problems(call, World, every[offset::step]) == []


@given(st.data())
def test_two_wrong_values_are_refused_or_mean_what_they_say(data):
    call = CALLS[data.draw(st.sampled_from(
        [name for name, call in CALLS.items() if len(call.kinds) > 1]))]
    names = data.draw(st.lists(st.sampled_from(sorted(call.kinds)), min_size=2, max_size=2,
                               unique=True))
    values = [data.draw(st.sampled_from(sorted(VALUES))) for _ in names]
    assert problems(call, World, [dict(zip(names, values))]) == []


@pytest.mark.parametrize("name", ["GPT.loss", "GPT.generate", "evaluate", "AdamW.__init__",
                                  "Pipeline.__call__", "SampleConfig.__init__", "train"])
def test_a_keyword_that_there_is_not_is_named(name):
    call = CALLS[name]
    world = World()
    arguments = {key: make(world) for key, make in call.valid.items()}
    with pytest.raises(TypeError, match="temprature"):
        call.run(world, **arguments, temprature=1.0)


def test_a_number_is_no_path_and_no_open_file_is_closed(tmp_path):
    """os.open takes a number for an open file. Reading "the directory 2" closed standard error."""
    done = subprocess.run([sys.executable, "-c", (
        "import os, pygpt\n"
        "for open_from in (pygpt.GPT.from_pretrained, pygpt.Tokenizer.from_pretrained,\n"
        "                  pygpt.Pipeline.from_pretrained):\n"
        "    for number in (0, 1, 2, True):\n"
        "        try: open_from(number)\n"
        "        except TypeError as error: assert 'directory=' in str(error), error\n"
        "for number in (0, 1, 2): os.fstat(number)\n"
        "print('open')")], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("open\n", 0), done.stderr


@pytest.mark.parametrize("i", [-1, 2, 3, 2 ** 63, True, 0.0, None])
def test_a_row_that_there_is_not_is_refused(i):
    with pytest.raises(ValueError, match="is not the number of a row"):
        Tensor([[1.0, 2.0], [3.0, 4.0]]).row(i)
    with pytest.raises(ValueError, match="is not the number of a row"):
        Tensor(1.0).row(i)


def test_a_tensor_has_as_many_values_as_its_shape_says():
    """The kernels would read beyond the end of fewer."""
    holder = [1.0, 2.0, 3.0, 4.0]
    holder.insert(1, Popping(holder))
    liar = type("Liar", (list,), {"__len__": lambda self: 1000})([1.0, 2.0])
    for data in (holder, liar):
        with pytest.raises(ValueError, match="values where the lengths of the lists say"):
            Tensor(data)


@pytest.mark.parametrize("ids", [[1, -1], [1, 2 ** 40], [1, "a"], [1, True]])
def test_a_sampler_counts_no_id_that_is_none(ids):
    """The kernels would write before the first logit."""
    sampler = sampling.Sampler(pygpt.SampleConfig(repetition_penalty=2.0, seed=1))
    if ids[1] == 2 ** 40:  # it cannot be chosen, and does not count
        sampler.choose(array("f", [1.0, 2.0]), ids)
        return
    with pytest.raises(ValueError, match="is not a token id"):
        sampler.choose(array("f", [1.0, 2.0]), ids)
    fresh = sampling.Sampler(pygpt.SampleConfig(repetition_penalty=2.0, seed=1))
    assert [s.choose(array("f", [1.0, 2.0]), [1]) for s in (sampler, fresh)] in ([0, 0], [1, 1])


@pytest.mark.parametrize("ignore_index", [2 ** 31, 2 ** 63, -2 ** 31 - 1, 1 / 3, None, True])
def test_every_loss_refuses_an_ignore_index_that_no_target_can_be(ignore_index):
    model = World().model
    for loss in (model.loss, model.token_losses, model.loss_and_grad):
        with pytest.raises(ValueError, match="ignore_index="):
            loss([[1]], [[2]], ignore_index=ignore_index)


def test_a_pass_that_is_refused_takes_no_dropout_seed():
    model, fresh = World().model, World().model
    for call in (lambda: model([[-1]]), lambda: model.loss([[99]], [[1]]),
                 lambda: model.token_losses([[1]], [[-5]]),
                 lambda: model.loss_and_grad([[1]], [[-5]])):
        with pytest.raises(ValueError, match="is outside 0..5"):
            call()
    assert float(model.loss([[1]], [[2]])) == float(fresh.loss([[1]], [[2]]))


def test_special_tokens_are_a_set_of_strings_not_the_letters_of_one():
    assert BPE.encode("<|endoftext|>", {"<|endoftext|>"}) == [BPE.end_of_text]
    assert BPE.encode("<|endoftext|>", BPE.special_tokens) == [BPE.end_of_text]
    for tokenizer in (BPE, CHARS, pygpt.ByteTokenizer()):
        with pytest.raises(ValueError, match="allowed_special='<|endoftext|>' is neither"):
            tokenizer.encode("a", "<|endoftext|>")
        with pytest.raises(ValueError, match="disallowed_special=5 is neither"):
            tokenizer.encode("a", disallowed_special=5)


def test_the_cache_of_another_model_is_refused():
    model, other = World().model, World().model
    with pytest.raises(ValueError, match="is of another model"):
        model.decode([1], other.new_cache())


def test_layers_refuse_sizes_and_shares_when_they_are_made():
    for make, words in ((lambda: nn.Linear(2.0, 3), "length 2.0"), (lambda: nn.Linear(2, -3), "-3"),
                        (lambda: nn.Embedding(True, 3), "True"), (lambda: nn.Dropout(1.0), "share"),
                        (lambda: nn.Dropout(0.5, -1), "stream=-1"),
                        (lambda: nn.LayerNorm(2, -1.0), "eps=-1.0")):
        with pytest.raises(ValueError, match=words):
            make()


def test_an_error_of_the_callers_own_iterator_stays_as_it_is():
    def failing():
        yield 1
        raise KeyError("my own")

    for call in (lambda: World().model.generate(failing()), lambda: CHARS.decode(failing()),
                 lambda: pygpt.evaluate(World().model, failing())):
        with pytest.raises(KeyError, match="my own"):
            call()


def test_a_number_for_arithmetic_is_one_number():
    with pytest.raises(TypeError, match="factor='1.5' is not a number"):
        ops.scale(Tensor([1.0]), "1.5")
    with pytest.raises(TypeError, match="offset=.* is not a number"):
        ops.shift(Tensor([1.0]), [3.0])
    with pytest.raises(ValueError, match="out of the range of float32"):
        Tensor([1.0]) * 10 ** 400
    with pytest.raises(ZeroDivisionError):
        Tensor([1.0]) / 0


def test_no_file_is_left_by_a_refused_path(tmp_path):
    for path in (5, b"bytes", None, "a\0b", "\ud800"):
        for save in (World().model.save_pretrained, CHARS.save_pretrained):
            with pytest.raises((TypeError, ValueError), match="directory=.* is not a path"):
                save(path)
    assert os.listdir(tmp_path) == []


def test_a_whole_number_of_another_class_of_int_is_taken():
    two = enum.IntEnum("Two", {"TWO": 2}).TWO
    config = pygpt.GPTConfig(vocab_size=5, n_positions=8, n_embd=4, n_head=2, n_layer=1)
    assert pygpt.GPT(config).new_cache(two).rows == 2
    assert nn.Linear(two, 3).weight.size == 6 and nn.Dropout(0.5, two).stream == 2
    assert Tensor([[1.0], [2.0], [3.0]]).row(two).tolist() == [3.0]
    sampler = sampling.Sampler(pygpt.SampleConfig(temperature=0.0, presence_penalty=1.0))
    assert sampler.choose(Tensor([1.0, 2.0, 3.0]), [two]) == 2
    assert sampling.choice_of(two, Tensor([1.0, 2.0, 3.0]), two).token == 2


@pytest.mark.parametrize("ids", [(0, 1), range(2), array("i", [0, 1])])
def test_a_sampler_takes_each_sequence_of_ids(ids):
    sampler = sampling.Sampler(pygpt.SampleConfig(temperature=0.0, repetition_penalty=2.0))
    assert sampler.choose(Tensor([3.0, 3.0, 2.0]), ids) == 2


@pytest.mark.parametrize("ids", [(0, 1), range(2), array("i", [0, 1]), array("q", [0, 1])])
def test_a_cache_and_a_model_take_each_sequence_of_ids(ids):
    model = tiny().eval()
    first, second = model.new_cache(), model.new_cache(2)
    assert first.read(0, ids).tolist() == model.new_cache().read(0, [0, 1]).tolist()
    assert second.step(ids)[1].tolist() == model.new_cache(2).step([0, 1])[1].tolist()
    assert model([ids]).tolist() == model([[0, 1]]).tolist()
