"""Does the work of `make soak` over and over: everything that a long-lived user of pygpt does.

Each function of WORK does one kind of work on tiny models, frees what it made, and has a result
that is the same in every cycle. A run of them all is a cycle (soak.py).
"""

import contextlib
import copy
import gc
import io
import itertools
import os
import pickle
import shutil
import signal
import threading
import warnings
from unittest import mock

import pygpt
from pygpt.checkpoint import safetensors
from pygpt.cli.main import main
from pygpt.data import dataset, token_file
from pygpt.training.run_log import read_log

TEXT = "".join(f"{a} and {b} make {a + b}.\n" for a in range(9) for b in range(9))
SHAPE = dict(n_layer=1, n_head=2, n_embd=16, n_positions=16)
RUN = dict(SHAPE, batch_size=4, max_steps=6, warmup_steps=2, eval_interval=3, eval_batches=2,
           sample_interval=3, sample_length=8)


def config(home, name="run", **settings):
    """Return the TrainConfig of a run of six steps in home/name, on a text in home."""
    text = os.path.join(home, "text.txt")
    if not os.path.exists(text):
        with open(text, "w", encoding="utf-8") as file:
            file.write(TEXT)
    return pygpt.TrainConfig(data=text, out=os.path.join(home, name), **RUN | settings)


def small_model(**settings):
    """Return a model of 96 tokens, with dropout so that its training draws numbers."""
    return pygpt.GPT(pygpt.GPTConfig(vocab_size=96, **SHAPE | settings), seed=1)


def refused(kinds, function, *args, **kwargs):
    """Call a function that must raise one of these exceptions."""
    try:
        function(*args, **kwargs)
    except kinds:
        return
    raise AssertionError(f"{function} accepted {args} {kwargs}")


def command(*arguments, status=0):
    """Run a command of pygpt in this process; return what it printed."""
    output, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        found = main([str(argument) for argument in arguments])
    assert found == status, (arguments, found, error.buffer.getvalue())
    return output.buffer.getvalue().decode()


# ----------------------------------------------------------------------------------- training runs

def train_stop_resume(home):
    """Train; stop by a callback, by Ctrl-C and by an error; resume; ask for a finished run."""
    def interrupt(record):
        if (record["event"], record["step"]) == ("step", 4):
            signal.raise_signal(signal.SIGINT)

    def fail(record):
        if (record["event"], record["step"]) == ("step", 5):
            raise ValueError("a callback fails")

    stop = [lambda record: (record["event"], record["step"]) == ("step", 2)]
    assert pygpt.train(config(home), stop).steps == 2
    assert pygpt.train(config(home), [interrupt], resume=True).signal == signal.SIGINT
    refused(ValueError, pygpt.train, config(home), [fail], resume=True)
    assert pygpt.train(config(home), resume=True).steps == 6
    assert pygpt.train(config(home), resume=True).steps == 6  # it is finished
    refused(pygpt.config.ConfigError, pygpt.train, config(home, n_embd=32), resume=True)
    assert len(read_log(os.path.join(home, "run", "log.jsonl"))) > 6


def train_from_mapped_tokens(home):
    """Train on a text whose tokens lie in a mapped file, and continue its model on another."""
    with (mock.patch.object(token_file, "IN_MEMORY", 100),
          mock.patch.object(dataset, "IN_MEMORY", 100)):
        pygpt.train(config(home, "mapped", tokenizer="bpe:270", dropout=0.1,
                           grad_accumulation_steps=2))
        pygpt.train(config(home, "mapped", tokenizer="bpe:270", recompute=True, seed=2))
    assert os.path.isdir(os.path.join(home, "mapped", "earlier-1"))
    pygpt.train(config(home, "tuned", init=os.path.join(home, "mapped"), n_layer=None, n_head=None,
                       n_embd=None, n_positions=None, dtype="bfloat16"))


def use_commands(home):
    """Run the commands on a trained run, in this process."""
    run, text = os.path.join(home, "run"), os.path.join(home, "text.txt")
    assert command("sample", run, "--max-new-tokens", 20, "--seed", 1, "--num-samples", 3)
    assert command("sample", run, "--max-new-tokens", 20, "--json", "--dtype", "int8")
    assert "bits" in command("eval", run, text, "--stride", 16)
    assert command("eval", run, text, "--show")
    command("plot", run)
    command("export", run, os.path.join(home, "exported"), "--dtype", "bfloat16")
    command("tokenizer", "train", "--data", text, "--out",
            os.path.join(home, "bpe"), "--vocab-size", 270)
    command("eval", os.path.join(home, "missing"), text, status=1)
    command("sample", run, "--prompt", "\u2603", "--strict", status=1)


# -------------------------------------------------------------------------------- models in Python

def train_by_hand(home):
    """Take steps eagerly and recorded, with other shapes, settings and modules between them."""
    model = small_model(resid_pdrop=0.1)
    optimizer = pygpt.AdamW(model, lr=1e-3)
    for step, (rows, length) in enumerate(itertools.product((1, 3), (4, 16))):
        ids = [[(7 * row + place + step) % 96 for place in range(length)] for row in range(rows)]
        loss = model.loss(ids, ids)
        loss.backward()
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
        optimizer.zero_grad()
        for _ in range(2):
            model.loss_and_grad(ids, ids)
            optimizer.step()
            optimizer.zero_grad()
        model.loss(ids, ids)  # whose backward pass nobody asks for
        model.recompute = bool(step % 2)
        model.compute_dtype = "bfloat16" if step == 2 else "float32"
    model.transformer.h.append(small_model().transformer.h[0])
    model.loss_and_grad(ids, ids)
    with pygpt.no_grad():
        assert model(ids).shape == (3, 16, 96)
    twin, same = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert pygpt.evaluate(twin, range(96)) == pygpt.evaluate(same, range(96))
    refused(ValueError, model.loss, [[96]], [[0]])
    refused(ValueError, model.loss, [[1, 2], [3]], [[1, 2], [3]])
    refused(ValueError, pygpt.AdamW, model, lr=-1.0)


def compute_with_tensors(home):
    """Compute with tensors, and leave graphs of them behind."""
    a = pygpt.Tensor([[1.0, 2.0], [3.0, 4.0]])
    for _ in range(20):
        b = (a + a) * a
        memoryview(b).tolist()
        a.tolist()
    refused(ValueError, lambda: a + pygpt.Tensor([[1.0, 2.0, 3.0]]))
    refused((TypeError, ValueError), pygpt.Tensor, [[1.0], [2.0, 3.0]])


def save_and_load(home):
    """Write a model in each form, open it again, and refuse a damaged copy."""
    path = os.path.join(home, "saved")
    for form in ("float32", "bfloat16", "int8"):
        model = small_model() if form == "float32" else small_model().quantize(form)
        model.save_pretrained(path)
        opened = pygpt.GPT.from_pretrained(path)
        assert opened.generate([1], 4, seed=1) == model.generate([1], 4, seed=1)
    weights = os.path.join(path, "model.safetensors")
    kept, _ = safetensors.read(weights)  # the mapping stays open while the file is replaced
    with open(weights, "rb") as file:
        data = file.read()
    with open(weights + ".part", "wb") as file:
        file.write(data[:-1])
    os.replace(weights + ".part", weights)
    refused(ValueError, pygpt.GPT.from_pretrained, path)
    refused(OSError, pygpt.GPT.from_pretrained, os.path.join(home, "missing"))
    assert kept


# ------------------------------------------------------------------------------- text and sampling

def use_tokenizers(home):
    """Learn, save, open and use each kind of tokenizer."""
    for number, tokenizer in enumerate((pygpt.CharTokenizer.train(TEXT), pygpt.ByteTokenizer(),
                                        pygpt.BPETokenizer.train(TEXT, vocab_size=280))):
        path = os.path.join(home, f"tokenizer-{number}")
        tokenizer.save_pretrained(path)
        opened = pygpt.Tokenizer.from_pretrained(path)
        assert opened.decode(opened.encode(TEXT)) == TEXT
        assert "".join(opened.decode_iterable(opened.encode_iterable([TEXT, TEXT]))) == 2 * TEXT
        next(iter(opened.encode_iterable([TEXT, TEXT])))  # the rest is left
    refused(ValueError, pygpt.CharTokenizer.train("ab").encode, "c")
    refused((OSError, ValueError), pygpt.Tokenizer.from_pretrained, home)


def sample_each_way(home):
    """Generate, stream, in batches, with other samplers; leave streams unfinished."""
    class Largest:
        def choose(self, logits, ids):
            return max(range(96), key=logits.__getitem__)

    model = small_model()
    model.generate([1, 2, 3], 24, seed=1)  # longer than the context
    model.generate([[1], [2, 3], [4, 5, 6]] * 8, 6, seed=2, logprobs=2, top_k=5)
    model.generate([1], 6, sampler=Largest())
    for count, _ in enumerate(model.stream([1], 12, seed=3)):
        if count == 5:
            break  # the stream is left
    unfinished = model.stream([1, 2], 12)
    next(unfinished)
    refused(ValueError, model.generate, [96], 4)
    refused(TypeError, model.generate, [1], 4, temprature=1.0)


def use_pipeline(home):
    """Stream texts together, leave some, and press Ctrl-C within one."""
    def press(progress):
        if progress.tokens > 6:
            signal.raise_signal(signal.SIGINT)

    pipeline = pygpt.Pipeline.from_pretrained(os.path.join(home, "run"))
    pipeline("1 and", max_new_tokens=12, seed=1, stop_strings=["."])
    pipeline(["1 and", "2"], max_new_tokens=12, seed=[1, 2], logprobs=1, progress=False)
    first, second, third = pipeline.stream(["1 and", "2", "3"], max_new_tokens=12, seed=4)
    next(first), second.finish(), third.close()
    interrupted = pipeline.stream("1", max_new_tokens=12, seed=1, on_step=press)
    refused(KeyboardInterrupt, list, interrupted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline("\u2603 1", max_new_tokens=2)


def use_threads(home):
    """Compute in threads that end, with one and with two compute threads."""
    failures = []

    def work(number):
        try:
            model = shared if number % 2 else small_model()
            model.generate([number], 8, seed=number)
            model.loss_and_grad([[1, 2, 3]], [[2, 3, 4]])
        except BaseException as error:
            failures.append(error)

    shared, before = small_model(), pygpt.get_num_threads()
    for threads in (1, 2):
        pygpt.set_num_threads(threads)
        workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    pygpt.set_num_threads(before)
    refused(ValueError, pygpt.set_num_threads, -1)
    assert not failures, failures


WORK = (train_stop_resume, train_from_mapped_tokens, use_commands, train_by_hand,
        compute_with_tensors, save_and_load, use_tokenizers, sample_each_way, use_pipeline,
        use_threads)


def cycle(home):
    """Do all the work once, in an empty directory home, and leave it empty."""
    for work in WORK:
        work(home)
    shutil.rmtree(home)
    os.mkdir(home)
    gc.collect()
