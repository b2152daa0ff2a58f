"""Which parameters travel together: pure planning, no tensors.

A bucket is one contiguous buffer that is reduced in one collective. Buckets are filled in the
reverse of the model's order, because the backward pass finishes the last layers first: the
first bucket can leave while the pass is still under way (Li et al., "PyTorch Distributed",
VLDB 2020, section 3.2.3).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ParamSpec:
    """A trainable parameter: its canonical name, shape, and NumPy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Bucket:
    """Parameters of one dtype that share a buffer of `size` elements.

    Parameter i lies at `offsets[i]`; what follows the last one, up to `size`, is padding.
    """

    index: int
    dtype: str
    params: tuple[ParamSpec, ...]
    offsets: tuple[int, ...]
    size: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(param.name for param in self.params)

    @property
    def numel(self) -> int:
        return sum(param.numel for param in self.params)


def plan_buckets(
    specs: Sequence[ParamSpec],
    *,
    cap_mb: float,
    world_size: int,
    apart: Callable[[ParamSpec], bool] = lambda spec: False,
) -> tuple[Bucket, ...]:
    """Cut `specs` (in the model's order) into buckets of at most `cap_mb` MiB each.

    A parameter larger than the cap has a bucket to itself, and those that `apart` holds of share
    none with the others. Each bucket's size is rounded up to a multiple of `world_size`, so that
    it can be sharded evenly.
    """
    if cap_mb <= 0:
        raise ValueError(f"cap_mb must be above 0, not {cap_mb}")
    cap = cap_mb * 2**20
    open_by_kind: dict[tuple[str, bool], list[ParamSpec]] = {}
    closed: list[list[ParamSpec]] = []
    for spec in reversed(specs):
        kind = spec.dtype, apart(spec)
        current = open_by_kind.setdefault(kind, [])
        if current and sum(p.nbytes for p in current) + spec.nbytes > cap:
            closed.append(current)
            current = open_by_kind[kind] = []
        current.append(spec)
    closed.extend(open_by_kind.values())
    return tuple(_bucket(i, params, world_size) for i, params in enumerate(closed))


def in_order(specs: Sequence[ParamSpec], seen: Sequence[str]) -> list[ParamSpec]:
    """`specs` as `plan_buckets` takes them, for gradients that came in the order `seen`.

    Those that never came are planned as the last to come, where they keep nothing else waiting.
    """
    place = {name: i for i, name in enumerate(seen)}
    return sorted(specs, key=lambda spec: place.get(spec.name, len(seen)), reverse=True)


def lateness(buckets: Sequence[Bucket], seen: Sequence[str]) -> float:
    """How much of the gradient is there when the average byte can leave: from 0 to 1.

    A bucket leaves once its last gradient is there; gradients come in the order `seen`.
    """
    nbytes = {spec.name: spec.nbytes for bucket in buckets for spec in bucket.params}
    total = sum(nbytes.values())
    arrived = dict(zip(seen, itertools.accumulate(nbytes[name] for name in seen), strict=True))
    leaves = (
        max(arrived.get(name, total) for name in bucket.names)
        * sum(spec.nbytes for spec in bucket.params)
        for bucket in buckets
    )
    return sum(leaves) / (total * total)


def buckets_from_names(
    specs: Sequence[ParamSpec], plan: Sequence[Sequence[str]], *, world_size: int
) -> tuple[Bucket, ...]:
    """Rebuild the buckets that a checkpoint's manifest lists by name.

    Raises `ValueError` if the plan does not hold each parameter exactly once.
    """
    by_name = {spec.name: spec for spec in specs}
    listed = [name for names in plan for name in names]
    if sorted(listed) != sorted(by_name):
        odd = sorted(set(listed) ^ set(by_name)) or "a parameter twice"
        raise ValueError(f"the bucket plan does not fit the model: {odd}")
    return tuple(
        _bucket(i, [by_name[name] for name in names], world_size) for i, names in enumerate(plan)
    )


def _bucket(index: int, params: Sequence[ParamSpec], world_size: int) -> Bucket:
    offsets = []
    end = 0
    for param in params:
        offsets.append(end)
        end += param.numel
    size = -(-end // world_size) * world_size
    return Bucket(index, params[0].dtype, tuple(params), tuple(offsets), size)
