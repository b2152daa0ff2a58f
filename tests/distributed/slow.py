"""Data that is slow to read on one rank."""

from __future__ import annotations

import dataclasses
import time

from hvdkit.data import ImageDataset, digits
from hvdkit.launch.environment import current_job


class _Slow:
    def __init__(self, source, seconds):
        self._source, self._seconds = source, seconds

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        time.sleep(self._seconds)
        return self._source[index]


def digits_slow_on(rank: int, seconds: float) -> ImageDataset:
    """The digits, each of whose records takes `seconds` to read on that rank."""
    dataset = digits(test_fraction=0.2)
    if current_job().rank != rank:
        return dataset
    return dataclasses.replace(dataset, train=_Slow(dataset.train, seconds))
