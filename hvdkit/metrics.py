"""Sums and counts that add up over batches and ranks, with one reduction a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hvdkit.comm import Comm
from hvdkit.tensors import Ops

Sums = Mapping[str, tuple[float, float]]


def add(sums: Iterable[Sums], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The total (sum, count) of each name; (0, 0) for one that no batch had."""
    totals = dict.fromkeys(names, (0.0, 0.0))
    for part in sums:
        for name, (value, count) in part.items():
            total, number = totals[name]
            totals[name] = (total + value, number + count)
    return totals


def mean_over_ranks(sums: Sums, comm: Comm, ops: Ops, *, name: str) -> dict[str, float]:
    """Sum of sums over sum of counts, the same on every rank; NaN where nothing was counted."""
    flat = np.array([number for key in sorted(sums) for number in sums[key]], np.float64)
    total = ops.numpy(comm.allreduce(ops.array(flat), name=name).wait()).reshape(-1, 2)
    return {
        key: float(value / count) if count else float("nan")
        for key, (value, count) in zip(sorted(sums), total, strict=True)
    }
