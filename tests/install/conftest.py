"""Facts about machines that the tests reason about; `dataclasses.replace` makes variants."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hvdkit.install.doctor.facts import Facts, Probe
from hvdkit.install.survey import Framework, Gpu, Mpi, Nccl, Survey, Tool


@pytest.fixture
def survey() -> Survey:
    """A CPU machine with all that is needed, as it was when these tests were written."""
    return Survey(
        python="3.11.7",
        abi="cpython-311-x86_64-linux-gnu",
        machine="x86_64 f16c avx fma",
        frameworks={
            "torch": Framework("torch", "2.13.0+cpu", None),
            "tensorflow": Framework("tensorflow", "2.21.0", None),
        },
        mpi=Mpi("Open MPI", "4.1.8", "/env", "/env/bin/mpirun", "/env/bin/mpicxx"),
        cmake=Tool("/usr/bin/cmake", "3.25.1"),
        compiler=Tool("/usr/bin/c++", "c++ (Debian 12.2.0) 12.2.0"),
        make=Tool("/usr/bin/make", "4.3"),
        nvcc=None,
        nccl=None,
        gpus=(),
    )


@pytest.fixture
def gpu_survey(survey: Survey) -> Survey:
    """A machine with one GPU, the CUDA toolkit and a CUDA build of torch alone."""
    return replace(
        survey,
        frameworks={"torch": Framework("torch", "2.14.1+cu130", "13.0")},
        nvcc=Tool("/usr/local/cuda/bin/nvcc", "13.0"),
        nccl=Nccl("2.29.2", "/env/nccl/include", "/env/nccl/lib/libnccl.so.2"),
        gpus=(Gpu("NVIDIA H100", "9.0", "580.1"),),
    )


@pytest.fixture
def facts(survey: Survey) -> Facts:
    """What the doctor gathers where all is well."""
    horovod = {
        "mpi": True,
        "gloo": True,
        "nccl": False,
        "loaded": True,
        "started": True,
        "libmpi": "/env/lib/libmpi.so.40",
    }
    return Facts(
        survey=survey,
        unmet=(),
        keras="3.15.1",
        keras_backend=None,
        legacy_keras=False,
        setuptools="84.2.1",
        horovod="0.28.1",
        record={
            "key": "0123",
            "torch": "2.13.0+cpu",
            "tensorflow": "2.21.0",
            "mpi": "Open MPI 4.1.8 at /env",
        },
        probes={
            "torch": Probe({"version": "2.13.0+cpu", **horovod}),
            "tensorflow": Probe({"version": "2.21.0", **horovod}),
            "mpi4py": Probe(
                {
                    "version": "4.1.2",
                    "started": True,
                    "library": "Open MPI v4.1.8",
                    "libmpi": "/env/lib/libmpi.so.40",
                }
            ),
        },
        cores=4,
        ranks=2,
    )
