"""Tests `pygpt bench --growth`: the sizes it measures, its arithmetic, and its report."""

import json

import pytest

from pygpt import GPTConfig
from pygpt.backend import kernels
from pygpt.bench import growth
from pygpt.cli import main
from pygpt.bench.growth import Case
from pygpt.training.cost import flops_per_token

TINY = {
    "round and not": [Case("width 16", 1, 8, 1, 2, 16, 8),
                      Case("width 10", 1, 7, 1, 2, 10, 9, beside="width 16")],
    "threads": [Case("1 thread", 1, 8, 1, 2, 16, 8, threads=1),
                Case("3 threads", 1, 8, 1, 2, 16, 8, beside="1 thread", threads=3)],
}
needs_c = pytest.mark.skipif(kernels.ffi is None, reason="measures the C kernels")


def every_case(threads):
    return [case for cases in growth.tables(threads).values() for case in cases]


def test_the_sizes_promised_are_measured():
    cases = every_case(6)
    assert {case.threads for case in cases} == {0, 1, 2, 4, 6}
    assert {64, 128, 256, 512, 1024, 2048, 255, 257} <= {case.T for case in cases}
    assert {64, 128, 256, 512, 768, 1024, 96, 100} <= {case.width for case in cases}
    assert {50257, 50304, 65} <= {case.vocab for case in cases}
    assert {16, 20, 32, 64} <= {case.width // case.heads for case in cases}
    assert any(case.B * case.T % 2 for case in cases)


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 12])
def test_every_case_is_a_model_and_its_neighbour_is_in_its_table(threads):
    for cases in growth.tables(threads).values():
        labels = [case.label for case in cases]
        assert len(set(labels)) == len(labels)
        for case in cases:
            GPTConfig(vocab_size=case.vocab, n_positions=case.T, n_embd=case.width,
                      n_layer=case.layers, n_head=case.heads)
            assert case.beside is None or case.beside in labels
            assert case.threads <= threads


def test_over_the_length_the_number_of_tokens_stays():
    lengths = next(iter(growth.tables(2).values()))
    assert {case.B * case.T for case in lengths} == {2048}


def test_a_row_is_compared_with_its_neighbour_by_work_a_second():
    cases = [Case("a", 1, 8, 1, 1, 8, 8), Case("b", 1, 8, 1, 1, 8, 8, beside="a"),
             Case("c", 1, 8, 1, 1, 8, 8, beside="a"),
             Case("4 threads", 1, 8, 1, 1, 8, 8, beside="a", threads=4)]
    rows = [{"label": case.label, "gflops": speed}
            for case, speed in zip(cases, (100.0, 81.0, 79.0, 300.0))]
    growth.compare(rows, cases)
    assert [row["ratio"] for row in rows] == [None, 0.81, 0.79, 3.0]
    assert [row["cliff"] for row in rows] == [False, False, True, True]  # 3 of 4 threads' worth


@needs_c
def test_measuring_tiny_sizes(kernels):
    kernels.set_num_threads(2)
    result = growth.measure(TINY, 0.01)
    assert kernels.get_num_threads() == 2
    assert [table["title"] for table in result["tables"]] == list(TINY)
    for table, cases in zip(result["tables"], TINY.values()):
        for row, case in zip(table["rows"], cases):
            assert row["label"] == case.label
            assert row["threads"] == (case.threads or 2)
            assert row["runs"] >= growth.LEAST_TURNS
            assert 0 < row["ms_low"] <= row["ms"] <= row["ms_high"]
            config = GPTConfig(vocab_size=case.vocab, n_positions=case.T, n_embd=case.width,
                               n_layer=case.layers, n_head=case.heads)
            work = flops_per_token(config, case.T)
            assert row["gflops"] * row["us_per_token"] == pytest.approx(work / 1e3)
            assert row["of_peak"] == pytest.approx(row["gflops"] / row["peak_gflops"])
    text = growth.report(result)
    for row in (row for table in result["tables"] for row in table["rows"]):
        assert row["label"] in text


@needs_c
def test_the_command(monkeypatch, capsys):
    monkeypatch.setattr(growth, "tables", lambda threads: TINY)
    assert main.main(["bench", "--growth", "--seconds", "0.01", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["tables"]) == 2
    assert main.main(["bench", "--growth", "--seconds", "0.01"]) == 0
    out = capsys.readouterr().out
    for part in ("us/token", "GFLOP/s", "% peak", "x width 16", "3 threads"):
        assert part in out
    assert main.main(["bench", "--growth", "--seconds", "0.01", "--dtype", "bfloat16"]) == 0
    assert "; products of bfloat16; " in capsys.readouterr().out and "bfloat16" not in out


@needs_c
@pytest.mark.parametrize("flag", [["--preset", "char"], ["--sustained"]])
def test_the_command_refuses_what_it_has_of_its_own(capsys, flag):
    assert main.main(["bench", "--growth", *flag]) == 2
    assert f"leave out {flag[0]}" in capsys.readouterr().err


def test_the_reference_backend_is_not_measured(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "ffi", None)
    for flags in ([], ["--growth"]):
        assert main.main(["bench", *flags]) == 2
        assert "PYGPT_BACKEND" in capsys.readouterr().err
