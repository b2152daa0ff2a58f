"""Click-through prediction in Keras; torch_dlrm.py is its twin and says where it is from."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from hvdkit.models.recsys.initial import click_through
from hvdkit.models.recsys.keras_embedding import Embedding


class DLRM(keras.Model):
    """Numbers and category rows to logits; arguments as in the twin."""

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
        super().__init__(name="dlrm")
        del dense  # Keras takes it from the first batch
        vectors = len(tables) + 1
        self.bottom = _perceptron("bottom", bottom)
        self.tables = [
            Embedding(n, bottom[-1], sparse=sparse, name=f"tables.{i}")
            for i, n in enumerate(tables)
        ]
        self.top = _perceptron("top", top)
        self.head = layers.Dense(1, name="head")
        low, high = np.tril_indices(vectors, -1)
        self.pairs = low * vectors + high
        self.products = vectors * vectors

    def call(self, dense, categories):
        for layer in self.bottom:
            dense = layer(dense)
        rows = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        vectors = keras.ops.stack([dense, *rows], 1)
        products = keras.ops.matmul(vectors, keras.ops.transpose(vectors, (0, 2, 1)))
        products = keras.ops.reshape(products, (-1, self.products))
        x = keras.ops.concatenate([dense, keras.ops.take(products, self.pairs, 1)], 1)
        for layer in self.top:
            x = layer(x)
        return self.head(x)[:, 0]


def _perceptron(name: str, widths: Sequence[int]) -> list[layers.Dense]:
    return [
        layers.Dense(width, activation="relu", name=f"{name}.{i}") for i, width in enumerate(widths)
    ]
