"""What every way of communicating offers: `Comm`, its `Handle`s and `Group`s.

A collective is started by name and finished by `Handle.wait()`. The same name must be used by
every rank of the group; between two collectives of one name the first has to be waited for.
Tensors are whatever the implementation speaks: NumPy arrays, torch or TensorFlow tensors.

This package imports NumPy and the standard library only.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from hvdkit.tensors import Tensor

ReduceOp = Literal["sum", "min", "max"]


class Handle(Protocol):
    """A collective under way."""

    def wait(self) -> Tensor:
        """Block until it is done and return its result; call it once."""

    def poll(self) -> bool:
        """Whether `wait` would return at once."""


@dataclass(frozen=True)
class Done:
    """The handle of a collective that finished where it was started."""

    value: Tensor

    def wait(self) -> Tensor:
        return self.value

    def poll(self) -> bool:
        return True


@dataclass(frozen=True)
class Group:
    """Some of a job's ranks, in ascending order; made by `Comm.group`."""

    ranks: tuple[int, ...]
    token: Any = None  # what the implementation knows the group by


class Comm(ABC):
    """The ranks of one job, seen from one of them.

    `rank` of `size` in the job, `local_rank` of `local_size` on this host, which is number
    `host` of the job's.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: int = 0
    message_mb: float | None = None  # the size of messages that are summed fastest; None: any

    @abstractmethod
    def allreduce(
        self, x: Tensor, *, name: str, op: ReduceOp = "sum", group: Group | None = None
    ) -> Handle:
        """Combine `x` elementwise over the ranks. May work in place: use the result, not `x`."""

    @abstractmethod
    def reduce_scatter(
        self, x: Tensor, *, name: str, op: ReduceOp = "sum", group: Group | None = None
    ) -> Handle:
        """Combine `x`, and keep this rank's part of its first dimension.

        Parts are contiguous, in rank order, as even as can be; `part_sizes` gives their lengths.
        """

    @abstractmethod
    def all_gather(self, x: Tensor, *, name: str, group: Group | None = None) -> Handle:
        """Join every rank's `x` along the first dimension, whose length may differ by rank."""

    @abstractmethod
    def broadcast(
        self, x: Tensor, *, name: str, root: int = 0, group: Group | None = None
    ) -> Handle:
        """The value of `x` on rank `root` (a rank of the job, a member of the group)."""

    @abstractmethod
    def all_to_all(
        self, x: Tensor, *, name: str, splits: Sequence[int], group: Group | None = None
    ) -> Handle:
        """Send the next `splits[i]` rows of `x` to the group's i-th rank; join what arrives."""

    @abstractmethod
    def group(self, ranks: Sequence[int]) -> Group:
        """Form a group. Every rank of the job must call it, with the same ranks."""

    @abstractmethod
    def barrier(self) -> None:
        """Return once every rank has called it."""

    @abstractmethod
    def all_gather_bytes(self, data: np.ndarray) -> np.ndarray:
        """`all_gather` of one-dimensional uint8 host memory."""

    def start_timeline(self, path: str) -> str | None:
        """Have what carries the messages write its own Chrome trace to `path`, on the rank that
        keeps it; None, or why there will be none."""
        return f"{type(self).__name__} keeps none"

    def stop_timeline(self) -> None:  # noqa: B027 - not every kind has one
        """End what `start_timeline` began."""

    def close(self) -> None:  # noqa: B027 - not every kind holds something
        """Leave the job in good order: every rank calls it."""

    def all_gather_object(self, obj: Any) -> list[Any]:
        """Every rank's `obj`, in rank order (pickled: peers of one job trust each other)."""
        data = np.frombuffer(pickle.dumps(obj), np.uint8)
        length = np.frombuffer(np.int64(data.size).tobytes(), np.uint8)
        lengths = self.all_gather_bytes(length).view(np.int64)
        joined = self.all_gather_bytes(data).tobytes()
        ends = np.cumsum(lengths)
        return [pickle.loads(joined[end - n : end]) for n, end in zip(lengths, ends, strict=True)]

    def broadcast_object(self, obj: Any, *, root: int = 0) -> Any:
        """Rank `root`'s `obj`, on every rank."""
        return self.all_gather_object(obj if self.rank == root else None)[root]


def part_sizes(length: int, parts: int) -> list[int]:
    """How `length` rows are cut into contiguous parts: the first `length % parts` get one more."""
    quotient, remainder = divmod(length, parts)
    return [quotient + (i < remainder) for i in range(parts)]
