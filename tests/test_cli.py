"""The `hvdkit` command as a shell sees it: status, streams, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hvdkit


def hvdkit_command(
    *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hvdkit", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
    )


def test_help_names_every_command() -> None:
    done = hvdkit_command("--help")
    assert done.returncode == 0
    for name in ("build-horovod", "doctor", "report"):
        assert name in done.stdout
        assert hvdkit_command(name, "--help").returncode == 0


def test_version() -> None:
    assert hvdkit_command("--version").stdout.split() == ["hvdkit", hvdkit.__version__]


def test_the_installed_command_is_the_same() -> None:
    script = Path(sys.executable).parent / "hvdkit"
    done = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert done.stdout == hvdkit_command("--version").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["docter"], "doctor"),
        (["doctor", "--jsn"], "--jsn"),
        (["doctor", "-np", "0"], "'0' is not a whole number above 0"),
        (["doctor", "-np", "two"], "'two'"),
        (["build-horovod", "--frameworks", "pytorch"], "did you mean torch?"),
        (["build-horovod", "--frameworks", ","], "at least one of torch, tensorflow"),
        (["build-horovod", "--cuda-arch", "sm_90"], "80,90"),
        (["build-horovod", "--jobs", "-1"], "above 0"),
        (["build-horovod", "--mpi", "--no-mpi"], "not allowed with"),
    ],
)
def test_a_wrong_command_line_is_explained(arguments: list[str], says: str) -> None:
    done = hvdkit_command(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_mistake_of_the_users_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    env = {"PATH": str(tmp_path), "CXX": "", "HVDKIT_CACHE": str(file)}
    done = hvdkit_command("build-horovod", "--dry-run", env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("hvdkit: No C++ compiler was found")
    assert "apt-get install" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cache_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = hvdkit_command("build-horovod", "--cache-dir", str(file), "--no-install")
    assert done.returncode == 1
    assert "--cache-dir" in done.stderr
    assert "Traceback" not in done.stderr
