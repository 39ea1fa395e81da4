"""Defines the peer: a GPT as a competent PyTorch user writes it, with the weights of a pygpt model.

It needs PyTorch (`pip install torch`, the CPU build); standin/torch_gpt.py has the same functions.
"""

import torch
from torch import nn
from torch.nn import functional as F

CAPABILITY = torch.backends.cpu.get_cpu_capability()  # its instruction set, e.g. "AVX2"
VERSION = f"PyTorch {torch.__version__} ({CAPABILITY})"
set_num_threads = torch.set_num_threads


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        C = c.n_embd
        self.n_head, self.attn_pdrop = c.n_head, c.attn_pdrop
        self.ln_1 = nn.LayerNorm(C, eps=c.layer_norm_epsilon)
        self.c_attn = nn.Linear(C, 3 * C)
        self.attn_proj = nn.Linear(C, C)
        self.ln_2 = nn.LayerNorm(C, eps=c.layer_norm_epsilon)
        self.c_fc = nn.Linear(C, 4 * C)
        self.mlp_proj = nn.Linear(4 * C, C)
        self.drop = nn.Dropout(c.resid_pdrop)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(C, dim=2)
        q, k, v = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=self.attn_pdrop if self.training else 0.0)
        x = x + self.drop(self.attn_proj(y.transpose(1, 2).reshape(B, T, C)))
        h = F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")
        return x + self.drop(self.mlp_proj(h))


class TorchGPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.wte = nn.Embedding(c.vocab_size, c.n_embd)
        self.wpe = nn.Embedding(c.n_positions, c.n_embd)
        self.drop = nn.Dropout(c.embd_pdrop)
        self.h = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_f = nn.LayerNorm(c.n_embd, eps=c.layer_norm_epsilon)
        self.head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, ids):
        x = self.drop(self.wte(ids) + self.wpe(torch.arange(ids.shape[1])))
        for block in self.h:
            x = block(x)
        return self.head(self.ln_f(x))

    def loss(self, ids, targets):
        logits = self(ids)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


# ------------------------------------------------------------------------- the same model twice ---

def torch_name(name):
    """Return (this module's name of a parameter of pygpt, whether it is stored transposed here)."""
    name = name.replace("transformer.", "").replace("attn.c_attn", "c_attn")
    name = name.replace("attn.c_proj", "attn_proj").replace("mlp.c_fc", "c_fc")
    name = name.replace("mlp.c_proj", "mlp_proj")
    turned = name.endswith(".weight") and any(part in name for part in ("c_attn", "_proj", "c_fc"))
    return name, turned


def adamw(model, fused=True, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
    """Make torch's AdamW with pygpt's two groups: matrices decay, vectors do not."""
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2],
               "weight_decay": weight_decay},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)


class Twin:
    """A TorchGPT and its optimizer, with the weights of a pygpt.GPT.

    Args:
        config: the GPTConfig of the pygpt.GPT.
        weights: {name: (shape, buffer of floats)} of the pygpt.GPT.
    """

    def __init__(self, config, weights):
        self.model = TorchGPT(config)
        self.parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, (shape, buffer) in weights.items():
                value = torch.frombuffer(buffer, dtype=torch.float32).view(shape)
                ours, turned = torch_name(name)
                self.parameters[ours].copy_(value.T if turned else value)
        self.optimizer = adamw(self.model)

    def logits(self, ids):
        return self.model(torch.tensor(ids)).detach()

    def loss_and_grad(self, ids, targets):
        loss = self.model.loss(torch.tensor(ids), torch.tensor(targets))
        loss.backward()
        return loss.item()

    def step(self, clip):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradient(self, name):
        """Return a gradient as pygpt stores it."""
        name, turned = torch_name(name)
        grad = self.parameters[name].grad
        return (grad.T if turned else grad).contiguous()

    def parameter(self, name):
        """Return a parameter as pygpt stores it."""
        name, turned = torch_name(name)
        value = self.parameters[name].detach()
        return (value.T if turned else value).contiguous()


def error(ours, theirs):
    """Return the largest difference between a buffer of floats and a tensor, relative to the
    tensor's largest value."""
    ours = torch.frombuffer(bytearray(ours), dtype=torch.float32).view(theirs.shape)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


# ----------------------------------------------------------------------------- a training step ---

# name: whether AdamW is fused, torch.compile is used, and products run in bfloat16 (autocast)
VARIANTS = {"eager": (False, False, False), "fused": (True, False, False),
            "compile": (True, True, False), "bf16": (True, False, True),
            "bf16-comp": (True, True, True)}


def training_step(config, ids, threads, variant):
    """Return a function that takes a step (forward, backward, clipping, AdamW) on B lists of T ids.

    Args:
        variant: a name in VARIANTS.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = TorchGPT(config)
    for p in model.parameters():
        if p.dim() >= 2:
            torch.nn.init.normal_(p, std=0.02)
    fused, is_compiled, in_bfloat16 = VARIANTS[variant]
    optimizer = adamw(model, fused)
    loss_of = torch.compile(model.loss) if is_compiled else model.loss
    ids = torch.tensor(ids)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            loss = loss_of(ids, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


# ----------------------------------------------------------------------------- matrix products ---

def matrix(buffer, rows, columns):
    """Return a matrix in the memory of a buffer of floats; .t() is the same one transposed."""
    return torch.frombuffer(buffer, dtype=torch.float32).view(rows, columns)


def product(out, a, b):
    """Return a function that computes out = a b."""
    return lambda: torch.mm(a, b, out=out)


def copy(a):
    return a.clone()


def difference(a, b):
    """Return the largest value of a - b, relative to the largest of b."""
    return ((a - b).abs().max() / b.abs().max()).item()
