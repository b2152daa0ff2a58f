"""Sums that add up over batches and ranks, with one reduction a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from hvdkit.comm import Comm
from hvdkit.tensors import Ops

Sums = Mapping[str, np.ndarray]


def add(parts: Iterable[Sums]) -> dict[str, np.ndarray]:
    """The total of each name's arrays, in float64; at least one part, each with all names."""
    totals: dict[str, np.ndarray] = {}
    for part in parts:
        for name, value in part.items():
            before = totals.get(name)
            now = np.asarray(value, np.float64)
            totals[name] = now if before is None else before + now
    return totals


def sum_over_ranks(sums: Sums, comm: Comm, ops: Ops, *, name: str) -> dict[str, np.ndarray]:
    """Each array summed over the ranks, the same on every rank."""
    keys = sorted(sums)
    parts = [np.asarray(sums[key], np.float64) for key in keys]
    flat = np.concatenate([part.reshape(-1) for part in parts])
    total = ops.numpy(comm.allreduce(ops.array(flat), name=name).wait())
    cuts = np.cumsum([part.size for part in parts])[:-1]
    pieces = np.split(total, cuts)
    return {key: x.reshape(p.shape) for key, x, p in zip(keys, pieces, parts, strict=True)}
