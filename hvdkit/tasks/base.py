"""What a task is: records to inputs, losses and metrics, written once over `Ops`.

A batch holds "weight": what each record (or token) counts, and 0 where a record only stands in
for an empty slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from hvdkit.adapters import task as adapters

Records = Mapping[str, np.ndarray]


class Task(adapters.Task, Protocol):
    """One instance serves training and evaluation."""

    def prepare(self, records: Records, *, valid: bool) -> dict[str, np.ndarray]:
        """A batch of stacked records; one that is not `valid` weighs nothing."""


def means(sums: Mapping[str, np.ndarray], *, count: str = "count") -> dict[str, float]:
    """Every sum but `count`, divided by it."""
    number = float(sums[count])
    return {k: float(v) / number if number else float("nan") for k, v in sums.items() if k != count}


def record_weights(records: Records, *, valid: bool) -> np.ndarray:
    """The weight of each record: its own "weight" where it has one, else 1."""
    length = len(next(iter(records.values())))
    own = records.get("weight", np.ones(length))
    return np.asarray(own, np.float32) * float(valid)
