"""By how much the ranks' clocks differ, from barriers. Imports comm only.

No rank leaves a barrier before every rank has come to it. With e the time a rank came and x
the time it left, each on its own clock, the clock of rank r is therefore ahead of rank 0's by
at least e_r - x_0 and at most x_r - e_0. Each round gives such an interval, and the truth lies
in all of them: the estimate is the middle of their intersection, half its width is the bound.
The interval is that of Cristian, "Probabilistic clock synchronization" (1989); intersecting
them is Marzullo's and Owicki's (1985), and NTP's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hvdkit.comm.base import Comm

METHOD = "intersection of barrier round trips (Cristian 1989, Marzullo & Owicki 1985)"


class Offset(NamedTuple):
    """A clock is `seconds` ahead of rank 0's, give or take `bound`."""

    seconds: float
    bound: float


def clock_offsets(
    comm: Comm, *, rounds: int = 24, clock: Callable[[], float] = time.time
) -> list[Offset]:
    """Each rank's clock against rank 0's, in rank order; every rank calls it.

    It takes a few milliseconds a round.
    """
    random = np.random.default_rng(comm.rank)
    stamps = []
    for _ in range(rounds):
        # Who comes last differs from round to round: the last one's interval is the narrowest.
        time.sleep(random.uniform(0, 0.002))
        came = clock()
        comm.barrier()
        stamps.append((came, clock()))
    return offsets(comm.all_gather_object(stamps))


def offsets(stamps: Sequence[Sequence[tuple[float, float]]]) -> list[Offset]:
    """The same from each rank's (came, left) of every round."""
    first = stamps[0]
    found = [Offset(0.0, 0.0)]
    for other in stamps[1:]:
        rounds = list(zip(first, other, strict=True))
        low = max(came - left_0 for (_, left_0), (came, _) in rounds)
        high = min(left - came_0 for (came_0, _), (_, left) in rounds)
        found.append(Offset((low + high) / 2, max(0.0, (high - low) / 2)))
    return found
