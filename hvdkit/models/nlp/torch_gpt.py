"""A GPT-2-style decoder in torch; keras_gpt.py is its twin.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners": norms before each
branch and one at the end, learned positions, the output tied to the token embedding.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from hvdkit.models.initial import transformer_normal
from hvdkit.models.torch_transformer import Block


class GPT(nn.Module):
    """Tokens (N, T), T <= context, to logits (N, T, vocabulary) of the token that follows each.

    A block of packed documents is one sequence: attention may cross from a document into the
    one before it, as in GPT-2's own training. `dropout` acts on embeddings, attention weights
    and branches.
    """

    objectives: ClassVar = ("next_token",)

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        layers: int,
        width: int,
        heads: int,
        classes: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        del classes  # it has no other head
        self.initial_weight = functools.partial(transformer_normal, depth=layers)
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                heads=heads,
                hidden=4 * width,
                causal=True,
                norm_first=True,
                dropout=dropout,
                epsilon=1e-5,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.token(tokens) + self.position.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.token.weight)
