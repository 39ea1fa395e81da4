"""Modules: layers that own parameters, and find those of the layers inside them."""

import copy
import dataclasses
from functools import partial

from pygpt.autograd import forward_pass, ops
from pygpt.autograd.launch import one_at_a_time
from pygpt.autograd.tape import next_serial, recomputed
from pygpt.backend.kernels import check, in_float32, lib
from pygpt.parameters import Gradients, Layout, Parameter, fill

_PLAIN = {int, float, bool, str, type(None)}  # types of attributes that hold no module


def _inside(name, value, seen):
    """Yield (dotted name, Parameter or Module) for value itself or what its containers hold; each
    container is gone through once, for it may hold itself."""
    if isinstance(value, (Parameter, Module)):
        yield name, value
    elif isinstance(value, (list, tuple, dict)) and id(value) not in seen:
        seen.add(id(value))
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _inside(f"{name}.{key}", item, seen)


class Module:
    """A layer. Parameters and modules set as attributes are found by name, and so are those in
    lists, tuples and dicts: `h.0`, `h.key`. One that occurs twice counts once, by its first name.
    """

    training = True
    _gradients = None

    def __call__(self, *inputs):
        """forward(*inputs); in a pass that recomputes this module, run again in the backward pass.
        """
        current = forward_pass.current()
        if current is not None and id(self) in current.recomputed:
            return recomputed(partial(current.resume, self._unless_changed()), *inputs)
        return self._entered(*inputs)

    def _unless_changed(self):
        """The function that enters the module, and refuses where it is no longer as it is now."""
        before = watched(self, with_places=False)

        def entered(*inputs):
            if watched(self, with_places=False) != before:
                raise ValueError(f"backward(): a {type(self).__name__} that is to be recomputed "
                                 "has changed since the forward pass; compute the loss again")
            return self._entered(*inputs)
        return entered

    def _entered(self, *inputs):
        watcher = forward_pass.watcher()
        return self.forward(*inputs) if watcher is None else watcher(self, inputs)

    @one_at_a_time
    def __deepcopy__(self, memo):
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        state = copy.deepcopy(self.__getstate__(), memo)
        twin.__setstate__(state) if hasattr(twin, "__setstate__") else vars(twin).update(state)
        return twin

    def __getstate__(self):
        """What a copy of the module is made of: its attributes but for the gradients."""
        return {name: value for name, value in vars(self).items() if name != "_gradients"}

    def _walk(self, prefix, seen):
        """Yield (dotted name, Parameter or Module inside this one), each once."""
        for attribute, value in vars(self).items():
            for name, item in _inside(prefix + attribute, value, seen):
                if id(item) not in seen:
                    seen.add(id(item))
                    yield name, item
                    if isinstance(item, Module):
                        yield from item._walk(name + ".", seen)

    def named_parameters(self, prefix=""):
        """Yield (dotted name, Parameter), in the order in which attributes were set."""
        for name, item in self._walk(prefix, {id(self)}):
            if isinstance(item, Parameter):
                yield name, item

    def parameter_ids(self):
        """The id() of each parameter, a set: named_parameters() fast enough for every step."""
        found, waiting, seen = set(), [self], set()
        while waiting:
            value = waiting.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, Module):
                value = vars(value)
            for item in value.values() if isinstance(value, dict) else value:
                if type(item) in _PLAIN:
                    continue
                if isinstance(item, Parameter):
                    found.add(id(item))
                elif isinstance(item, (Module, list, tuple, dict)):
                    waiting.append(item)
        return found

    def modules(self):
        """Yield this module and those inside it, each once."""
        for _, module in self.named_modules():
            yield module

    def named_modules(self, prefix=""):
        """Yield (dotted name, Module) of this module, whose name is the prefix, and those inside
        it, each once."""
        yield prefix, self
        for name, item in self._walk(prefix and prefix + ".", {id(self)}):
            if isinstance(item, Module):
                yield name, item

    def num_parameters(self):
        """How many numbers the parameters hold, the frozen ones included."""
        return sum(p.size for _, p in self.named_parameters())

    def train(self, mode=True):
        """Turn dropout on (or off); returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Turn dropout off; returns the module."""
        return self.train(False)

    @one_at_a_time
    def initialise(self, seed=0):
        """Give every parameter its initial values, a function of seed and of its place; returns the
        module.

        Args:
            seed: a whole number from 0 to 2^64 - 1.

        Raises:
            ValueError: seed is not one.
        """
        cell, named = ops.Seed(seed), list(self.named_parameters())
        if any(p.layout is None for _, p in named):
            self._flatten(named, copy=False)
        for stream, (_, p) in enumerate(named):
            if p.std is None:
                fill(p.ptr, p.size, p.fill)
            else:
                std = in_float32("std", p.std, 0.0)
                check(lib.random_normal(p.ptr, std, cell.ptr, stream, p.size))
            p.leaf.changed_at = next_serial()
        return self

    @one_at_a_time
    def layout(self):
        """The parameters' places in the flat buffers, after making sure that they are there.

        Raises:
            ValueError: there are no parameters, or one has no values yet, or they are only a part
                of a larger module's that lie in its buffers.
        """
        named = list(self.named_parameters())
        layout = self._common_layout(named)
        if layout is None or len(layout.entries) != len(named):
            layout = self._flatten(named, copy=True)
        return layout

    def values(self):
        """The flat buffer of all parameters (Memory); errors as for layout()."""
        return self.layout().values

    @one_at_a_time
    def gradients(self):
        """The Gradients that the parameters' belong to: this module's own, or, where it is a part
        of a larger model that is in flat buffers, that model's; errors as for layout()."""
        if self._gradients is None or not self._gradients.layout.holds(self):
            layout = self._common_layout(list(self.named_parameters())) or self.layout()
            layout.gradients = layout.gradients or Gradients(layout)
            self._gradients = layout.gradients
        return self._gradients

    def _common_layout(self, named):
        """The one Layout that all the parameters lie in, or None."""
        if not named:
            raise ValueError(f"{type(self).__name__} has no parameters")
        layout = named[0][1].layout
        return layout if all(p.layout is layout for _, p in named) else None

    def _flatten(self, named, copy):
        """Move the parameters to flat buffers of this module's own."""
        own = {id(p) for _, p in named}
        for name, p in named:
            if p.layout and not p.layout.is_whole_of(own):
                raise ValueError(
                    f"{type(self).__name__}: its parameter {name!r} lies in the flat buffers of a "
                    "larger model; give the optimizer that whole model, not a part of it")
        layout = Layout(self, named)
        for _, p, offset in layout.entries if copy else ():
            layout.values.view[offset:offset + 4 * p.size] = p.flat().cast("B")
        for _, p, offset in layout.entries:
            p.place(layout.values, offset, layout)
        return layout


# ------------------------------------------------------------------------------------- watched ---

_RECORDABLE = {}  # class -> its functions, as they were written


def recordable(cls):
    """Promise, for a Module class, not its subclasses, that its calls may be recorded and replayed.

    That is, what an instance computes from its inputs depends on nothing but its attributes and the
    class's functions, both of which are watched, and all of it is computed by ops.
    """
    _RECORDABLE[cls] = {name: value for name, value in vars(cls).items() if callable(value)}
    return cls


def is_as_written(cls, name):
    """Whether a class's function of that name is one of a recordable class, not replaced since."""
    return any(written.get(name) is getattr(cls, name) and vars(home).get(name) is written[name]
               for home, written in _RECORDABLE.items() if issubclass(cls, home))


def watched(module, with_places=True):
    """All that the results of a module depend on besides its inputs, to be compared with `==`.

    Parameters are there with whether they are trained and (with_places) the memory that they and
    their gradients lie in, not with their values. The flag `training` is left out: the dropout
    shares in force are looked at apart.

    Returns:
        A list, which keeps alive what it names; None where something cannot be watched: a module of
        a class that is not recordable or whose functions were replaced, or an attribute that is
        neither a module, a parameter, a plain value nor a list, tuple or dict of these.
    """
    found, known, seen = [], {}, set()

    def entry_of(p):
        return (p, p.node, p.memory, p.offset, p.leaf.memory) if with_places else (p, p.node)

    def note(value):
        kind = type(value)
        if kind in _PLAIN:
            found.extend((kind, value))
        elif kind is Parameter:
            found.extend(entry_of(value))
        elif kind in (list, tuple, dict):
            found.extend((kind, len(value)))
            if id(value) in seen:  # it is noted already, and may hold itself
                return True
            seen.add(id(value))
            items = value if kind is not dict else [x for pair in value.items() for x in pair]
            return all(map(note, items))
        elif isinstance(value, Module):
            return note_module(value, kind)
        elif dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen:
            found.append(value)
        else:
            return False
        return True

    def note_module(module, kind):
        if kind not in known:
            written = _RECORDABLE.get(kind)
            known[kind] = written is not None and all(
                vars(kind).get(name) is function for name, function in written.items())
        found.append(module)
        if not known[kind] or id(module) in seen:
            return known[kind]
        seen.add(id(module))
        for name, item in vars(module).items():
            kind = type(item)
            if kind is Parameter:
                found.append(name)
                found.extend(entry_of(item))
            elif kind in _PLAIN:
                if name != "training":
                    found.extend((name, kind, item))
            elif name != "_gradients":
                found.append(name)
                if not note(item):
                    return False
        return True

    return found if note(module) else None


# ------------------------------------------------------------------------------------- layers ---

@recordable
class Linear(Module):
    """y = x W + b; the weight is stored (in, out), as GPT-2 stores it."""

    def __init__(self, n_in, n_out, std=0.02):
        self.weight = Parameter((n_in, n_out), std=std)
        self.bias = Parameter((n_out,))

    def forward(self, x):
        return ops.linear(x, self.weight, self.bias)


@recordable
class LayerNorm(Module):
    """Each vector brought to mean 0 and variance 1, then scaled and shifted by channel."""

    def __init__(self, n, eps=1e-5):
        self.weight, self.bias, self.eps = Parameter((n,), fill=1.0), Parameter((n,)), eps

    def forward(self, x):
        return ops.layernorm(x, self.weight, self.bias, self.eps)


@recordable
class Embedding(Module):
    """A table with one row for each id."""

    def __init__(self, n_rows, n, std=0.02):
        self.weight = Parameter((n_rows, n), std=std)

    def forward(self, ids):
        return ops.embedding(ids, self.weight)


@recordable
class Dropout(Module):
    """While training, sets a share of the values to 0 and scales up the rest.

    Args:
        share: the probability of 0, in [0, 1).
        stream: a number that differs between the places of a model, so that their masks do.
    """

    def __init__(self, share, stream=0):
        self.share, self.stream = share, stream

    def in_progress(self):
        """(share, seed, stream): of the forward pass in progress; outside of one the share is 0."""
        current = forward_pass.current()
        if current is None:
            return 0.0, None, self.stream
        return current.shares.get(id(self), 0.0), current.seed, self.stream

    def forward(self, x):
        share, seed, stream = self.in_progress()
        return ops.dropout(x, share, seed, stream) if share else x
