"""What a task is: records to inputs, losses and metrics, written once over `Ops`.

A batch holds "weight": what each record (or token) counts, and 0 where a record only stands in
for an empty slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from hvdkit.tensors import Ops, Tensor

Records = Mapping[str, np.ndarray]


class Task(Protocol):
    """One instance serves training and evaluation."""

    def prepare(self, records: Records, *, valid: bool) -> dict[str, np.ndarray]:
        """A batch of stacked records; one that is not `valid` weighs nothing."""

    def count(self, batch: Mapping[str, np.ndarray]) -> float:
        """What a batch's loss sum is divided by: its samples, or its tokens."""

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The model's arguments."""

    def losses(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """The training loss of each sample (or token), each times its weight."""

    def metrics(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over one evaluation batch: tensors of any shape that add up over batches."""

    def summarize(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The metrics, by name, of the sums over all evaluation data."""


def means(sums: Mapping[str, np.ndarray], *, count: str = "count") -> dict[str, float]:
    """Every sum but `count`, divided by it."""
    number = float(sums[count])
    return {k: float(v) / number if number else float("nan") for k, v in sums.items() if k != count}


def record_weights(records: Records, *, valid: bool) -> np.ndarray:
    """The weight of each record: its own "weight" where it has one, else 1."""
    length = len(next(iter(records.values())))
    own = records.get("weight", np.ones(length))
    return np.asarray(own, np.float32) * float(valid)
