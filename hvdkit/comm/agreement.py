"""What every rank must have alike, compared before it is relied on. Imports comm only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hvdkit.comm.base import Comm
from hvdkit.errors import HvdkitError


def require_equal(comm: Comm, facts: Mapping[str, Any], problem: str) -> None:
    """Compare named facts over the ranks; all ranks call it.

    Raises `HvdkitError` on every rank, naming the first fact that differs from rank 0's and by
    which rank.
    """
    first, *others = comm.all_gather_object(dict(facts))
    for rank, other in enumerate(others, start=1):
        for name in [*first, *(key for key in other if key not in first)]:
            mine, theirs = first.get(name, "absent"), other.get(name, "absent")
            if mine != theirs:
                raise HvdkitError(
                    f"{problem}: {name} is {mine} on rank 0 and {theirs} on rank {rank}. "
                    "All ranks must run the same code, config and data"
                )


def rank_0_does(comm: Comm, action: Callable[[], object]) -> None:
    """Run `action` on rank 0; where it cannot be done, raise `HvdkitError` on every rank."""
    problem = None
    if comm.rank == 0:
        try:
            action()
        except (HvdkitError, OSError) as error:
            problem = str(error)
    problem = comm.broadcast_object(problem)
    if problem:
        raise HvdkitError(problem)
