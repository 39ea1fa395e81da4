"""Takes the positions out of a model and reorders a text."""

import random

import pygpt


def without_positions(model):
    weight = model.transformer.wpe.weight
    values = weight.flat()
    for i in range(weight.size):
        values[i] = 0.0
    return model


def reordered(ids):
    return [*reversed(ids[:-1]), ids[-1]]


IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def made(n_layer):
    """Make a model whose weights are large enough to care about each token."""
    model = pygpt.GPT(pygpt.GPTConfig(vocab_size=10, n_positions=8, n_embd=16, n_layer=n_layer,
                                      n_head=2)).eval()
    numbers = random.Random(2)
    for _, parameter in model.named_parameters():
        values = parameter.flat()
        for i in range(parameter.size):
            values[i] += numbers.gauss(0, 0.3)
    return model


def moved(model):
    """Return how far the last logits move at most when the tokens before are reordered."""
    first, second = (model([ids]).tolist()[0][-1] for ids in (IDS, reordered(IDS)))
    return max(abs(a - b) for a, b in zip(first, second))


assert sorted(reordered(IDS)) == sorted(IDS) and reordered(IDS) != IDS and reordered(IDS)[-1] == 6
results = {(n_layer, has): moved(made(n_layer) if has else without_positions(made(n_layer)))
           for n_layer in (1, 2) for has in (True, False)}
for (n_layer, has), result in results.items():
    print(f"{n_layer} block{'s'[:n_layer - 1]}, {'with' if has else 'without'} positions:"
          f" the logits move by {result:.1e}")
assert results[1, True] > 1e-2, "with positions, order should matter"
assert results[1, False] < 1e-4, "one block without positions should see a set"
assert results[2, False] > 1e-2, "in two blocks the mask tells something of the order"
print("done")
