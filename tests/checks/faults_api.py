"""Lets allocations fail while Python calls the public API, for `make faults`.

An operation that fails must raise MemoryError and nothing else. Called again, it must give the very
bits of an undisturbed call: nothing is half done. Between the two, a gradient is what it was, what
it will be, or absent.
"""

import shutil
import sys
import traceback
from pathlib import Path

IDS = [[1, 5, 2, 7], [3, 3, 0, 6]]
TARGETS = [[5, 2, 7, 1], [3, 0, 6, 2]]
TEXT = "one two three, two three four; three four five " * 3


class Operation:
    """Holds an operation to disturb.

    Args:
        prepare: a function of a directory that returns the object to work on.
        act: a function of that object that returns bytes or something else to compare.
        recover: a function of the object that is called before the second try.
        read: a function of the object that returns what to compare, in place of act's result.
    """

    def __init__(self, prepare, act, recover=lambda thing: None, read=None):
        self.prepare, self.act, self.recover, self.read = prepare, act, recover, read

    def undisturbed(self, folder):
        """Act in an empty directory, and return the result."""
        thing = self._prepared(folder)
        return self._result(thing, self.act(thing))

    def _result(self, thing, returned):
        return self.read(thing) if self.read else returned

    def _prepared(self, folder):
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
        return self.prepare(Path(folder))

    def disturbed(self, folder, right, set_faults):
        """Act while faults are on, then again; return 0, or print the problem and return 1.

        Args:
            right: the result of an undisturbed call.
            set_faults: a function that turns the faults on (True) or off.
        """
        thing = self._prepared(folder)
        before = thing.gradients() if self.recover is Trained.forget else {}
        set_faults(True)
        try:
            result = self.act(thing)
        except MemoryError:
            set_faults(False)
        else:
            set_faults(False)
            is_right = self._result(thing, result) == right
            return 0 if is_right else complain("it gives another result")
        if self.recover is Trained.forget:
            after = right[1] if isinstance(right, tuple) else right
            for name, gradient in thing.gradients().items():
                if gradient not in (before.get(name), after.get(name)):
                    return complain(f"the gradient of {name} is half computed")
        self.recover(thing)
        try:
            result = self._result(thing, self.act(thing))
        except BaseException:
            traceback.print_exc()
            return complain("the second call fails")
        return 0 if result == right else complain("the second call gives another result")


class Trained:
    """A small model with an optimizer that has taken `steps` steps.

    With `adds` it also holds a gradient, to which the next pass adds.
    """

    def __init__(self, steps=0, adds=False, **settings):
        import pygpt
        config = pygpt.GPTConfig(vocab_size=8, n_positions=6, n_embd=8, n_layer=1, n_head=2,
                                 embd_pdrop=0.1)
        self.model = pygpt.GPT(config, seed=3, **settings).train()
        self.optimizer = pygpt.AdamW(self.model, lr=0.1)
        self.adds = adds
        for _ in range(steps):
            self.model.loss_and_grad(IDS, TARGETS)
            self.optimizer.clip_grad_norm(0.5)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.passes = self.model.forward_passes
        self.forget()

    def forget(self):
        """Begin the operation anew, as a caller does who has caught an error."""
        self.optimizer.zero_grad()
        self.model.forward_passes = self.passes
        if self.adds:
            self.model.loss_and_grad(TARGETS, IDS)

    def gradients(self):
        return {name: bytes(memoryview(p.grad)) for name, p in self.model.named_parameters()
                if p.grad is not None}

    def values(self):
        return {name: bytes(memoryview(p)) for name, p in self.model.named_parameters()}


def _together(trained):
    return trained.model.loss_and_grad(IDS, TARGETS), trained.gradients()


def _apart(trained):
    loss = trained.model.loss(IDS, TARGETS)
    loss.backward()
    return float(loss), trained.gradients()


def _by_operations(trained):
    """Go through an op that the recorded step has not: logits, then their mean square."""
    from pygpt.autograd import ops

    logits = trained.model(IDS)
    ops.sum(logits * logits).backward()
    return trained.gradients()


def _with_gradient(folder, steps=1):
    trained = Trained(steps)
    trained.model.loss_and_grad(IDS, TARGETS)
    return trained


def _clipped(folder):
    trained = _with_gradient(folder)
    trained.optimizer.clip_grad_norm(0.5)
    return trained


def _state(trained):
    return (trained.optimizer.steps, trained.values(), bytes(trained.optimizer.m.view),
            bytes(trained.optimizer.v.view))


def _evaluated(folder):
    return Trained(1).model.eval()


def _generate(model):
    return [model.generate(ids, 3, temperature=0.9, top_k=5, top_p=0.9, seed=4)
            for ids in ([1, 2], [[1], [2, 3, 4]])]


def _decode(pair):
    model, cache = pair
    while cache.past < 5:
        logits = model.decode([cache.past], cache)
    return cache.past, bytes(memoryview(logits))


def _cached(folder):
    model = _evaluated(folder)
    cache = model.new_cache()
    model.decode([1, 2, 3], cache)
    return model, cache


def _moved(folder):
    """Decode with recorded steps, and then let the parameters move to other memory."""
    from pygpt import nn

    class Larger(nn.Module):
        def __init__(self, part):
            self.first, self.part = nn.Linear(3, 5).initialise(1), part

    model, cache = _cached(folder)
    model.decode([1], cache)
    Larger(model).layout()
    model.transformer.wte.weight.flat()[0] += 1.0
    return cache


def _quantized(model):
    return model.quantize("int8").generate([1, 2], 3, temperature=0), model.weights


def _saved(folder):
    model = _evaluated(folder)
    model.save_pretrained(folder / "model")
    return folder, model


def _save(pair):
    folder, model = pair
    model.save_pretrained(folder / "model")
    return {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}


def _load(pair):
    import pygpt
    model = pygpt.GPT.from_pretrained(pair[0] / "model")
    return {name: bytes(memoryview(p)) for name, p in model.named_parameters()}


def _evaluate(model):
    import pygpt
    return pygpt.evaluate(model, [1, 5, 2, 7, 3, 3, 0, 6, 1, 1, 4])


def _tokenizer(folder):
    import pygpt
    return pygpt.BPETokenizer.train(TEXT, vocab_size=270)


def _train_tokenizer(folder):
    import pygpt
    return pygpt.BPETokenizer.train(TEXT, vocab_size=270).encode(TEXT)


def operations():
    """Return {name: Operation}."""
    return {
        "first loss_and_grad": Operation(lambda _: Trained(), _together, Trained.forget),
        "next loss_and_grad": Operation(lambda _: Trained(2), _together, Trained.forget),
        "added loss_and_grad": Operation(lambda _: Trained(2, adds=True), _together,
                                         Trained.forget),
        "bfloat16 loss_and_grad": Operation(lambda _: Trained(1, compute_dtype="bfloat16"),
                                            _together, Trained.forget),
        "first loss and backward": Operation(lambda _: Trained(), _apart, Trained.forget),
        "next loss and backward": Operation(lambda _: Trained(2), _apart, Trained.forget),
        "logits and backward": Operation(lambda _: Trained(1), _by_operations, Trained.forget),
        "added logits and backward": Operation(lambda _: Trained(1, adds=True), _by_operations,
                                               Trained.forget),
        "clip": Operation(_with_gradient, lambda t: t.optimizer.clip_grad_norm(0.5)),
        "step": Operation(_clipped, lambda t: t.optimizer.step(), read=_state),
        "generate": Operation(_evaluated, _generate),
        "decode": Operation(_cached, _decode),
        "decode after a move": Operation(
            _moved, lambda cache: bytes(memoryview(cache.step([2])[0]))),
        "quantize": Operation(_evaluated, _quantized),
        "save": Operation(_saved, _save),
        "load": Operation(_saved, _load),
        "evaluate": Operation(_evaluated, _evaluate),
        "encode": Operation(_tokenizer, lambda t: (t.encode(TEXT), t.decode([1, 2, 260]))),
        "train a tokenizer": Operation(lambda folder: folder, _train_tokenizer),
    }


def complain(text):
    """Print a problem; return the status 1."""
    print(text, file=sys.stderr)
    return 1
