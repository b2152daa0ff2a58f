"""A benchmark's job leaves nothing behind, and says why it failed in its own words."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from hvdkit.bench import jobs
from hvdkit.errors import HvdkitError

# A child that outlives its parent, as a launcher's ranks may.
_ORPHAN = "import subprocess, sys; subprocess.Popen(['sleep', '613']); sys.exit({status})"


def orphans() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline() == ["sleep", "613"] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("status", [0, 3])
def test_no_process_is_left(tmp_path: Path, status: int) -> None:
    command = [sys.executable, "-c", _ORPHAN.format(status=status)]
    if status:
        with pytest.raises(HvdkitError, match="failed with status 3"):
            jobs.run(command, log=tmp_path / "log", timeout=30)
    else:
        jobs.run(command, log=tmp_path / "log", timeout=30)
    assert not orphans()


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(HvdkitError, match=r"within 0\.5 s"):
        jobs.run(["sleep", "613"], log=tmp_path / "log", timeout=0.5)
    assert not orphans()


def test_an_error_is_told_without_the_launchers_prefixes(tmp_path: Path) -> None:
    script = "print('[1,0]<stderr>:error: the cause'); print('noise'); raise SystemExit(1)"
    with pytest.raises(HvdkitError) as caught:
        jobs.run([sys.executable, "-c", script], log=tmp_path / "log", timeout=30, what="it")
    assert str(caught.value).splitlines()[:2] == ["it failed with status 1:", "error: the cause"]
