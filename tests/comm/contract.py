"""What every `Comm` has to do, as checks that each implementation's own test runs.

A check is `check(comm, to, of)`, called on every rank at once: `to` makes the implementation's
tensor of a NumPy array, `of` gives the array back. Nothing here imports a framework.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hvdkit.comm import Comm, part_sizes
from hvdkit.comm.base import ReduceOp

Check = Callable[[Comm, Callable, Callable], None]
CHECKS: dict[str, Check] = {}
DTYPES = ("float32", "float64", "int32", "float16")


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def brought(rank: int, dtype: str = "float32", shape: tuple[int, ...] = (7,)) -> np.ndarray:
    """What rank `rank` brings: small whole numbers, so that sums are exact in every dtype."""
    numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    return ((numbers * 5 + rank * 3) % 11 - 4).astype(dtype)


def everyone(comm: Comm, dtype: str = "float32", shape: tuple[int, ...] = (7,)) -> np.ndarray:
    """What all ranks bring, stacked."""
    return np.stack([brought(rank, dtype, shape) for rank in range(comm.size)])


def same(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@check
def rank_and_size_say_who_is_who(comm, to, of):
    assert 0 <= comm.rank < comm.size
    assert comm.all_gather_object(comm.rank) == list(range(comm.size))
    assert (comm.local_rank, comm.local_size) == (comm.rank, comm.size)  # one host


@check
def allreduce_combines_elementwise(comm, to, of):
    combine: dict[ReduceOp, Any] = {"sum": np.sum, "min": np.min, "max": np.max}
    for dtype in DTYPES:
        for op, numpy in combine.items():
            x = to(brought(comm.rank, dtype, (3, 4)))
            got = of(comm.allreduce(x, name=f"{op}.{dtype}", op=op).wait())
            same(got, numpy(everyone(comm, dtype, (3, 4)), axis=0).astype(dtype))


@check
def allreduce_takes_one_number(comm, to, of):
    one = to(np.array([1.0]))
    assert of(comm.allreduce(one, name="one").wait()).tolist() == [comm.size]


@check
def reduce_scatter_keeps_this_ranks_part(comm, to, of):
    for length in (6, 7, comm.size + 1, comm.size):
        x = to(brought(comm.rank, "float32", (length, 2)))
        got = of(comm.reduce_scatter(x, name=f"scatter.{length}").wait())
        sizes = part_sizes(length, comm.size)
        start = sum(sizes[: comm.rank])
        total = everyone(comm, "float32", (length, 2)).sum(0)
        same(got, total[start : start + sizes[comm.rank]])


@check
def all_gather_joins_uneven_lengths(comm, to, of):
    x = to(brought(comm.rank, "float32", (comm.rank + 1, 2)))
    got = of(comm.all_gather(x, name="gather").wait())
    same(got, np.concatenate([brought(r, "float32", (r + 1, 2)) for r in range(comm.size)]))


@check
def all_gather_takes_an_empty_part(comm, to, of):
    lengths = [0 if rank == 0 and comm.size > 1 else 2 for rank in range(comm.size)]
    x = to(brought(comm.rank, "float32", (lengths[comm.rank],)))
    got = of(comm.all_gather(x, name="gather.empty").wait())
    same(got, np.concatenate([brought(r, "float32", (n,)) for r, n in enumerate(lengths)]))


@check
def broadcast_gives_any_roots_value(comm, to, of):
    for root in range(comm.size):
        for dtype in DTYPES:
            x = to(brought(comm.rank, dtype))
            got = of(comm.broadcast(x, name=f"from.{root}.{dtype}", root=root).wait())
            same(got, brought(root, dtype))
            same(of(x), brought(comm.rank, dtype))  # what was brought is not written to


@check
def all_to_all_sends_uneven_parts(comm, to, of):
    # Rank r sends r + i rows to rank i; rank 0 sends itself none.
    splits = [[rank + i for i in range(comm.size)] for rank in range(comm.size)]
    mine = splits[comm.rank]
    x = to(brought(comm.rank, "float32", (sum(mine), 2)))
    got = of(comm.all_to_all(x, name="exchange", splits=mine).wait())
    expected = []
    for rank, row in enumerate(splits):
        start = sum(row[: comm.rank])
        sent = brought(rank, "float32", (sum(row), 2))
        expected.append(sent[start : start + row[comm.rank]])
    same(got, np.concatenate(expected))


@check
def groups_work_apart_from_each_other(comm, to, of):
    last = comm.size - 1
    outer = comm.group((0, last)) if comm.size > 1 else comm.group((0,))
    alone = comm.group((last,))
    if comm.rank in outer.ranks:
        x = to(brought(comm.rank))
        got = of(comm.allreduce(x, name="group", group=outer).wait())
        same(got, sum((brought(r) for r in outer.ranks[1:]), brought(outer.ranks[0])))
        x = to(brought(comm.rank))
        got = of(comm.broadcast(x, name="group.from", root=last, group=outer).wait())
        same(got, brought(last))
        x = to(brought(comm.rank, "float32", (comm.rank + 1,)))
        got = of(comm.all_gather(x, name="group.gather", group=outer).wait())
        same(got, np.concatenate([brought(r, "float32", (r + 1,)) for r in outer.ranks]))
        x = to(brought(comm.rank, "float32", (5,)))
        got = of(comm.reduce_scatter(x, name="group.scatter", group=outer).wait())
        sizes = part_sizes(5, len(outer.ranks))
        start = sum(sizes[: outer.ranks.index(comm.rank)])
        total = np.sum([brought(r, "float32", (5,)) for r in outer.ranks], axis=0)
        same(got, total[start : start + len(got)])
        assert len(got) == sizes[outer.ranks.index(comm.rank)]
        splits = [2 * i + 1 for i in range(len(outer.ranks))]
        x = to(brought(comm.rank, "float32", (sum(splits),)))
        got = of(comm.all_to_all(x, name="group.exchange", splits=splits, group=outer).wait())
        position = outer.ranks.index(comm.rank)
        start = sum(splits[:position])
        parts = [brought(r, "float32", (sum(splits),)) for r in outer.ranks]
        same(got, np.concatenate([p[start : start + splits[position]] for p in parts]))
    if comm.rank in alone.ranks:
        got = of(comm.allreduce(to(brought(last)), name="alone", group=alone).wait())
        same(got, brought(last))


@check
def a_group_asked_for_again_is_the_same(comm, to, of):
    first, again = comm.group(range(comm.size)), comm.group(reversed(range(comm.size)))
    assert first.ranks == again.ranks == tuple(range(comm.size))
    got = of(comm.allreduce(to(brought(comm.rank)), name="all", group=again).wait())
    same(got, everyone(comm).sum(0))


@check
def names_repeat_step_after_step(comm, to, of):
    for step in range(20):
        x = to(brought(comm.rank) * (step + 1))
        got = of(comm.allreduce(x, name="bucket.0").wait())
        same(got, everyone(comm).sum(0) * np.float32(step + 1))


@check
def a_name_may_come_back_with_another_shape(comm, to, of):
    for shape in ((4,), (9,), (2, 3)):
        x = to(brought(comm.rank, "float32", shape))
        same(of(comm.allreduce(x, name="reshaped").wait()), everyone(comm, "float32", shape).sum(0))


@check
def many_handles_are_waited_for_in_another_order(comm, to, of):
    handles = [
        comm.allreduce(to(brought(comm.rank, "float64", (i + 1,))), name=f"flight.{i}")
        for i in range(8)
    ]
    order = np.random.default_rng(comm.rank).permutation(8)  # another on each rank
    for i in order:
        same(of(handles[i].wait()), everyone(comm, "float64", (int(i) + 1,)).sum(0))


@check
def barrier_returns_once_all_have_called_it(comm, to, of):
    for late in range(comm.size):
        if comm.rank == late:
            time.sleep(0.05)
        called = time.monotonic()  # one clock for all processes of a host
        comm.barrier()
        returned = time.monotonic()
        times = comm.all_gather_object((called, returned))
        assert max(first for first, _ in times) <= min(last for _, last in times)


@check
def objects_travel(comm, to, of):
    for root in range(comm.size):
        mine = {"rank": comm.rank, "text": "x" * 1000 * comm.rank, "none": None}
        got = comm.broadcast_object(mine, root=root)
        assert got == {"rank": root, "text": "x" * 1000 * root, "none": None}
    everything = comm.all_gather_object([comm.rank] * comm.rank)
    assert everything == [[rank] * rank for rank in range(comm.size)]
