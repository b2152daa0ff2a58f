"""One adapter a framework, and the only place that chooses between them.

The framework's own package is imported when it is chosen, never before.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import platform

from hvdkit.comm import Comm
from hvdkit.errors import HvdkitError
from hvdkit.launch import heartbeat
from hvdkit.launch.environment import (
    HorovodSettings,
    current_job,
    default_threads,
    export,
    require_connected,
    take_devices,
)
from hvdkit.tensors import Ops

FRAMEWORKS = {"torch": ("torch",), "tensorflow": ("tensorflow", "keras")}


def check_installed(framework: str, *, distributed: bool) -> None:
    """Raise `HvdkitError` unless the framework, and Horovod where needed, can be imported."""
    for package in FRAMEWORKS[framework]:
        if importlib.util.find_spec(package) is None:
            others = [
                name for name, needs in FRAMEWORKS.items() if importlib.util.find_spec(needs[0])
            ]
            raise HvdkitError(
                f"framework={framework} needs the package {package}, which is not installed. "
                f"Install it with: pip install 'hvdkit[{framework}]' && hvdkit build-horovod"
                + (f", or use framework={others[0]}" if others else "")
            )
    if distributed and importlib.util.find_spec("horovod") is None:
        raise HvdkitError(
            "more than one worker needs Horovod, which is not installed: run hvdkit build-horovod"
        )


@functools.cache  # every checkpoint asks, and a search of the environment takes 40 ms
def versions(framework: str) -> dict[str, str]:
    """Versions of what a run's result depends on."""
    found = {"python": platform.python_version()}
    distributions = importlib.metadata.packages_distributions()
    for package in ("hvdkit", *FRAMEWORKS.get(framework, ()), "horovod", "numpy"):
        names = distributions.get(package, [package])
        try:
            found[package] = importlib.metadata.version(names[0])
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def start(
    framework: str,
    *,
    precision: str = "fp32",
    threads: int | None = None,
    horovod: HorovodSettings | None = None,
) -> Comm:
    """Join this process's job in the given framework; call it before a model is made.

    `threads` compute threads a rank: by default the host's cores, shared out among its ranks.
    """
    job = current_job()
    require_connected(job)
    heartbeat.begin(job)
    check_installed(framework, distributed=job.size > 1)
    threads = threads or default_threads(job.sharers)
    take_devices(job)
    export(horovod or HorovodSettings(), job, threads=threads)
    module = importlib.import_module(f"hvdkit.adapters.{framework}")
    return module.start(job, threads=threads, precision=precision)


def make_ops(framework: str) -> Ops:
    """The framework's tensor operations, where this process computes."""
    return importlib.import_module(f"hvdkit.adapters.{framework}.runtime").make_ops()
