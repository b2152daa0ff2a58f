"""Running one long command: its output to a log and a listener, its whole group ended with us.

Every command gets a session of its own, so that a build's compilers and an mpirun's ranks can
be found and ended together. Imports psutil and the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import psutil

GRACE_SECONDS = 5.0


def run_logged(
    command: list[str],
    *,
    log: TextIO,
    env: dict[str, str],
    cwd: Path,
    on_line: Callable[[str], None],
    timeout: float | None = None,
) -> tuple[int, bool]:
    """Run a command to its end; return its exit status and whether the timeout ended it.

    Any exception on the way, Ctrl-C among them, ends the command and all its descendants
    before it goes on upwards.
    """
    log.write(f"\n$ {' '.join(command)}\n")
    log.flush()
    process = subprocess.Popen(
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    timed_out = threading.Event()

    def stop() -> None:
        timed_out.set()
        end_session(process)

    timer = threading.Timer(timeout, stop) if timeout is not None else None
    try:
        if timer:
            timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            on_line(line.rstrip("\n"))
        status = process.wait()
    except BaseException:
        end_session(process)
        raise
    finally:
        if timer:
            timer.cancel()
            # Once it has fired, not before it has seen the last process end.
            timer.join()
        if process.stdout:
            process.stdout.close()
        log.flush()
    return status, timed_out.is_set()


def end_session(process: subprocess.Popen[str]) -> None:
    """End a command and everything it started: asked first, forced after a few seconds.

    A second Ctrl-C waits until this is done; it would leave half of them running.
    """
    with unimpressed():
        end_members(process)


@contextlib.contextmanager
def unimpressed() -> Iterator[None]:
    """Ignore requests to end, in the main thread, which alone may say so.

    Blocking them there would not do: another thread takes them, and Python raises in the main
    one all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_members(process: subprocess.Popen[str]) -> None:
    members = session_members(process.pid)
    # mpirun ends its ranks on SIGTERM; a SIGKILL at once would orphan them.
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_SECONDS)
    # psutil would take the leader's exit status away from Popen, which then says 0.
    others = [member for member in members if member.pid != process.pid]
    _, alive = psutil.wait_procs(others, timeout=GRACE_SECONDS)
    for member in [*alive, *session_members(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=GRACE_SECONDS)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_SECONDS)


def session_members(session: int) -> list[psutil.Process]:
    """All processes of a session, and their descendants in sessions of their own."""
    found: dict[int, psutil.Process] = {}
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(candidate.pid) == session:
                found[candidate.pid] = candidate
                for child in candidate.children(recursive=True):
                    found[child.pid] = child
    return list(found.values())
