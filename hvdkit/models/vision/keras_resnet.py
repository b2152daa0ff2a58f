"""A small residual network in Keras; torch_resnet.py is its twin and says where it is from."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from hvdkit.models.initial import he_normal


def norm(kind: str, channels: int, groups: int, name: str) -> layers.Layer:
    """`kind` is "group" or "batch"; constants as in torch."""
    if kind == "group":
        return layers.GroupNormalization(min(groups, channels), epsilon=1e-5, name=name)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)


class Block(layers.Layer):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 one where shapes change."""

    def __init__(self, inputs, outputs, *, stride, kind, groups, name):
        super().__init__(name=name)
        self.pad = layers.ZeroPadding2D(1)
        self.conv1 = layers.Conv2D(outputs, 3, stride, use_bias=False, name="conv1")
        self.norm1 = norm(kind, outputs, groups, "norm1")
        self.conv2 = layers.Conv2D(outputs, 3, use_bias=False, name="conv2")
        self.norm2 = norm(kind, outputs, groups, "norm2")
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = layers.Conv2D(outputs, 1, stride, use_bias=False, name="shortcut")
            self.shortcut_norm = norm(kind, outputs, groups, "shortcut_norm")

    def build(self, shape):
        self.call(keras.KerasTensor(shape))

    def call(self, x, training=None):
        # Padding is explicit because Keras's "same" pads one side only at stride 2.
        y = keras.ops.relu(self.norm1(self.conv1(self.pad(x)), training=training))
        y = self.norm2(self.conv2(self.pad(y)), training=training)
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x), training=training)
        return keras.ops.relu(x + y)


class ResNet(keras.Model):
    """Images (N, H, W, C) to logits (N, classes); arguments as in the twin."""

    initial_weight = staticmethod(he_normal)

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        norm_kind: str = "group",
        norm_groups: int = 8,
    ):
        super().__init__(name="resnet")
        del input_shape  # Keras takes it from the first batch
        self.pad = layers.ZeroPadding2D(1)
        self.conv = layers.Conv2D(widths[0], 3, use_bias=False, name="conv")
        self.norm = norm(norm_kind, widths[0], norm_groups, "norm")
        self.blocks: list[Block] = []
        inputs = widths[0]
        for s, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for b in range(count):
                stride = 2 if s and not b else 1
                name = f"blocks.{len(self.blocks)}"
                self.blocks.append(
                    Block(
                        inputs, width, stride=stride, kind=norm_kind, groups=norm_groups, name=name
                    )
                )
                inputs = width
        self.head = layers.Dense(classes, name="head")

    def call(self, x, training=None):
        x = keras.ops.relu(self.norm(self.conv(self.pad(x)), training=training))
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(keras.ops.mean(x, axis=(1, 2)))
