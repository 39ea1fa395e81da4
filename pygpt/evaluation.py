"""Measures how well a model predicts a text: the negative log-likelihood of each of its tokens.

A text may be longer than the context, so it is read through windows of n_positions tokens, each of
which begins `stride` tokens after the one before. A window scores the tokens that no window before
it has scored, each from all tokens before it in the window. With n_positions=6 and stride=2:

    token      0 1 2 3 4 5 6 7 8 9        .  a token that is only context
    window 0   . s s s s s                s  a token that is scored
    window 1       . . . . s s
    window 2           . . . . s s

So each token but the first is scored once, and after the first window it has at least
n_positions - stride tokens of context. These are the windows of the perplexity guide of the
transformers library (https://huggingface.co/docs/transformers/perplexity). With
stride=n_positions the windows do not overlap. The guide then leaves out the first token of each
window; here the window before scores it, from all of its n_positions tokens.

A model is anything with `config.n_positions`, `config.vocab_size`, `training`, `train(mode)` and
either token_losses(ids, targets), as model.GPT has it, or a call that turns ids (B, T) into logits
(B, T, V). token_losses needs less memory.
"""

from __future__ import annotations

import math
from array import array
from functools import partial
from typing import TYPE_CHECKING, Any

from pygpt.autograd.launch import launch
from pygpt.autograd.tape import no_grad
from pygpt.autograd.tensor import Tensor
from pygpt.backend.arguments import checked_function, checked_parts
from pygpt.backend.kernels import lib
from pygpt.config import items_of, refusal, token_id, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

IGNORED = -100  # the target of a row that is not scored
# Short windows are computed together, about BATCH_TOKENS tokens at a time; where the model gives
# all logits, those of several windows take at most LOGITS_BYTES. On an AMD EPYC (Zen 3, two
# threads) the lesson's model, whose context is 64, scores 3,500 tokens/s with one window at a time,
# 13,200 with 512 tokens, 19,500 with 2048 and 23,200 with 4096; one of 0.8 million parameters gains
# nothing beyond 2048.
BATCH_TOKENS = 2048
LOGITS_BYTES = 1 << 26


def evaluate(model: Any, ids: Iterable[int], stride: int | None = None) -> float:
    """Return the mean negative log-likelihood of a text's tokens, in nats per token.

    Its exponential is the perplexity. Dropout is off meanwhile.

    Args:
        model: a GPT.
        ids: a sequence of at least 2 token ids, of any length.
        stride: tokens from the beginning of a window to that of the next, 1..n_positions; None:
            half of n_positions. A small one gives each token more context and takes more time.
    Raises:
        ValueError: an id is out of range, ids are too few, stride is out of range, or the model's
            logits are not finite.
        TypeError: model is none.
    """
    losses = token_losses(model, ids, stride)
    return math.fsum(losses) / len(losses)


def token_losses(model: Any, ids: Iterable[int], stride: int | None = None,
                 on_progress: Callable[[int], object] = lambda count: None) -> array[float]:
    """Return -log p(token | the tokens before it in its window) for each token but the first.

    Args:
        model, ids, stride: as those of evaluate.
        on_progress: called with the number of tokens scored so far, after each batch of windows.
    Returns:
        An array of len(ids) - 1 floats, in nats.
    Raises:
        ValueError: as evaluate.
    """
    checked_parts("model", model, "a model", "config", "train")
    checked_function("on_progress", on_progress)
    P, V = model.config.n_positions, model.config.vocab_size
    stride = checked_stride(stride, P)
    ids = _checked_ids(ids, V)
    together = BATCH_TOKENS // P
    if not hasattr(model, "token_losses"):
        together = min(together, LOGITS_BYTES // (4 * P * V))
    was_training, losses = model.training, array("f")
    model.train(False)
    try:
        for batch in _batches(windows(len(ids), P, stride), max(1, together)):
            losses.extend(_batch_losses(model, ids, batch))
            on_progress(len(losses))
    finally:
        model.train(was_training)
    if not math.isfinite(math.fsum(losses)):
        raise ValueError("the model's logits are not finite")
    return losses


def checked_stride(stride, n_positions):
    """Return the stride to use; None stands for half of n_positions, at least 1.

    Raises:
        ConfigError: it is not a whole number in 1..n_positions.
    """
    if stride is None:
        return max(1, n_positions // 2)
    stride = whole_number("stride", stride)
    if not 1 <= stride <= n_positions:
        raise refusal("stride", stride, f"must be in 1..{n_positions}, the context of this model")
    return stride


def windows(count, n_positions, stride):
    """Yield (begin, end, first, stop) for each window of a text of `count` tokens.

    The window holds the tokens begin..end-1 and scores first..stop-1.
    """
    begin, first = 0, 1
    while first < count:
        end = min(begin + n_positions, count)
        stop = min(end + 1, count) if stride == n_positions else end
        yield begin, end, first, stop
        begin, first = begin + stride, stop


def _batches(windows, together):
    """Put consecutive windows of one length into lists of at most `together`."""
    batch = []
    for window in windows:
        length = window[1] - window[0]
        if batch and (len(batch) == together or length != batch[0][1] - batch[0][0]):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _batch_losses(model, ids, batch):
    """Return the losses, as floats, of the tokens that a batch of windows scores."""
    T, targets, scored = batch[0][1] - batch[0][0], [], []
    for row, (begin, end, first, stop) in enumerate(batch):
        # the prediction at a token's place is about the token after it
        before, after = first - 1 - begin, end - (stop - 1)
        targets.append([IGNORED] * before + ids[first:stop].tolist() + [IGNORED] * after)
        scored.append(slice(row * T + before, (row + 1) * T - after))
    inputs = [ids[begin:end].tolist() for begin, end, _, _ in batch]
    losses = getattr(model, "token_losses", partial(_losses_of_logits, model))(inputs, targets)
    values = losses.flat()
    return [loss for rows in scored for loss in values[rows]]


def _losses_of_logits(model, ids, targets):
    """Return the losses (B, T) of targets, lists of ids, from the logits of all positions."""
    B, T, V = len(ids), len(ids[0]), model.config.vocab_size
    losses, mean = Tensor.empty((B, T)), Tensor.empty(())
    targets = Tensor(targets, dtype="int32")
    with no_grad():
        logits = model(ids)
    launch(lib.cross_entropy_forward, mean.ptr, losses.ptr, logits.ptr, targets.ptr, B * T, V,
           IGNORED)
    return losses


def _checked_ids(ids, vocab_size):
    ids = list(items_of("ids", ids, "is not a list of ids"))
    if not all(type(token) is int and 0 <= token < vocab_size for token in ids):
        ids = [token_id(f"ids[{position}]", token, vocab_size)
               for position, token in enumerate(ids)]
    if len(ids) < 2:
        raise ValueError(f"ids: {len(ids)} tokens are too few: the first of a text has no token "
                         "before it and is not scored")
    return array("i", ids)
