"""Matrix factorisation in Keras; torch_mf.py is its twin and says where it is from."""

from __future__ import annotations

import keras

from hvdkit.models.recsys.initial import factors
from hvdkit.models.recsys.keras_embedding import Embedding


class MF(keras.Model):
    """Numbers of users and items to logits; arguments as in the twin."""

    initial_weight = staticmethod(factors)

    def __init__(self, *, users: int, items: int, dimension: int, sparse: bool = False):
        super().__init__(name="mf")
        self.users = Embedding(users, dimension, sparse=sparse, name="users")
        self.items = Embedding(items, dimension, sparse=sparse, name="items")
        self.user_biases = Embedding(users, 1, sparse=sparse, name="user_biases")
        self.item_biases = Embedding(items, 1, sparse=sparse, name="item_biases")
        self.bias = self.add_weight(name="bias", shape=(1,), initializer="zeros")

    def call(self, users, items):
        match = keras.ops.sum(self.users(users) * self.items(items), -1)
        biases = self.user_biases(users) + self.item_biases(items)
        return match + biases[..., 0] + self.bias
