"""Tries the kept inputs of the fuzzer (checks/corpus): each is accepted, or refused as documented.

They include every input with which the fuzzer found a defect. `make fuzz` looks for more.
"""

import pathlib
import sys

import pytest

from pygpt.config import ConfigError, GPTConfig, TrainConfig
from pygpt.backend.arguments import shown

CHECKS = pathlib.Path(__file__).parent / "checks"
sys.path.insert(0, str(CHECKS))
import targets  # noqa: E402

sys.path.remove(str(CHECKS))
CORPUS = sorted((CHECKS / "corpus").glob("*/*"))
HUGE = 1 << 20_000


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_kept_input_is_accepted_or_refused_as_documented(path):
    targets.run(path.parent.name, path.read_bytes())


def test_every_target_has_a_corpus():
    assert {path.parent.name for path in CORPUS} == set(targets.TARGETS)


@pytest.mark.parametrize("make", [
    lambda: GPTConfig(n_layer=-HUGE), lambda: GPTConfig(n_embd=HUGE + 1, n_head=HUGE),
    lambda: TrainConfig(seed=HUGE), lambda: TrainConfig(data=[[HUGE]])])
def test_an_integer_too_long_to_write_is_described(make):
    with pytest.raises(ConfigError, match=r"^\w+=.*\(an integer of 20001 bits\)"):
        make()


def test_an_integer_in_a_file_is_described_too():
    assert shown([HUGE, 12]) == "[(an integer of 20001 bits), 12]"
