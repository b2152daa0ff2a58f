"""What every rank must have alike, compared before it is relied on. Imports comm only."""

from __future__ import annotations

from collections.abc import Mapping
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
