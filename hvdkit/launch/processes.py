"""Every process of a job on one machine, found by the job's name in their environment.

Children inherit an environment however they detach themselves, so nothing escapes that the job
has started. This file is also a program, sent to other hosts through ssh's standard input:

    python3 - JOB SIGNAL,SIGNAL... [RANK...]   < processes.py

so it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence

_JOB = b"HVDKIT_JOB="
# What the launchers call a rank's number.
_RANKS = (b"HOROVOD_RANK=", b"OMPI_COMM_WORLD_RANK=", b"SLURM_PROCID=")


def processes(job: str, ranks: Sequence[int] | None = None) -> Iterator[int]:
    """The job's processes that are alive, or only those of the given ranks.

    This process is not among them, nor is a zombie.
    """
    wanted = _JOB + job.encode()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        # Another user's, or gone meanwhile. An ended one has no environment any more.
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            environ = file.read().split(b"\0")
            if wanted in environ and (ranks is None or _rank(environ) in ranks):
                yield int(name)


def _rank(environ: Sequence[bytes]) -> int | None:
    for prefix in _RANKS:
        for entry in environ:
            if entry.startswith(prefix):
                return int(entry[len(prefix) :])
    return None


def send(job: str, numbers: Sequence[int], ranks: Sequence[int] | None = None) -> None:
    """Send each of these signals, in order, to the job's processes on this machine."""
    for number in numbers:
        # Twice, when it kills: for what was being started meanwhile.
        for _ in range(2 if number == signal.SIGKILL else 1):
            for process in processes(job, ranks):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, number)


def main() -> None:
    job, numbers, *ranks = sys.argv[1:]
    send(job, [int(number) for number in numbers.split(",")], [*map(int, ranks)] or None)


if __name__ == "__main__":
    main()
