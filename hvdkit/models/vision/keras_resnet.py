"""Residual networks in Keras; torch_resnet.py is its twin and says where they are from.

Padding is explicit: Keras's "same" pads one side only at stride 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from hvdkit.models.initial import he_normal
from hvdkit.models.vision.keras_norm import norm


class Basic(layers.Layer):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 one where shapes change."""

    last_norm = "norm2.weight"

    def __init__(self, inputs, width, *, stride, kind, groups, name):
        super().__init__(name=name)
        self.pad = layers.ZeroPadding2D(1)
        self.conv1 = layers.Conv2D(width, 3, stride, use_bias=False, name="conv1")
        self.norm1 = norm(kind, width, groups, "norm1")
        self.conv2 = layers.Conv2D(width, 3, use_bias=False, name="conv2")
        self.norm2 = norm(kind, width, groups, "norm2")
        self.shortcut = None
        if stride != 1 or inputs != width:
            self.shortcut = layers.Conv2D(width, 1, stride, use_bias=False, name="shortcut")
            self.shortcut_norm = norm(kind, width, groups, "shortcut_norm")

    def build(self, shape):
        self.call(keras.KerasTensor(shape))

    def call(self, x, training=None):
        y = keras.ops.relu(self.norm1(self.conv1(self.pad(x)), training=training))
        y = self.norm2(self.conv2(self.pad(y)), training=training)
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x), training=training)
        return keras.ops.relu(x + y)


class Bottleneck(layers.Layer):
    """1x1 down to `width`, 3x3, 1x1 up to four times it, around the same kind of shortcut."""

    last_norm = "norm3.weight"

    def __init__(self, inputs, width, *, stride, kind, groups, name):
        super().__init__(name=name)
        outputs = 4 * width
        self.conv1 = layers.Conv2D(width, 1, use_bias=False, name="conv1")
        self.norm1 = norm(kind, width, groups, "norm1")
        self.pad = layers.ZeroPadding2D(1)
        self.conv2 = layers.Conv2D(width, 3, stride, use_bias=False, name="conv2")
        self.norm2 = norm(kind, width, groups, "norm2")
        self.conv3 = layers.Conv2D(outputs, 1, use_bias=False, name="conv3")
        self.norm3 = norm(kind, outputs, groups, "norm3")
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = layers.Conv2D(outputs, 1, stride, use_bias=False, name="shortcut")
            self.shortcut_norm = norm(kind, outputs, groups, "shortcut_norm")

    def build(self, shape):
        self.call(keras.KerasTensor(shape))

    def call(self, x, training=None):
        y = keras.ops.relu(self.norm1(self.conv1(x), training=training))
        y = keras.ops.relu(self.norm2(self.conv2(self.pad(y)), training=training))
        y = self.norm3(self.conv3(y), training=training)
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x), training=training)
        return keras.ops.relu(x + y)


class ResNet(keras.Model):
    """Images (N, H, W, C) to logits (N, classes); arguments as in the twin."""

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        block: str = "basic",
        stem: str = "small",
        norm_kind: str = "group",
        norm_groups: int = 8,
        zero_last_norm: bool = False,
    ):
        super().__init__(name="resnet")
        del input_shape  # Keras takes it from the first batch
        kind: Any = {"basic": Basic, "bottleneck": Bottleneck}[block]
        self.zero = kind.last_norm if zero_last_norm else None
        size, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.pad = layers.ZeroPadding2D(size // 2)
        self.conv = layers.Conv2D(widths[0], size, stride, use_bias=False, name="conv")
        self.norm = norm(norm_kind, widths[0], norm_groups, "norm")
        self.pool = None
        if stem == "imagenet":
            # After a ReLU nothing is below the zeros, so they pad as torch's minus infinity.
            self.pool_pad = layers.ZeroPadding2D(1)
            self.pool = layers.MaxPooling2D(3, 2)
        self.blocks: list[layers.Layer] = []
        inputs = widths[0]
        for s, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for b in range(count):
                stride = 2 if s and not b else 1
                name = f"blocks.{len(self.blocks)}"
                self.blocks.append(
                    kind(
                        inputs, width, stride=stride, kind=norm_kind, groups=norm_groups, name=name
                    )
                )
                inputs = 4 * width if block == "bottleneck" else width
        self.head = layers.Dense(classes, name="head")

    def initial_weight(self, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """As in the twin."""
        if self.zero and name.startswith("blocks.") and name.endswith(f".{self.zero}"):
            return np.zeros(shape)
        return he_normal(seed, name, shape)

    def call(self, x, training=None):
        x = keras.ops.relu(self.norm(self.conv(self.pad(x)), training=training))
        if self.pool is not None:
            x = self.pool(self.pool_pad(x))
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(keras.ops.mean(x, axis=(1, 2)))
