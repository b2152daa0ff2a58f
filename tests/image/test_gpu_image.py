"""The GPU image as far as a machine without a GPU can go: all of its build.

That is Horovod compiled against a CUDA build of torch and linked to the NCCL of torch's wheels,
in a stage that has the CUDA toolkit; then the image proper, on a base without it, where Horovod
is imported and two ranks train on CPU tensors through it. What needs a GPU, tests/gpu holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.builder import BASE, Builder

TAG = "localhost/hvdkit-gpu"


def test_torch_on_cuda_13_builds_links_and_trains(
    builder: Builder, say: Callable[[str], None]
) -> None:
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")).resolve()
    if not (toolkit / "bin/nvcc").is_file():
        pytest.fail(f"there is no nvcc in {toolkit}: set CUDA_HOME to a CUDA 13 toolkit")
    begun = time.monotonic()
    devel = builder.make_cuda_base(toolkit)
    # One architecture: how many are compiled changes nothing but the time.
    arguments = {"VARIANT": "gpu", "CUDA_13_DEVEL": devel, "CUDA_13_RUNTIME": BASE}
    log = builder.build(TAG, {**arguments, "CUDA_ARCH": "90"})
    minutes = (time.monotonic() - begun) / 60
    say(f"\nThe GPU image of torch: {builder.megabytes(TAG):.0f} MB, {minutes:.1f} minutes")
    for part in ("PyTorch", "MPI", "NCCL"):
        assert f"[X] {part}" in log
    assert "Proved in torch: 2 ranks over MPI" in log
    assert builder.config(TAG).labels["hvdkit.variant"] == "gpu"
