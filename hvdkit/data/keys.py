"""Random numbers for records, keyed by (seed, position in the run): pure functions, whole
batches at a time.

A record that varies from epoch to epoch (a random crop, a masked token, a negative item) draws
from its position's key, so it is the same on any rank, at any world size, and after a resume.
The generator is SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014): a counter, mixed.
"""

from __future__ import annotations

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def position_keys(seed: int, positions: np.ndarray | range) -> np.ndarray:
    """A key (uint64) for each position of the run's order."""
    counter = np.asarray(positions, np.uint64)
    start = _mix(np.array([seed], np.uint64) + _GAMMA)
    return _mix(start + (counter + np.uint64(1)) * _GAMMA)


def words(keys: np.ndarray, count: int, *, stream: int = 0) -> np.ndarray:
    """`count` random 64-bit words a key: shape (len(keys), count).

    Different streams of one key are independent.
    """
    start = _mix(np.asarray(keys, np.uint64) ^ _mix(np.array([stream + 1], np.uint64) * _GAMMA))
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    return _mix(start[:, None] + steps)


def fractions(keys: np.ndarray, count: int, *, stream: int = 0) -> np.ndarray:
    """`count` uniform numbers in [0, 1) a key, float64: shape (len(keys), count)."""
    return (words(keys, count, stream=stream) >> np.uint64(11)) * 2.0**-53


def integers(keys: np.ndarray, count: int, high: int, *, stream: int = 0) -> np.ndarray:
    """`count` uniform integers in [0, high) a key, int64: shape (len(keys), count)."""
    return (fractions(keys, count, stream=stream) * high).astype(np.int64)
