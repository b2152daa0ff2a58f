"""Which record is the i-th of a run: pure index arithmetic.

The order depends on (seed, i) alone, whatever the number of ranks: a run resumed at step t,
at any world size, needs the number t and nothing else.
"""

from __future__ import annotations

import functools

import numpy as np

from hvdkit.comm import part_sizes


class Order:
    """An endless order over `length` records: every epoch holds each once, shuffled anew.

    An epoch's permutation sorts the raw words of a Philox generator keyed by (seed, epoch):
    NumPy promises that these stay the same from version to version, as it does not of its own
    shuffle. It takes 16 bytes a record, for two epochs at a time.
    """

    def __init__(self, length: int, *, seed: int, shuffle: bool):
        self._length, self._seed, self._shuffle = length, seed, shuffle
        self._epoch = functools.lru_cache(maxsize=2)(self._permutation)

    def __getitem__(self, positions: range) -> np.ndarray:
        """Record numbers at the given positions of the run, as int64."""
        epochs, within = np.divmod(np.asarray(positions, np.int64), self._length)
        if not self._shuffle:
            return within
        records = np.empty_like(within)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            records[now] = self._epoch(int(epoch))[within[now]]
        return records

    def _permutation(self, epoch: int) -> np.ndarray:
        words = np.random.Philox(key=[self._seed, epoch]).random_raw(self._length)
        return np.argsort(words, kind="stable")


def slice_of(start: int, stop: int, index: int, count: int) -> range:
    """Part `index` of `count` contiguous parts of [start, stop), as even as can be."""
    sizes = part_sizes(stop - start, count)
    lo = start + sum(sizes[:index])
    return range(lo, lo + sizes[index])
