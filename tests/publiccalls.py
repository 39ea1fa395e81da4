"""Lists a valid call of every public function, and what each of its arguments may be.

test_bad_calls.py compares this list with the public names, so that no function is left out.
"""

import math
import os
from functools import cached_property

import pygpt
from pygpt import evaluation, generate, nn, sampling
from pygpt.autograd.convert import is_number
from pygpt.autograd.tensor import Tensor
from pygpt.tokenizer import StreamDecoder

from badcalls import Call, seen
from wrongvalues import (Popping, TooLong, Wrong, any_real, any_whole, batch, decodable, either,
                         flag, function, functions, ids, items_of, nothing, numbers, one_of,
                         optional, real, text, whole)

V, P = 6, 4
CONFIG = dict(vocab_size=V, n_positions=P, n_embd=4, n_layer=1, n_head=2, resid_pdrop=0.25)
CHARS = pygpt.CharTokenizer("abcdef")
BPE = pygpt.BPETokenizer.train("abab abab <|endoftext|>", 259, ["<|endoftext|>"])
SHORT = {"temperature": lambda w: 0.5}


class World:
    """New objects for one call, each made when it is first used: a model that drops out, its
    optimizer, a cache, a leaf."""

    @cached_property
    def model(self):
        model = pygpt.GPT(pygpt.GPTConfig(**CONFIG), seed=1)
        model.loss_and_grad([[1, 2]], [[2, 3]])
        return model

    @cached_property
    def optimizer(self):
        return pygpt.AdamW(self.model)

    @cached_property
    def x(self):
        return Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)

    @cached_property
    def one(self):
        return Tensor(2.0)

    @cached_property
    def cache(self):
        cache = self.model.new_cache(2, 3)
        cache.read(0, [1])
        return cache

    @cached_property
    def pipeline(self):
        return pygpt.Pipeline(self.model, CHARS)

    @cached_property
    def sampler(self):
        sampler = sampling.Sampler(pygpt.SampleConfig(seed=1, repetition_penalty=1.1))
        sampler.choose(Tensor([1.0, 2.0, 3.0]), [1, 2])
        return sampler

    @cached_property
    def decoder(self):
        decoder = StreamDecoder(CHARS)
        decoder.feed(1)
        return decoder

    def state(self):
        """Return {name: all that a call may change} of the objects that were made."""
        found = {"threads": pygpt.get_num_threads()}
        for name, thing in vars(self).items():
            found[name] = seen(thing), *self.inside(name, thing)
        return found

    def inside(self, name, thing):
        """Return the rest of an object's state, which seen() does not show."""
        if name == "model":
            return ([seen(p.grad) for _, p in thing.named_parameters()], thing.forward_passes,
                    thing.dropout_seed, thing.compute_dtype, thing.end_of_text, thing.recompute)
        if name == "optimizer":
            return thing._gradients.factor,
        if name == "x":
            return thing.requires_grad, seen(thing.grad)
        if name == "sampler":
            return list(thing._seen.ids), list(thing._seen.counts), thing._seen._length
        return [thing.is_whole] if name == "decoder" else []


def value(given):
    return lambda world: given


def method(name):
    """Return (run, ...) of a method of world.<object>: "model.loss"."""
    owner, _, function = name.partition(".")
    return lambda world, **arguments: getattr(getattr(world, owner), function)(**arguments)


def positional(name):
    owner, _, function = name.partition(".")
    return lambda world, *arguments, **named: getattr(getattr(world, owner), function)(
        *arguments, *named.values())


def operator(owner, name):
    """Return a function that calls an operator's method, and refuses what the method leaves to the
    other operand."""
    def run(world, other):
        found = getattr(getattr(world, owner), name)(other)
        if found is NotImplemented:
            raise TypeError("other")
        return found
    return run


def setter(owner, attribute):
    def run(world, **named):
        setattr(getattr(world, owner), attribute, named[attribute])
        return getattr(getattr(world, owner), attribute)
    return run


def path(given):
    if isinstance(given, (str, os.PathLike)) and isinstance(os.fspath(given), str):
        return given
    raise Wrong


SAMPLE_KINDS = {
    "temperature": real(lambda x: 0 <= x < math.inf),
    "top_k": whole(0), "top_p": real(lambda x: 0 < x <= 1), "min_p": real(lambda x: 0 <= x <= 1),
    "repetition_penalty": real(lambda x: 0 < x < math.inf),
    "presence_penalty": real(lambda x: -2 <= x <= 2),
    "frequency_penalty": real(lambda x: -2 <= x <= 2),
}


def biases(given):
    if given is None:
        return {}
    try:
        pairs = given.items() if isinstance(given, dict) else [
            tuple(items_of(pair, ())) for pair in items_of(given)]
        pairs = list(pairs)
    except (TypeError, ValueError):
        raise Wrong from None
    found = {}
    for pair in pairs:
        if len(pair) != 2:
            raise Wrong
        found[whole(0)(pair[0])] = real(lambda x: x < math.inf)(pair[1])
    return found


def known_biases(given):
    if any(token >= V for token in biases(given)):
        raise Wrong
    return biases(given)


def texts(given):
    if given is None:
        return ()
    if isinstance(given, (str, os.PathLike)):
        return (path(given),)
    if isinstance(given, (bytes, bytearray, dict, set, frozenset)):
        raise Wrong
    items = items_of(given, ())
    return tuple(os.fspath(path(item)) for item in items)


def stop_texts(given):
    found = tuple(str(item) for item in texts(given))
    if "" in found:
        raise Wrong
    return found


def seed(given):
    if given is None:
        raise TooLong  # each call then draws its own
    return whole(0)(given)


def one_seed(given):
    if isinstance(given, (list, tuple)) and len(given) == 1:
        return seed(given[0])
    return seed(given)


def own_function(given):
    """None; a function, too, which may raise errors of its own."""
    if callable(given):
        raise TooLong
    return optional(nothing)(given)


def of_type(kind):
    """Another object of the right type, of which the result is another."""
    def meaning(given):
        if isinstance(given, kind):
            raise TooLong
        raise Wrong
    return meaning


def that_fits(kind):
    """A size, unless one that is refused only after gigabytes have been filled."""
    def meaning(given):
        if isinstance(given, int) and 2 ** 20 < given < 2 ** 40:
            raise TooLong
        return kind(given)
    return meaning


def longer(given):
    """The ids of a Sampler's sequence; those that it has seen are not looked at again."""
    if isinstance(given, list) and len(given) in (2, 3):
        raise TooLong
    return ids(2 ** 31, 2)(given)


def unchanged(kind):
    """What is read bit by bit, and so is not what it was if it changes meanwhile."""
    def meaning(given):
        if type(given) is list and any(isinstance(item, Popping) for item in given):
            raise TooLong
        return kind(given)
    return meaning


def rows(row):
    """Several prompts."""
    def meaning(given):
        if isinstance(given, (memoryview, Tensor)) or hasattr(given, "typecode"):
            try:
                given = memoryview(given).tolist()
            except ValueError:  # it was released
                raise Wrong from None
        found = items_of(given)
        if not found:
            raise Wrong
        return [row(item) for item in found]
    return meaning


def prompts(given):
    """What Pipeline continues: texts or ids, one or several."""
    if isinstance(given, (list, tuple)) and not given:
        return []
    return either(text, ids(V, 1), rows(either(text, ids(V, 1))))(given)


SEED = optional(whole(0))
GENERATION = {
    **SAMPLE_KINDS, "logit_bias": known_biases,
    "max_new_tokens": whole(0, feasible=10), "logprobs": optional(whole(0)),
}
STOP = unchanged(optional(either(whole(0, V - 1), ids(V, is_ordered=False))))
PROMPT = ids(V, 1, P)
LOSS = {"ids": value([[1, 2, 3]]), "targets": value([[2, 3, 4]])}
LOSS_KINDS = {"ids": batch(V, P, (1, 3)), "targets": batch(V, P, (1, 3)),
              "ignore_index": whole(-2 ** 31, 2 ** 31 - 1)}


GPT_KINDS = dict(
    vocab_size=whole(1, 2 ** 31 - 1), n_positions=whole(1), n_embd=whole(1), n_layer=whole(1),
    n_head=whole(1), layer_norm_epsilon=real(lambda x: 0 < x <= 1),
    embd_pdrop=real(lambda x: 0 <= x < 1), attn_pdrop=real(lambda x: 0 <= x < 1),
    resid_pdrop=real(lambda x: 0 <= x < 1), n_inner=optional(whole(1)))
TRAIN_KINDS = dict(
    data=texts, val_data=texts, sample_prompts=texts, errors=one_of("strict", "replace"),
    tokenizer=optional(path), out=path, init=optional(path), n_layer=optional(whole(1)),
    n_head=optional(whole(1)), n_embd=optional(whole(1)), n_positions=optional(whole(1)),
    dropout=real(lambda x: 0 <= x < 1), max_steps=whole(1), batch_size=whole(1),
    grad_accumulation_steps=whole(1), recompute=flag, dtype=one_of("float32", "bfloat16"),
    learning_rate=real(lambda x: 0 <= x < math.inf),
    min_learning_rate=optional(real(lambda x: 0 <= x < math.inf)), warmup_steps=whole(0),
    beta1=real(lambda x: 0 <= x < 1), beta2=real(lambda x: 0 <= x < 1),
    weight_decay=real(lambda x: 0 <= x < math.inf), grad_clip=real(lambda x: 0 <= x < math.inf),
    val_fraction=real(lambda x: 0 < x < 1), eval_interval=whole(1), eval_batches=whole(1),
    keep=whole(0), log_interval=whole(1), sample_interval=whole(0), sample_length=whole(1),
    seed=whole(0, 2 ** 63 - 1), threads=whole(0, 256))


def tokenizer_calls(name, tokenizer):
    specials = one_or_strings
    encoding = dict(valid={"text": value("ab")},
                    kinds={"text": text, "allowed_special": specials,
                           "disallowed_special": specials})
    chunks = dict(valid={"chunks": lambda w: ["a", "b"]},
                  kinds={"chunks": chunk_texts, "allowed_special": specials,
                         "disallowed_special": specials})
    decoding = dict(words=("the id",), valid={"ids": lambda w: [1, 2]},
                    kinds={"ids": decodable(tokenizer.vocab_size)})

    def of(function, read=lambda found: found):
        return lambda world, **arguments: read(getattr(tokenizer, function)(**arguments))

    def joined(parts):
        return [token for part in parts for token in part]

    return {
        f"{name}.encode": Call(of("encode"), **encoding),
        f"{name}.encode_parts": Call(of("encode_parts", joined), **chunks),
        f"{name}.encode_iterable": Call(of("encode_iterable", list), **chunks),
        f"{name}.decode": Call(of("decode"), **decoding),
        f"{name}.decode_bytes": Call(of("decode_bytes"), **decoding),
        f"{name}.decode_iterable": Call(of("decode_iterable", list), **decoding | {
            "kinds": {"ids": unchanged(decodable(tokenizer.vocab_size))}}),
        f"{name}.save_pretrained": Call(of("save_pretrained"), {"directory": value("/dev/null/no")},
                                        {"directory": path}, (OSError,)),
        f"{name}.from_pretrained": Call(
            lambda world, directory: type(tokenizer).from_pretrained(directory),
            {"directory": value("/nowhere")}, {"directory": path}, (OSError,)),
    }


def one_or_strings(given):
    if isinstance(given, str) and given == "all":
        return "all"
    if isinstance(given, (str, bytes, bytearray)):
        raise Wrong
    found = items_of(given, ())
    return {text(item) for item in found}


def tokens(given):
    """A dict of tokens and ids, of which the empty one is right."""
    if given is None or isinstance(given, dict) and not given:
        return {}
    raise Wrong


def texts_and_paths(given):
    if isinstance(given, os.PathLike):
        return given
    return [item if isinstance(item, os.PathLike) else text(item) for item in items_of(given)]


def chunk_texts(given):
    if isinstance(given, str):
        return [given]
    if isinstance(given, (bytes, bytearray, dict, set)):
        raise Wrong
    found = items_of(given, ())
    return [text(item) for item in found]


def characters(given):
    found = items_of(given, ())
    return [text(item) for item in found]


def no_grad(world):
    with pygpt.no_grad():
        return world.model(ids=[[1, 2]])


def threads(world, n):
    before = pygpt.get_num_threads()
    try:
        pygpt.set_num_threads(n)
        return pygpt.get_num_threads()
    finally:
        pygpt.set_num_threads(before)


CALLS = {
    "info": Call(lambda w: pygpt.info()["version"], {}, {}),
    "get_num_threads": Call(lambda w: pygpt.get_num_threads(), {}, {}),
    "set_num_threads": Call(threads, {"n": value(2)}, {"n": whole(1, 256)}),
    "no_grad": Call(no_grad, {}, {}),
    "evaluate": Call(
        lambda w, **a: pygpt.evaluate(**a),
        {"model": lambda w: w.model, "ids": value([1, 2, 3, 4, 5, 0])},
        {"ids": ids(V, 2), "stride": optional(whole(1, P)), "model": of_type(pygpt.GPT)}),
    "evaluation.token_losses": Call(
        lambda w, **a: evaluation.token_losses(w.model, **a),
        {"ids": value([1, 2, 3, 4, 5, 0])},
        {"ids": ids(V, 2), "stride": optional(whole(1, P)), "on_progress": function}),
    "train": Call(
        lambda w, **a: pygpt.train(**a),
        {"config": lambda w: pygpt.TrainConfig(data="/nowhere/at/all", out="/dev/null/no")},
        {"config": nothing, "callbacks": functions, "resume": flag, "force": flag,
         "optimizer": nothing}, (OSError,)),
    "GPTConfig.__init__": Call(lambda w, **a: pygpt.GPTConfig(**a), {"n_embd": value(12)},
                               GPT_KINDS),
    "TrainConfig.__init__": Call(lambda w, **a: pygpt.TrainConfig(**a), {}, TRAIN_KINDS),
    "TrainConfig.model_config": Call(lambda w, **a: pygpt.TrainConfig().model_config(**a),
                                     {"vocab_size": value(3)},
                                     {"vocab_size": whole(1, 2 ** 31 - 1)}),
    "TrainConfig.shaped_like": Call(
        lambda w, **a: pygpt.TrainConfig().shaped_like(**a),
        {"model_config": lambda w: pygpt.GPTConfig(n_layer=4, n_head=4, n_embd=128,
                                                   n_positions=128)},
        {"model_config": nothing}),
    "TrainConfig.learning_rate_at": Call(
        lambda w, **a: pygpt.TrainConfig().learning_rate_at(**a), {"step": value(3)},
        {"step": whole(0, 1999)}),
    "SampleConfig.__init__": Call(
        lambda w, **a: pygpt.SampleConfig(**a), {},
        {**SAMPLE_KINDS, "logit_bias": biases, "stop_strings": stop_texts,
         "max_new_tokens": whole(0), "seed": SEED, "threads": whole(0, 256)}),
    "Tensor.__init__": Call(
        lambda w, **a: Tensor(**a), {"data": value([1.0])},
        {"data": numbers(any_real), "requires_grad": flag,
         "dtype": one_of("float32", "int32")}, (), ("number",)),
    "Tensor int32": Call(lambda w, data: Tensor(data, dtype="int32"), {"data": value([1])},
                         {"data": numbers(any_whole)}, (), ("whole number",)),
    "Tensor.row": Call(positional("x.row"), {"i": value(1)}, {"i": whole(0, 1)}),
    "Tensor.backward": Call(lambda w, grad: (w.x * 2.0).backward(grad),
                            {"grad": lambda w: Tensor([[1.0, 0.0], [0.0, 1.0]])},
                            {"grad": nothing}),
    "Tensor.requires_grad": Call(setter("x", "requires_grad"), {"requires_grad": value(True)},
                                 {"requires_grad": flag}),
    "Tensor.item": Call(positional("one.item"), {}, {}),
    "Tensor.tolist": Call(positional("x.tolist"), {}, {}),
    "Tensor.flat": Call(lambda w: list(w.x.flat()), {}, {}),
    "Tensor.read": Call(lambda w: list(w.x.read()), {}, {}),
    "Tensor.dtype": Call(lambda w: w.x.dtype, {}, {}),
    "Tensor.grad": Call(lambda w: w.x.grad, {}, {}),
    "Tensor.values": Call(lambda w: list(w.x.values().flat()), {}, {}),
    "Tensor.__format__": Call(lambda w, spec: w.one.__format__(spec), {"spec": value(".1f")},
                              {}),
    **{f"Tensor.{name}": Call(operator("x", name), {"other": value(2.0)}, {"other": any_real},
                              (ZeroDivisionError,),
                              ("shape", "int32", "tensor", "out of the range"))
       for name in ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__",
                    "__truediv__")},
    "Tensor.__matmul__": Call(operator("x", "__matmul__"), {"other": lambda w: w.x},
                              {"other": nothing}, (), ("shape", "int32")),
    **{f"Tensor.{name}": Call(operator("one", name), {"other": value(3.0)},
                              {"other": lambda v: v if is_number(v) else any_real(v)}, (),
                              ("shape",))
       for name in ("__lt__", "__le__", "__gt__", "__ge__")},
    "Tensor.__eq__": Call(lambda w, other: w.one == other, {"other": value(3.0)},
                          {"other": lambda v: v}),
    "GPT.__init__": Call(
        lambda w, **a: pygpt.GPT(**a), {"config": lambda w: pygpt.GPTConfig(**CONFIG)},
        {"config": nothing, "seed": whole(0, 2 ** 64 - 1),
         "compute_dtype": one_of("float32", "bfloat16")}),
    "GPT.from_pretrained": Call(
        lambda w, **a: pygpt.GPT.from_pretrained(**a), {"directory": value("/nowhere")},
        {"directory": path, "compute_dtype": one_of("float32", "bfloat16"),
         "weights": optional(one_of("float32", "bfloat16", "int8"))}, (OSError,)),
    "GPT.save_pretrained": Call(
        method("model.save_pretrained"), {"directory": value("/dev/null/no")},
        {"directory": path, "dtype": one_of("float32", "float16", "bfloat16", "as in memory"),
         "end_of_text": STOP}, (OSError,)),
    "GPT.quantize": Call(method("model.quantize"), {}, {"form": one_of("int8", "bfloat16")},
                         (), ("weights",)),
    "GPT.weights": Call(lambda w: w.model.weights, {}, {}),
    "GPT.end_of_text": Call(setter("model", "end_of_text"), {"end_of_text": value(1)},
                            {"end_of_text": STOP}),
    "GPT.compute_dtype": Call(setter("model", "compute_dtype"),
                              {"compute_dtype": value("bfloat16")},
                              {"compute_dtype": one_of("float32", "bfloat16")}),
    "GPT.__call__": Call(positional("model.__call__"), {"ids": value([[1, 2, 3]])},
                         {"ids": batch(V, P)}),
    "GPT.loss": Call(method("model.loss"), LOSS, LOSS_KINDS),
    "GPT.token_losses": Call(method("model.token_losses"), LOSS, LOSS_KINDS),
    "GPT.loss_and_grad": Call(
        method("model.loss_and_grad"), LOSS,
        {**LOSS_KINDS, "scale": real(math.isfinite)}),
    "GPT.new_cache": Call(
        method("model.new_cache"), {}, {"rows": whole(1, feasible=1000),
                                        "length": optional(whole(1, P))}, (MemoryError,)),
    "GPT.decode": Call(method("model.decode"), {"ids": value([1, 2]), "cache": lambda w: w.cache},
                       {"ids": ids(V, 1, 2), "cache": nothing}, (), ("positions",)),
    "Cache.read": Call(method("cache.read"), {"row": value(1), "ids": value([1, 2])},
                       {"row": whole(0, 1), "ids": ids(V, 1, 3)}, (), ("positions",)),
    "Cache.step": Call(method("cache.step"), {"ids": value([1, 2])}, {"ids": ids(V, 1, 2)}),
    "Cache.forget": Call(method("cache.forget"), {"row": value(0)}, {"row": whole(0, 1)}),
    "Cache.move": Call(method("cache.move"), {"source": value(0), "target": value(1)},
                       {"source": whole(0, 1), "target": whole(0, 1),
                        "past": optional(whole(0, 3))}, (), ("row",)),
    **{name: Call(
        lambda w, ids, function=function, **a: function(w.model, ids, **a),
        {"ids": value([1, 2]), "max_new_tokens": value(3), "seed": value(1)},
        {"ids": ids_kind, **GENERATION, "seed": one_seed, "stop": STOP,
         "vocab_size": optional(whole(1)), "sampler": optional(nothing)}, (), ("prompt",))
       for name, function, ids_kind in [
           ("GPT.generate", lambda m, i, **a: m.generate(i, **a),
            either(PROMPT, rows(PROMPT))),
           ("GPT.stream", lambda m, i, **a: m.stream(i, **a), PROMPT),
           ("generate.generate", generate.generate, either(PROMPT, rows(PROMPT)))]},
    "Pipeline.__init__": Call(
        lambda w, **a: pygpt.Pipeline(**a).strict,
        {"model": lambda w: w.model, "tokenizer": value(CHARS)},
        {"model": nothing, "tokenizer": of_type(pygpt.Tokenizer), "strict": flag,
         "on_warning": optional(function)}),
    "Pipeline.from_pretrained": Call(
        lambda w, **a: pygpt.Pipeline.from_pretrained(**a), {"directory": value("/nowhere")},
        {"directory": path, "weights": optional(one_of("float32", "bfloat16", "int8")),
         "strict": flag, "on_warning": optional(function)}, (OSError,)),
    "Pipeline.__call__": Call(
        lambda w, prompt, **a: w.pipeline(prompt, **a),
        {"prompt": value("ab"), "max_new_tokens": value(3), "seed": value(1)},
        {"prompt": prompts, **GENERATION, "seed": one_seed, "stop_strings": stop_texts,
         "sampler": optional(nothing), "progress": optional(flag)}),
    "Pipeline.stream": Call(
        lambda w, prompt, **a: w.pipeline.stream(prompt, **a),
        {"prompt": value("ab"), "max_new_tokens": value(3), "seed": value(1)},
        {"prompt": prompts, "seed": one_seed, "sampler": optional(nothing), "on_step": own_function,
         "stop_strings": stop_texts, "logprobs": optional(whole(0))}),
    "Pipeline.read": Call(positional("pipeline.read"), {"prompt": value("ab")},
                          {"prompt": either(text, ids(V, 1))}),
    "AdamW.__init__": Call(
        lambda w, **a: pygpt.AdamW(w.model, **a), {},
        {"lr": real(lambda x: 0 <= x < math.inf), "betas": nothing,
         "eps": real(lambda x: 0 <= x < math.inf),
         "weight_decay": real(lambda x: 0 <= x < math.inf)}),
    "AdamW of": Call(lambda w, model: pygpt.AdamW(model), {"model": lambda w: w.model},
                     {"model": of_type(pygpt.GPT)}),
    "AdamW.clip_grad_norm": Call(positional("optimizer.clip_grad_norm"), {"max_norm": value(1e-3)},
                                 {"max_norm": real(lambda x: x > 0)}),
    "AdamW.spans": Call(lambda w: w.optimizer.spans(), {}, {}),
    "AdamW.step": Call(lambda w: (w.optimizer.step(), w.optimizer)[1], {}, {}),
    "AdamW.zero_grad": Call(lambda w: w.optimizer.zero_grad(), {}, {}),
    "AdamW lr": Call(lambda w, lr: (setattr(w.optimizer, "lr", lr), w.optimizer.step(),
                                    w.optimizer)[2], {"lr": value(0.1)}, {}),
    "GPT.train": Call(method("model.train"), {}, {"mode": flag}),
    "GPT.eval": Call(method("model.eval"), {}, {}),
    "GPT.initialise": Call(method("model.initialise"), {}, {"seed": whole(0, 2 ** 64 - 1)}),
    "GPT.named_parameters": Call(lambda w, **a: list(dict(w.model.named_parameters(**a))), {},
                                 {"prefix": text}),
    "GPT.named_modules": Call(lambda w, **a: list(dict(w.model.named_modules(**a))), {},
                              {"prefix": text}),
    "GPT.num_parameters": Call(method("model.num_parameters"), {}, {}),
    "nn.Linear": Call(lambda w, **a: nn.Linear(**a).initialise(1),
                      {"n_in": value(2), "n_out": value(3)},
                      {"n_in": whole(0, feasible=100), "n_out": whole(0, feasible=100),
                       "std": optional(real(lambda x: 0 <= x < math.inf))}, (MemoryError,),
                         ("length",)),
    "nn.LayerNorm": Call(
        lambda w, **a: nn.LayerNorm(**{"n": 2} | a).initialise(1)(w.x), {},
        {"n": that_fits(whole(2, 2)), "eps": real(lambda x: 0 <= x < math.inf)}, (MemoryError,),
        ("shape", "bytes", "length")),
    "nn.Embedding": Call(lambda w, **a: nn.Embedding(**a).initialise(1),
                         {"n_rows": value(2), "n": value(3)},
                         {"n_rows": whole(0, feasible=100), "n": whole(0, feasible=100),
                          "std": optional(real(lambda x: 0 <= x < math.inf))}, (MemoryError,),
                         ("length",)),
    "nn.Dropout": Call(lambda w, **a: vars(nn.Dropout(**a))["share"], {"share": value(0.5)},
                       {"share": real(lambda x: 0 <= x < 1), "stream": whole(0, 2 ** 64 - 1)}),
    "Sampler.__init__": Call(lambda w, **a: sampling.Sampler(**a),
                             {"settings": lambda w: pygpt.SampleConfig(seed=1)},
                             {"settings": lambda v: v if isinstance(v, pygpt.SampleConfig)
                              else nothing(v)}),
    "Sampler.choose": Call(
        method("sampler.choose"),
        {"logits": lambda w: Tensor([1.0, 2.0, 3.0]), "ids": value([1, 2, 0])},
        {"logits": of_type(Tensor), "ids": longer}),
    "sampling.choice_of": Call(
        lambda w, **a: sampling.choice_of(**a),
        {"token": value(1), "logits": lambda w: Tensor([1.0, 2.0]).read(), "n": value(1)},
        {"token": whole(0, 1), "logits": of_type(Tensor), "n": whole(0)}),
    "StreamDecoder.__init__": Call(
        lambda w, tokenizer: StreamDecoder(tokenizer).feed(1), {"tokenizer": value(CHARS)},
        {"tokenizer": of_type(pygpt.Tokenizer)}),
    "StreamDecoder.feed": Call(positional("decoder.feed"), {"index": value(2)},
                               {"index": whole(0, 5)}, (), ("ids",)),
    "CharTokenizer.__init__": Call(
        lambda w, **a: pygpt.CharTokenizer(**a), {"characters": value("ab")},
        {"characters": characters, "unknown": one_of("error", "skip", "a", "b")}, (),
        ("vocab",)),
    "CharTokenizer.train": Call(
        lambda w, **a: pygpt.CharTokenizer.train(**a), {"text": value("abba")},
        {"text": text, "unknown": text}),
    "BPETokenizer.__init__": Call(
        lambda w, **a: pygpt.BPETokenizer(**{"vocab": dict(BPE._vocab), "merges": BPE._merges,
                                             "special_tokens": None} | a),
        {"special_tokens": value({"<|endoftext|>": 258})},
        {"vocab": nothing, "merges": nothing, "special_tokens": tokens, "added_tokens": tokens}, (),
        ("vocab", "special_tokens", "tokens")),
    "BPETokenizer.train": Call(
        lambda w, **a: pygpt.BPETokenizer.train(**a), {"source": value("abab")},
        {"source": either(text, texts_and_paths), "vocab_size": whole(256),
         "special_tokens": chunk_texts}, (OSError,), ("tokens",)),
    "BPETokenizer.from_gpt2": Call(
        lambda w, **a: pygpt.BPETokenizer.from_gpt2(**a), {"directory": value("/nowhere")},
        {"directory": path}, (OSError,)),
    "BPETokenizer.from_tiktoken": Call(
        lambda w, **a: pygpt.BPETokenizer.from_tiktoken(**a), {"path": value("/nowhere")},
        {"path": path, "special_tokens": chunk_texts}, (OSError,)),
    **tokenizer_calls("CharTokenizer", CHARS),
    **tokenizer_calls("ByteTokenizer", pygpt.ByteTokenizer()),
    **tokenizer_calls("BPETokenizer", BPE),
}
