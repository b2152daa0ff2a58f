"""Transformer blocks in Keras; torch_transformer.py is its twin and says where they are from."""

from __future__ import annotations

import math

import keras
from keras import layers, ops


def gelu(x):
    """Written out, because TensorFlow's own takes its cube with a slow `pow`."""
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
    return 0.5 * x * (1.0 + ops.tanh(inner))


class Attention(layers.Layer):
    """Self-attention over (N, T, width) in `heads` equal parts.

    Two batched products around a softmax, which is what Keras's own `dot_product_attention`
    comes to in TensorFlow, but in the model's dtype throughout and with dropout.
    """

    def __init__(self, *, width, heads, causal, dropout, name):
        super().__init__(name=name)
        self.heads, self.causal = heads, causal
        self.qkv = layers.Dense(3 * width, name="qkv")
        self.drop = layers.Dropout(dropout)
        self.out = layers.Dense(width, name="out")

    def build(self, x_shape, valid_shape=None):
        self.qkv.build(x_shape)
        self.out.build(x_shape)
        self.built = True

    def call(self, x, valid=None, training=None):
        length, width = x.shape[1:]
        size = width // self.heads
        qkv = ops.reshape(self.qkv(x), (-1, length, 3, self.heads, size))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)
        scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * (1 / math.sqrt(size))
        lowest = -3e4 if keras.backend.standardize_dtype(scores.dtype) == "float16" else -1e30
        if self.causal:
            seen = ops.tril(ops.ones((length, length), "bool"))
            scores = ops.where(seen, scores, ops.cast(lowest, scores.dtype))
        if valid is not None:
            scores = ops.where(valid[:, None, None, :], scores, ops.cast(lowest, scores.dtype))
        weights = self.drop(ops.softmax(scores, -1), training=training)
        y = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
        return self.out(ops.reshape(y, (-1, length, width)))


class MLP(layers.Layer):
    """Two layers around a GELU, position by position."""

    def __init__(self, *, width, hidden, name):
        super().__init__(name=name)
        self.enter = layers.Dense(hidden, name="enter")
        self.out = layers.Dense(width, name="out")

    def build(self, x_shape):
        self.enter.build(x_shape)
        self.out.build((*x_shape[:-1], self.enter.units))
        self.built = True

    def call(self, x):
        return self.out(gelu(self.enter(x)))


class Block(layers.Layer):
    """Attention, then an MLP, each added to its input; norms before both or after both sums."""

    def __init__(self, *, width, heads, hidden, causal, norm_first, dropout, epsilon, name):
        super().__init__(name=name)
        self.norm_first = norm_first
        self.attention = Attention(
            width=width, heads=heads, causal=causal, dropout=dropout, name="attention"
        )
        self.attention_norm = layers.LayerNormalization(epsilon=epsilon, name="attention_norm")
        self.mlp = MLP(width=width, hidden=hidden, name="mlp")
        self.mlp_norm = layers.LayerNormalization(epsilon=epsilon, name="mlp_norm")
        self.drop = layers.Dropout(dropout)

    def build(self, x_shape, valid_shape=None):
        for layer in (self.attention, self.attention_norm, self.mlp, self.mlp_norm):
            layer.build(x_shape)
        self.built = True

    def call(self, x, valid=None, training=None):
        def dropped(branch):
            return self.drop(branch, training=training)

        if self.norm_first:
            x = x + dropped(self.attention(self.attention_norm(x), valid, training=training))
            return x + dropped(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + dropped(self.attention(x, valid, training=training)))
        return self.mlp_norm(x + dropped(self.mlp(x)))
