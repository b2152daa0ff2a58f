"""A GPT-2-style decoder in Keras; torch_gpt.py is its twin and says where it is from."""

from __future__ import annotations

import functools
from typing import ClassVar

import keras
from keras import ops

from hvdkit.models.initial import transformer_normal
from hvdkit.models.keras_transformer import Block


class GPT(keras.Model):
    """Tokens (N, T) to logits (N, T, vocabulary); arguments as in the twin."""

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
        super().__init__(name="gpt")
        del classes  # it has no other head
        self.initial_weight = functools.partial(transformer_normal, depth=layers)
        self.token = keras.layers.Embedding(vocabulary, width, name="token")
        self.position = keras.layers.Embedding(context, width, name="position")
        self.drop = keras.layers.Dropout(dropout)
        self.blocks = [
            Block(
                width=width,
                heads=heads,
                hidden=4 * width,
                causal=True,
                norm_first=True,
                dropout=dropout,
                epsilon=1e-5,
                name=f"blocks.{i}",
            )
            for i in range(layers)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm")

    def call(self, tokens, training=None):
        x = self.token(tokens) + self.position(ops.arange(tokens.shape[1]))
        x = self.drop(x, training=training)
        for block in self.blocks:
            x = block(x, training=training)
        return ops.matmul(self.norm(x), ops.transpose(ops.convert_to_tensor(self.token.embeddings)))
