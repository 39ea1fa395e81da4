"""Lists the ways in which the values of a model's parameters change, for test_half_weights.py.

Each is a function of a Subject and a random generator. It does the same to a GPT and to a Plain
one, and returns what it has computed, if anything.
"""

import copy
import pickle
import random
from array import array

from models import bits, draw_ids, tiny

from pygpt import nn
from pygpt.autograd import ops
from pygpt.autograd.precision import computing_in
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor
from pygpt.backend.kernels import Memory, check_status, lib
from pygpt.model import GPT, Block
from pygpt.optim import OPTIMIZERS, AdamW, Optimizer

CONFIG = tiny().config
BATCH = draw_ids(random.Random(0)), draw_ids(random.Random(1))
CELL = Tensor(0.875)


class Plain(GPT):
    """Is a GPT whose weights are float32 alone."""

    def prepare_halves(self, make):
        """Do nothing."""


class Shrinking(Optimizer):
    """Multiplies every value by CELL, with a kernel."""

    def checked_settings(self):
        return self.lr

    def update(self, settings, gradients):
        flat = self.layout.values.pointer("f")
        check_status(lib.scale_forward(flat, flat, CELL.ptr, self.layout.n, 0))


class ShrinkingAdamW(AdamW):
    """Does more after AdamW's step, and does not say that the copy is right."""

    def update(self, settings, gradients):
        super().update(settings, gradients)
        Shrinking.update(self, settings, gradients)


class Interrupted(Shrinking):
    """Is interrupted when it has changed the values."""

    def update(self, settings, gradients):
        super().update(settings, gradients)
        raise KeyboardInterrupt


for _name in "shrinking", "shrinkingadamw", "interrupted":
    del OPTIMIZERS[_name]  # other tests list them


class Subject:
    """Holds a model, the module that owns its flat buffers, an optimizer, and views of values that
    were handed out."""

    def __init__(self, cls):
        self.model = cls(CONFIG, seed=5, compute_dtype="bfloat16")
        self.take(self.model, AdamW(self.model, lr=0.01))

    def take(self, model, optimizer):
        self.model, self.optimizer, self.views = model, optimizer, []
        self.owner = optimizer.model

    def parameter(self, rng):
        return rng.choice([p for _, p in self.model.named_parameters()])


def adamw(s, rng):
    try:
        s.optimizer.clip_grad_norm(0.5)
        s.optimizer.step()
    except ValueError:  # the parameters have moved
        s.optimizer = AdamW(s.owner, lr=0.01)
        s.optimizer.step()
    if rng.random() < 0.7:
        s.optimizer.zero_grad()


def another_optimizer(cls):
    def edit(s, rng):
        try:
            cls(s.owner, lr=0.01).step()
        except KeyboardInterrupt:
            pass
    edit.__name__ = cls.__name__
    return edit


def write_to_flat(s, rng):
    s.parameter(rng).flat()[0] = rng.random()


def write_to_a_buffer(s, rng):
    view = memoryview(s.parameter(rng)).cast("B").cast("f")
    view[0] = rng.random()


def write_to_all_values(s, rng):
    view = s.model.values().view.cast("f")
    view[rng.randrange(16)] = rng.random()


def write_to_another_shape(s, rng):
    p = s.parameter(rng)
    ops.reshape(p, (p.size,)).flat()[0] = rng.random()


def take_a_view(s, rng):
    s.views.append(s.parameter(rng).flat())


def write_to_an_old_view(s, rng):
    for view in s.views:
        view[0] = rng.random()


def initialise(s, rng):
    s.model.initialise(rng.randrange(99))


def initialise_a_layer(s, rng):
    rng.choice([m for m in s.model.modules() if isinstance(m, nn.Linear)]).initialise(
        rng.randrange(99))


def move_one(s, rng):
    p = s.parameter(rng)
    memory = Memory(4 * p.size)
    memory.view.cast("f")[:] = memoryview(array("f", [0.125] * p.size))
    p.place(memory)
    s.owner.layout()


def exchange_a_block(s, rng):
    s.model.transformer.h[0] = Block(CONFIG, iter(range(100, 200))).initialise(rng.randrange(99))
    s.owner.layout()


def become_part_of_a_larger_model(s, rng):
    around = nn.Module()
    around.inner, around.more = s.owner, nn.Linear(2, 2).initialise(1)
    around.layout()
    s.owner = around


def train_a_model_that_shares_the_weights(s, rng):
    other = type(s.model)(CONFIG, compute_dtype=rng.choice(("float32", "bfloat16")))
    other.transformer = s.model.transformer
    other.loss_and_grad(*BATCH)
    try:
        AdamW(other, lr=0.02).step()
    except ValueError as error:
        assert "larger model" in str(error)


def freeze(s, rng):
    s.parameter(rng).requires_grad = False


def thaw(s, rng):
    for _, p in s.model.named_parameters():
        p.requires_grad = True


def change_type(s, rng):
    s.model.compute_dtype = rng.choice(("float32", "bfloat16"))


def recompute(s, rng):
    s.model.recompute = rng.random() < 0.5


def evaluate(s, rng):
    with no_grad():
        return bits(s.model.loss(*BATCH))


def compute_logits(s, rng):
    return bits(s.model(BATCH[0]))


def generate(s, rng):
    return s.model.generate([1, 2], 3, temperature=0.0)


def call_an_op(s, rng):
    layer = s.model.transformer.h[-1].attn.c_attn
    with computing_in("bfloat16"):
        return bits(ops.linear(Tensor([[0.3] * CONFIG.n_embd]), layer.weight))


def read(s, rng):
    p = s.parameter(rng)
    return p.tolist(), pickle.dumps(p), repr(p)


def copy_all(s, rng):
    s.take(*copy.deepcopy((s.model, s.optimizer)))


def pickle_all(s, rng):
    s.take(*pickle.loads(pickle.dumps((s.model, s.optimizer))))


def lose_a_loss(s, rng):
    s.model.loss(*BATCH)


CHANGES = [adamw, *map(another_optimizer, (Shrinking, ShrinkingAdamW, Interrupted)), initialise,
           initialise_a_layer, move_one, exchange_a_block, become_part_of_a_larger_model,
           train_a_model_that_shares_the_weights, freeze, thaw, change_type, recompute, evaluate,
           compute_logits, generate, call_an_op, read, copy_all, pickle_all, lose_a_loss]
VIEWS = [write_to_flat, write_to_a_buffer, write_to_all_values, write_to_another_shape, take_a_view,
         write_to_an_old_view]
