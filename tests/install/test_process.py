"""Long commands: what they print arrives, and nothing of theirs outlives them."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from hvdkit.install.process import run_logged

# A parent, a child, and a grandchild in a session of its own, as mpirun's ranks can be. The
# grandchild's number is printed so that the test can look for it.
FAMILY = """
import subprocess, sys, time
child = '''
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"],
                              start_new_session=True)
print("grandchild", grandchild.pid, flush=True)
time.sleep(120)
'''
subprocess.Popen([sys.executable, "-c", child])
time.sleep(120)
"""


def run(program: str, tmp_path: Path, **options: object) -> tuple[tuple[int, bool], list[str], str]:
    lines: list[str] = []
    log = io.StringIO()
    result = run_logged(
        [sys.executable, "-c", program],
        log=log,
        env=dict(os.environ),
        cwd=tmp_path,
        on_line=options.pop("on_line", lines.append),  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )
    return result, lines, log.getvalue()


def is_running(pid: int) -> bool:
    """Whether a process still does anything; one that only waits to be reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_lines_status_and_log(tmp_path: Path) -> None:
    program = "import sys; print('one'); print('two', file=sys.stderr, flush=True); sys.exit(3)"
    result, lines, log = run(program, tmp_path)
    assert result == (3, False)
    assert sorted(lines) == ["one", "two"]
    assert log.startswith("\n$ ")
    assert "two\n" in log


def test_a_timeout_ends_the_whole_family(tmp_path: Path) -> None:
    started = time.monotonic()
    (status, timed_out), lines, _ = run(FAMILY, tmp_path, timeout=6.0)
    assert timed_out
    assert status != 0
    assert time.monotonic() - started < 40
    assert not is_running(int(lines[0].split()[1]))


def test_an_interrupt_ends_the_whole_family(tmp_path: Path) -> None:
    seen: list[int] = []

    def interrupt(line: str) -> None:
        seen.append(int(line.split()[1]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(FAMILY, tmp_path, on_line=interrupt)
    assert seen
    assert not is_running(seen[0])
    mine = psutil.Process().children(recursive=True)
    assert not [child for child in mine if "sleep(120)" in " ".join(child.cmdline())]


def test_a_command_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_logged(
            ["/no/such/program"], log=io.StringIO(), env={}, cwd=tmp_path, on_line=lambda _: None
        )


def test_a_second_interrupt_waits_until_everything_is_ended(tmp_path: Path) -> None:
    """A command that ignores SIGTERM takes the whole grace; Ctrl-C meanwhile must not cut it."""
    stubborn = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\ntime.sleep(120)\n"
    )
    seen: list[int] = []

    def interrupt_twice(line: str) -> None:
        seen.append(int(line))
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stubborn, tmp_path, on_line=interrupt_twice)
    assert not is_running(seen[0])
