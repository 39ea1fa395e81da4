"""Checks the lists of tests/checks/mutations/: each old text is in its file just once.

`make mutants` makes these changes and counts which of them the tests notice; it takes an hour.
"""

import collections
import pathlib
import sys

import pytest

TOP = pathlib.Path(__file__).parent.parent
CHECKS = pathlib.Path(__file__).parent / "checks"
sys.path.insert(0, str(CHECKS))
import changed_loops  # noqa: E402
import mutation_list  # noqa: E402

sys.path.remove(str(CHECKS))
MUTATIONS = mutation_list.read()


def test_there_are_some_hundred_of_all_kinds():
    areas = collections.Counter(mutation.area for mutation in MUTATIONS)
    assert len(MUTATIONS) >= 200 and min(areas.values()) >= 20, areas


def test_each_changes_one_place_and_leaves_python_that_can_be_parsed():
    for mutation in MUTATIONS:
        text = (TOP / mutation.file).read_text(encoding="utf-8")
        changed = mutation.applied(text)
        assert changed != text, str(mutation)
        if mutation.file.endswith(".py"):
            compile(changed, str(mutation), "exec")


def test_no_two_are_the_same():
    seen = collections.Counter((m.file, m.old, m.new) for m in MUTATIONS)
    assert max(seen.values()) == 1, seen.most_common(1)
    assert len(set(map(str, MUTATIONS))) == len(MUTATIONS)


def test_their_tests_exist():
    for mutation in MUTATIONS:
        for file, *_ in mutation.tests:
            assert (TOP / "tests" / file).exists(), str(mutation)


def test_a_text_that_is_gone_or_comes_twice_is_named():
    mutation = MUTATIONS[0]
    for text, count in ("", 0), (2 * f"{mutation.old}\n", 2):
        with pytest.raises(ValueError) as refused:
            mutation.applied(text)
        assert mutation.why in str(refused.value) and f"occurs {count} times" in str(refused.value)


def test_a_paragraph_that_is_no_mutation_is_shown(tmp_path):
    (tmp_path / "list.txt").write_text("in a.py\nby test_a.py\n\nNo old text.\n+ 1\n")
    with pytest.raises(ValueError, match=r"list\.txt: not a mutation:\nNo old text"):
        mutation_list.read(tmp_path)


def test_the_loops_of_a_changed_file_are_compiled_and_no_others():
    """GELU's are those of one file; the rows of softmax are used by cached attention too."""
    csrc = TOP / "csrc"
    for changed, loops in (("gelu.inl", {"gelu_forward", "gelu_backward"}),
                           ("softmax.inl", {"softmax_forward", "softmax_backward",
                                            "attention_cached", "cross_entropy_rows"})):
        text = changed_loops.write(csrc, "avx2", changed)
        assert {name for name in loops if f"&changed.{name}," in text} == loops
        assert text.count("memcpy(&isa_avx2.") == len(loops)
