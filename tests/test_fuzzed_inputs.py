"""Tries the kept inputs of the fuzzer (checks/corpus): each is accepted, or refused as documented.

They include every input with which the fuzzer found a defect. `make fuzz` looks for more.
"""

import pathlib
import sys

import pytest

CHECKS = pathlib.Path(__file__).parent / "checks"
sys.path.insert(0, str(CHECKS))
import targets  # noqa: E402

sys.path.remove(str(CHECKS))
CORPUS = sorted((CHECKS / "corpus").glob("*/*"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_kept_input_is_accepted_or_refused_as_documented(path):
    targets.run(path.parent.name, path.read_bytes())


def test_every_target_has_a_corpus():
    assert {path.parent.name for path in CORPUS} == set(targets.TARGETS)
