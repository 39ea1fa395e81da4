"""Tests modules: which parameters they find, under which names, and where in memory."""

import pytest

from pygpt import nn
from pygpt.autograd import ops
from pygpt.autograd.tensor import Tensor


def parameter(*shape):
    return nn.Parameter(shape, std=1.0)


def names(module):
    return [name for name, _ in module.named_parameters()]


# ------------------------------------------------------------------------------ what is found ---

class Containers(nn.Module):
    """Holds a parameter and a module in every kind of container, one inside another."""

    def __init__(self):
        self.plain = parameter(2)
        self.list = [parameter(1), nn.Embedding(2, 3)]
        self.tuple = (nn.Embedding(1, 1), parameter(2, 2))
        self.dict = {"up": parameter(3), "down": nn.Embedding(1, 2)}
        self.nested = [[parameter(1)], {"deep": (nn.Embedding(1, 1),)}]
        self.other = [1, "text", None, {"key": 2}]


def test_parameters_are_found_in_lists_tuples_and_dicts():
    assert names(Containers()) == [
        "plain", "list.0", "list.1.weight", "tuple.0.weight", "tuple.1", "dict.up",
        "dict.down.weight", "nested.0.0", "nested.1.deep.0.weight"]
    assert Containers().num_parameters() == 2 + 1 + 6 + 1 + 4 + 3 + 2 + 1 + 1


def test_eval_reaches_modules_in_every_container():
    module = Containers().eval()
    assert len(list(module.modules())) == 5
    assert not any(m.training for m in module.modules())


class Sharing(nn.Module):
    def __init__(self):
        layer = nn.Linear(2, 3)
        self.first, self.second = layer, layer
        self.tied = layer.weight
        self.owner = self  # as a layer that keeps its model does


def test_a_layer_that_occurs_twice_counts_once_under_its_first_name():
    module = Sharing()
    assert names(module) == ["first.weight", "first.bias"]
    assert module.num_parameters() == 9
    assert list(module.modules()) == [module, module.first]


def test_prefixes_come_before_the_names():
    assert [n for n, _ in nn.Linear(1, 1).named_parameters("a.b.")] == ["a.b.weight", "a.b.bias"]


# ------------------------------------------------------------------------------ where it lies ---

class Pair(nn.Module):
    def __init__(self):
        self.left, self.right = nn.Linear(3, 5), nn.Linear(5, 2)

    def __call__(self, x):
        return self.right(self.left(x))


def every(module):
    return [p.tolist() for _, p in module.named_parameters()]


def test_the_flat_buffer_holds_matrices_then_vectors_and_zeros_between():
    pair = Pair().initialise(1)
    layout = pair.layout()
    assert [name for name, _, _ in layout.entries] == [
        "left.weight", "right.weight", "left.bias", "right.bias"]
    assert [offset for _, _, offset in layout.entries] == [0, 64, 128, 192]
    assert (layout.n, layout.n_decay) == (64, 32)
    left, right = (p.flat().tolist() for p in (pair.left.weight, pair.right.weight))
    assert pair.values().view.cast("f").tolist() == left + [0.0] + right + [0.0] * (6 + 32)


@pytest.mark.parametrize("module, n_decay", [
    (nn.Embedding(3, 3), 16), (nn.LayerNorm(5), 0), (nn.Linear(0, 4), 0), (nn.Linear(4, 4), 16)])
def test_n_decay_is_the_length_of_the_matrices(module, n_decay):
    assert module.initialise().layout().n_decay == n_decay


def test_initialising_again_gives_the_same_values_in_the_same_place():
    pair = Pair().initialise(7)
    before, flat = every(pair), pair.values()
    pair.left.bias.flat()[0] = 3.0
    pair.initialise(7)
    assert every(pair) == before and pair.values() is flat
    pair.initialise(8)
    assert every(pair) != before


def test_a_part_can_be_initialised_where_it_lies():
    pair = Pair().initialise(7)
    flat, right = pair.values(), pair.right.weight.tolist()
    pair.left.initialise(9)
    assert pair.values() is flat and pair.right.weight.tolist() == right
    assert pair.left.weight.tolist() == nn.Linear(3, 5).initialise(9).weight.tolist()


@pytest.mark.parametrize("seed", [-1, 2 ** 64, 1.0, None, "1"])
def test_a_bad_seed_is_named(seed):
    with pytest.raises(ValueError, match=r"seed=.* is not a whole number in \[0, 2\^64\)"):
        nn.Linear(1, 1).initialise(seed)


def test_a_part_has_no_buffers_of_its_own():
    pair = Pair().initialise(1)
    flat, values = pair.values(), every(pair)
    for take in (pair.left.layout, pair.left.values):
        with pytest.raises(ValueError, match="'weight' lies in the flat buffers of a larger model; "
                                             "give the optimizer that whole model"):
            take()
    assert pair.values() is flat and every(pair) == values
    assert pair.left.gradients() is pair.gradients()  # and so the part can find them


def test_a_module_around_all_of_it_uses_its_buffers():
    class Around(nn.Module):
        def __init__(self, inside):
            self.inside = inside

    pair = Pair().initialise(1)
    around = Around(pair)
    assert around.values() is pair.values() and around.gradients() is pair.gradients()


def test_a_larger_module_takes_its_parts_in_with_their_values():
    pair = Pair()
    pair.left.initialise(1)
    pair.right.initialise(2)
    values, layouts = every(pair), [pair.left.layout(), pair.right.layout()]
    pair.values()
    assert every(pair) == values and [layout.current for layout in layouts] == [False, False]


def test_a_parameter_without_values_moves_nothing():
    pair = Pair()
    pair.left.initialise(1)
    before = pair.left.values()
    with pytest.raises(ValueError, match=r"shape \(5, 2\) has no values yet"):
        pair.values()
    assert pair.left.values() is before


def test_a_module_without_parameters_says_so():
    with pytest.raises(ValueError, match="Dropout has no parameters"):
        nn.Dropout(0.1).layout()


def test_gradients_that_came_before_the_buffer_are_kept():
    pair, x = Pair().initialise(1), Tensor([[1.0, -2.0, 0.5]])
    for _ in range(2):
        ops.sum(pair(x)).backward()
        pair.gradients()  # after the first: they move; after the second: they were added to
    grads = [p.grad.tolist() for _, p in pair.named_parameters()]
    other = Pair().initialise(1)
    other.gradients()
    for _ in range(2):
        ops.sum(other(x)).backward()
    assert grads == [p.grad.tolist() for _, p in other.named_parameters()]


def test_fill_writes_n_numbers():
    tensor = Tensor([1.0, 2.0, 3.0])
    nn.fill(tensor.ptr, 2, -4.0)
    assert tensor.tolist() == [-4.0, -4.0, 3.0]


def test_modules_are_found_in_all_containers_and_once_in_a_circle():
    outer, inner = nn.Module(), nn.Linear(2, 2)
    outer.parts, outer.table = (inner, [nn.Dropout(0.1)]), {"key": nn.LayerNorm(3)}
    outer.again, outer.itself = inner, outer
    inner.outer = outer
    assert [(name, type(m).__name__) for name, m in outer.named_modules()] == [
        ("", "Module"), ("parts.0", "Linear"), ("parts.1.0", "Dropout"), ("table.key", "LayerNorm")]
    assert [name for name, _ in outer.named_modules("x")][:2] == ["x", "x.parts.0"]
    assert list(outer.modules()) == [m for _, m in outer.named_modules()]
    named = {id(p) for _, p in outer.named_parameters()}
    assert outer.parameter_ids() == named and len(named) == 4
    assert not any(m.training for m in outer.eval().modules())


def test_containers_that_hold_themselves():
    module = nn.Linear(2, 2).initialise(1)
    module.table, module.list = {}, [1]
    module.table["itself"], module.list[1:] = module.table, [module.list]
    assert len(list(module.named_parameters())) == len(module.parameter_ids()) == 2
    assert nn.dependencies(module)[:1] == [module]
