"""The slots of a sweep's hosts: who holds which, so that none is given twice.

Imports the hosts of `launch` and the errors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvdkit.errors import HvdkitError
from hvdkit.launch.hosts import Host


@dataclass(frozen=True)
class Grant:
    """Slots that a job holds: host name to the numbers of its slots, which count from 0.

    `host_slots` is how many slots the largest of these hosts has in all, for sharing its cores.
    """

    slots: dict[str, tuple[int, ...]]
    host_slots: int

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts with as many slots as are held."""
        return tuple(Host(name, len(numbers)) for name, numbers in self.slots.items())

    @property
    def by_rank(self) -> tuple[int, ...]:
        """The number, on its host, of the slot that each rank has: ranks fill host by host."""
        return tuple(number for numbers in self.slots.values() for number in numbers)

    def __str__(self) -> str:
        return ",".join(map(str, self.hosts))


class SlotPool:
    """Hands out `ranks` slots at a time."""

    def __init__(self, hosts: Sequence[Host], ranks: int):
        self.total = sum(host.slots for host in hosts)
        if ranks > self.total:
            listed = ",".join(map(str, hosts))
            raise HvdkitError(
                f"hydra.launcher.np={ranks} is more than the {self.total} "
                f"slot{'s' if self.total != 1 else ''} there are ({listed}): lower it, or give "
                "more with hydra.launcher.hosts=NAME:SLOTS,..."
            )
        self.ranks = ranks
        self._size = {host.name: host.slots for host in hosts}
        self._free = {host.name: list(range(host.slots)) for host in hosts}

    @property
    def free(self) -> int:
        """How many slots nobody holds."""
        return sum(map(len, self._free.values()))

    def take(self) -> Grant | None:
        """Slots for one job, or None while too few are free.

        On one host if any has enough, and then on the one with the least to spare; else on as
        few hosts as will do.
        """
        if self.free < self.ranks:
            return None
        enough = [name for name in self._free if len(self._free[name]) >= self.ranks]
        if enough:
            chosen = [min(enough, key=lambda name: len(self._free[name]))]
        else:
            chosen = sorted(self._free, key=lambda name: -len(self._free[name]))
        taken, missing = {}, self.ranks
        for name in chosen:
            here, self._free[name] = self._free[name][:missing], self._free[name][missing:]
            if here:
                taken[name] = tuple(here)
            missing -= len(here)
        return Grant(taken, max(self._size[name] for name in taken))

    def give_back(self, grant: Grant) -> None:
        """Make a job's slots free again."""
        for name, numbers in grant.slots.items():
            assert not set(numbers) & set(self._free[name]), f"{name}: {numbers} were free"
            self._free[name] = sorted([*self._free[name], *numbers])
