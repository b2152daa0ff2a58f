"""Transformer blocks in torch; keras_transformer.py is its twin.

Vaswani et al. 2017 (arXiv:1706.03762), with GELU in its tanh form (Hendrycks & Gimpel 2016,
arXiv:1606.08415), which is the one that GPT-2 and BERT were published with.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def gelu(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


class Attention(nn.Module):
    """Self-attention over (N, T, width) in `heads` equal parts; fused where torch has a kernel."""

    def __init__(self, *, width: int, heads: int, causal: bool, dropout: float):
        super().__init__()
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """`valid` (N, T), boolean, says which positions may be attended to; None: all."""
        n, length, width = x.shape
        q, k, v = (
            part.view(n, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(width, -1)
        )
        y = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if valid is None else valid[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
        )
        return self.out(y.transpose(1, 2).reshape(n, length, width))


class MLP(nn.Module):
    """Two layers around a GELU, position by position."""

    def __init__(self, *, width: int, hidden: int):
        super().__init__()
        self.enter = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(gelu(self.enter(x)))


class Block(nn.Module):
    """Attention, then an MLP, each added to its input; norms before both or after both sums."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        hidden: int,
        causal: bool,
        norm_first: bool,
        dropout: float,
        epsilon: float,
    ):
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(width=width, heads=heads, causal=causal, dropout=dropout)
        self.attention_norm = nn.LayerNorm(width, eps=epsilon)
        self.mlp = MLP(width=width, hidden=hidden)
        self.mlp_norm = nn.LayerNorm(width, eps=epsilon)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        if self.norm_first:
            x = x + self.drop(self.attention(self.attention_norm(x), valid))
            return x + self.drop(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.drop(self.attention(x, valid)))
        return self.mlp_norm(x + self.drop(self.mlp(x)))
