"""Draws a module and the modules inside it, as the repr of a model shows them:

    GPT of 824,448 parameters
      (transformer): Transformer                                             824,448
        (wte): Embedding: weight (96, 128)                                    12,288
        (h.0 to h.3): 4 x Block                                         198,272 each
          (ln_1): LayerNorm: weight (128), bias (128), eps=1e-05                 256

Modules side by side that look alike are drawn once, with their number. Only shapes are read: no
value is computed and no memory is touched. nn.py, the only caller, says what a module is.
"""

from __future__ import annotations

import re
from itertools import groupby
from math import prod
from typing import Any

from pygpt.autograd.ops import WeightAtRest
from pygpt.parameters import Parameter

WIDTH = 80  # columns
BREAKS = re.compile(r" (?![^()]*\))")  # the spaces at which a line may end: not those of a shape


def tree(module: Any, kind: type) -> str:
    """Draw a module in lines of at most 80 columns.

    Args:
        module: the module. Its class attribute `shown` names the plain attributes to show.
        kind: the class of all modules.
    Returns:
        The lines. The number at the end of a line counts the weights of that module and of those
        inside it. A weight that is there twice counts once.
    """
    name, count = type(module).__name__, f"{number_of_weights(module, kind):,}"
    own = _details(module, kind)
    heading = f"{name} of {count} parameters{': ' if own else ''}{own}"
    return "\n".join([*_fitted(heading, "", 0), *_inside((module,), kind)])


def number_of_weights(module: Any, kind: type) -> int:
    """Count the numbers in the parameters of a module and in its matrices in fewer bits."""
    found, seen, waiting = {}, {id(module)}, [module]
    while waiting:
        for _, item in _members(waiting.pop(), kind):
            if not isinstance(item, kind):
                found[id(item)] = prod(item.shape)
            elif id(item) not in seen:
                seen.add(id(item))
                waiting.append(item)
    return sum(found.values())


def _members(module, kind):
    """List (name, item) of the modules and weights that are attributes of a module, or lie in a
    list, tuple or dict there: such as "h.0"."""
    found, seen = [], set()

    def visit(prefix, container):
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, item in items:
            if isinstance(item, (kind, Parameter, WeightAtRest)):
                found.append((f"{prefix}{key}", item))
            elif isinstance(item, (list, tuple, dict)) and id(item) not in seen:
                seen.add(id(item))  # it may contain itself
                visit(f"{prefix}{key}.", item)

    visit("", vars(module))
    return found


def _inside(above, kind):
    """List the lines of the modules inside the last of `above`, a tuple of modules of which each
    contains the next. Of equal neighbours in a list, tuple or dict, the first is drawn."""
    drawn, lines, depth = [], [], len(above)
    for name, item in _members(above[-1], kind):
        if any(item is module for module in above):  # it contains itself
            drawn.append((name, item, [f"{type(item).__name__}, which is above"]))
        elif isinstance(item, kind):
            drawn.append((name, item, [_summary(item, kind), *_inside((*above, item), kind)]))
    for _, alike in groupby(drawn, key=lambda each: (each[0].rpartition(".")[0] or each[0],
                                                     each[2])):
        (first, item, (text, *below)), *others = alike
        count = f"{number_of_weights(item, kind):,}".lstrip("0")
        if others:
            first = f"{first} to {others[-1][0]}"
            text, count = f"{len(others) + 1} x {text}", count and f"{count} each"
        lines += [*_fitted(f"({first}): {text}", count, depth), *below]
    return lines


def _summary(module, kind):
    own = _details(module, kind)
    return f"{type(module).__name__}{': ' if own else ''}{own}"


def _details(module, kind):
    """Show the weights of a module with their shapes, and the attributes that its class names."""
    weights = [f"{name} {_shape(item)}" for name, item in _members(module, kind)
               if not isinstance(item, kind)]
    settings = [f"{name}={getattr(module, name)!r}" for name in module.shown
                if hasattr(module, name)]  # a look may come while it is being made
    return ", ".join(weights + settings)


def _shape(weight):
    """Show the lengths of a parameter or, with its form, of the matrix that took its place."""
    at_rest = isinstance(weight, WeightAtRest)
    lengths = weight.shape[::-1] if at_rest and weight.is_transposed else weight.shape
    return f"({', '.join(map(str, lengths))})" + (f" {weight.form}" if at_rest else "")


def _fitted(text, count, depth):
    """Lay out a text and, at the right edge of its first line, a count."""
    indent = "  " * depth
    lines = [indent]
    for word in BREAKS.split(text):
        line = lines[-1] + " " * (lines[-1] != indent) + word
        room = WIDTH - (len(count) + 1 if count and len(lines) == 1 else 0)
        if len(line) > room and lines[-1] != indent:
            lines.append(f"{indent}    {word}")
        else:
            lines[-1] = line
    if count:
        lines[0] = lines[0].ljust(WIDTH - len(count) - 1) + " " + count
    return lines
