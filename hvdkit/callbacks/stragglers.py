"""Which rank the others wait for, and what it costs."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

import numpy as np

from hvdkit.callbacks.base import Callback

_log = logging.getLogger("hvdkit.run")
_WORTH_TELLING = 0.05  # of a step: less is what ranks differ by anyway
_MOST_RANKS = 32  # of which each has a number of its own in metrics.jsonl


class Found(NamedTuple):
    """What each rank is to the others; arrays have one entry a rank, times are in seconds.

    `busy`: the median step in which it was not waiting. `cost`: what the median of the others
    waited for it, a step. `last`: in how many of `steps` steps it was the last. `step`: the
    mean of a whole step.
    """

    busy: np.ndarray
    cost: np.ndarray
    last: np.ndarray
    steps: int
    step: float

    @property
    def slowest(self) -> int:
        return int(self.cost.argmax())

    @property
    def stands_out(self) -> bool:
        """Whether the slowest costs enough, and more than chance makes any rank cost."""
        cost = self.cost[self.slowest]
        others = np.delete(self.cost, self.slowest)
        return bool(cost > max(_WORTH_TELLING * self.step, 2 * np.median(others)))


def find(busy: np.ndarray) -> Found:
    """Judge the seconds that two ranks or more were busy: shape (ranks, steps).

    A step takes what its busiest rank takes, because all wait for the last gradient.
    """
    ranks, steps = busy.shape
    last = busy.argmax(0)[None] == np.arange(ranks)[:, None]
    others = np.stack([np.median(np.delete(busy, rank, 0), 0) for rank in range(ranks)])
    cost = (np.maximum(busy - others, 0) * last).mean(1)
    return Found(np.median(busy, 1), cost, last.sum(1), steps, float(busy.max(0).mean()))


class Stragglers(Callback):
    """At every log event, name the rank that the others waited for, and what it cost them.

    A rank is busy while it is not waiting for others: reading its data, computing, updating.
    Give it before `Log` and `TensorBoard`, so that they write its numbers: `straggler/rank`
    (-1: none stands out), `straggler/cost_ms` a step, and `straggler/busy_ms_rank_R`.
    """

    every_rank = True

    def __init__(self):
        self._busy: list[float] = []

    def on_start(self, trainer):
        self._begin(trainer)

    def _begin(self, trainer):
        self._from = (time.perf_counter(), trainer.adapter.communication_seconds())

    def on_step(self, trainer):
        then, waited_then = self._from
        self._begin(trainer)
        now, waited = self._from
        self._busy.append(now - then - (waited - waited_then))

    def on_log(self, trainer, record):
        if "train/lr" in record and self._busy and trainer.comm.size > 1:
            found = find(np.array(trainer.comm.all_gather_object(self._busy)))
            self._busy = []
            record |= _numbers(found)
            if trainer.comm.rank == 0:
                _log.info("%s", line(found))
        # What lies between a step and the next one's input is nobody's step.
        self._begin(trainer)

    def on_checkpoint(self, trainer, path):
        self._begin(trainer)


def line(found: Found) -> str:
    """The finding in words."""
    busy, slowest = 1000 * found.busy, found.slowest
    if not found.stands_out:
        return f"stragglers: none; ranks are busy {busy.min():.1f} to {busy.max():.1f} ms a step"
    cost = found.cost[slowest]
    return (
        f"stragglers: rank {slowest} is slowest, busy {busy[slowest]:.1f} ms a step where the "
        f"others take {np.median(np.delete(busy, slowest)):.1f}; it was last in "
        f"{found.last[slowest]} of {found.steps} steps and cost the others "
        f"{1000 * cost:.1f} ms a step ({cost / found.step:.0%})"
    )


def _numbers(found: Found) -> dict[str, float]:
    numbers: dict[str, float] = {
        "straggler/rank": found.slowest if found.stands_out else -1,
        "straggler/cost_ms": 1000 * float(found.cost[found.slowest]),
    }
    if len(found.busy) <= _MOST_RANKS:
        for rank, seconds in enumerate(found.busy):
            numbers[f"straggler/busy_ms_rank_{rank}"] = 1000 * float(seconds)
    return numbers
