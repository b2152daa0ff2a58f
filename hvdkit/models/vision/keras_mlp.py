"""A multilayer perceptron in Keras; torch_mlp.py is its twin."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from hvdkit.models.initial import he_normal


class MLP(keras.Model):
    """Images (N, H, W, C) to logits (N, classes) through ReLU layers of the given widths."""

    initial_weight = staticmethod(he_normal)

    def __init__(self, *, input_shape: Sequence[int], classes: int, hidden: Sequence[int]):
        super().__init__(name="mlp")
        del input_shape  # Keras takes it from the first batch
        self.flatten = keras.layers.Flatten(name="flatten")
        self.layers_ = [
            keras.layers.Dense(width, activation="relu", name=f"layers.{i}")
            for i, width in enumerate(hidden)
        ]
        self.head = keras.layers.Dense(classes, name="head")

    def call(self, x):
        x = self.flatten(x)
        for layer in self.layers_:
            x = layer(x)
        return self.head(x)
