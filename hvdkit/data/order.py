"""Which record is the i-th of a run: pure index arithmetic.

The order depends on (seed, i) alone, whatever the number of ranks: a run resumed at step t,
at any world size, needs the number t and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from hvdkit.comm import part_sizes


class Order:
    """An endless order over `length` records: every epoch holds each once, shuffled anew."""

    def __init__(self, length: int, *, seed: int, shuffle: bool):
        # grain's MapDataset is a random-access permutation by index, epoch after epoch.
        # It asks for a jax profiler when imported; absl would report that as a warning.
        logging.getLogger("absl").addFilter(_not_about_jax)
        import grain

        dataset = grain.MapDataset.range(length).seed(seed)
        self._dataset = (dataset.shuffle() if shuffle else dataset).repeat()

    def __getitem__(self, positions: Iterable[int]) -> np.ndarray:
        """Record numbers at the given positions of the run."""
        return np.fromiter((self._dataset[i] for i in positions), np.int64)


def _not_about_jax(record: logging.LogRecord) -> bool:
    return "jax" not in record.getMessage()


def slice_of(start: int, stop: int, index: int, count: int) -> range:
    """Part `index` of `count` contiguous parts of [start, stop), as even as can be."""
    sizes = part_sizes(stop - start, count)
    lo = start + sum(sizes[:index])
    return range(lo, lo + sizes[index])
