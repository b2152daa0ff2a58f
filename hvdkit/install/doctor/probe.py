"""Questions that only a loaded framework, Horovod or MPI can answer.

A program, run as `python -m hvdkit.install.doctor.probe torch` (or tensorflow, mpi4py) in a
process of its own, because MPI ends the process that it cannot start in. It prints one JSON
object for each thing that worked, so that what came before a crash is not lost.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

# Libraries print at will; the answers leave by a file descriptor that they do not know.
ANSWERS = os.dup(1)


def tell(**facts: Any) -> None:
    os.write(ANSWERS, (json.dumps(facts) + "\n").encode())


def loaded_libmpi() -> str | None:
    """The MPI library that this process has mapped."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith("libmpi.so"):
            return os.path.realpath(path)
    return None


def probe_framework(name: str, *, count_gpus: bool) -> None:
    module = importlib.import_module(name)
    tell(version=module.__version__)
    if count_gpus:
        if name == "torch":
            tell(gpus=module.cuda.device_count())
        else:
            tell(gpus=len(module.config.list_physical_devices("GPU")))
    hvd = importlib.import_module(f"horovod.{name}")
    tell(
        mpi=bool(hvd.mpi_built()),
        gloo=bool(hvd.gloo_built()),
        nccl=bool(hvd.nccl_built()),
        libmpi=loaded_libmpi(),
        loaded=True,
    )
    hvd.init()
    tell(started=True, libmpi=loaded_libmpi())
    hvd.shutdown()


def probe_mpi4py() -> None:
    module = importlib.import_module("mpi4py")
    tell(version=module.__version__)
    mpi = importlib.import_module("mpi4py.MPI")
    tell(started=True, library=mpi.Get_library_version().split(",")[0], libmpi=loaded_libmpi())


def main(what: str, *options: str) -> None:
    # Warnings of theirs on stdout would end up between ours.
    os.dup2(2, 1)
    if what == "mpi4py":
        probe_mpi4py()
    else:
        probe_framework(what, count_gpus="gpus" in options)


if __name__ == "__main__":
    main(*sys.argv[1:])
