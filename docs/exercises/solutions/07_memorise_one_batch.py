"""Memorises a batch with 750 parameters."""

import pygpt

n_embd, n_layer, n_head, learning_rate = 6, 1, 1, 3e-2

TEXT = "To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer"
tokenizer = pygpt.CharTokenizer.train(TEXT)
ids = tokenizer.encode(TEXT)
inputs = [ids[i:i + 16] for i in range(0, 80, 16)]
targets = [ids[i + 1:i + 17] for i in range(0, 80, 16)]
model = pygpt.GPT(pygpt.GPTConfig(tokenizer.vocab_size, n_positions=16, n_embd=n_embd,
                                  n_layer=n_layer, n_head=n_head))
optimizer = pygpt.AdamW(model, lr=learning_rate, weight_decay=0.0)
print(f"{model.num_parameters()} parameters")
for step in range(1, 501):
    loss = model.loss_and_grad(inputs, targets)
    optimizer.step()
    optimizer.zero_grad()
    if step == 1 or step % 100 == 0:
        print(f"step {step:3}: loss {loss:.4f}")
assert model.num_parameters() < 1000, "the model is too large"
assert loss < 0.05, "the model has not learned the batch"
print("done")
