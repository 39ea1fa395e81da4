"""Calls one model from several Python threads: each call gets the right answer or an exception."""

import copy
import pickle
import random
import threading
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
from models import TINY, draw_ids

import pygpt
from pygpt.autograd import ops
from pygpt.model import GPT
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor

pytestmark = pytest.mark.usefixtures("frequent_switches")
CONFIG = pygpt.GPTConfig(**TINY)


def batches(n, T=4):
    rng = random.Random(1)
    return [(draw_ids(rng, T=T), draw_ids(rng, T=T)) for _ in range(n)]


def together(*functions):
    """Start functions at the same moment; return their results or the exceptions they raise."""
    barrier = threading.Barrier(len(functions))

    def run(function):
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(run, f) for f in functions]]


def gradients(model):
    return {name: p.grad.flat().tobytes() for name, p in model.named_parameters()}


def forget(model):
    for _, p in model.named_parameters():
        p.requires_grad = False
        p.requires_grad = True


@pytest.mark.parametrize("way", ["loss", "loss_and_grad", "eager"])
def test_two_backward_passes_add_up(way):
    """The two orders of the sum differ in rounding."""
    model = GPT(CONFIG, seed=1).eval()

    def once(batch):
        if way == "loss":
            model.loss(*batch).backward()
        elif way == "loss_and_grad":
            model.loss_and_grad(*batch)
        else:
            ops.cross_entropy(model(batch[0]), Tensor(batch[1], dtype="int32")).backward()

    one, other = batches(2)
    expected = []
    for order in (one, other), (other, one):
        forget(model)
        for batch in order:
            once(batch)
        expected.append(gradients(model))
    for _ in range(60):
        forget(model)
        together(lambda: once(one), lambda: once(other))
        assert gradients(model) in expected


def test_two_backward_passes_through_one_tensor_add_up():
    x = Tensor([1.0] * 3000, requires_grad=True)
    for _ in range(30):
        x.requires_grad = False
        x.requires_grad = True
        together(*[lambda: ops.sum(x * 2.0 + x).backward()] * 3)
        assert set(x.grad.tolist()) == {9.0}


def test_generation_and_evaluation_beside_training_see_weights_between_two_steps():
    model = GPT(CONFIG, seed=1).eval()
    optimizer, batch = pygpt.AdamW(model, lr=0.05), batches(1)[0]
    seen, states = [], {}

    def note():
        with no_grad():
            states[float(model.loss(*batch))] = copy.deepcopy(model)

    def training():
        for _ in range(25):
            model.loss_and_grad(*batch)
            optimizer.step()
            optimizer.zero_grad()
            note()

    def watching():
        with no_grad():
            for _ in range(60):
                seen.append(float(model.loss(*batch)))

    note()
    together(training, watching, lambda: [model.generate([1, 2], 5, seed=0) for _ in range(10)])
    assert set(seen) <= states.keys()


def test_a_step_between_a_loss_and_its_backward_pass_is_an_error_or_does_not_count():
    model = GPT(CONFIG, seed=1).eval()
    optimizer, batch = pygpt.AdamW(model, lr=0.05), batches(1)[0]
    refused = []

    def backward():
        for _ in range(60):
            loss = model.loss(*batch)
            try:
                loss.backward()
            except ValueError as error:
                refused.append(str(error))

    def steps():
        for _ in range(60):
            optimizer.step()
            optimizer.zero_grad()

    together(backward, steps)
    assert all("a parameter has changed since" in text for text in refused)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "save"])
def test_copies_and_checkpoints_are_of_one_moment(way, tmp_path):
    """All weights and gradients are equal, so those of a copy are."""
    model, done = GPT(CONFIG, seed=1).eval(), threading.Event()
    optimizer = pygpt.AdamW(model, lr=0.01, weight_decay=0.0)
    for _, p in model.named_parameters():
        p.flat()[:] = memoryview(array("f", [1.0] * p.size))

    def training():
        while not done.is_set():
            for _, p in model.named_parameters():
                p.leaf.gradient().flat()[:] = memoryview(array("f", [1.0] * p.size))
                p.leaf.valid = True
            optimizer.step()

    def copying():
        try:
            for _ in range(12):
                if way == "deepcopy":
                    twin = copy.deepcopy(model)
                elif way == "pickle":
                    twin = pickle.loads(pickle.dumps(model))
                else:
                    model.save_pretrained(tmp_path)
                    twin = GPT.from_pretrained(tmp_path)
                assert len({x for _, p in twin.named_parameters() for x in p.flat()}) == 1
        finally:
            done.set()

    together(training, copying)


def test_a_forked_process_can_compute_while_a_thread_of_its_parent_does():
    import os
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    model, batch, done = GPT(CONFIG, seed=1).eval(), batches(1)[0], threading.Event()

    def busy():
        while not done.is_set():
            model.loss_and_grad(*batch)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if len(model.generate([1], 2)) == 2 else 1)
            for _ in range(1000):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    break
                done.wait(0.01)
            else:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                raise AssertionError("the child waits for a thread that it does not have")
            assert os.waitstatus_to_exitcode(status) == 0
    finally:
        done.set()
        thread.join()
