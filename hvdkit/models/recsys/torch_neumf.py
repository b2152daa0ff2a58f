"""Neural matrix factorisation in torch; keras_neumf.py is its twin.

He et al. 2017, "Neural collaborative filtering" (arXiv:1708.05031), section 3.4: a generalised
matrix factorisation and a multilayer perceptron, with embeddings of their own, under one head.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from hvdkit.models.recsys.initial import neural_factors
from hvdkit.models.recsys.torch_embedding import Embedding


class NeuMF(nn.Module):
    """Numbers of users and items, two integer arrays of one shape, to logits of that shape.

    `factors` is the width of the factorisation's embeddings, `dimension` that of the
    perceptron's, `hidden` the widths of its layers. `sparse`: the embeddings' gradients are
    rows, not tables.
    """

    initial_weight = staticmethod(neural_factors)

    def __init__(
        self,
        *,
        users: int,
        items: int,
        factors: int,
        dimension: int,
        hidden: Sequence[int],
        sparse: bool = False,
    ):
        super().__init__()
        self.gmf_users = Embedding(users, factors, sparse=sparse)
        self.gmf_items = Embedding(items, factors, sparse=sparse)
        self.mlp_users = Embedding(users, dimension, sparse=sparse)
        self.mlp_items = Embedding(items, dimension, sparse=sparse)
        widths = [2 * dimension, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))
        self.head = nn.Linear(factors + widths[-1], 1)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        match = self.gmf_users(users) * self.gmf_items(items)
        x = torch.cat([self.mlp_users(users), self.mlp_items(items)], -1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.head(torch.cat([match, x], -1))[..., 0]
