"""`import hvdkit` is cheap: it loads no framework and takes no noticeable time."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "tensorflow", "keras", "horovod", "mpi4py", "hydra", "numpy")


def fresh(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_importing_hvdkit_takes_under_a_fifth_of_a_second() -> None:
    program = "import time; t = time.perf_counter(); import hvdkit; print(time.perf_counter() - t)"
    assert min(float(fresh(program)) for _ in range(3)) < 0.2


def test_importing_hvdkit_and_its_command_loads_no_framework() -> None:
    program = (
        "import json, sys, hvdkit, hvdkit.cli\n"
        "hvdkit.cli.parser().format_help()\n"
        "print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    )
    assert not set(HEAVY) & set(json.loads(fresh(program)))
