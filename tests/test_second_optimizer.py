"""Tests a second optimizer, which takes one class to train, save, resume and predict memory."""

import os

import pytest
from runs import stop_after

from pygpt.checkpoint import safetensors
from pygpt.config import ConfigError
from pygpt.optim import OPTIMIZERS, Optimizer
from pygpt.training import cost
from pygpt.training.trainer import train


@pytest.fixture
def momentum():
    """Does SGD with momentum 0.9 in plain Python: velocity = 0.9 velocity + g, x -= lr velocity."""
    class Momentum(Optimizer):
        buffers = ("velocity",)

        @classmethod
        def from_config(cls, model, config):
            return cls(model, lr=config.learning_rate)

        def checked_settings(self):
            return self.lr

        def update(self, lr, gradients):
            x, velocity, g = (memory.view.cast("f") for memory in (
                self.layout.values, self.velocity, gradients.memory))
            for start, n, _ in self.spans():
                for i in range(start, start + n):
                    velocity[i] = 0.9 * velocity[i] + gradients.factor * g[i]
                    x[i] -= lr * velocity[i]

    yield "momentum"
    del OPTIMIZERS["momentum"]


def weights(out):
    return {name: (out / "last" / name).read_bytes()
            for name in ("model.safetensors", "optimizer.safetensors")}


def test_it_is_trained_saved_and_resumed_to_the_bit(tiny, tmp_path, momentum):
    losses = []
    train(tiny(out=tmp_path / "whole"), [lambda r: losses.append(r.get("loss"))],
          optimizer=momentum)
    taken = [loss for loss in losses if loss is not None]
    assert taken[-1] < taken[0]
    train(tiny(), [stop_after(3)], optimizer=momentum)
    train(tiny(), resume=True, optimizer=momentum)
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    tensors, _ = safetensors.read(os.path.join(tmp_path, "out", "last", "optimizer.safetensors"))
    assert tensors and all(name.endswith(".velocity") for name in tensors)


def test_a_resume_with_another_optimizer_is_refused(tiny, momentum):
    train(tiny(), [lambda record: record["step"] == 3], optimizer=momentum)
    with pytest.raises(ValueError, match=r"\.m is missing"):
        train(tiny(), resume=True)


def test_its_memory_is_predicted(tiny, momentum):
    config = tiny().model_config(vocab_size=18)
    parts = cost.memory_needed(config, 4, 8, optimizer=OPTIMIZERS[momentum])
    assert parts["state"] == parts["weights"]


def test_an_unknown_optimizer_is_named(tiny):
    with pytest.raises(ConfigError, match="optimizer='adamax' is not one of adamw"):
        train(tiny(), optimizer="adamax")
