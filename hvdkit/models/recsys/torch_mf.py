"""Matrix factorisation in torch; keras_mf.py is its twin.

Koren, Bell & Volinsky 2009, "Matrix factorization techniques for recommender systems" (IEEE
Computer 42:8), equation 4: a common bias, one of the user, one of the item, and the product of
their vectors.
"""

from __future__ import annotations

import torch
from torch import nn

from hvdkit.models.recsys.initial import factors
from hvdkit.models.recsys.torch_embedding import Embedding


class MF(nn.Module):
    """Numbers of users and items, two integer arrays of one shape, to logits of that shape.

    `sparse`: the gradients of vectors and biases are rows, not tables.
    """

    initial_weight = staticmethod(factors)

    def __init__(self, *, users: int, items: int, dimension: int, sparse: bool = False):
        super().__init__()
        self.users = Embedding(users, dimension, sparse=sparse)
        self.items = Embedding(items, dimension, sparse=sparse)
        self.user_biases = Embedding(users, 1, sparse=sparse)
        self.item_biases = Embedding(items, 1, sparse=sparse)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        match = (self.users(users) * self.items(items)).sum(-1)
        biases = self.user_biases(users) + self.item_biases(items)
        return match + biases[..., 0] + self.bias
