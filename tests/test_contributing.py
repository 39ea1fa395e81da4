"""Checks that the places which CONTRIBUTING.md lists for an extension are all filled.

Kernels, ops and documents have such tests beside their other ones, which CONTRIBUTING.md names.
"""

import importlib
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import pygpt
from pygpt.config import SampleConfig
from pygpt.optim import Optimizer
from pygpt.sampling import Sampler
from pygpt.tokenizer import Tokenizer, choice

ROOT = Path(__file__).parent.parent
# Fields of SampleConfig that Sampler does not read, and the place that does.
NOT_OF_A_DRAW = {"max_new_tokens": "generate.stream", "stop_strings": "cli/sample.py",
                 "threads": "cli/sample.py"}
# Tokenizers that no name of --tokenizer makes; a directory may still hold one.
WITHOUT_A_NAME = set()

for file in sorted((ROOT / "pygpt" / "tokenizer").glob("[a-z]*.py")):
    importlib.import_module(f"pygpt.tokenizer.{file.stem}")


def subclasses(cls):
    """List the classes derived from cls that pygpt defines; tests define others."""
    found = [sub for direct in cls.__subclasses__() for sub in (direct, *subclasses(direct))]
    return [sub for sub in found if sub.__module__.startswith("pygpt.")]


def check_public(cls):
    name = cls.__name__
    assert name in pygpt.HOME, f"{name} is missing from HOME in pygpt/__init__.py"
    assert getattr(pygpt, name) is cls, f"HOME in pygpt/__init__.py leads to another {name}"


def test_every_test_that_the_page_names_exists():
    defined = set()
    for path in (ROOT / "tests").glob("*.py"):
        defined |= {path.stem, *re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"),
                                           re.MULTILINE)}
    named = set(re.findall(r"test_\w+", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert not named - defined, f"CONTRIBUTING.md names {sorted(named - defined)}, which is no test"


@pytest.mark.parametrize("path", sorted((ROOT / "csrc").glob("isa_*.c")),
                         ids=lambda path: path.stem)
def test_every_instruction_set_is_in_the_table(path):
    table = (ROOT / "csrc" / "dispatch.c").read_text(encoding="utf-8").partition("built[] = {")[2]
    assert f"{{&{path.stem}," in table, f"{path.stem} is missing from the table in csrc/dispatch.c"


@pytest.mark.parametrize("name", [field.name for field in fields(SampleConfig)])
def test_every_sampler_setting_is_used_by_the_sampler(name):
    is_used = re.search(rf"\bs(ettings)?\.{name}\b", inspect.getsource(Sampler)) is not None
    if name in NOT_OF_A_DRAW:
        assert not is_used, f"Sampler uses {name}, so NOT_OF_A_DRAW need not name it"
    else:
        assert is_used, f"Sampler in pygpt/sampling.py does not use the setting {name}"


@pytest.mark.parametrize("cls", subclasses(Optimizer))
def test_every_optimizer_is_complete_and_public(cls):
    for name in ("checked_settings", "update", "from_config"):
        assert hasattr(cls, name), f"{cls.__name__} does not define {name}"
    check_public(cls)


@pytest.mark.parametrize("cls", subclasses(Tokenizer))
def test_every_tokenizer_is_public_and_can_be_chosen(cls):
    name = cls.__name__
    assert hasattr(pygpt.tokenizer, name), (
        f"{name} is missing from pygpt/tokenizer/__init__.py, so from_pretrained does not find it")
    check_public(cls)
    is_chosen = re.search(rf"\b{name}\b", inspect.getsource(choice.choose)) is not None
    if name in WITHOUT_A_NAME:
        assert not is_chosen, f"WITHOUT_A_NAME need not name {name}"
    else:
        assert is_chosen, (f"choose() in pygpt/tokenizer/choice.py makes no {name}, and "
                           "WITHOUT_A_NAME does not name it")
