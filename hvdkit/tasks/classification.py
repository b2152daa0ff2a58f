"""Single-label classification of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from hvdkit.tensors import Ops, Tensor

Layout = Literal["nchw", "nhwc"]


class Classification:
    """Records {"image": (height, width, channels), "label": ()} to logits over classes.

    `layout` is how the model wants a batch of images; sources always store channels last.
    """

    metric_names = ("loss", "accuracy")

    def __init__(self, *, layout: Layout):
        self.layout = layout

    def input_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """What one image of (height, width, channels) is to the model."""
        height, width, channels = image_shape
        return (channels, height, width) if self.layout == "nchw" else image_shape

    def prepare(self, records: Mapping[str, np.ndarray], *, valid: bool) -> dict[str, np.ndarray]:
        """A batch for the model; one that is not `valid` stands in for an empty slice."""
        image = records["image"]
        if self.layout == "nchw":
            image = np.moveaxis(image, -1, 1)
        weight = np.full(len(image), float(valid), np.float32)
        return {
            "image": np.ascontiguousarray(image, np.float32),
            "label": records["label"].astype(np.int64),
            "weight": weight,
        }

    def count(self, batch: Mapping[str, np.ndarray]) -> float:
        return float(batch["weight"].sum())

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["image"],)

    def losses(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return ops.cross_entropy(outputs, batch["label"]) * batch["weight"]

    def metrics(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        right = ops.cast(ops.argmax(outputs) == batch["label"], ops.dtype(batch["weight"]))
        return {
            "loss": ops.sum(self.losses(ops, outputs, batch)),
            "accuracy": ops.sum(right * batch["weight"]),
            "count": ops.sum(batch["weight"]),
        }
