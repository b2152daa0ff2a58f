"""From the paths on the command line to runs and sweeps, each run under a name of its own.

May import `hvdkit.report` modules that read, and `hvdkit.errors`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hvdkit.errors import HvdkitError
from hvdkit.report.reading import JOB_RECORD, MARKS, Run, is_run, read_run
from hvdkit.report.sweeps import STORAGES, Sweep, read_sweep


@dataclass(frozen=True)
class Found:
    """Every run once, in the order asked for; and the sweeps some of them are jobs of."""

    runs: list[Run]
    sweeps: list[Sweep]


def find(paths: Sequence[Path]) -> Found:
    """Read every run and sweep that `paths` name.

    A sweep is a folder with run folders directly below it; so is `runs/`, whose runs then have
    no parameters in common. Raises `HvdkitError` for a path that is neither run nor sweep.
    """
    places: dict[Path, Path] = {}  # absolute: as it was given
    groups: list[tuple[Path, list[Path]]] = []
    for given in {path.resolve(): path for path in paths}.values():
        folders = [given] if is_run(_folder(given)) else _jobs(given)
        if folders != [given]:
            groups.append((given, [folder.resolve() for folder in folders]))
        for folder in folders:
            places.setdefault(folder.resolve(), folder)
    names = unique_names(list(places))
    runs = {place: read_run(place, name) for place, name in zip(places, names, strict=True)}
    sweeps = [
        read_sweep(path, [runs[folder] for folder in folders])
        for path, folders in groups
        if is_sweep(path, folders)
    ]
    _tell_sweeps_apart(sweeps)
    return Found(list(runs.values()), sweeps)


def _tell_sweeps_apart(sweeps: Sequence[Sweep]) -> None:
    """Two sweeps have a job of each number: the sweep's name goes before it."""
    if len(sweeps) > 1:
        names = unique_names([sweep.path.resolve() for sweep in sweeps])
        for sweep, name in zip(sweeps, names, strict=True):
            for run in sweep.runs:
                run.name = f"{name}/{run.name}"


def _folder(path: Path) -> Path:
    if not path.exists():
        raise HvdkitError(f"there is no {path}: give the folder of a run or of a sweep")
    if not path.is_dir():
        raise HvdkitError(f"{path} is a file: give the folder of a run or of a sweep")
    return path


def _jobs(path: Path) -> list[Path]:
    """The run folders directly below `path`, 2 before 10 and 0.01 before 0.1."""
    try:
        below = [child for child in path.iterdir() if child.is_dir()]
    except OSError as error:
        raise HvdkitError(f"{path} cannot be read: {error.strerror}") from error
    # A job that died before its run began is a job all the same.
    jobs = [c for c in below if is_run(c) or (c / JOB_RECORD).exists() or c.name.isdigit()]
    if not any(is_run(child) for child in jobs):
        raise HvdkitError(
            f"{path} is neither a run nor a sweep: a run's folder has {', '.join(MARKS[:-1])} or "
            f"{MARKS[-1]} in it, and a sweep's has runs directly below it. Neither was found"
        )
    return sorted(jobs, key=_natural)


def is_sweep(path: Path, jobs: Sequence[Path]) -> bool:
    """Whether Hydra's -m made the folder, and not one `hydra.run.dir` after the other."""
    marked = any((path / name).exists() for name in ("multirun.yaml", "sweep.lock", *STORAGES))
    return marked or all(job.name.isdigit() for job in jobs)


def _natural(path: Path) -> tuple[tuple[int, float | str], ...]:
    parts = re.findall(r"\d+(?:\.\d+)?|\D+", path.name)
    return tuple((0, float(part)) if part[0].isdecimal() else (1, part) for part in parts)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    names = []
    for path in paths:
        parts = path.parts
        for count in range(1, len(parts) + 1):
            end = parts[-count:]
            if sum(other.parts[-count:] == end for other in paths) == 1:
                break
        names.append("/".join(end).replace("//", "/"))
    return names
