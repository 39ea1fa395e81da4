"""Defines modules: layers that own parameters and find the parameters of layers inside them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pygpt.autograd import forward_pass, ops
from pygpt.autograd.launch import one_at_a_time
from pygpt.autograd.tape import recomputed
from pygpt.autograd.tensor import Tensor
from pygpt.backend.arguments import checked_flag, checked_type, is_integer, shown
from pygpt.backend.kernels import check_status, in_float32, lib
from pygpt.parameters import Gradients, Layout, Parameter, Values, fill
from pygpt.tree import tree

if TYPE_CHECKING:
    from typing_extensions import Self

_ModuleClass = TypeVar("_ModuleClass", bound="type[Module]")

_PLAIN = {int, float, bool, str, type(None)}  # types of attributes that contain no module


def _walk(owner, prefix, seen):
    """Yield (dotted name, Parameter or Module) for all that lies in a module or a container, each
    once. `seen` holds the id()s of the objects met before: a container may contain itself."""
    items = vars(owner) if isinstance(owner, Module) else owner
    named = items.items() if isinstance(items, dict) else enumerate(items)
    for key, item in named:
        if id(item) in seen or not isinstance(item, (Parameter, Module, list, tuple, dict)):
            continue
        seen.add(id(item))
        name = f"{prefix}{key}"
        if isinstance(item, (Parameter, Module)):
            yield name, item
        if not isinstance(item, Parameter):
            yield from _walk(item, name + ".", seen)


class Module:
    """A layer. Parameters and modules that are set as attributes are found by name, also inside
    lists, tuples and dicts: `h.0`, `h.key`. An object that occurs twice counts once, by its first
    name. A derived class defines forward(*inputs), and may name plain attributes in `shown`, which
    its repr shows.
    """

    training: bool = True
    shown: tuple[str, ...] = ()
    _gradients = None
    _not_copied = {"_gradients"}

    def __repr__(self) -> str:
        return tree(self, Module)

    def __call__(self, *inputs: Any) -> Any:
        """Return forward(*inputs). If the pass recomputes this module, the backward pass runs it
        again.
        """
        current = forward_pass.current_pass()
        if id(self) in current.recomputed:
            run = partial(self._run_unchanged, dependencies(self, with_places=False))
            return recomputed(partial(current.resume, run), *inputs)
        return forward_pass.call_forward(self, inputs)

    def _run_unchanged(self, before, *inputs):
        """Run the module; raise ValueError if its dependencies() now differ from `before`."""
        if dependencies(self, with_places=False) != before:
            raise ValueError(f"backward(): a {type(self).__name__} that is to be recomputed "
                             "has changed since the forward pass; compute the loss again")
        return forward_pass.call_forward(self, inputs)

    @one_at_a_time
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        state = copy.deepcopy(self.__getstate__(), memo)
        twin.__setstate__(state)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes that a copy of the module gets: all except `_not_copied`."""
        return {name: value for name, value in vars(self).items() if name not in self._not_copied}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, Parameter), in the order in which attributes were set."""
        checked_type("prefix", prefix, str)
        for name, item in _walk(self, prefix, {id(self)}):
            if isinstance(item, Parameter):
                yield name, item

    def parameter_ids(self) -> set[int]:
        """Return the set of id()s of the parameters. It is fast enough to be called in every step,
        which named_parameters() is not."""
        found, seen, waiting = set(), set(), [self]
        while waiting:
            value = waiting.pop()
            if type(value) in _PLAIN or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, Parameter):
                found.add(id(value))
            elif isinstance(value, Module):
                waiting.extend(vars(value).values())
            elif isinstance(value, dict):
                waiting.extend(value.values())
            elif isinstance(value, (list, tuple)):
                waiting.extend(value)
        return found

    def modules(self) -> Iterator[Module]:
        """Iterate over this module and those inside it, each once."""
        return (module for _, module in self.named_modules())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, Module) of this module, whose name is the prefix, and those inside
        it, each once."""
        yield checked_type("prefix", prefix, str), self
        for name, item in _walk(self, prefix and prefix + ".", {id(self)}):
            if isinstance(item, Module):
                yield name, item

    def weights_at_rest(self) -> Iterator[tuple[str, ops.WeightAtRest]]:
        """Yield (dotted name, WeightAtRest) of the matrices in fewer bits (quantize)."""
        for name, module in self.named_modules():
            if isinstance(getattr(module, "weight", None), ops.WeightAtRest):
                yield f"{name}.weight", module.weight

    def num_parameters(self) -> int:
        """Count the numbers in the parameters, frozen ones included."""
        return sum(p.size for _, p in self.named_parameters())

    def train(self, mode: bool = True) -> Self:
        """Turn dropout on, or off if mode is False; return the module."""
        checked_flag("mode", mode)
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Turn dropout off; return the module."""
        return self.train(False)

    @one_at_a_time
    def initialise(self, seed: int = 0) -> Self:
        """Give every parameter its initial values, which depend on the seed and on its place among
        the parameters; return the module.

        Args:
            seed: a whole number from 0 to 2^64 - 1.

        Raises:
            ValueError: seed is not such a number, or a weight rests in fewer bits.
        """
        for name, weight in self.weights_at_rest():
            raise ValueError(f"initialise(): {name} rests in {weight.form}, for generation alone; "
                             "initialise a model whose weights are float32")
        cell, named = ops.Seed(seed), list(self.named_parameters())
        if any(p.layout is None for _, p in named):
            self._flatten(named, keeps_values=False)
        for stream, (_, p) in enumerate(named):
            p.changed()
            if p.std is None:
                fill(p.ptr, p.size, p.fill)
            else:
                std = in_float32("std", p.std, 0.0)
                check_status(lib.random_normal(p.ptr, std, cell.ptr, stream, p.size))
        return self

    @one_at_a_time
    def layout(self) -> Layout:
        """Return the Layout of the parameters; move them to flat buffers first if necessary.

        Raises:
            ValueError: there are no parameters, or one has no values yet, or they lie in the
                buffers of a larger module, which has further parameters there.
        """
        named = list(self.named_parameters())
        layout = self._common_layout(named)
        if layout is None or len(layout.entries) != len(named):
            layout = self._flatten(named, keeps_values=True)
        return layout

    def values(self) -> Values:
        """Return the flat buffer of all parameters (Values); it raises as layout() does."""
        return self.layout().values

    @one_at_a_time
    def prepare_halves(self, make: bool) -> None:
        """Bring the parameters that lie in memory as bfloat16, too, up to date there. With `make`,
        those in flat buffers get that form where they lack it (Values.prepare_halves)."""
        for values in {p.layout.values for _, p in self.named_parameters() if p.layout}:
            values.prepare_halves(make)

    @one_at_a_time
    def gradients(self) -> Gradients:
        """Return the Gradients of the parameters: those of this module or, if it is a part of a
        larger model in flat buffers, those of that model. It raises as layout() does."""
        if self._gradients is None or not self._gradients.layout.holds(self):
            layout = self._common_layout(list(self.named_parameters())) or self.layout()
            layout.gradients = layout.gradients or Gradients(layout)
            self._gradients = layout.gradients
        return self._gradients

    def _common_layout(self, named):
        """Return the one Layout that holds all the parameters, or None."""
        if not named:
            raise ValueError(f"{type(self).__name__} has no parameters")
        layout = named[0][1].layout
        return layout if all(p.layout is layout for _, p in named) else None

    def _flatten(self, named, keeps_values):
        """Move the parameters to new flat buffers of this module, with their values if
        keeps_values is true."""
        own = {id(p) for _, p in named}
        for name, p in named:
            if p.layout and not p.layout.is_contained_in(own):
                raise ValueError(
                    f"{type(self).__name__}: its parameter {name!r} lies in the flat buffers of a "
                    "larger model; give the optimizer that whole model, not a part of it")
        layout = Layout(self, named)
        if keeps_values:
            for _, p, offset in layout.entries:
                layout.values.write(offset, p.read().cast("B"))
        for _, p, offset in layout.entries:
            p.place(layout.values, offset, layout)
        return layout


# -------------------------------------------------------------------------------- dependencies ---

_RECORDABLE = {}  # {class: its functions when it was defined}
_NO_DEPENDENCIES = {"training", "_gradients"}  # attributes on which no recorded call depends


def recordable(cls: _ModuleClass) -> _ModuleClass:
    """Declare that the calls of a Module class may be recorded and replayed; not its subclasses'.

    The class promises that its results depend only on the inputs, the instance's attributes and the
    class's functions, and that ops compute all of them. The attributes and the functions are
    compared before every step (see dependencies).
    """
    _RECORDABLE[cls] = {name: value for name, value in vars(cls).items() if callable(value)}
    return cls


def is_as_written(cls: type, name: str) -> bool:
    """Return whether cls.name is still the function that a recordable class defined: no subclass
    overrides it and nobody has replaced it."""
    return any(written.get(name) is getattr(cls, name) and vars(home).get(name) is written[name]
               for home, written in _RECORDABLE.items() if issubclass(cls, home))


def dependencies(module: Module, with_places: bool = True) -> list[Any] | None:
    """List all that the results of a module depend on besides its inputs, to compare with `==`.

    The list has each parameter, whether it is trained, and (with_places) the memory of its values,
    of these as bfloat16 if products read that, and of its gradient, but not the values. It leaves
    out the flag `training`, because the dropout shares in force are compared separately.

    Returns:
        A list, which keeps its objects alive; or None if something cannot be compared: a module
        whose class is not recordable or has had a function replaced, or an attribute that is
        neither a module, a parameter, a plain value nor a list, tuple or dict of these.
    """
    found, unchanged, seen, waiting = [], set(), set(), [module]
    while waiting:
        value = waiting.pop()
        kind = type(value)
        if kind in _PLAIN:
            found += kind, value
        elif kind is Parameter:
            found += value, value.node
            if with_places:
                found += value.memory, value.offset, value.halves(), value.leaf.memory
        elif kind in (list, tuple, dict):
            found += kind, len(value)
            if id(value) not in seen:  # it may contain itself
                seen.add(id(value))
                members = itertools.chain(*value.items()) if kind is dict else value
                waiting.extend(members)
        elif isinstance(value, Module):
            if kind not in unchanged:
                written = _RECORDABLE.get(kind)
                if written is None or any(vars(kind).get(n) is not f for n, f in written.items()):
                    return None
                unchanged.add(kind)
            found.append(value)
            if id(value) not in seen:
                seen.add(id(value))
                for name, item in vars(value).items():
                    if name not in _NO_DEPENDENCIES:
                        found.append(name)
                        waiting.append(item)
        elif dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen:
            found.append(value)
        else:
            return None
    return found


# ------------------------------------------------------------------------------------- layers ---

@recordable
class Linear(Module):
    """Computes y = x W + b. The weight is stored as (in, out), like GPT-2's."""

    def __init__(self, n_in: int, n_out: int, std: float = 0.02) -> None:
        self.weight = Parameter((n_in, n_out), std=std)
        self.bias = Parameter((n_out,))

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


@recordable
class LayerNorm(Module):
    """Brings each vector to mean 0 and variance 1, then scales and shifts each channel."""

    shown = ("eps",)

    def __init__(self, n: int, eps: float = 1e-5) -> None:
        self.weight, self.bias = Parameter((n,), fill=1.0), Parameter((n,))
        in_float32("eps", eps, 0.0)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.layernorm(x, self.weight, self.bias, self.eps)


@recordable
class Embedding(Module):
    """A table with one row for each id."""

    def __init__(self, n_rows: int, n: int, std: float = 0.02) -> None:
        self.weight = Parameter((n_rows, n), std=std)

    def forward(self, ids: Tensor) -> Tensor:
        return ops.embedding(ids, self.weight)


@recordable
class Dropout(Module):
    """In training, sets a share of the values to 0 and scales up the others.

    Args:
        share: the probability of 0, in [0, 1).
        stream: the number of this place in the model. Different numbers give different masks.
    """

    shown = ("share",)

    def __init__(self, share: float, stream: int = 0) -> None:
        in_float32("share", share, 0.0, 1.0)
        self.share, self.stream = float(share), stream
        if not is_integer(stream) or not 0 <= stream < 2 ** 64:
            raise ValueError(f"stream={shown(stream)} is not a whole number in [0, 2^64)")

    def in_progress(self) -> tuple[float, Any, int]:
        """Return (share, seed, stream) of the forward pass in progress; without one, share is 0."""
        current = forward_pass.current_pass()
        return current.shares.get(id(self), 0.0), current.seed, self.stream

    def forward(self, x: Tensor) -> Tensor:
        share, seed, stream = self.in_progress()
        return ops.dropout(x, share, seed, stream) if share else x
