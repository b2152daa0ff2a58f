"""A job's processes on all of its hosts: signalled here directly, elsewhere by ssh or srun."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hvdkit.launch import processes
from hvdkit.launch.command import Request, srun_on
from hvdkit.launch.hosts import Host

_PROGRAM = Path(processes.__file__)
_TIMEOUT = 5.0  # seconds for a host to answer


def ssh(request: Request, host: Host, *words: str) -> list[str]:
    """The command that runs `words` on another host without ever asking a question."""
    port = ["-p", str(request.ssh_port)] if request.ssh_port else []
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={int(_TIMEOUT)}"]
    return ["ssh", *options, *port, host.name, *words]


def signal_everywhere(
    request: Request, job: str, *numbers: int, ranks: Sequence[int] | None = None
) -> None:
    """Signal the job's processes, or those of some ranks, on all hosts."""
    if ranks is None or ranks:
        processes.send(job, numbers, ranks)
        _signal_remote(request, job, numbers, ranks)


def left_here(job: str) -> bool:
    return next(processes.processes(job), None) is not None


def _signal_remote(
    request: Request, job: str, numbers: Sequence[int], ranks: Sequence[int] | None
) -> None:
    """The same on the other hosts, all at once; one that does not answer is passed over."""
    listed = ",".join(str(int(number)) for number in numbers)
    words = [sys.executable, "-", job, listed, *map(str, ranks or ())]
    running = []
    for host in request.remote:
        there = [*srun_on(host), *words] if request.allocation else ssh(request, host, *words)
        with _PROGRAM.open("rb") as program:
            running.append(
                subprocess.Popen(
                    there,
                    stdin=program,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
    for process in running:
        try:
            process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
