"""Takes the likeliest token that repeats no bigram."""

import pygpt
from pygpt import generate


class NoBigramTwice:
    def choose(self, logits, ids):
        last = ids[-1]
        followers = {second for first, second in zip(ids, ids[1:]) if first == last}
        new = [token for token in range(len(logits)) if token not in followers]
        return max(new or range(len(logits)), key=logits.__getitem__)


class Likeliest:
    def choose(self, logits, ids):
        return max(range(len(logits)), key=logits.__getitem__)


TEXT = "the cat sat on the mat and the rat sat on the cat. "
tokenizer = pygpt.CharTokenizer.train(TEXT)
ids = tokenizer.encode(TEXT)
model = pygpt.GPT(pygpt.GPTConfig(tokenizer.vocab_size, n_positions=32, n_embd=32, n_layer=1,
                                  n_head=4))
optimizer = pygpt.AdamW(model, lr=1e-2)
for step in range(100):
    model.loss_and_grad([ids[:32], ids[18:50]], [ids[1:33], ids[19:51]])
    optimizer.step()
    optimizer.zero_grad()
model.eval()


def continued(sampler, prompt, count):
    return prompt + list(generate.stream(model, prompt, count, sampler=sampler))


prompt = tokenizer.encode("the c")
greedy = continued(Likeliest(), prompt, 60)
mine = continued(NoBigramTwice(), prompt, 60)
print("likeliest:", tokenizer.decode(greedy))
print("yours:    ", tokenizer.decode(mine))

pairs = list(zip(mine, mine[1:]))
assert len(mine) == 65 and len(set(pairs)) == len(pairs), "a bigram occurs twice"
first = next(i for i in range(1, 65) if (greedy[i - 1], greedy[i]) in
             list(zip(greedy, greedy[1:]))[:i - 1])
assert mine[:first] == greedy[:first], "it should be greedy until a bigram would come twice"
flat, path = [0.0, 2.0, 1.0], [0, 1, 0, 2, 0, 0, 1]  # after 1 only 1 and 2 are new
assert NoBigramTwice().choose(flat, path) == 1 and NoBigramTwice().choose(flat, [*path, 1]) == 2
every = [0, 0, 1, 0, 2, 1, 1, 2, 2, 0]               # after 0 nothing is new
assert NoBigramTwice().choose(flat, every) == 1, "if nothing is new, take the likeliest"
print("done")
