"""The vision transformer in Keras; torch_vit.py is its twin and says where it is from."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers, ops

from hvdkit.models.initial import transformer_normal
from hvdkit.models.keras_transformer import Block
from hvdkit.models.vision.sizes import patches


class ViT(keras.Model):
    """Images (N, H, W, C) to logits (N, classes); arguments and errors as in the twin."""

    initial_weight = staticmethod(transformer_normal)

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        classes: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        pooling: str,
        dropout: float,
    ):
        super().__init__(name="vit")
        self.width, self.tokens = width, patches(input_shape[:2], patch)
        self.patches = layers.Conv2D(width, patch, patch, name="patches")
        self.class_token = None
        if pooling == "class":
            self.class_token = self.add_weight(shape=(1, width), name="class_token")
        tokens = self.tokens + (pooling == "class")
        self.positions = self.add_weight(shape=(tokens, width), name="positions")
        self.drop = layers.Dropout(dropout)
        self.blocks = [
            Block(
                width=width,
                heads=heads,
                hidden=hidden,
                causal=False,
                norm_first=True,
                dropout=dropout,
                epsilon=1e-6,
                name=f"blocks.{i}",
            )
            for i in range(depth)
        ]
        self.norm = layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.head = layers.Dense(classes, name="head")

    def call(self, x, training=None):
        x = ops.reshape(self.patches(x), (-1, self.tokens, self.width))
        if self.class_token is not None:
            token = ops.broadcast_to(self.class_token, (ops.shape(x)[0], 1, self.width))
            x = ops.concatenate([token, x], 1)
        x = self.drop(x + self.positions, training=training)
        for block in self.blocks:
            x = block(x, training=training)
        x = self.norm(x)
        return self.head(ops.mean(x, 1) if self.class_token is None else x[:, 0])
