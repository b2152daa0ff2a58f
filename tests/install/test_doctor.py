"""`hvdkit doctor` run for real: in this environment, in an empty one, and on narrow screens."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hvdkit.install.doctor.facts import Facts
from hvdkit.install.doctor.judge import judge
from hvdkit.install.doctor.render import show
from hvdkit.install.survey import take_survey

# What the doctor itself needs; an environment with these and nothing else has no framework.
OWN_PACKAGES = ("hvdkit", "rich", "pygments", "markdown_it", "mdurl", "packaging", "psutil")


def doctor(
    python: Path | str, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "hvdkit", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        cwd="/",
    )


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that can import hvdkit and no framework, Horovod or MPI."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for name in OWN_PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        (packages / name).symlink_to(Path(spec.origin).parent)
    return folder / "bin" / "python"


@pytest.mark.launch  # starts every probe: MPI, Horovod, both frameworks
def test_this_environment_is_found_fit_to_train() -> None:
    done = doctor(sys.executable, "--json", "-np", "2")
    report = json.loads(done.stdout)
    failed = [check for check in report["checks"] if check["verdict"] == "fail"]
    assert failed == []
    assert done.returncode == 0
    names = [check["name"] for check in report["checks"]]
    assert "Horovod" in names
    assert "built against" in names
    for name in take_survey().frameworks:
        assert f"horovod.{name}" in names


def test_an_empty_environment_fails_with_remedies(empty_environment: Path) -> None:
    done = doctor(empty_environment, "--json", env={"PATH": "/nonexistent"})
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["verdict"] == "fail"
    failed = {c["name"]: c["remedy"] for c in report["checks"] if c["verdict"] == "fail"}
    assert set(failed) == {"hvdkit", "framework", "Horovod", "compiler", "make"}
    assert failed["Horovod"] == "hvdkit build-horovod"
    assert all(failed.values())


def test_open_mpi_5_on_the_path_is_found(empty_environment: Path, tmp_path: Path) -> None:
    mpirun = tmp_path / "mpirun"
    mpirun.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 5.0.8'\n")
    mpirun.chmod(0o755)
    done = doctor(empty_environment, "--json", env={"PATH": str(tmp_path)})
    mpi = next(c for c in json.loads(done.stdout)["checks"] if c["name"] == "MPI")
    assert mpi["verdict"] == "fail"
    assert "5.0.8" in mpi["finding"]


def test_without_a_framework_nothing_is_built(empty_environment: Path) -> None:
    done = subprocess.run(
        [empty_environment, "-m", "hvdkit", "build-horovod"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("hvdkit: Neither torch nor TensorFlow is installed")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_cut_off_at_any_width(facts: Facts, width: int) -> None:
    broken = replace(facts, survey=replace(facts.survey, compiler=None, mpi=None), ranks=64)
    checks = judge(broken)
    console = Console(width=width, force_terminal=False, record=True)
    with console.capture() as captured:
        show(checks, console)
    text = captured.get()
    assert max(len(line) for line in text.splitlines()) <= width
    # Folding may split anywhere, so compare the letters alone.
    shown = "".join(text.split())
    for check in checks:
        assert "".join(check.finding.split()) in shown
        assert "".join(check.remedy.split()) in shown


@pytest.mark.launch  # starts every probe: MPI, Horovod, both frameworks
def test_nothing_of_the_probes_reaches_the_json_output() -> None:
    done = doctor(sys.executable, "--json")
    assert done.stdout.startswith("{")
    assert done.stderr == ""
