"""Tests config: ranges, conflicts, presets, and the schedule of the learning rate."""

import dataclasses
import math
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt.backend.single_precision import rounded
from pygpt.config import (PRESETS, ConfigError, GPTConfig, SampleConfig, TrainConfig,
                          describe_range)


def test_the_defaults_are_gpt2():
    config = GPTConfig()
    assert (config.vocab_size, config.n_positions, config.n_embd) == (50257, 1024, 768)
    assert (config.n_layer, config.n_head, config.layer_norm_epsilon) == (12, 12, 1e-5)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().n_head = 6


@pytest.mark.parametrize("config_class, settings, message", [
    (GPTConfig, dict(n_embd=100, n_head=6), "n_embd=100 is not divisible by n_head=6"),
    (GPTConfig, dict(n_layer=0), "n_layer=0 must be at least 1"),
    (GPTConfig, dict(vocab_size=-5), "vocab_size=-5 must be in [1, 2147483647]"),
    (GPTConfig, dict(n_head=1.0), "n_head=1.0 is not an integer"),
    (GPTConfig, dict(n_head="4"), "n_head='4' is not an integer"),
    (GPTConfig, dict(n_head=True), "n_head=True is not an integer"),
    (GPTConfig, dict(n_head=None), "n_head=None is not an integer"),
    (GPTConfig, dict(embd_pdrop=1.0), "embd_pdrop=1.0 must be in [0, 1)"),
    (GPTConfig, dict(embd_pdrop="0.1"), "embd_pdrop='0.1' is not a number"),
    (GPTConfig, dict(layer_norm_epsilon=0), "layer_norm_epsilon=0 must be in (0, 1]"),
    (GPTConfig, dict(layer_norm_epsilon=math.nan), "layer_norm_epsilon=nan must be in (0, 1]"),
    (TrainConfig, dict(batch_size=0), "batch_size=0 must be at least 1"),
    (TrainConfig, dict(n_embd=100, n_head=6), "n_embd=100 is not divisible by n_head=6"),
    (TrainConfig, dict(dropout=-0.1), "dropout=-0.1 must be in [0, 1)"),
    (TrainConfig, dict(learning_rate=math.inf), "learning_rate=inf must be finite"),
    (TrainConfig, dict(learning_rate=10**400), "is not a number"),
    (TrainConfig, dict(val_fraction=1), "val_fraction=1 must be in (0, 1)"),
    (TrainConfig, dict(learning_rate=1e-4, min_learning_rate=1e-3),
     "min_learning_rate=0.001 is above learning_rate=0.0001"),
    (TrainConfig, dict(seed=2**63), f"seed={2**63} must be in [0, {2**63 - 1}]"),
    (TrainConfig, dict(out=""), "out='' names no directory"),
    (TrainConfig, dict(data=""), "data=('',) holds an empty path"),
    (TrainConfig, dict(val_data=["a", ""]), "val_data=('a', '') holds an empty path"),
    (TrainConfig, dict(init=""), "init='' holds an empty path"),
    (TrainConfig, dict(init=[1]), "init=[1] is not text"),
    (TrainConfig, dict(out=b"out"), "out=b'out' is not text"),
    (TrainConfig, dict(out=None), "out=None names no directory"),
    (TrainConfig, dict(data=0), "data=0 is neither a text nor a list of texts"),
    (TrainConfig, dict(data=False), "data=False is neither a text nor a list of texts"),
    (TrainConfig, dict(data=b"a"), "data=b'a' is neither a text nor a list of texts"),
    (TrainConfig, dict(data=["a", b"b"]), "data=['a', b'b'] is not text"),
    (TrainConfig, dict(sample_prompts={"a": 1}), "sample_prompts={'a': 1} is neither a text nor"),
    (TrainConfig, dict(recompute=1), "recompute=1 is not True or False"),
    (TrainConfig, dict(recompute="false"), "recompute='false' is not True or False"),
    (TrainConfig, dict(recompute=None), "recompute=None is not True or False"),
    (SampleConfig, dict(temperature=-1), "temperature=-1 must be at least 0"),
    (SampleConfig, dict(top_p=0), "top_p=0 must be in (0, 1]"),
    (SampleConfig, dict(repetition_penalty=0), "repetition_penalty=0 must be above 0"),
])
def test_a_bad_value_is_named(config_class, settings, message):
    with pytest.raises(ConfigError) as error:
        config_class(**settings)
    assert message in str(error.value)


def test_a_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)


def test_numbers_are_brought_to_their_type():
    class Three:
        def __index__(self):
            return 3

    config = GPTConfig(n_layer=Three(), n_embd=12, n_head=3, embd_pdrop=0)
    assert type(config.n_layer) is int and config.n_layer == 3
    assert type(config.embd_pdrop) is float


def test_one_path_or_many():
    assert TrainConfig(data="a.txt").data == ("a.txt",)
    assert TrainConfig(data=pathlib.Path("a.txt")).data == ("a.txt",)
    assert TrainConfig(data=["a", pathlib.Path("b")]).data == ("a", "b")
    assert TrainConfig().data == TrainConfig(data=None).data == ()
    assert TrainConfig(out=pathlib.Path("x/y")).out == "x/y"


def test_dropout_sets_all_three_of_gpt2():
    config = TrainConfig(dropout=0.2).model_config(vocab_size=65)
    assert (config.embd_pdrop, config.attn_pdrop, config.resid_pdrop) == (0.2, 0.2, 0.2)
    assert config.vocab_size == 65


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    config = TrainConfig(**PRESETS[name])
    assert config.model_config(vocab_size=96).n_embd == PRESETS[name]["n_embd"]


def test_ranges_in_words():
    assert describe_range("[1, inf)") == "at least 1"
    assert describe_range("(0, inf)") == "above 0"
    assert describe_range("[0, 1)") == "in [0, 1)"


@pytest.mark.parametrize("config_class", [GPTConfig, TrainConfig, SampleConfig])
def test_every_setting_is_documented(config_class):
    for f in dataclasses.fields(config_class):
        assert f.metadata["help"], f.name


def test_the_learning_rate_warms_up_and_decays():
    config = TrainConfig(max_steps=101, warmup_steps=10, learning_rate=1.0, min_learning_rate=0.2)
    assert config.learning_rate_at(0) == pytest.approx(0.1)
    assert config.learning_rate_at(4) == pytest.approx(0.5)
    assert config.learning_rate_at(10) == 1.0
    assert config.learning_rate_at(55) == pytest.approx(0.6)  # half way: the mean of both ends
    assert config.learning_rate_at(100) == pytest.approx(0.2)


@given(max_steps=st.integers(1, 50), warmup_steps=st.integers(0, 60))
def test_the_learning_rate_stays_in_its_range(max_steps, warmup_steps):
    config = TrainConfig(max_steps=max_steps, warmup_steps=warmup_steps, learning_rate=1.0)
    assert config.min_learning_rate == pytest.approx(0.1)
    rates = [config.learning_rate_at(step) for step in range(max_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert all(rate >= 0.1 - 1e-12 for rate in rates[warmup_steps:])
    assert rates[warmup_steps:] == sorted(rates[warmup_steps:], reverse=True)


@pytest.mark.parametrize("number, result", [(-1e39, "-inf"), (1e39, "inf"), (10 ** 400, "inf"),
                                            (-1e-50, "-0")])
def test_a_number_that_single_precision_lacks_is_refused(number, result):
    with pytest.raises(ValueError, match=f"^x=.* becomes {result} in single precision"):
        rounded("x", number, lambda x: True)
