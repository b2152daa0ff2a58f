"""The multilayer perceptron and the 60-layer net in Keras 3; models_torch.py has their twins."""

from __future__ import annotations

import keras
from keras import layers
from workload import BLOCKS, CLASSES, HIDDEN, MODELS, WIDTH


def mlp() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(MODELS["mlp"].input_shape),
            *(layers.Dense(width, activation="relu") for width in HIDDEN),
            layers.Dense(CLASSES),
        ]
    )


def linear60() -> keras.Model:
    """Many small tensors: 182."""
    stack = [keras.Input((WIDTH,))]
    for _ in range(BLOCKS):
        stack += [layers.Dense(WIDTH, use_bias=False), layers.LayerNormalization()]
    return keras.Sequential([*stack, layers.Dense(CLASSES)])


MAKERS = {"mlp": mlp, "linear60": linear60}
