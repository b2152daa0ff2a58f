"""Tests that need an NVIDIA GPU, and a Horovod that reduces on it.

Without either they fail and say what is missing; `make test` leaves them out by their mark.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hvdkit.install.survey import child_environment, find_gpus, find_nccl, framework
from hvdkit.install.wheels import read_record
from tests.distributed.conftest import recipe as recipe
from tests.distributed.conftest import start as start

# What is installed for CUDA; both where neither is, so that a test says so.
FRAMEWORKS = [
    name for name in ("torch", "tensorflow") if (found := framework(name)) and found.cuda
] or ["torch", "tensorflow"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def gpus() -> int:
    """How many there are. NCCL takes one rank a GPU, so this is the `np` of a job here."""
    count = len(find_gpus(child_environment()))
    if not count:
        pytest.fail("no NVIDIA GPU here (nvidia-smi shows none): make test-gpu needs one")
    record = read_record() or {}
    if "nccl" not in record:
        pytest.fail(
            "the installed Horovod was built without NCCL: install a CUDA build of torch or "
            "TensorFlow and run hvdkit build-horovod --gpu"
        )
    assert find_nccl(), "Horovod is linked to the NCCL of a wheel that is not there any more"
    built = subprocess.run(
        ["horovodrun", "--check-build"], capture_output=True, text=True, timeout=60
    )
    assert "[X] NCCL" in built.stdout, built.stdout
    return count
