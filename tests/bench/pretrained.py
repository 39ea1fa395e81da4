"""from_pretrained and save_pretrained beside transformers' GPT2LMHeadModel: the largest difference
of any logit, for each layout and dtype that GPT-2's weights come in.

    python tests/bench/pretrained.py [--size tiny|124m] [--dtype float32|float16|bfloat16]

Install torch and transformers in the environment first.

Random models with every bias and gain random, too; the same ids through both, in float32. Ends with
status 1 when a difference is more than float32's roundings explain.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time

import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
import pygpt  # noqa: E402

SIZES = {"tiny": dict(vocab_size=101, n_positions=32, n_embd=48, n_layer=3, n_head=4),
         "124m": dict()}
DTYPES = "float32", "float16", "bfloat16"
ALLOWED = 1e-4  # of the largest logit: sums of some thousand roundings of 6e-8 each
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def random_model(size, **changes):
    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(**SIZES[size], **changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p) * 0.05
    return model


def torch_logits(model, ids):
    with torch.no_grad():
        return model.float()(torch.tensor(ids)).logits.reshape(-1)


def our_logits(directory, ids):
    model = pygpt.GPT.from_pretrained(directory)
    with pygpt.no_grad():
        return torch.frombuffer(memoryview(model(ids)).cast("B"), dtype=torch.float32).clone()


def write_config(directory, config):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config, file)


def state_of(model):
    return {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}


def write_old(directory, model, prefix):
    """As files of old: masks, the head once more."""
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


def cases(size, dtypes, top):
    """Yield (name, directory, the logits' model) one after another."""
    def path(name):
        return os.path.join(top, name)

    for name in dtypes:
        dtype = getattr(torch, name)
        model = random_model(size).to(dtype)
        model.save_pretrained(path(name))
        yield f"{name}, as transformers saves it", path(name), model
        model = random_model(size).to(dtype)
        model.save_pretrained(path("shards"), max_shard_size="20KB" if size == "tiny" else "60MB")
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
    if size == "tiny":
        changes = [dict(n_inner=100), dict(reorder_and_upcast_attn=True)]
        changes += [dict(activation_function=gelu) for gelu in
                    ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate")]
        for change in changes:
            model = random_model(size, **change)
            model.save_pretrained(path("changed"))
            yield f"{change}", path("changed"), model


def exports(size, dtypes, top, ids):
    """Yield (name, their logits of what was exported here, ours of the same)."""
    random_model(size).save_pretrained(os.path.join(top, "source"))
    model = pygpt.GPT.from_pretrained(os.path.join(top, "source"))
    for dtype in dtypes:
        directory = os.path.join(top, "exported")
        model.save_pretrained(directory, dtype=dtype)
        theirs = GPT2LMHeadModel.from_pretrained(directory, dtype="auto").eval()
        assert str(theirs.dtype) == f"torch.{dtype}"
        yield f"{dtype}, exported here, read by both", theirs, our_logits(directory, ids)
        shutil.rmtree(directory)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    size, dtypes = (arguments := parser.parse_args()).size, arguments.dtype
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(2)
    config = GPT2Config(**SIZES[size])
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(config.vocab_size, (2, min(32, config.n_positions)),
                        generator=generator).tolist()
    start, worst = time.perf_counter(), 0.0
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {size}")
    with tempfile.TemporaryDirectory() as top:
        def compared():
            for name, directory, model in cases(size, dtypes, top):
                yield name, torch_logits(model, ids), our_logits(directory, ids)
                shutil.rmtree(directory)
            for name, model, ours in exports(size, dtypes, top, ids):
                yield name, torch_logits(model, ids), ours

        for name, theirs, ours in compared():
            largest, off = float(theirs.abs().max()), float((theirs - ours).abs().max())
            worst = max(worst, off / largest)
            print(f"{name:<48} largest logit {largest:7.3f}  largest difference {off:.2e}",
                  flush=True)
    print(f"worst {worst:.2e} of the largest logit, {time.perf_counter() - start:.0f} s")
    return 1 if worst > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
