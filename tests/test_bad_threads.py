"""Misuses objects from two threads at once: each call gets the right answer or a clear exception.

test_python_threads.py has the right uses.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from models import bits, tiny

import pygpt

pytestmark = pytest.mark.usefixtures("frequent_switches")
IDS, TARGETS = [[1, 2, 3]], [[2, 3, 4]]


def together(*functions):
    """Start functions at the same moment; return their results or their exceptions."""
    barrier = threading.Barrier(len(functions))

    def run(function):
        barrier.wait()
        try:
            return function()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


def test_wrong_calls_beside_right_ones_change_none_of_them():
    model, alone = tiny(), tiny()
    expected = [alone.loss_and_grad(IDS, TARGETS) for _ in range(30)]
    wrong = [[[99, 1, 2]], [[1, 2], [3]], None, [[1.5, 2, 3]], [[1] * 9]]

    def right():
        return [model.loss_and_grad(IDS, TARGETS) for _ in range(30)]

    def refused():
        for ids in wrong * 6:
            with pytest.raises(ValueError):
                model.loss(ids, TARGETS)
        return "refused"

    assert together(right, refused) == [expected, "refused"]
    for (_, p), (_, q) in zip(model.named_parameters(), alone.named_parameters()):
        assert bits(p.grad) == bits(q.grad)


def test_one_stream_that_two_threads_read_loses_no_token():
    """A generator that runs already refuses the second thread, and the tokens stay in order."""
    model = tiny()
    expected = model.generate([1, 2], 40, seed=1)
    stream, found = model.stream([1, 2], 40, seed=1), []

    def read():
        while True:
            try:
                found.append(next(stream))
            except StopIteration:
                return "read"
            except ValueError as error:
                assert "already executing" in str(error)

    assert together(read, read) == ["read", "read"]
    assert sorted(found) == sorted(expected)


def test_no_grad_of_one_thread_is_not_that_of_another():
    model = tiny()

    def with_gradient():
        return all(model.loss(IDS, TARGETS).node is not None for _ in range(20))

    def without():
        with pygpt.no_grad():
            return all(model.loss(IDS, TARGETS).node is None for _ in range(20))

    assert together(with_gradient, without) == [True, True]


def test_a_loss_that_two_threads_send_backward_counts_once():
    for _ in range(10):
        model, alone = tiny(), tiny()
        loss = model.loss(IDS, TARGETS)
        alone.loss(IDS, TARGETS).backward()
        results = together(loss.backward, loss.backward)
        assert sorted(type(result).__name__ for result in results) == ["NoneType", "ValueError"]
        for (_, p), (_, q) in zip(model.named_parameters(), alone.named_parameters()):
            assert bits(p.grad) == bits(q.grad)


def test_the_number_of_threads_set_by_two_threads_is_one_of_theirs():
    model, before = tiny(), pygpt.get_num_threads()
    expected = float(model.loss(IDS, TARGETS))

    def changing(n):
        def run():
            for _ in range(20):
                pygpt.set_num_threads(n)
                assert float(model.loss(IDS, TARGETS)) == expected
        return run

    try:
        assert together(changing(1), changing(2)) == [None, None]
        assert pygpt.get_num_threads() in (1, 2)
    finally:
        pygpt.set_num_threads(before)
