"""Checks that documents name files that exist, links that resolve, and code that runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md",
         ROOT / "pygpt" / "README.md", ROOT / "csrc" / "README.md",
         *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"`((?:pygpt|csrc|tests|docs)/[\w/.]*)`")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    for name in NAMED.findall(text):
        if "NAME" not in name:
            assert (ROOT / name).exists(), f"{page.name} names {name}, which does not exist"


def test_every_c_file_that_the_page_of_csrc_names_exists():
    page = ROOT / "csrc" / "README.md"
    names = re.findall(r"`([\w/]+\.(?:c|h|inl))`", page.read_text(encoding="utf-8"))
    assert names
    for name in names:
        assert (page.parent / name).exists(), f"csrc/README.md names {name}, which does not exist"


@each_page
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            path = page.parent / target.split("#")[0]
            assert path.exists(), f"{page.name} links to {target}, which does not exist"


def test_the_line_counts_are_within_a_fifth():
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \|", (ROOT / "pygpt" / "README.md").read_text(
        encoding="utf-8"), re.MULTILINE)
    assert rows
    for name, count in rows:
        lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
        assert abs(lines - int(count)) <= lines / 5, f"{name} has {lines} lines, not {count}"


def test_the_readme_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("input.txt").write_text("ROMEO: But soft, what light!\n" * 300, encoding="utf-8")
    (example,) = [code for kind, code in CODE.findall((ROOT / "README.md").read_text(
        encoding="utf-8")) if kind == "python"]
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_the_readme_quotes_its_kernel_as_it_is():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## One kernel, three ways")[1].split("\n## ")[0]
    files, quotes = NAMED.findall(section), CODE.findall(section)
    assert len(files) == len(quotes) == 3
    for name, (_, code) in zip(files, quotes):
        assert code in (ROOT / name).read_text(encoding="utf-8"), f"{name} reads differently now"


def test_the_loss_is_drawn(tmp_path):
    import runpy
    import xml.dom.minidom
    (tmp_path / "log.jsonl").write_text(
        '{"event": "step", "step": 1, "loss": 4}\n{"event": "step", "step": 2, "loss": 3}\n'
        '{"event": "eval", "step": 2, "val_loss": 3}\n', encoding="utf-8")
    runpy.run_path(str(ROOT / "docs" / "draw_loss.py"))["draw"]([tmp_path], tmp_path / "loss.svg")
    for path in (tmp_path / "loss.svg", ROOT / "docs" / "loss.svg"):
        assert xml.dom.minidom.parse(str(path)).documentElement.tagName == "svg"
