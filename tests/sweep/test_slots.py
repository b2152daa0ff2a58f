"""Slots are never given twice, and a job is kept on one host where that can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.errors import HvdkitError
from hvdkit.launch.hosts import Host
from hvdkit.sweep.slots import Grant, SlotPool

HOSTS = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(
    lambda sizes: [Host(f"host{i}", size) for i, size in enumerate(sizes)]
)


@given(HOSTS, st.integers(1, 8), st.lists(st.integers(-1, 20), max_size=60))
def test_no_slot_is_held_twice(hosts: list[Host], ranks: int, moves: list[int]) -> None:
    """A move below 0 takes slots, any other gives one of the held grants back."""
    if ranks > sum(host.slots for host in hosts):
        with pytest.raises(HvdkitError, match=f"np={ranks} is more than"):
            SlotPool(hosts, ranks)
        return
    pool = SlotPool(hosts, ranks)
    held: list[Grant] = []
    for move in moves:
        if move >= 0 and held:
            pool.give_back(held.pop(move % len(held)))
            continue
        free = {host.name: host.slots - used(held, host.name) for host in hosts}
        grant = pool.take()
        if grant is None:
            assert sum(free.values()) < ranks
            continue
        held.append(grant)
        assert len(grant.by_rank) == ranks
        # On one host where any has room, and there on the one with the least to spare.
        rooms = [count for count in free.values() if count >= ranks]
        if rooms:
            (name,) = grant.slots
            assert free[name] == min(rooms)
        taken = [(name, slot) for g in held for name, slots in g.slots.items() for slot in slots]
        assert len(set(taken)) == len(taken)
        limits = {host.name: host.slots for host in hosts}
        assert all(0 <= slot < limits[name] for name, slot in taken)
        assert grant.host_slots == max(limits[name] for name in grant.slots)
    for grant in held:
        pool.give_back(grant)
    assert pool.free == pool.total


def used(held: list[Grant], name: str) -> int:
    return sum(len(grant.slots.get(name, ())) for grant in held)


def test_a_job_that_fits_no_host_spreads_over_as_few_as_will_do() -> None:
    pool = SlotPool([Host("a", 2), Host("b", 1), Host("c", 3)], ranks=4)
    grant = pool.take()
    assert grant is not None
    assert str(grant) == "c:3,a:1"
    assert grant.by_rank == (0, 1, 2, 0)
