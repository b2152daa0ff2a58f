"""BERT in Keras; torch_bert.py is its twin and says where it is from."""

from __future__ import annotations

from typing import ClassVar

import keras
from keras import ops

from hvdkit.models.initial import transformer_normal
from hvdkit.models.keras_transformer import Block, gelu


class BERT(keras.Model):
    """Tokens, segments and valid (N, T), then positions (N, P); as in the twin."""

    objectives: ClassVar = ("masked_tokens", "classes")
    initial_weight = staticmethod(transformer_normal)

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        classes: int,
        layers: int,
        width: int,
        heads: int,
        dropout: float = 0.1,
    ):
        super().__init__(name="bert")
        self.token = keras.layers.Embedding(vocabulary, width, name="token")
        self.position = keras.layers.Embedding(context, width, name="position")
        self.segment = keras.layers.Embedding(2, width, name="segment")
        self.norm = keras.layers.LayerNormalization(epsilon=1e-12, name="norm")
        self.drop = keras.layers.Dropout(dropout)
        self.blocks = [
            Block(
                width=width,
                heads=heads,
                hidden=4 * width,
                causal=False,
                norm_first=False,
                dropout=dropout,
                epsilon=1e-12,
                name=f"blocks.{i}",
            )
            for i in range(layers)
        ]
        self.classes = classes
        self.pool = keras.layers.Dense(width, name="pool")
        if classes:
            self.head = keras.layers.Dense(classes, name="head")
        else:
            self.pool_norm = keras.layers.LayerNormalization(epsilon=1e-12, name="pool_norm")
            self.bias = self.add_weight(shape=(vocabulary,), initializer="zeros", name="bias")

    def call(self, tokens, segments, valid, positions=None, training=None):
        x = self.token(tokens) + self.position(ops.arange(tokens.shape[1]))
        x = self.drop(self.norm(x + self.segment(segments)), training=training)
        for block in self.blocks:
            x = block(x, valid, training=training)
        if self.classes:
            pooled = ops.tanh(self.pool(x[:, 0]))
            return self.head(self.drop(pooled, training=training))
        chosen = ops.take_along_axis(x, positions[..., None], axis=1)
        chosen = self.pool_norm(gelu(self.pool(chosen)))
        table = ops.convert_to_tensor(self.token.embeddings)
        return ops.matmul(chosen, ops.transpose(table)) + self.bias
