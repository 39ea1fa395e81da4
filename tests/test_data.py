"""Tests the split of the data, and batches that cover an epoch and depend on the seed alone."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygpt.data.corpus import DataError
from pygpt.data.batches import TrainingBatches, split, validation_batches


def tokens(n):
    """Return tokens whose value is their position, so that a window shows where it begins."""
    return memoryview(array("i", range(n)))


def test_the_end_is_held_out():
    train, val = split(tokens(100), 0.1, 9)
    assert train.tolist() == list(range(90)) and val.tolist() == list(range(90, 100))


def test_text_shorter_than_a_context():
    with pytest.raises(DataError, match="9 of its 90 tokens are held out.*n_positions=9 takes 10"):
        split(tokens(90), 0.1, 9)
    with pytest.raises(DataError, match="5 of its 50 tokens are to learn from"):
        split(tokens(50), 0.9, 5)
    with pytest.raises(DataError, match="0 of its 0 tokens"):
        split(tokens(0), 0.1, 1)


@given(B=st.integers(1, 5), T=st.integers(1, 9), extra=st.integers(1, 40), seed=st.integers(0, 9))
def test_an_epoch_takes_every_window_once(B, T, extra, seed):
    n = T + extra
    batches = TrainingBatches(tokens(n), B, T, seed)
    windows = max(1, (n - T) // T)
    rows = []
    for index in range(-(-windows // B)):
        ids, targets = batches[index]
        assert ids.shape == targets.shape == (B, T) and ids.format == "i"
        for row, target in zip(ids.tolist(), targets.tolist()):
            assert row == list(range(row[0], row[0] + T)) and row[0] >= 0
            assert target == list(range(row[0] + 1, row[0] + T + 1)) and target[-1] < n
            rows.append(row)
    first_epoch = [token for row in rows[:windows] for token in row]
    assert len(set(first_epoch)) == windows * T  # no token twice
    assert max(first_epoch) - min(first_epoch) == windows * T - 1  # and none left out between


def test_a_batch_depends_on_seed_and_index_alone():
    def batch(seed, *indices):
        batches = TrainingBatches(tokens(65 * 16), 4, 16, seed)  # an epoch is 64 windows
        return [[view.tolist() for view in batches[i]] for i in indices]

    in_order = batch(1, *range(50))
    assert [batch(1, i)[0] for i in (40, 3, 17)] == [in_order[i] for i in (40, 3, 17)]
    assert batch(2, 0) != in_order[:1]
    assert in_order[0] != in_order[16] != in_order[32]  # another epoch, another order
    starts = [row[0] for ids, _ in in_order[:16] for row in ids]
    assert starts != sorted(starts)


def test_validation_is_spread_over_the_tokens():
    batches = validation_batches(tokens(1000), 4, 10, max_batches=5)
    starts = [row[0] for ids, _ in batches for row in ids.tolist()]
    assert len(batches) == 5 and len(starts) == 20
    assert starts[0] == 0 and starts[-1] == 1000 - 11
    gaps = {b - a for a, b in zip(starts, starts[1:])}
    assert max(gaps) - min(gaps) <= 1


@given(B=st.integers(1, 5), T=st.integers(1, 9), extra=st.integers(1, 99), most=st.integers(1, 9))
def test_validation_fits_any_size(B, T, extra, most):
    n = T + extra
    batches = validation_batches(tokens(n), B, T, most)
    assert 1 <= len(batches) <= most
    for ids, targets in batches:
        for row, target in zip(ids.tolist(), targets.tolist()):
            assert row == list(range(row[0], row[0] + T))
            assert target == [token + 1 for token in row] and target[-1] < n
    if len(batches) > 1:  # no more windows than fit side by side
        assert len(batches) * B * T <= n - 1
