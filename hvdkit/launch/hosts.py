"""Where a job's ranks may run: hosts and their slots, as a user, a scheduler or an operator says.

Imports the standard library and the errors only.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hvdkit.errors import HvdkitError

# Where Kubernetes' MPI operator (v2beta1) mounts the workers' list in the launcher's pod.
MPI_OPERATOR_HOSTFILE = Path("/etc/mpi/hostfile")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Host:
    """A machine by name or address, and how many ranks it takes."""

    name: str
    slots: int = 1

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, by one of the names that need no network to tell."""
        own = socket.gethostname()
        return self.name in _LOCAL or self.name in (own, own.partition(".")[0])

    def __str__(self) -> str:
        return f"{self.name}:{self.slots}"


def parse_hosts(text: str) -> tuple[Host, ...]:
    """Read `a:4,b:4`; a host without a number has one slot, one named twice has the sum."""
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        raise HvdkitError("no host is named: write hosts as NAME:SLOTS,NAME:SLOTS")
    return _joined(_host(part, f"in the host list {text!r}") for part in parts if part)


def _host(text: str, where: str) -> Host:
    name, colon, slots = text.rpartition(":") if ":" in text else (text, "", "1")
    if colon and not (slots.isdigit() and int(slots) > 0):
        raise HvdkitError(
            f"{text!r} {where} has no number of slots above 0 after its colon: write NAME:SLOTS, "
            "as in node1:4"
        )
    return Host(_checked_name(name, where), int(slots))


def _checked_name(name: str, where: str) -> str:
    if not _NAME.fullmatch(name):
        raise HvdkitError(f"{name!r} {where} is no host name: write NAME:SLOTS, as in node1:4")
    return name


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """Read a hostfile: a host a line, as `name slots=4` (Open MPI, the MPI operator) or `name:4`.

    Empty lines and what follows a # are passed over. Raises `HvdkitError` with the file, line
    number and line of the first one that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HvdkitError(f"the hostfile {path} cannot be read: {error}") from None
    hosts = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if words:
            hosts.append(_host_line(words, f"in line {number} of {path}"))
    if not hosts:
        raise HvdkitError(f"the hostfile {path} names no host: write a line NAME slots=N for each")
    return _joined(hosts)


def _host_line(words: Sequence[str], where: str) -> Host:
    host = _host(words[0], where)
    for word in words[1:]:
        key, _, value = word.partition("=")
        if key not in ("slots", "max_slots", "max-slots"):
            raise HvdkitError(f"{word!r} {where} is not understood: write NAME slots=N")
        if not (value.isdigit() and int(value) > 0):
            raise HvdkitError(f"{word!r} {where} is no number of slots above 0: write NAME slots=N")
        if key == "slots":
            host = replace(host, slots=int(value))
    return host


def _joined(hosts: Iterable[Host]) -> tuple[Host, ...]:
    slots: dict[str, int] = {}
    for host in hosts:
        slots[host.name] = slots.get(host.name, 0) + host.slots
    return tuple(Host(name, number) for name, number in slots.items())


def scheduled_hosts(environ: Mapping[str, str] = os.environ) -> tuple[Host, ...]:
    """The hosts that a scheduler has given this process, or none.

    Slurm says them in its environment, Kubernetes' MPI operator in a file.
    """
    nodes = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST")
    if nodes:
        names = expand_nodes(nodes)
        counts = environ.get("SLURM_TASKS_PER_NODE") or environ.get("SLURM_JOB_CPUS_PER_NODE")
        slots = expand_counts(counts) if counts else [1] * len(names)
        if len(slots) != len(names):
            raise HvdkitError(
                f"Slurm names {len(names)} nodes ({nodes}) and {len(slots)} counts of tasks "
                f"({counts}): give the hosts with -H NAME:SLOTS,..."
            )
        return tuple(Host(name, count) for name, count in zip(names, slots, strict=True))
    if MPI_OPERATOR_HOSTFILE.is_file():
        return read_hostfile(MPI_OPERATOR_HOSTFILE)
    return ()


def expand_nodes(text: str) -> list[str]:
    """Slurm's short form of node names, in full: `n[01-03,7],login` is n01, n02, n03, n7, login.

    Several brackets in one name multiply out, the last one fastest (slurm.conf(5), hostlist).
    """
    found = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names = [""]
        for plain, ranges in re.findall(r"([^\[]+)|\[([^\]]*)\]", item):
            ends = [plain] if plain else _numbers(ranges, text)
            names = [name + end for name in names for end in ends]
        found += names
    return [_checked_name(name, f"in Slurm's node list {text!r}") for name in found]


def _numbers(ranges: str, text: str) -> list[str]:
    found = []
    for part in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match:
            raise HvdkitError(f"Slurm's node list {text!r} cannot be read at {part!r}")
        first, last = match[1], match[2] or match[1]
        found += [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return found


def expand_counts(text: str) -> list[int]:
    """Slurm's short form of numbers a node: `2(x3),1` is 2, 2, 2, 1."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise HvdkitError(f"Slurm's counts {text!r} cannot be read at {part!r}")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def take_slots(hosts: Sequence[Host], ranks: int) -> tuple[Host, ...]:
    """The first `ranks` slots, host by host: which ones a job of that many ranks occupies.

    Raises `HvdkitError` if there are fewer.
    """
    total = sum(host.slots for host in hosts)
    if ranks > total:
        listed = ",".join(map(str, hosts))
        raise HvdkitError(
            f"{ranks} ranks do not fit in {total} slot{'s' if total != 1 else ''} ({listed}): "
            "lower -np, or give more slots with -H NAME:SLOTS,..."
        )
    taken = []
    for host in hosts:
        here = min(host.slots, ranks)
        if here:
            taken.append(Host(host.name, here))
        ranks -= here
    return tuple(taken)
