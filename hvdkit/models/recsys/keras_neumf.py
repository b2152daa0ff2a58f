"""Neural matrix factorisation in Keras; torch_neumf.py is its twin and says where it is from."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from hvdkit.models.recsys.initial import neural_factors
from hvdkit.models.recsys.keras_embedding import Embedding


class NeuMF(keras.Model):
    """Numbers of users and items to logits; arguments as in the twin."""

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
        super().__init__(name="neumf")
        self.gmf_users = Embedding(users, factors, sparse=sparse, name="gmf_users")
        self.gmf_items = Embedding(items, factors, sparse=sparse, name="gmf_items")
        self.mlp_users = Embedding(users, dimension, sparse=sparse, name="mlp_users")
        self.mlp_items = Embedding(items, dimension, sparse=sparse, name="mlp_items")
        self.hidden = [
            layers.Dense(width, activation="relu", name=f"hidden.{i}")
            for i, width in enumerate(hidden)
        ]
        self.head = layers.Dense(1, name="head")

    def call(self, users, items):
        match = self.gmf_users(users) * self.gmf_items(items)
        x = keras.ops.concatenate([self.mlp_users(users), self.mlp_items(items)], -1)
        for layer in self.hidden:
            x = layer(x)
        return self.head(keras.ops.concatenate([match, x], -1))[..., 0]
