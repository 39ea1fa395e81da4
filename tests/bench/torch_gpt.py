"""The peer: a GPT as a competent PyTorch user writes it, with the same weights as a pygpt model.

Used by the comparisons in this directory, which need PyTorch (`pip install torch`, the CPU build).
Nothing else in the project does.
"""

import torch
from torch import nn
from torch.nn import functional as F


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


def torch_name(name):
    """pygpt's (GPT-2's) parameter name as this module has it, and whether it lies transposed."""
    name = name.replace("transformer.", "").replace("attn.c_attn", "c_attn")
    name = name.replace("attn.c_proj", "attn_proj").replace("mlp.c_fc", "c_fc")
    name = name.replace("mlp.c_proj", "mlp_proj")
    turned = name.endswith(".weight") and any(part in name for part in ("c_attn", "_proj", "c_fc"))
    return name, turned


def same_weights(model):
    """A TorchGPT with the weights of a pygpt.GPT."""
    peer = TorchGPT(model.config)
    with torch.no_grad():
        parameters = dict(peer.named_parameters())
        for name, p in model.named_parameters():
            name, turned = torch_name(name)
            value = torch.frombuffer(memoryview(p), dtype=torch.float32).view(p.shape)
            parameters[name].copy_(value.T if turned else value)
    return peer


def adamw(peer, fused=True, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
    """torch's AdamW with pygpt's two groups: matrices decay, vectors do not."""
    groups = [{"params": [p for p in peer.parameters() if p.dim() >= 2],
               "weight_decay": weight_decay},
              {"params": [p for p in peer.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)
