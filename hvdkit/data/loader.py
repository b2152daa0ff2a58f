"""Batches of one rank, by step number.

Step t trains on positions [t B, (t + 1) B) of the run's order, whatever the world size; each
rank takes one contiguous slice, cut once more into `accumulate` microbatches. Batches are
made ahead of time in a thread (grain's).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from hvdkit.data.keys import position_keys
from hvdkit.data.order import Order, slice_of
from hvdkit.data.sources import Source, draw, take
from hvdkit.errors import HvdkitError

Batch = dict[str, np.ndarray]


def _not_about_jax(record: logging.LogRecord) -> bool:
    return "jax" not in record.getMessage()


class TrainData:
    """What to train on. `task.prepare` turns stacked records into a batch.

    `batch_size` counts the samples of one update over all ranks, accumulation included.
    """

    def __init__(
        self,
        source: Source,
        task: Any,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        accumulate: int = 1,
        prefetch: int = 2,
    ):
        if len(source) == 0:
            raise HvdkitError("the training data is empty")
        self.source, self.task, self.batch_size = source, task, batch_size
        self.shuffle, self.accumulate, self.prefetch = shuffle, accumulate, prefetch
        self.seed = seed
        self._order = Order(len(source), seed=seed, shuffle=shuffle)

    def samples_in(self, epochs: float) -> int:
        """How many samples go over the data `epochs` times."""
        return round(epochs * len(self.source))

    def usual_count(self) -> float:
        """The loss count of a whole batch of records like the first; 1 a record, if that weighs
        nothing because it is a bad one."""
        return self.batch_size * (self.task.count(self.example()) or 1.0)

    def epoch(self, step: int) -> float:
        """How often the data has been gone over after `step` updates."""
        return step * self.batch_size / len(self.source)

    def batches(
        self, *, start: int, stop: int, replica: tuple[int, int], samples: int | None = None
    ) -> Iterator[list[Batch]]:
        """Microbatches of replica (index, count) for steps [start, stop).

        `samples` ends the run's order: a step that would pass it is short.
        """
        end = samples if samples is not None else stop * self.batch_size

        def make(step: int) -> list[Batch]:
            lo = step * self.batch_size
            mine = slice_of(lo, min(lo + self.batch_size, end), *replica)
            return [
                self._batch(slice_of(mine.start, mine.stop, i, self.accumulate))
                for i in range(self.accumulate)
            ]

        # grain looks for a jax profiler as it is imported, and warns that there is none.
        logging.getLogger("absl").addFilter(_not_about_jax)
        import grain

        options = grain.ReadOptions(
            num_threads=min(1, self.prefetch), prefetch_buffer_size=self.prefetch
        )
        dataset = grain.MapDataset.range(start, stop).map(make)
        return iter(dataset.to_iter_dataset(options))

    def example(self) -> Batch:
        """Some batch, for a model that builds itself from its first input."""
        return self.task.prepare(take(self.source, [0]), valid=True)

    def _batch(self, positions: range) -> Batch:
        # An empty slice still has to join every collective: one record stands in, weighing 0.
        indices = self._order[positions] if positions else np.zeros(1, np.int64)
        keys = position_keys(self.seed, positions or range(1))
        return self.task.prepare(draw(self.source, indices, keys), valid=bool(positions))


class EvalData:
    """What to evaluate on: each record once over all ranks, in the source's order."""

    def __init__(self, source: Source, task: Any, *, batch_size: int = 256):
        if len(source) == 0:
            raise HvdkitError("the evaluation data is empty")
        self.source, self.task, self.batch_size = source, task, batch_size

    def batches(self, replica: tuple[int, int]) -> Iterator[Batch]:
        """This rank's part, `batch_size` records at a time; one that weighs nothing if there
        are too few records for all ranks, so that this one's sums have the others' shapes."""
        mine = slice_of(0, len(self.source), *replica)
        if not mine:
            yield self.task.prepare(take(self.source, [0]), valid=False)
        for lo in range(mine.start, mine.stop, self.batch_size):
            indices = range(lo, min(lo + self.batch_size, mine.stop))
            yield self.task.prepare(take(self.source, indices), valid=True)
