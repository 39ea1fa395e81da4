"""Checks what editors and type checkers see of the package, and what help(pygpt) shows.

`make types` installs mypy and pyright beside the project and runs these tests with them. Without a
checker on the PATH, its tests are skipped.
"""

import ast
import dataclasses
import inspect
import json
import pydoc
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pygpt
from pygpt import continuation, decoding, evaluation, generate, nn, optim, options, sampling
from pygpt.config import SampleConfig
from pygpt.parameters import Parameter
from pygpt.tokenizer import StreamDecoder
from pygpt.training.trainer import TrainResult

ROOT = Path(__file__).parent.parent
RIGHT, WRONG = ROOT / "tests" / "types" / "right.py", ROOT / "tests" / "types" / "wrong.py"
# The public names, and what docs/python.md leads to from them.
PUBLIC = [*(getattr(pygpt, name) for name in pygpt.__all__), nn.Module, nn.Linear, nn.LayerNorm,
          nn.Embedding, nn.Dropout, nn.recordable, optim.Optimizer, Parameter, decoding.Cache,
          continuation.Continuation, continuation.Progress, sampling.Sampler, sampling.Choice,
          generate.generate, generate.stream, generate.stream_together, generate.Steps,
          evaluation.token_losses, StreamDecoder, TrainResult]


def functions_of(cls):
    """Yield (name, function) of the public methods and properties of a class and its bases."""
    for home in cls.__mro__:
        if not home.__module__.startswith("pygpt."):
            continue
        for name, value in vars(home).items():
            if name.startswith("_") and name not in ("__init__", "__call__", "__len__", "__next__"):
                continue
            value = getattr(value, "__func__", value)  # of a class method
            if isinstance(value, property):
                yield name, value.fget
                if value.fset:
                    yield name, value.fset
            elif inspect.isfunction(value) and value.__module__.startswith("pygpt."):
                yield name, value


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_every_public_function_is_annotated(thing):
    for name, function in functions_of(thing) if inspect.isclass(thing) else [("", thing)]:
        signature = inspect.signature(function)
        where = f"{thing.__name__}.{name}".rstrip(".")
        if dataclasses.is_dataclass(thing) and name == "__init__":
            continue
        for parameter in signature.parameters.values():
            assert parameter.annotation is not parameter.empty or parameter.name in (
                "self", "cls"), f"{where}: {parameter.name} has no type"
        assert signature.return_annotation is not signature.empty, f"{where} returns no type"


def test_a_name_without_types_would_be_found():
    class Bare:
        def method(self, x):
            pass

    Bare.__module__ = Bare.method.__module__ = "pygpt.bare"
    with pytest.raises(AssertionError, match="Bare.method: x has no type"):
        test_every_public_function_is_annotated(Bare)


def test_the_lists_of_public_names_agree():
    """The names for programs (HOME), for checkers (the imports) and for `import *` are the same."""
    tree = ast.parse((ROOT / "pygpt" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: node.module.removeprefix("pygpt.") for node in block.body
                if isinstance(node, ast.ImportFrom) and node.module.startswith("pygpt.")
                for alias in node.names}
    assert imported == pygpt.HOME
    assert sorted([*pygpt.HOME, "info"]) == sorted(pygpt.__all__)


def test_the_options_of_generation_are_the_settings_of_a_sample():
    fields = {field.name for field in dataclasses.fields(SampleConfig)}
    of_text = {"max_new_tokens", "stop_strings"}
    assert options.Settings.__annotations__.keys() == fields - of_text - {"threads"}
    assert options.TextOptions.__annotations__.keys() == fields - {"threads"}
    own = options.Options.__annotations__.keys() - options.Settings.__annotations__.keys()
    assert own == {"stop", "vocab_size", "logprobs", "sampler"}
    parameters = inspect.signature(generate.stream_together).parameters
    assert own == {name for name, parameter in parameters.items()
                   if parameter.kind is parameter.KEYWORD_ONLY}


def test_a_program_imports_nothing_that_only_checkers_need():
    code = ("import sys; before = set(sys.modules); import pygpt\n"
            "assert not {'typing', 'collections.abc'} & (sys.modules.keys() - before)\n"
            "pygpt.GPT, pygpt.Pipeline, pygpt.train, pygpt.evaluate\n"
            "assert not {'typing_extensions', 'pygpt.options'} & (sys.modules.keys() - before)")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_first_screen_of_help_shows_every_public_name():
    """Python's help ends with the descriptions of all names; the screen that it opens with must
    say what there is."""
    screen = pydoc.plain(pydoc.render_doc(pygpt)).splitlines()[:24]
    words = set(re.findall(r"\w+", "\n".join(screen)))
    assert not set(pygpt.__all__) - words
    assert max(map(len, screen)) <= 80


def test_the_marker_for_checkers_is_installed():
    assert (ROOT / "pygpt" / "py.typed").exists()
    assert re.search(r'^\[tool.setuptools.package-data\]\npygpt = \["py.typed"\]',
                     (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)


# ------------------------------------------------------------------------------ with a checker ---

def command(name):
    """Return the path of a checker; skip the test where there is none."""
    return shutil.which(name) or pytest.skip(f"{name} is not installed: `make types` installs it")


def mypy(place):
    """Return {(file name, line): message} of the errors that mypy finds in the files of a folder.
    The settings are those of pyproject.toml."""
    ran = subprocess.run([command("mypy"), "--cache-dir", str(place / "cache"),
                          "--no-error-summary", *map(str, sorted(place.glob("*.py")))],
                         cwd=ROOT, capture_output=True, text=True)
    found = re.findall(r"^(.+?):(\d+): error: (.*)", ran.stdout, re.MULTILINE)
    assert ran.returncode == (1 if found else 0), ran.stdout + ran.stderr
    return {(Path(path).name, int(line)): message for path, line, message in found}


def pyright(place):
    """Return the same as mypy() of pyright. WRONG is checked without the rules about style, each of
    which would complain of its lines, too."""
    names = [path.name for path in place.glob("*.py")]
    settings = place / "pyrightconfig.json"
    settings.write_text(json.dumps({
        "include": names, "strict": [name for name in names if name != WRONG.name],
        "extraPaths": [str(ROOT)], "pythonVersion": "3.10", "reportUnusedExpression": False}),
        encoding="utf-8")
    ran = subprocess.run([command("pyright"), "--outputjson", "-p", str(settings)], cwd=ROOT,
                         capture_output=True, text=True)
    report = json.loads(ran.stdout)
    assert report["summary"]["filesAnalyzed"] == len(names), report["summary"]
    return {(Path(found["file"]).name, found["range"]["start"]["line"] + 1): found["message"]
            for found in report["generalDiagnostics"] if found["severity"] == "error"}


@pytest.mark.parametrize("check", [mypy, pyright], ids=["mypy", "pyright"])
def test_checkers_find_every_wrong_use_and_nothing_else(check, tmp_path):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "readme_example.py").write_text(
        re.search(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[1], encoding="utf-8")
    for path in RIGHT, WRONG:
        shutil.copy(path, tmp_path)
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    marked = {(WRONG.name, number) for number, line in enumerate(lines, 1)
              if line.endswith("# error")}
    found = check(tmp_path)
    assert {place: message for place, message in found.items() if place not in marked} == {}
    assert not marked - found.keys(), "these lines are wrong, and nobody complains"
