"""Starting a benchmark's ranks, and leaving none of them behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from hvdkit.errors import HvdkitError


def under_launcher(command: Sequence[str], *, ranks: int, hosts: str | None = None) -> list[str]:
    """`command` on so many ranks."""
    launch = [sys.executable, "-m", "hvdkit", "launch", "-np", str(ranks)]
    # What is measured goes on for a while without a step, and `run` has a time limit.
    launch += ["--stall-timeout", "86400"]
    if hosts:
        launch += ["-H", hosts, "--wait-for-hosts", "60"]
    return [*launch, *command]


def run(
    command: Sequence[str],
    *,
    log: Path | None,
    timeout: float,
    env: Mapping[str, str] | None = None,
    what: str = "the job",
) -> None:
    """Run a job to its end; its output goes to `log`, or where ours goes.

    Raises `HvdkitError` with the job's own words if it fails or takes longer. However this
    ends, no process of the job is left.
    """
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    with contextlib.ExitStack() as held:
        out = held.enter_context(log.open("w")) if log else None
        process = subprocess.Popen(
            list(command),
            env={**os.environ, "PATH": path, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT if out else None,
            start_new_session=True,  # the launcher's shell, mpirun and the ranks stay in it
        )
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_session(process)
    if code is None:
        raise HvdkitError(f"{what} did not end within {timeout:g} s{_told(log)}")
    if code:
        raise HvdkitError(f"{what} failed with status {code}{_told(log)}")


def _told(log: Path | None) -> str:
    """What a failed job said: its error, or its last lines."""
    if log is None:
        return ""
    lines = [line.partition(">:")[2] or line for line in log.read_text().splitlines()]
    errors = [i for i, line in enumerate(lines) if line.startswith(("error: ", "hvdkit: "))]
    told = lines[errors[0] : errors[0] + 6] if errors else lines[-12:]
    return ":\n" + "\n".join(told)


def _end_session(leader: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        left = list(filter(_alive_in(leader.pid), psutil.process_iter()))
        if not left:
            break
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    leader.wait()


def _alive_in(session: int) -> Callable[[psutil.Process], bool]:
    def test(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and os.getsid(process.pid) == session
        return False

    return test
