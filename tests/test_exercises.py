"""Checks docs/exercises/: what the pages name exists, the changes fit, and the solutions work.

`make exercises` does all that the pages say, builds included; it takes minutes.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKS = Path(__file__).parent / "checks"
sys.path.insert(0, str(CHECKS))
import exercises  # noqa: E402
import tree  # noqa: E402

sys.path.remove(str(CHECKS))
PAGES, INDEX = exercises.PAGES, exercises.FOLDER / "README.md"
SOLVED = [page for page in PAGES if exercises.solution(page)]
PARTS = ("What you learn", "Where to look", "How to know that you are done", "Hint",
         "To think about")


def named(page):
    return str(page.relative_to(exercises.FOLDER).with_suffix(""))


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
each_file = pytest.mark.parametrize("page", [INDEX, *exercises.FOLLOWED], ids=named)
each_followed = pytest.mark.parametrize("page", exercises.FOLLOWED, ids=named)
each_program = pytest.mark.parametrize("page", SOLVED, ids=lambda page: page.stem)


def prose(page):
    """Return a page's text without its blocks, on one line."""
    return " ".join(exercises.BLOCK.sub("", page.read_text(encoding="utf-8")).split())


def programs(page):
    """Return the two parts of a page's program: with the gap, and what decides."""
    start, decides = [text for kind, text in exercises.blocks(page) if kind == "python"]
    return start, decides


def new_files(page):
    return {change.file for kind, text in exercises.blocks(page) if kind == "diff"
            for change in exercises.changes(page, text) if not change.old}


def commands(page):
    return [line for kind, text in exercises.blocks(page) if kind == "sh"
            for line in text.splitlines()]


def test_the_index_lists_the_ten_pages():
    linked = re.findall(r"^\| (\d+) \| \[[^\]]+\]\(([^)]+)\)", INDEX.read_text(encoding="utf-8"),
                        re.MULTILINE)
    assert linked == [(str(i), page.name) for i, page in enumerate(PAGES, 1)] and len(linked) == 10


@each_page
def test_every_page_has_its_parts(page):
    text = page.read_text(encoding="utf-8")
    places = [text.find(f"**{part}") for part in PARTS if part != "Hint"]
    assert -1 not in places and places == sorted(places), dict(zip(PARTS, places))
    assert "**Hint.**" in text
    assert text.startswith(f"# {int(page.stem[:2])}. ")


@each_file
def test_the_files_and_links_of_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:pygpt|csrc|tests|docs)/[\w/.-]*)`", text)
    for name in set(named) - new_files(page):
        assert (ROOT / name).exists(), f"{page.name} names {name}, which does not exist"
    for target in re.findall(r"\]\(([^)]+)\)", text):
        target, _, heading = target.partition("#")
        path = page.parent / target
        assert path.exists(), f"{page.name} links to {target}, which does not exist"
        headings = [re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
                    for line in path.read_text(encoding="utf-8").splitlines()
                    if line.startswith("#")]
        assert not heading or heading in headings, f"{page.name}: {target} has no #{heading}"


@each_file
def test_the_functions_that_a_page_names_are_in_their_files(page):
    """A page names them as `function` in `file`."""
    for name, file in re.findall(r"`([A-Za-z_]\w*)` in `([\w/.]+)`", prose(page)):
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text(encoding="utf-8")), (
            f"{page.name}: {name} is not in {file}")


def test_pages_name_some_functions():
    found = [re.findall(r"`\w+` in `", prose(page)) for page in PAGES]
    assert sum(map(len, found)) >= 12


@each_followed
def test_the_commands_are_known_ones(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in [*commands(page), *re.findall(r"`((?:make|git) [^`]*)`", prose(page))]:
        command = line.partition("  # ")[0]
        words = [word for word in command.split() if "=" not in word]
        if words[0] == "make":
            assert set(words[1:2]) <= targets or re.search(r'SHAPE="', command), line
        elif words[0] == "git":
            assert words[1] == "status" or (ROOT / words[2]).exists() or words[2] == "FILE", line
        else:
            assert words[:3] == [".venv/bin/python", "-m", "pytest"], line
            assert line.endswith(("  # fails", "  # passes")), line
            files = re.findall(r"tests/test_\w+\.py", line)
            text = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
            for name in re.findall(r"\b\w+_\w+_\w+\b", line.partition(" -k ")[2]):
                assert name in text or "silu" in name, f"{page.name}: no test named {name}"


@each_followed
def test_the_changes_fit_one_after_another(page, tmp_path):
    """Make the changes of a page on copies of the files; Python must be parsed after each."""
    for kind, text in exercises.blocks(page):
        for change in exercises.changes(page, text) if kind == "diff" else ():
            path = tmp_path / change.file
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() and change.old:
                path.write_bytes((ROOT / change.file).read_bytes())
            exercises.apply(change, tmp_path)
            if path.suffix == ".py":
                compile(path.read_text(encoding="utf-8"), str(path), "exec")
        for line in text.splitlines() if kind == "sh" else ():
            if line.startswith("git checkout "):
                exercises.restore(line.split()[2], tmp_path)


def test_the_example_of_a_change_fits():
    lines = re.findall(r"^    (.*)\n", INDEX.read_text(encoding="utf-8"), re.MULTILINE)
    change, = exercises.changes(INDEX, "\n".join(lines))
    compile(change.applied((ROOT / change.file).read_text(encoding="utf-8")), "model.py", "exec")


@each_program
def test_a_solution_decides_as_its_page_does(page):
    """The second part of the program stands in the solution as it is in the page."""
    start, decides = programs(page)
    solved = exercises.solution(page).read_text(encoding="utf-8")
    assert solved.endswith(decides) and start not in solved and 'print("done")' in decides


@each_program
def test_a_solution_works(page, capsys):
    code = exercises.solution(page).read_text(encoding="utf-8")
    exec(compile(code, page.stem, "exec"), {})
    assert "done\n" in capsys.readouterr().out


@each_program
def test_the_program_with_its_gap_does_not(page, capsys):
    with pytest.raises((AssertionError, AttributeError, TypeError, ValueError)):
        exec(compile("\n".join(programs(page)), page.stem, "exec"), {})
    assert "done" not in capsys.readouterr().out


WRONG = {  # what a student might write: {page's number: (right, wrong, what the message says)}
    2: ('"what the MLP returns": (2, 10, 48)', '"what the MLP returns": (2, 10, 192)', None),
    3: ("x = self.attn(self.ln_1(x))", "x = x + self.attn(self.ln_1(x))", "almost vanished"),
    4: ("(d_i - dot)", "d_i", "finite differences say"),
    5: ("ids[-1]]", "ids[0]]", None),
    6: ("new or range", "range", "occurs twice"),
    7: ("6, 1, 1, 3e-2", "6, 1, 1, 1e-4", "not learned"),
    9: ('(b"t", b"h"), (b"th", b"e")', '(b" ", b"s"), (b"t", b"h")', "merge 3 makes"),
}


@each_program
def test_a_wrong_solution_is_told_so(page):
    right, wrong, says = WRONG[int(page.stem[:2])]
    code = exercises.solution(page).read_text(encoding="utf-8")
    assert code.count(right) == 1
    with pytest.raises(AssertionError, match=says):
        exec(compile(code.replace(right, wrong), page.stem, "exec"), {})


# -------------------------------------------------------------------------- doing what they say ---

@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Copy the project, with its library, to where a page may change it."""
    monkeypatch.setattr(tree, "folder_of", lambda name: tmp_path / name)
    folder = tree.copy("copy")
    exercises.copy_libraries(folder)
    for name in "pygpt", "tests":  # compiled modules fit, as the copies have the files' times
        for cache in (ROOT / name).rglob("__pycache__"):
            shutil.copytree(cache, folder / cache.relative_to(ROOT))
    return folder


def test_the_tests_that_should_notice_a_broken_loop_do(copy):
    """Those of the fourth exercise; `make exercises` does the same for all."""
    exercises.follow(next(page for page in PAGES if page.stem.startswith("04")), copy)


def test_a_page_that_says_the_wrong_thing_is_told_so(tmp_path):
    page, folder = tmp_path / "11-none.md", tmp_path / "copy"
    folder.mkdir()
    (folder / "a.txt").write_text("one\ntwo\n")
    page.write_text("```diff\n--- a.txt\n one\n-two\n+three\n--- b.txt\n+new\n```\n")
    exercises.follow(page, folder)
    assert (folder / "a.txt").read_text() == "one\nthree\n"
    assert (folder / "b.txt").read_text() == "new\n"
    for again in "a.txt", "b.txt":
        with pytest.raises(ValueError, match="occurs 0 times" if again == "a.txt" else "exists"):
            part = f"--- {again}\n" + ("-two\n" if again == "a.txt" else "+new\n")
            page.write_text(f"```diff\n{part}```\n")
            exercises.follow(page, folder)
    for status, says in (0, "fails"), (1, "passes"), (5, "fails"), (0, "fails"):
        page.write_text(f"```sh\n.venv/bin/python -c 'exit({status})'  # {says}\n```\n")
        with pytest.raises(exercises.WentOtherwise, match=f"status {status}, and.* says {says}"):
            exercises.follow(page, folder)
    page.write_text("```sh\n.venv/bin/python -c 'exit(1)'  # fails\nA=b true\n```\n")
    exercises.follow(page, folder)
