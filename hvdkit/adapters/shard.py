"""What a checkpoint is handed: arrays, whole or in parts, and those that one rank alone holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_OWN = "rank-{:05d}/"


@dataclass(frozen=True)
class Shard:
    """A rank's part of a named array: `array` begins at flat `offset` of `global_shape`."""

    array: np.ndarray
    offset: int
    global_shape: tuple[int, ...]

    @classmethod
    def whole(cls, array: np.ndarray) -> Shard:
        return cls(array, 0, array.shape)


def own_name(rank: int, name: str) -> str:
    """What an array that rank `rank` alone holds is called in a checkpoint."""
    return _OWN.format(rank) + name


def without_rank(name: str) -> tuple[int | None, str]:
    """(rank, name) of what `own_name` gave; of an array that is everyone's, (None, name)."""
    first, _, rest = name.partition("/")
    if first.startswith("rank-") and first[5:].isdigit():
        return int(first[5:]), rest
    return None, name
