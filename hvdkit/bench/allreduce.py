"""`hvdkit bench allreduce`: a sweep over sizes, as Horovod does it and as MPI does it.

Each has a job of its own. Beside Horovod's thread, which is in MPI all the time, mpi4py is
several times slower than by itself, and a process in which it has started MPI may crash when
TensorFlow's Horovod leaves.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit import adapters
from hvdkit.bench import jobs
from hvdkit.bench.tables import allreduce_plot, allreduce_table, print_table, require_plotting
from hvdkit.errors import HvdkitError
from hvdkit.launch.environment import HorovodSettings, current_job, default_threads, export

_WARM_UP = 3
_MOST, _LEAST = 2000, 5  # repetitions of one size


def run(parsed: argparse.Namespace) -> int:
    """Start the ranks, or be one."""
    if parsed.smallest > parsed.largest:
        raise HvdkitError(f"--smallest ({parsed.smallest}) is above --largest ({parsed.largest})")
    if parsed.plot:
        require_plotting()
    job = current_job()
    if max(job.size, 0 if job.launcher != "none" else parsed.np) < 2:
        raise HvdkitError("an allreduce is between two ranks or more: -np 2")
    framework = parsed.framework or _installed()
    if job.launcher == "none":
        adapters.check_installed(framework, distributed=True)
        _report(_swept(parsed, framework), parsed)
        return 0
    wanted = sizes(parsed.smallest, parsed.largest, parsed.factor)
    # Read once, when MPI starts: both ways are to have the same.
    export(HorovodSettings(), job, threads=default_threads(job.local_size))
    sweep = _raw_mpi if parsed.only == "mpi" else _horovod
    measured = sweep(framework, wanted, parsed.seconds)
    if job.rank == 0:
        _report(measured, parsed)
    return 0


def _installed() -> str:
    found = [name for name in adapters.FRAMEWORKS if importlib.util.find_spec(name)]
    if not found:
        raise HvdkitError("neither torch nor TensorFlow is installed: pip install 'hvdkit[torch]'")
    return found[0]


def _swept(parsed: argparse.Namespace, framework: str) -> dict[str, Any]:
    """What the jobs of each way found, joined."""
    ways = [parsed.only] if parsed.only else ["horovod"]
    if not parsed.only and importlib.util.find_spec("mpi4py"):
        ways.append("mpi")
    found = [_job(parsed, framework, way) for way in ways]
    for other in found[1:]:
        for row, more in zip(found[0]["rows"], other["rows"], strict=True):
            row |= more
    return found[0]


def _job(parsed: argparse.Namespace, framework: str, way: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "hvdkit", "bench", "allreduce", "--framework", framework]
    for name in ("smallest", "largest", "factor", "seconds"):
        command += [f"--{name}", str(getattr(parsed, name))]
    with tempfile.TemporaryDirectory(prefix="hvdkit-bench-") as folder:
        file = Path(folder) / "measured.json"
        command += ["--only", way, "--json", str(file)]
        jobs.run(
            jobs.under_launcher(command, ranks=parsed.np, hosts=parsed.hosts),
            log=Path(folder) / "log",
            timeout=3600,
            what=f"the sweep ({way})",
        )
        return dict(json.loads(file.read_text()))


def _report(measured: dict[str, Any], parsed: argparse.Namespace) -> None:
    if parsed.json:
        parsed.json.write_text(json.dumps(measured, indent=1) + "\n")
    print_table(allreduce_table(measured))
    if parsed.plot:
        allreduce_plot(measured, parsed.plot)


def sizes(low: int, high: int, factor: int) -> list[int]:
    """Bytes from `low` to `high`, whole float32s."""
    found, size = [], max(4, low // 4 * 4)
    while size <= high:
        found.append(size)
        size *= factor
    return found


def _horovod(framework: str, wanted: Sequence[int], seconds: float) -> dict[str, Any]:
    """Measure every size on all ranks; every rank calls it and all have the result."""
    comm = adapters.start(framework)
    ops = adapters.make_ops(framework)
    times = []
    for nbytes in wanted:
        name = f"bench.{nbytes}"
        x = ops.array(np.full(nbytes // 4, comm.rank + 1, np.float32))
        _check(ops.numpy(comm.allreduce(x, name=name).wait()), comm.size)
        x = ops.zeros((nbytes // 4,), "float32")

        def once(x=x, name=name):
            comm.allreduce(x, name=name).wait()

        times.append(_median(once, comm.broadcast_object, comm.barrier, seconds))
    found = _result("horovod", framework, wanted, comm.all_gather_object(times))
    comm.close()
    return found


def _raw_mpi(framework: str, wanted: Sequence[int], seconds: float) -> dict[str, Any]:
    if current_job().launcher != "mpi":
        raise HvdkitError("raw MPI is measured in a job that MPI has started: horovodrun --mpi")
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    times = []
    for nbytes in wanted:
        x = np.full(nbytes // 4, world.rank + 1, np.float32)
        world.Allreduce(MPI.IN_PLACE, x)
        _check(x, world.size)
        x[:] = 0

        def once(x=x):
            world.Allreduce(MPI.IN_PLACE, x)

        times.append(_median(once, world.bcast, world.Barrier, seconds))
    return _result("mpi", framework, wanted, world.allgather(times))


def _check(total: np.ndarray, ranks: int) -> None:
    if not (total == ranks * (ranks + 1) / 2).all():
        raise HvdkitError("an allreduce gave a wrong sum: hvdkit doctor checks the installation")


def _median(
    once: Callable[[], None],
    agree: Callable[[int], int],
    barrier: Callable[[], None],
    seconds: float,
) -> float:
    """The median time of `once`, repeated for about `seconds`, the same number on all ranks."""
    start = time.perf_counter()
    for _ in range(_WARM_UP):
        once()
    each = (time.perf_counter() - start) / _WARM_UP
    times = agree(max(_LEAST, min(_MOST, round(seconds / max(each, 1e-7)))))
    barrier()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        once()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _result(
    way: str, framework: str, wanted: Sequence[int], times: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """`times`: each rank's seconds, one a size."""
    job = current_job()
    means = [statistics.mean(of_ranks) for of_ranks in zip(*times, strict=True)]
    return {
        "format": 1,
        "framework": framework,
        "ranks": job.size,
        "local_ranks": job.local_size,
        "launcher": job.launcher,
        "host": platform.node(),
        "versions": adapters.versions(framework),
        "rows": [
            {"bytes": nbytes, way: speeds(nbytes, seconds, job.size)}
            for nbytes, seconds in zip(wanted, means, strict=True)
        ],
    }


def speeds(nbytes: int, seconds: float, ranks: int) -> dict[str, float]:
    """Bandwidths in bytes a second as nccl-tests defines them (its doc/PERFORMANCE.md): the
    algorithm's is size over time, the bus's is what a link carries of a ring allreduce."""
    algorithm = nbytes / seconds
    return {
        "seconds": seconds,
        "algorithm_bandwidth": algorithm,
        "bus_bandwidth": algorithm * 2 * (ranks - 1) / ranks,
    }
