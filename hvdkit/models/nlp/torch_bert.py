"""BERT in torch; keras_bert.py is its twin.

Devlin et al. 2019 (arXiv:1810.04805), without the next-sentence task, which later work left out
with no loss (Liu et al. 2019, arXiv:1907.11692).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from hvdkit.models.initial import transformer_normal
from hvdkit.models.torch_transformer import Block, gelu


class BERT(nn.Module):
    """An encoder with one of two heads: `classes` of 0 makes the masked-token one.

    Takes tokens, segments (0 or 1) and valid (boolean: no padding), all (N, T) with
    T <= context. The masked-token head takes positions (N, P) as well and gives logits
    (N, P, vocabulary) there alone, through a decoder tied to the token embedding; the other
    gives logits (N, classes) from the first token. `dropout` acts on embeddings, attention
    weights, branches and the pooled token.
    """

    objectives: ClassVar = ("masked_tokens", "classes")
    initial_weight = staticmethod(transformer_normal)

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        classes: int,
        layers: int,
        width: int,
        heads: int,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.segment = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                heads=heads,
                hidden=4 * width,
                causal=False,
                norm_first=False,
                dropout=dropout,
                epsilon=1e-12,
            )
            for _ in range(layers)
        )
        self.classes = classes
        self.pool = nn.Linear(width, width)
        if classes:
            self.head = nn.Linear(width, classes)
        else:
            self.pool_norm = nn.LayerNorm(width, eps=1e-12)
            self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(
        self,
        tokens: torch.Tensor,
        segments: torch.Tensor,
        valid: torch.Tensor,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]] + self.segment(segments)
        x = self.drop(self.norm(x))
        for block in self.blocks:
            x = block(x, valid)
        if self.classes:
            return self.head(self.drop(torch.tanh(self.pool(x[:, 0]))))
        assert positions is not None, "the masked-token head needs positions"
        chosen = x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))
        return functional.linear(
            self.pool_norm(gelu(self.pool(chosen))), self.token.weight, self.bias
        )
