"""What the reference `Comm` adds to the contract: mistakes of a test end it, and say where."""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest

from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks


def test_results_come_in_rank_order() -> None:
    def body(comm: Comm) -> tuple[int, int]:
        time.sleep(0.02 * (comm.size - comm.rank))
        return comm.rank, comm.size

    assert run_ranks(3, body) == [(0, 3), (1, 3), (2, 3)]


def test_shapes_that_differ_are_refused_on_every_rank() -> None:
    def body(comm: Comm) -> str:
        with pytest.raises(ValueError, match="different shapes") as caught:
            comm.allreduce(np.zeros(2 + comm.rank), name="grads").wait()
        return str(caught.value)

    first, second = run_ranks(2, body)
    assert first == second
    assert "grads" in first


def test_a_rank_that_never_joins_is_named() -> None:
    def body(comm: Comm) -> None:
        if comm.rank != 1:
            comm.allreduce(np.zeros(2), name="grads").wait()

    with pytest.raises(TimeoutError, match=r"grads.*ranks \[1\] never joined"):
        run_ranks(3, body, timeout=0.1)


def test_another_name_is_another_collective() -> None:
    def body(comm: Comm) -> None:
        comm.allreduce(np.zeros(2), name=f"grads.{comm.rank}").wait()

    with pytest.raises(TimeoutError, match="never joined"):
        run_ranks(2, body, timeout=0.1)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_the_first_error_is_raised_and_nobody_is_left_waiting(failing: int) -> None:
    def body(comm: Comm) -> None:
        if comm.rank == failing:
            raise ZeroDivisionError(f"rank {comm.rank}")
        comm.barrier()

    start = time.perf_counter()
    with pytest.raises(ZeroDivisionError, match=f"rank {failing}"):
        run_ranks(3, body, timeout=20.0)
    assert time.perf_counter() - start < 5.0


def test_sums_are_taken_in_rank_order_whoever_comes_first() -> None:
    # Adding 1 to 1e16 is lost, so the order of these shows in the sum.
    values = [1e16, 1.0, -1e16]

    def body(comm: Comm, *, first: int) -> float:
        time.sleep(0.0 if comm.rank == first else 0.02)
        return float(comm.allreduce(np.array([values[comm.rank]]), name="x").wait()[0])

    for first in range(3):
        assert run_ranks(3, functools.partial(body, first=first)) == [0.0] * 3


def test_what_was_brought_is_a_copy() -> None:
    def body(comm: Comm) -> float:
        x = np.ones(4)
        handle = comm.allreduce(x, name="x")
        x[:] = 100.0
        return float(handle.wait().sum())

    assert run_ranks(2, body) == [8.0, 8.0]


def test_a_rank_outside_the_group_is_refused() -> None:
    def body(comm: Comm) -> None:
        group = comm.group((0, 1))
        comm.allreduce(np.ones(1), name="x", group=group)

    with pytest.raises(ValueError, match="rank 2 is not in the group"):
        run_ranks(3, body)
