"""Runs the peer: transformers' GPT2LMHeadModel, in each layout and dtype of its weights.

It needs torch, transformers and safetensors; standin/transformers_gpt2.py has the same functions.
"""

import json
import os

import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

VERSION = f"transformers {transformers.__version__}, torch {torch.__version__}"
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(2)


def random_model(size, **changes):
    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(**size, **changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p) * 0.05
    return model


def logits_of(model, ids):
    """Return all logits, flat, in float32."""
    with torch.no_grad():
        return model.float()(torch.tensor(ids)).logits.reshape(-1)


def compare(theirs, ours):
    """Return (their largest logit, their largest difference from a buffer of floats)."""
    ours = torch.frombuffer(ours, dtype=torch.float32)
    return float(theirs.abs().max()), float((theirs - ours).abs().max())


def save(size, directory):
    random_model(size).save_pretrained(directory)


def read(directory, dtype, ids):
    """Return the logits of the model in a directory, which must have that dtype."""
    model = GPT2LMHeadModel.from_pretrained(directory, dtype="auto").eval()
    assert str(model.dtype) == f"torch.{dtype}"
    return logits_of(model, ids)


def nats_per_token(directory, ids, stride):
    """Return the mean loss by the loop of the perplexity guide: each window's loss is the mean over
    its own new tokens, so it counts as often as it has some."""
    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    ids, nats, count, before = torch.tensor([ids]), 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + model.config.n_positions, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, :before - begin] = -100
        with torch.no_grad():
            loss = model(ids[:, begin:end], labels=labels).loss
        scored = int((labels[:, 1:] != -100).sum())
        nats, count, before = nats + float(loss) * scored, count + scored, end
        if end == ids.shape[1]:
            return nats / count


def write_config(directory, config):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config, file)


def state_of(model):
    return {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}


def write_old(directory, model, prefix):
    """Write a model as old versions did: with masks, and with a copy of the head."""
    P = model.config.n_positions
    state = state_of(model)
    for i in range(model.config.n_layer):
        state[f"transformer.h.{i}.attn.bias"] = torch.ones(P, P, dtype=torch.uint8).tril()[None,
                                                                                           None]
        state[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    if not prefix:
        state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    write_config(directory, model.config.to_dict())
    save_file(state, os.path.join(directory, "model.safetensors"))


def write_nanogpt(directory, model, bias, prefix=""):
    c = model.config
    state = {prefix + name: tensor.T.contiguous() if name.endswith(TRANSPOSED) else tensor
             for name, tensor in state_of(model).items() if bias or not name.endswith(".bias")}
    write_config(directory, dict(n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd, bias=bias,
                                 block_size=c.n_positions, vocab_size=c.vocab_size, dropout=0.0))
    save_file(state, os.path.join(directory, "model.safetensors"))


def cases(size, dtypes, top, ids):
    """Yield (name, directory, logits). Each directory holds a model in another layout or dtype.

    Args:
        size: GPT2Config's sizes. Settings that change the computation are tried on every size but
            the default.
    """
    for name, directory, model in _models(size, dtypes, top):
        yield name, directory, logits_of(model, ids)


def _models(size, dtypes, top):
    def path(name):
        return os.path.join(top, name)

    shard = "20KB" if size else "60MB"
    for name in dtypes:
        dtype = getattr(torch, name)
        model = random_model(size).to(dtype)
        model.save_pretrained(path(name))
        yield f"{name}, as transformers saves it", path(name), model
        model = random_model(size).to(dtype)
        model.save_pretrained(path("shards"), max_shard_size=shard)
        yield f"{name}, sharded", path("shards"), model
        model = random_model(size).to(dtype)
        model.transformer.save_pretrained(path("bare"))
        yield f"{name}, without prefix and head", path("bare"), model
        for prefix in (True, False):
            model = random_model(size).to(dtype)
            write_old(path("old"), model, prefix)
            yield (f"{name}, {'with' if prefix else 'without'} prefix, masks, lm_head", path("old"),
                   model)
        model = random_model(size).to(dtype)
        write_nanogpt(path("nanogpt"), model, True, "_orig_mod.")
        yield f"{name}, nanoGPT, compiled", path("nanogpt"), model
        model = random_model(size).to(dtype)
        with torch.no_grad():
            for parameter, p in model.named_parameters():
                if parameter.endswith(".bias"):
                    p.zero_()
        write_nanogpt(path("bare-nanogpt"), model, False)
        yield f"{name}, nanoGPT without biases", path("bare-nanogpt"), model
    if size:
        changes = [dict(n_inner=100), dict(reorder_and_upcast_attn=True)]
        changes += [dict(activation_function=gelu) for gelu in
                    ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate")]
        for change in changes:
            model = random_model(size, **change)
            model.save_pretrained(path("changed"))
            yield f"{change}", path("changed"), model
