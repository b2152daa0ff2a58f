"""Reading what is installed, compared with what the installed things say themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hvdkit.install.survey import (
    FRAMEWORKS,
    assignments,
    child_environment,
    find_compiler,
    find_tool,
    identify_mpi,
    take_survey,
)

INSTALLED = sorted(take_survey().frameworks)


def test_there_is_a_framework_to_test_with() -> None:
    assert INSTALLED, "these tests need an environment with torch or TensorFlow: make setup"


@pytest.mark.parametrize("name", INSTALLED)
def test_a_version_read_is_the_version_that_the_framework_says(name: str) -> None:
    program = f"import {name}; print({name}.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert take_survey().frameworks[name].version == done.stdout.split()[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mpirun (Open MPI) 4.1.8\n\nReport bugs to", ("Open MPI", "4.1.8")),
        ("mpirun (Open MPI) 5.0.0rc12", ("Open MPI", "5.0.0rc12")),
        ("mpirun.real (OpenRTE) 2.1.1", ("Open MPI", "2.1.1")),
        (
            "HYDRA build details:\n    Version:                                 4.0.2\n",
            ("MPICH", "4.0.2"),
        ),
        (
            "Intel(R) MPI Library for Linux* OS, Version 2021.11 Build 20231005",
            ("Intel MPI", "2021.11"),
        ),
        ("something else", ("unknown", "unknown")),
    ],
)
def test_the_mpi_is_known_by_what_mpirun_says(text: str, expected: tuple[str, str]) -> None:
    assert identify_mpi(text) == expected


def test_version_files_are_parsed_not_run(tmp_path: Path) -> None:
    file = tmp_path / "version.py"
    file.write_text(
        "import collections\nfrom typing import Optional\n"
        "raise SystemExit('was executed')\n"
        "__version__ = '2.14.1+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
        "build_info = collections.OrderedDict([('is_cuda_build', True)])\nother = f()\n"
    )
    found = assignments(file)
    assert found == {
        "__version__": "2.14.1+cu130",
        "cuda": "13.0",
        "hip": None,
        "build_info": [("is_cuda_build", True)],
    }
    assert assignments(tmp_path / "absent.py") == {}


def test_a_tool_must_run_to_be_found(tmp_path: Path) -> None:
    broken = tmp_path / "cmake"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert find_tool(["cmake"], r"cmake version ([\d.]+)", {"PATH": str(tmp_path)}) is None
    broken.write_text("#!/bin/sh\necho cmake version 4.0.1\n")
    found = find_tool(["cmake"], r"cmake version ([\d.]+)", {"PATH": str(tmp_path)})
    assert found is not None
    assert found.version == "4.0.1"


def test_cxx_comes_before_the_path(tmp_path: Path) -> None:
    mine = tmp_path / "my-c++"
    mine.write_text("#!/bin/sh\necho my compiler 1.0\n")
    mine.chmod(0o755)
    found = find_compiler({**child_environment(), "CXX": f"{mine} -m64"})
    assert found is not None
    assert found.version == "my compiler 1.0"


def test_the_environment_of_children_puts_this_python_first() -> None:
    env = child_environment({"PATH": "/usr/bin"})
    first, rest = env["PATH"].split(":", 1)
    assert rest == "/usr/bin"
    assert (Path(first) / "python").exists()
    assert child_environment(env)["PATH"] == env["PATH"]


def test_a_survey_loads_no_framework() -> None:
    program = (
        "import sys\nfrom hvdkit.install.survey import take_survey\ntake_survey()\n"
        f"assert not set({(*FRAMEWORKS, 'keras', 'horovod', 'mpi4py')!r}) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
