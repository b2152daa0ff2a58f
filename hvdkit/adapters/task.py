"""What an adapter needs of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from hvdkit.tensors import Ops, Tensor


class Task(Protocol):
    """Inputs, losses and metrics, written over `Ops`; see `hvdkit.tasks`."""

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The model's arguments."""

    def losses(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """The training loss of each sample (or token), each times its weight."""

    def metrics(self, ops: Ops, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over one evaluation batch: tensors of any shape that add up over batches."""

    def count(self, batch: Mapping[str, np.ndarray]) -> float:
        """How many samples (or tokens) the batch's loss sum is over."""

    def summarize(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The metrics, by name, of the sums over all evaluation data."""
