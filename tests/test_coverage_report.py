"""Tests how `make coverage` adds up counts, and that its list of reasons fits the sources."""

import pathlib
import sys

import pytest

CHECKS = pathlib.Path(__file__).parent / "checks"
sys.path.insert(0, str(CHECKS))
import gcov_counts  # noqa: E402
import uncovered  # noqa: E402

sys.path.remove(str(CHECKS))

SOURCE = ["if (a && b)", "    x = 1;", "free(x);"]


TEXTS = {"csrc/a.c": SOURCE}


def report(*lines, file="csrc/a.c", functions=((1, 3),), called=1):
    """Return what gcov says of an object: lines are (number, count, counts of the arcs), functions
    the first and last lines of those that were not only written into their callers."""
    return {"files": [{
        "file": file,
        "functions": [{"execution_count": called, "start_line": first, "end_line": last}
                      for first, last in functions],
        "lines": [{"line_number": number, "count": count,
                   "branches": [{"count": taken} for taken in arcs]}
                  for number, count, arcs in lines]}]}


def counts_of(lines, branches=()):
    counts = uncovered.Counts(SOURCE)
    for number, covered in lines:
        counts.add_line(number, covered)
    for number, way, covered in branches:
        counts.add_branch(number, way, covered)
    return counts


def test_an_arc_counts_if_any_object_took_it():
    reports = report((1, 5, [5, 0, 0, 0])), report((1, 3, [0, 3, 0, 0]), (2, 0, []))
    assert gcov_counts.merged(reports, TEXTS) == {
        "csrc/a.c": {1: (8, {4: [5, 3, 0, 0]}), 2: (0, {})}}


def test_objects_in_which_the_compiler_kept_unlike_arcs_stay_apart():
    reports = report((1, 2, [1, 0, 0])), report((1, 1, [0, 1, 0, 1]))
    assert gcov_counts.merged(reports, TEXTS)["csrc/a.c"][1].arcs == {
        3: [1, 0, 0], 4: [0, 1, 0, 1]}


@pytest.mark.parametrize("arcs, added", [
    ([1, 0, 0, 0, 0, 0, 2, 0], {4: [1, 0, 2, 0]}),  # two copies of the two conditions of line 1
    ([1, 0, 0, 0, 0, 2], {2: [1, 2]}),              # a copy in which one condition is decided
    ([0, 0], {2: [0, 0]})])
def test_copies_of_an_inline_function_are_added(arcs, added):
    reports = [report((1, 2, arcs), functions=((2, 3),))]
    assert gcov_counts.merged(reports, TEXTS)["csrc/a.c"][1].arcs == added
    whole = {len(arcs): arcs}
    reports = [report((1, 2, arcs), functions=((1, 1),))]
    assert gcov_counts.merged(reports, TEXTS)["csrc/a.c"][1].arcs == whole


@pytest.mark.parametrize("text, number", [
    ("if (a && b) {", 2), ("for (i = 0; i < n; i++) if (x[i])", 2), ("return a ? b : c;", 1),
    ("const int whole = a || b || c;", 3), ("int format = verify(x);", 1)])
def test_conditions_are_counted_in_the_text(text, number):
    assert gcov_counts.conditions(text) == number


def test_headers_of_the_system_are_not_counted():
    assert gcov_counts.merged([report((1, 1, []), file="/usr/include/math.h")], TEXTS) == {}


def test_an_object_ran_if_one_of_its_functions_was_called():
    assert gcov_counts.ran(report())
    assert not gcov_counts.ran(report(called=0))


@pytest.mark.parametrize("before, text, foreign", [
    ("", "#pragma omp for schedule(static)", True), ("", "    PARALLEL(threads)", True),
    ("", "for (int64_t r = 0; r < R; r++) {", False), ("", "switch (n) {", False),
    ("", "case 2: return 1;", False), ("", "y = x ? 1 : 2;", False), ("", "|| n == 0)", False),
    ("", "&& last > p", False), ("", "PACK(rows, ld, a)", False),
    ("int n = 3;", "return 1.0f / (1.0f + vexp(-u2));", True),
    ("if (a &&", "b)", False), ("return a ?", "b", False), ("", ": b;", False)])
def test_lines_whose_arcs_belong_to_no_condition_there(before, text, foreign):
    assert gcov_counts.is_foreign(text, before) == foreign


def test_what_is_missing_is_named_once():
    """The ways out of a line that did not run are not listed beside it."""
    counts = counts_of([(1, True), (2, False), (3, True)],
                       [(1, "way 1", True), (1, "way 2", False), (1, "way 4", False),
                        (2, "way 1", False)])
    assert counts.missing() == {1: "way 2, way 4", 2: "not run"}
    assert uncovered.total([counts], "lines") == (2, 3)
    assert uncovered.total([counts, counts], "branches") == (2, 8)


def test_a_reason_leaves_out_what_was_not_run_and_keeps_what_was():
    counts = counts_of([(1, True), (2, False)],
                       [(1, "way 1", True), (1, "way 2", False), (2, "way 1", False)])
    reasons = [uncovered.Reason("a", ("if (a && b)",), "why")]
    assert uncovered.excuse({"a": counts}, reasons) == []
    assert counts.possible("branches") == (1, 2)
    assert counts.possible("lines") == (1, 2)


@pytest.mark.parametrize("reason, said", [
    (("b", ("free(x);",), "why"), "b has no counts"),
    (("a", ("x = 1;",), "why"), "'x = 1;' was run in full"),
    (("a", ("x = 2;",), "why"), "'x = 2;' is not in the file"),
    (("a", ("free(x);",), ""), "lacks its lines or its reason"),
    (("a", (), "why"), "lacks its lines or its reason")])
def test_an_entry_that_no_longer_fits_is_named(reason, said):
    counts = counts_of([(1, True), (2, True), (3, False)])
    stale, = uncovered.excuse({"a": counts}, [uncovered.Reason(*reason)])
    assert said in stale


@pytest.mark.parametrize("idle, ran, applies", [
    ((), True, True), ((), False, False), (["b.c"], True, False), (["b.c"], False, True)])
def test_an_entry_may_be_for_some_cpus_alone(idle, ran, applies):
    reason = uncovered.Reason("a", ("free(x);",), "why", ("b.c", ran))
    counts = counts_of([(1, True), (3, False)])
    assert uncovered.excuse({"a": counts}, [reason], idle) == []
    assert counts.possible("lines") == (1, 1 if applies else 2)


def test_reasons_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "reasons"
    path.write_text("# A comment.\n\ncsrc/a.c\n> if (a\n>     || b)\nIt is\nso.\n\n\n"
                    "pygpt/b.py if c.c ran\n> pass\nNo.\n\nd if c.c did not run\n> e\nNo.\n")
    assert uncovered.read_reasons(path) == [
        ("csrc/a.c", ("if (a", "|| b)"), "It is so.", ()),
        ("pygpt/b.py", ("pass",), "No.", ("c.c", True)), ("d", ("e",), "No.", ("c.c", False))]


def test_every_entry_of_the_list_quotes_lines_of_its_file():
    """`make coverage`, which takes minutes, also asks whether they are still without a test."""
    for reason in uncovered.read_reasons(CHECKS / "cannot_happen.txt"):
        source = (CHECKS.parents[1] / reason.file).read_text(encoding="utf-8")
        assert reason.lines and reason.text
        for line in reason.lines:
            assert line in map(str.strip, source.splitlines()), (reason.file, line)
