"""`hvdkit report` as a shell sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvdkit.errors import HvdkitError
from hvdkit.report import run
from tests.report.folders import curve, written

PROGRAM = """
import json, sys
from hvdkit.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def report(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "report", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("form", ["page", "text"])
def test_a_report_is_made_without_any_framework(tmp_path: Path, form: str) -> None:
    path = written(tmp_path / "one", curve(5), {"status": "completed"})
    out = tmp_path / "page.html"
    done = report(str(path), *(["--text"] if form == "text" else ["-o", str(out)]))
    assert done.stderr == ""
    *lines, last = done.stdout.splitlines()
    status, modules = json.loads(last)
    assert status == 0
    heavy = {"torch", "tensorflow", "keras", "horovod", "mpi4py", "hydra", "optuna"}
    assert not heavy & set(modules)
    if form == "page":
        assert lines == [f"{out}: 1 run, {out.stat().st_size / 1e6:.1f} MB"]
        assert 1e6 < out.stat().st_size < 5e6
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "page.html"]
    else:
        assert any("Training loss" in line for line in lines)


def test_a_terminal_without_unicode_gets_a_report_too(tmp_path: Path) -> None:
    path = written(tmp_path / "one", curve(5), {"status": "completed"})
    done = report(str(path), "--text", PYTHONIOENCODING="ascii")
    assert done.stderr == ""
    assert "Training loss" in done.stdout


def test_a_mistake_is_one_message(tmp_path: Path) -> None:
    done = report(str(tmp_path / "no"))
    assert done.stderr.startswith(f"hvdkit: there is no {tmp_path / 'no'}")
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stdout)[0] == 1


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    path = written(tmp_path / "one", curve(5))
    for output, says in (
        (tmp_path, f"{tmp_path} is a folder: name a file"),
        (tmp_path / "no/a.html", f"there is no folder {tmp_path / 'no'}"),
        (tmp_path / ("a" * 250), "could not be written: File name too long"),
    ):
        with pytest.raises(HvdkitError) as raised:
            run([path], output=output, as_text=False)
        assert says in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
