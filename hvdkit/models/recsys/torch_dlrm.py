"""Click-through prediction in torch; keras_dlrm.py is its twin.

Naumov et al. 2019, "Deep learning recommendation model for personalization and recommendation
systems" (arXiv:1906.00091): a perceptron on the numbers, a table for each category, the dot
products of all pairs of these vectors, and a perceptron on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from hvdkit.models.recsys.initial import click_through
from hvdkit.models.recsys.torch_embedding import Embedding


class DLRM(nn.Module):
    """Numbers (N, dense) and category rows (N, len(tables)) to logits (N,).

    `tables` gives the rows of each table; `bottom` and `top` are the widths of the perceptrons'
    layers, and the last of `bottom` is the tables' width too. `sparse`: the tables' gradients
    are rows.
    """

    initial_weight = staticmethod(click_through)

    def __init__(
        self,
        *,
        dense: int,
        tables: Sequence[int],
        bottom: Sequence[int],
        top: Sequence[int],
        sparse: bool = False,
    ):
        super().__init__()
        dimension, vectors = bottom[-1], len(tables) + 1
        self.bottom = _perceptron([dense, *bottom])
        self.tables = nn.ModuleList(Embedding(n, dimension, sparse=sparse) for n in tables)
        self.top = _perceptron([dimension + vectors * (vectors - 1) // 2, *top])
        self.head = nn.Linear(top[-1], 1)
        pairs = torch.tril_indices(vectors, vectors, -1)
        self.register_buffer("pairs", pairs[0] * vectors + pairs[1], persistent=False)

    def forward(self, dense: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        for layer in self.bottom:
            dense = torch.relu(layer(dense))
        rows = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        vectors = torch.stack([dense, *rows], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        x = torch.cat([dense, products.index_select(1, self.pairs)], 1)
        for layer in self.top:
            x = torch.relu(layer(x))
        return self.head(x)[:, 0]


def _perceptron(widths: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))
