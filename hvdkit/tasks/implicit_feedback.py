"""Which item a user comes to next, learnt from what users came to before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hvdkit.tasks.base import means, record_weights
from hvdkit.tensors import Ops, Tensor

TOP = 10


class ImplicitFeedback:
    """Pairs of users and items to logits, trained to tell positives from sampled negatives.

    Training records are {"user", "item", "label"}, each (1 + k,); evaluation records are
    {"user": (), "items": (n,)}, the positive first (He et al. 2017, arXiv:1708.05031, section
    4.1). The loss is the mean binary cross-entropy over the pairs. The positive's rank among the
    n counts every item with an equal score before it, so a model that tells none apart gets 0.
    One relevant item makes NDCG@10 = 1 / log2(rank + 2), rank 0 being the first, or 0 from 10 on.

    `popularity` is a number for each item: what ranking by it gets on the same records is then
    told beside the model's own metrics, as popularity_hit_rate_at_10 and popularity_ndcg_at_10.
    """

    def __init__(self, *, popularity: np.ndarray | None = None):
        self.popularity = popularity

    def prepare(self, records: Mapping[str, np.ndarray], *, valid: bool) -> dict[str, np.ndarray]:
        """A batch for the model; one that is not `valid` stands in for an empty slice."""
        weight = record_weights(records, valid=valid)
        if "items" not in records:
            return {
                "user": records["user"].astype(np.int64),
                "item": records["item"].astype(np.int64),
                "label": records["label"].astype(np.float32),
                "weight": weight,
            }
        items = records["items"].astype(np.int64)
        label = np.zeros(items.shape, np.float32)
        label[:, 0] = 1
        batch: dict[str, np.ndarray] = {
            "user": np.repeat(records["user"].astype(np.int64)[:, None], items.shape[1], 1),
            "item": items,
            "label": label,
            "weight": weight,
        }
        if self.popularity is not None:
            batch["popularity"] = self.popularity[items].astype(np.float32)
        return batch

    def count(self, batch: Mapping[str, np.ndarray]) -> float:
        return float(batch["weight"].sum()) * batch["label"].shape[1]

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return batch["user"], batch["item"]

    def losses(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return ops.binary_cross_entropy(outputs, batch["label"]) * batch["weight"][:, None]

    def metrics(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums; of the ranks, how many there are of each below 10, and of the others."""
        weight = batch["weight"]
        losses = ops.binary_cross_entropy(outputs, batch["label"]) * weight[:, None]
        sums = {
            "loss": ops.sum(ops.cast(losses, "float64")),
            "count": ops.sum(weight) * losses.shape[1],
            "ranks": _ranks(ops, outputs, weight),
        }
        if "popularity" in batch:
            sums["popularity_ranks"] = _ranks(ops, batch["popularity"], weight)
        return sums

    def summarize(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        found = means({name: sums[name] for name in ("loss", "count")})
        for name in ("ranks", "popularity_ranks"):
            if name in sums:
                prefix = name.removesuffix("ranks")
                for metric, value in _ranking(np.asarray(sums[name])).items():
                    found[prefix + metric] = value
        return found


def _ranks(ops: Ops, scores: Tensor, weight: Tensor) -> Tensor:
    """The weight at each rank of the first of the scores (N, n): TOP ranks, and beyond them."""
    # Counting those it beats, not those it loses to: a score that is no number beats nothing.
    beaten = ops.sum(ops.cast(scores[:, 1:] < scores[:, :1], "float64"), -1)
    rank = ops.minimum(scores.shape[1] - 1 - beaten, float(TOP))
    return ops.histogram(ops.cast(rank, "int64"), weight, TOP + 1)


def _ranking(ranks: np.ndarray) -> dict[str, float]:
    total = float(ranks.sum())
    top = ranks[:TOP]
    gains = top / np.log2(np.arange(TOP) + 2)
    return {
        f"hit_rate_at_{TOP}": float(top.sum()) / total if total else float("nan"),
        f"ndcg_at_{TOP}": float(gains.sum()) / total if total else float("nan"),
    }
