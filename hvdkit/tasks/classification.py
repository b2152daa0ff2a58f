"""Single-label classification of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from hvdkit.tasks.base import means, record_weights
from hvdkit.tensors import Ops, Tensor

Layout = Literal["nchw", "nhwc"]


class Classification:
    """Records {"image": (height, width, channels), "label": ()} to logits over classes.

    `layout` is how the model wants a batch of images; sources always store channels last.
    Bytes are taken as fractions of 255. `label_smoothing` is for the training loss alone.
    """

    def __init__(self, *, layout: Layout, label_smoothing: float = 0.0):
        self.layout, self.label_smoothing = layout, label_smoothing

    def input_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """What one image of (height, width, channels) is to the model."""
        height, width, channels = image_shape
        return (channels, height, width) if self.layout == "nchw" else image_shape

    def prepare(self, records: Mapping[str, np.ndarray], *, valid: bool) -> dict[str, np.ndarray]:
        """A batch for the model; one that is not `valid` stands in for an empty slice."""
        image = records["image"]
        if image.dtype == np.uint8:
            image = np.multiply(image, np.float32(1 / 255), dtype=np.float32)
        if self.layout == "nchw":
            image = np.moveaxis(image, -1, 1)
        return {
            "image": np.ascontiguousarray(image, np.float32),
            "label": records["label"].astype(np.int64),
            "weight": record_weights(records, valid=valid),
        }

    def count(self, batch: Mapping[str, np.ndarray]) -> float:
        return float(batch["weight"].sum())

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["image"],)

    def losses(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        losses = ops.cross_entropy(outputs, batch["label"], smoothing=self.label_smoothing)
        return losses * batch["weight"]

    def metrics(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight, label = batch["weight"], batch["label"]
        dtype = ops.dtype(weight)
        right = ops.cast(ops.argmax(outputs) == label, dtype)
        in_five = ops.cast(self._ahead(ops, outputs, label, dtype) < 5, dtype)
        return {
            "loss": ops.sum(ops.cross_entropy(outputs, label) * weight),
            "accuracy": ops.sum(right * weight),
            "top5": ops.sum(in_five * weight),
            "count": ops.sum(weight),
        }

    def _ahead(self, ops: Ops, outputs: Any, label: Tensor, dtype: str) -> Tensor:
        """How many classes rank before each label's. Among equals the first does, as in argmax:
        a model that says the same of all classes is not right of them all. Nor is one that says
        NaN, which nothing is behind."""
        classes = outputs.shape[-1]
        own = ops.take_last(outputs, label)[..., None]
        later = ops.array(np.arange(classes)) >= label[..., None]
        behind = ops.cast(outputs < own, dtype)
        behind = behind + ops.cast(outputs == own, dtype) * ops.cast(later, dtype)
        return classes - ops.sum(behind, -1)

    def summarize(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        return means(sums)
