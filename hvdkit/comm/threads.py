"""N ranks as N threads of one process, over NumPy arrays.

The reference `Comm`: every strategy is tested on it in milliseconds, and Horovod's two are
held to the same contract. Sums are taken in rank order, so results are the same every time.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from hvdkit.comm.base import Comm, Group, part_sizes

Result = TypeVar("Result")
_REDUCE = {"sum": np.add, "min": np.minimum, "max": np.maximum}


class RankFailed(RuntimeError):
    """Another rank raised, so a collective can never finish."""


def run_ranks(
    size: int,
    body: Callable[[Comm], Result],
    *,
    timeout: float = 30.0,
    per_host: int | None = None,
) -> list[Result]:
    """Run `body(comm)` on `size` ranks at once and return their results in rank order.

    They are told that they are on one host, or that each host has `per_host` of them.

    Raises the first rank's own error if one fails, and `TimeoutError` naming the collective
    and the ranks that never joined it if they disagree on what to call.
    """
    world = _World(size, timeout, per_host or size)
    results: list[Any] = [None] * size
    errors: list[BaseException | None] = [None] * size

    def work(rank: int) -> None:
        try:
            results[rank] = body(ThreadComm(world, rank))
        except BaseException as error:
            errors[rank] = error
            world.fail()

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raised = [error for error in errors if error is not None]
    if raised:
        raise min(raised, key=lambda error: isinstance(error, RankFailed))
    return results


class _World:
    """The meeting place: what each rank brought to each collective."""

    def __init__(self, size: int, timeout: float, per_host: int):
        self.size, self.per_host = size, per_host
        self._timeout = timeout
        self._changed = threading.Condition()
        self._brought: dict[Any, dict[int, Any]] = defaultdict(dict)
        self._left: Counter[Any] = Counter()
        self._failed = False

    def fail(self) -> None:
        with self._changed:
            self._failed = True
            self._changed.notify_all()

    def bring(self, key: Any, rank: int, value: Any) -> None:
        with self._changed:
            self._brought[key][rank] = value
            self._changed.notify_all()

    def complete(self, key: Any, ranks: tuple[int, ...]) -> bool:
        with self._changed:
            return len(self._brought[key]) == len(ranks)

    def collect(self, key: Any, ranks: tuple[int, ...]) -> list[Any]:
        with self._changed:
            brought = self._brought[key]
            complete = self._changed.wait_for(
                lambda: self._failed or len(brought) == len(ranks), self._timeout
            )
            missing = [rank for rank in ranks if rank not in brought]
            if missing and self._failed:
                raise RankFailed(f"{key}: another rank failed")
            if not complete:
                raise TimeoutError(f"{key}: ranks {missing} never joined")
            self._left[key] += 1
            if self._left[key] == len(ranks):
                del self._brought[key], self._left[key]
            return [brought[rank] for rank in ranks]


@dataclass(frozen=True)
class _Pending:
    finish: Callable[[], np.ndarray]
    complete: Callable[[], bool]

    def wait(self) -> np.ndarray:
        return self.finish()

    def poll(self) -> bool:
        return self.complete()


class ThreadComm(Comm):
    """One of `run_ranks`' ranks; tensors are NumPy arrays."""

    def __init__(self, world: _World, rank: int):
        self._world = world
        self.rank, self.size = rank, world.size
        self.host, self.local_rank = divmod(rank, world.per_host)
        self.local_size = min(world.per_host, world.size - self.host * world.per_host)
        self._uses: Counter[tuple] = Counter()

    def _meet(self, kind, name, group, value, combine):
        ranks = group.ranks if group else tuple(range(self.size))
        if self.rank not in ranks:
            raise ValueError(f"{name}: rank {self.rank} is not in the group {ranks}")
        use = (kind, name, ranks)
        self._uses[use] += 1
        key = (*use, self._uses[use])
        self._world.bring(key, self.rank, np.array(value))
        return _Pending(
            lambda: combine(self._world.collect(key, ranks), ranks.index(self.rank)),
            lambda: self._world.complete(key, ranks),
        )

    def allreduce(self, x, *, name, op="sum", group=None):
        def combine(values, _):
            return _reduce(values, name, op)

        return self._meet("allreduce", name, group, x, combine)

    def reduce_scatter(self, x, *, name, op="sum", group=None):
        def combine(values, position):
            sizes = part_sizes(len(values[0]), len(values))
            start = sum(sizes[:position])
            return _reduce(values, name, op)[start : start + sizes[position]]

        return self._meet("reduce_scatter", name, group, x, combine)

    def all_gather(self, x, *, name, group=None):
        return self._meet("all_gather", name, group, x, lambda values, _: np.concatenate(values))

    def broadcast(self, x, *, name, root=0, group=None):
        ranks = group.ranks if group else tuple(range(self.size))
        position = ranks.index(root)
        return self._meet("broadcast", name, group, x, lambda values, _: values[position].copy())

    def all_to_all(self, x, *, name, splits, group=None):
        if sum(splits) != len(x):
            raise ValueError(f"{name}: splits {list(splits)} do not cover {len(x)} rows")
        sent = self._meet("all_to_all.splits", name, group, splits, lambda values, _: values)

        def combine(values, position):
            splits_of_all = sent.wait()
            starts = [row[:position].sum() for row in splits_of_all]
            rows = [
                value[start : start + row[position]]
                for value, start, row in zip(values, starts, splits_of_all, strict=True)
            ]
            return np.concatenate(rows)

        return self._meet("all_to_all", name, group, x, combine)

    def group(self, ranks):
        ranks = tuple(sorted(ranks))
        self._meet("group", str(ranks), None, np.zeros(0), lambda values, _: None).wait()
        return Group(ranks)

    def barrier(self):
        self._meet("barrier", "barrier", None, np.zeros(0), lambda values, _: None).wait()

    def all_gather_bytes(self, data):
        return self.all_gather(data, name="bytes").wait()


def _reduce(values, name, op):
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        raise ValueError(f"{name}: ranks brought different shapes {sorted(shapes)}")
    total = values[0].copy()
    for value in values[1:]:
        total = _REDUCE[op](total, value)
    return total
