"""VGG networks in Keras; torch_vgg.py is its twin and says where they are from."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from hvdkit.models.initial import he_normal
from hvdkit.models.vision.keras_norm import norm
from hvdkit.models.vision.sizes import averaging, require_halvings


class VGG(keras.Model):
    """Images (N, H, W, C) to logits (N, classes); arguments and errors as in the twin."""

    initial_weight = staticmethod(he_normal)

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        hidden: Sequence[int],
        pooled: int,
        dropout: float,
        norm_kind: str,
        norm_groups: int,
    ):
        super().__init__(name="vgg")
        require_halvings(input_shape[:2], len(widths))
        self.counts, self.pooled = list(blocks), pooled
        self.pad = layers.ZeroPadding2D(1)
        self.convolutions: list[layers.Layer] = []
        self.norms: list[layers.Layer] = []
        for width, count in zip(widths, blocks, strict=True):
            for _ in range(count):
                i = len(self.convolutions)
                self.convolutions.append(
                    layers.Conv2D(width, 3, use_bias=norm_kind == "none", name=f"convolutions.{i}")
                )
                self.norms.append(norm(norm_kind, width, norm_groups, f"norms.{i}"))
        self.pool = layers.MaxPooling2D(2)
        self.flatten = layers.Flatten()
        self.hidden = [layers.Dense(width, name=f"hidden.{i}") for i, width in enumerate(hidden)]
        self.drop = layers.Dropout(dropout)
        self.head = layers.Dense(classes, name="head")

    def call(self, x, training=None):
        pairs = iter(zip(self.convolutions, self.norms, strict=True))
        for count in self.counts:
            for _ in range(count):
                convolution, norm = next(pairs)
                x = keras.ops.relu(norm(convolution(self.pad(x)), training=training))
            x = self.pool(x)
        x = self.flatten(self._averaged(x))
        for layer in self.hidden:
            x = self.drop(keras.ops.relu(layer(x)), training=training)
        return self.head(x)

    def _averaged(self, x):
        """torch's adaptive average pooling, as two small matrix products."""
        height, width = x.shape[1:3]
        if (height, width) == (self.pooled, self.pooled):
            return x
        rows, columns = (
            keras.ops.convert_to_tensor(averaging(size, self.pooled), dtype=x.dtype)
            for size in (height, width)
        )
        return keras.ops.einsum("ih,nhwc,jw->nijc", rows, x, columns)
