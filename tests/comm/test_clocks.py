"""The estimate of a clock's offset is within its own bound of the truth."""

from __future__ import annotations

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from hvdkit.comm.clocks import clock_offsets, offsets
from hvdkit.comm.threads import run_ranks

SKEWS = (0.0, 0.3, -1.7, 1e4)


def test_clocks_that_are_wrong_are_found_out() -> None:
    def rank(comm):
        skew = SKEWS[comm.rank]
        return clock_offsets(comm, rounds=8, clock=lambda: time.time() + skew)

    for found in run_ranks(len(SKEWS), rank):
        for (seconds, bound), truth in zip(found, SKEWS, strict=True):
            assert abs(seconds - truth) <= bound + 1e-4
            assert bound < 1  # of a round trip, however busy the machine


@given(st.integers(0, 10_000), st.floats(-10, 10), st.integers(1, 20))
def test_the_truth_lies_within_the_bound(seed: int, skew: float, rounds: int) -> None:
    """Barriers of any shape: who comes when, and how long news of the last one travels."""
    chance = random.Random(seed)
    stamps: list[list[tuple[float, float]]] = [[], []]
    at = 0.0
    for _ in range(rounds):
        came = [at + chance.expovariate(100), at + chance.expovariate(100)]
        left = [max(came) + chance.expovariate(1000) for _ in came]
        for rank, ahead in enumerate((0.0, skew)):
            stamps[rank].append((came[rank] + ahead, left[rank] + ahead))
        at = max(left)
    (_, (seconds, bound)) = offsets(stamps)
    assert abs(seconds - skew) <= bound + 1e-9
