"""Whether an advertisement is clicked on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hvdkit.tasks.base import means, record_weights
from hvdkit.tensors import Ops, Tensor

BINS = 2**18
_LIMIT = 30.0  # logits beyond it are taken as it: their probability is 0 or 1 in single precision


class ClickThrough:
    """Records {"dense": (d,), "categories": (c,), "label": ()} to one logit each.

    "loss" is the log loss. "auc", the area under the ROC curve, is of two histograms of the
    score, one of clicks and one of the rest, because sums of these add up over batches and ranks.
    Their `BINS` bins are equal parts of (-1, 1), on which a logit x stands at x / (1 + |x|): bins
    are narrowest, 8e-6 in the logit, at 0, and about (1 + |x|)^2 as wide elsewhere. Within a bin
    clicks and the rest count as tied, so the area is exact where no bin holds both, and within
    1e-3 as long as the scores spread over some ten bins.
    """

    def prepare(self, records: Mapping[str, np.ndarray], *, valid: bool) -> dict[str, np.ndarray]:
        """A batch for the model; one that is not `valid` stands in for an empty slice."""
        return {
            "dense": np.ascontiguousarray(records["dense"], np.float32),
            "categories": records["categories"].astype(np.int64),
            "label": records["label"].astype(np.float32),
            "weight": record_weights(records, valid=valid),
        }

    def count(self, batch: Mapping[str, np.ndarray]) -> float:
        return float(batch["weight"].sum())

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return batch["dense"], batch["categories"]

    def losses(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return ops.binary_cross_entropy(outputs, batch["label"]) * batch["weight"]

    def metrics(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums; "scores" (2 * BINS,) is the histogram of the rest, then that of the clicks."""
        label, weight = batch["label"], batch["weight"]
        clicked = ops.cast(label, "int64")
        right = ops.cast((outputs > 0) == (label > 0), ops.dtype(weight))
        losses = self.losses(ops, outputs, batch)
        return {
            "loss": ops.sum(ops.cast(losses, "float64")),
            "accuracy": ops.sum(right * weight),
            "count": ops.sum(weight),
            "scores": ops.histogram(_bin(ops, outputs) + clicked * BINS, weight, 2 * BINS),
        }

    def summarize(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        rest, clicks = np.asarray(sums["scores"], np.float64).reshape(2, BINS)
        others = {name: value for name, value in sums.items() if name != "scores"}
        return {**means(others), "auc": area(rest, clicks)}


def _bin(ops: Ops, logits: Tensor) -> Tensor:
    x = ops.cast(logits, "float64")
    x = ops.minimum(ops.maximum(x, -_LIMIT), _LIMIT)
    x = ops.where(ops.is_finite(x), x, 0.0)  # only NaN is left, which has no place
    size = ops.maximum(x, 0.0) - ops.minimum(x, 0.0)
    place = x / (1.0 + size)
    return ops.cast((place + 1.0) * (BINS / 2), "int64")


def area(rest: np.ndarray, clicks: np.ndarray) -> float:
    """The probability that a click's score is above another's, half of it where they tie.

    Both are histograms over the same bins in ascending order. NaN if either is empty.
    """
    pairs = rest.sum() * clicks.sum()
    below = np.cumsum(rest) - rest
    return float(((below + rest / 2) * clicks).sum() / pairs) if pairs else float("nan")
