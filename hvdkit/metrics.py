"""Sums that add up over batches and ranks, with one reduction a log; and how fast a run goes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import numpy as np

from hvdkit.adapters.base import Adapter
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


class Speed:
    """How fast `adapter` went since the last log, and what this rank's gradients sent."""

    def __init__(self, adapter: Adapter, *, batch_size: int):
        self._adapter, self._batch_size = adapter, batch_size
        self._then = self._waited = 0.0  # until `start`

    def start(self, step: int) -> None:
        """Count from here, before step number `step`."""
        self._then = time.perf_counter()
        self._waited = self._adapter.communication_seconds()
        self._sent, _ = self._adapter.strategy.wire_bytes()
        self._step = step

    def since_then(self, step: int) -> dict[str, float]:
        """What a log says of the steps up to `step`; the next counts from there."""
        then, waited, sent, steps = self._then, self._waited, self._sent, step - self._step
        self.start(step)
        seconds = self._then - then
        record = {
            "samples_per_second": steps * self._batch_size / seconds,
            "comm_fraction": (self._waited - waited) / seconds,
        }
        if self._adapter.comm.size > 1:
            # Whole bytes: the total's last bits differ in a run that was resumed. What is counted
            # are multiples of 1 / ranks, so none lies just below a whole number.
            record["comm/bytes_per_step"] = int((self._sent - sent) / max(1, steps) + 1e-3)
        return record

    def clock(self) -> tuple[float, float]:
        """Seconds, and seconds of waiting for communication, to be given to `leave_out`."""
        return time.perf_counter(), self._adapter.communication_seconds()

    def leave_out(self, start: tuple[float, float]) -> None:
        """What went on since `clock` gave `start` was no training, nor was the waiting in it."""
        now, waited = self.clock()
        self._then += now - start[0]
        self._waited += waited - start[1]
