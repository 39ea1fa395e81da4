"""Uses the public interface as its documents say. Type checkers must find nothing to complain of.

tests/test_types.py has them read this file; it is never run.
"""

from array import array
from pathlib import Path

import pygpt
from pygpt import nn
from pygpt.evaluation import token_losses

text = Path("input.txt").read_text()
tokenizer = pygpt.CharTokenizer.train(text)
opened = pygpt.Tokenizer.from_pretrained(Path("out"))
learned = pygpt.BPETokenizer.train([text, Path("more.txt")], vocab_size=512,
                                   special_tokens=["<|endoftext|>"])
ids: list[int] = learned.encode(text, "all", disallowed_special=())
parts: list[str] = list(learned.decode_iterable(ids))
specials: dict[str, int] = learned.special_tokens
end: int | None = learned.end_of_text

config = pygpt.GPTConfig(tokenizer.vocab_size, n_positions=64, n_embd=64, n_layer=4, n_head=8)
model = pygpt.GPT(config, seed=1, compute_dtype="bfloat16")
model.compute_dtype = "float32"
batch = pygpt.Tensor([[1, 2, 3]], dtype="int32")
logits: pygpt.Tensor = model(batch)
loss = model.loss([ids[:3]], batch, ignore_index=-1)
total: pygpt.Tensor = 2 * loss + loss / 3 - 1
nats: float = float(total) + model.loss_and_grad(memoryview(batch), batch, scale=0.5)
is_low: bool = loss < 2 and loss <= total
total.backward()
with pygpt.no_grad():
    print(f"{total:.3f}", logits.shape[0] + 1, logits.tolist(), logits.dtype.upper())
for name, parameter in model.named_parameters():
    gradient: pygpt.Tensor | None = parameter.grad
    parameter.requires_grad = name.endswith("bias")
    parameter.flat()[0] = 0.5

optimizer = pygpt.AdamW(model, lr=1e-3, betas=(0.9, 0.95))
optimizer.lr *= 0.5
norm: float = optimizer.clip_grad_norm(1.0)
optimizer.step()
optimizer.zero_grad()

small: pygpt.GPT = model.eval().quantize("int8")
small.save_pretrained(Path("out"), end_of_text=(1, 2))
again = pygpt.GPT.from_pretrained("out", weights="bfloat16", resid_pdrop=0.1)
new: list[int] = again.generate(ids, 64, temperature=0.8, top_k=50, top_p=0.95, min_p=0.0,
                                repetition_penalty=1.0, stop=None, seed=None)
several: list[list[int]] = again.generate([ids, [3]], stop=(0, 1), seed=[1, 2],
                                          logit_bias={5: -2.5})
for token in again.stream(ids, max_new_tokens=3, stop=0):
    print(tokenizer.decode([token]))
cache = model.new_cache()
next_logits: pygpt.Tensor = model.decode(ids, cache)


class Likeliest:
    def choose(self, logits: memoryview, ids: list[int]) -> int:
        return max(range(len(logits)), key=logits.__getitem__)


chosen = again.generate(ids, sampler=Likeliest())

pipeline = pygpt.Pipeline(model, tokenizer, on_warning=print)
one: str = pipeline("ROMEO:", max_new_tokens=50, stop_strings="\n").text
for choice in pipeline([1, 2], logprobs=3).logprobs or ():
    if choice is not None:
        print(choice.logprob + 1.0, [token + 1 for token, _ in choice.best])
for continuation in pipeline(["a", "b"], seed=[1, 2], temperature=0.0):
    print(continuation.text, continuation.ids, continuation.stop, continuation.seed)
for piece in pipeline.stream("Once", on_step=lambda progress: print(progress.tokens)):
    print(piece.upper())

perplexity: float = pygpt.evaluate(model, ids, stride=32)
losses: "array[float]" = token_losses(model, ids)


class Doubled(nn.Module):
    """A layer of one's own."""

    def __init__(self, width: int) -> None:
        self.layer = nn.Linear(width, width)

    def forward(self, x: pygpt.Tensor) -> pygpt.Tensor:
        y: pygpt.Tensor = self.layer(x)
        return y * 2


doubled: pygpt.Tensor = Doubled(4).initialise(seed=1)(pygpt.Tensor([[1.0, 2.0, 3.0, 4.0]]))
result = pygpt.train(pygpt.TrainConfig(data=["a.txt", Path("b.txt")], n_layer=2, dropout=0.1),
                     callbacks=[lambda record: print(record["event"])])
steps: int = result.steps
last: float | None = result.val_loss
settings = pygpt.SampleConfig(stop_strings=["a"], logit_bias={1: 2.0}, top_k=5)
pygpt.set_num_threads(pygpt.get_num_threads())
print(pygpt.info()["isa"], pygpt.__version__)
