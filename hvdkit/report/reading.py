"""What a run's folder says: its records, summary, config and state, whatever shape it is in.

A report is most wanted for runs that went wrong, so nothing here refuses a folder for what a
file holds: what cannot be read becomes a note. No folder is written to or locked. May import
NumPy, PyYAML and `hvdkit.errors`; no framework.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

# What a run leaves; one of them makes a folder a run's.
MARKS = ("metrics.jsonl", "summary.json", "train.log", ".hydra/config.yaml")
# What a sweep's launcher leaves in a job's folder: what it was given, and what it printed.
JOB_RECORD, JOB_LOG = "job.json", "job.log"
STATUSES = ("completed", "interrupted", "failed")
# Beside what every record has.
_NOT_CURVES = ("step", "epoch", "time")


@dataclass(frozen=True)
class Curve:
    """One value over a run: `steps` (updates), `seconds` (since its first record), `values`.

    The three are as long; a value that was no number is NaN.
    """

    steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray

    def finite(self) -> np.ndarray:
        return self.values[np.isfinite(self.values)]


@dataclass
class Run:
    """A run as its folder tells it. `name` is unique in a report."""

    path: Path
    name: str
    status: str = "empty"
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    epochs_per_step: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int | None:
        found = self.summary.get("steps")
        if isinstance(found, int):
            return found
        ends = [int(curve.steps[-1]) for curve in self.curves.values()]
        return max(ends, default=None)

    def result(self, name: str) -> float | None:
        """A final number: the summary's, or the last one logged where there is no summary.

        `name` is `train/loss`, `eval/NAME` or a key of the summary.
        """
        kind, _, rest = name.partition("/")
        found = self.summary.get("train_loss" if name == "train/loss" else name)
        if kind == "eval" and isinstance(evaluated := self.summary.get("eval"), dict):
            found = evaluated.get(rest)
        if (value := number(found)) is not None:
            return value
        if (curve := self.curves.get(name)) is None:
            return None
        last = curve.values[-1]
        return float(last) if math.isfinite(last) else None


def is_run(path: Path) -> bool:
    return any((path / mark).exists() for mark in MARKS)


def number(value: Any) -> float | None:
    """`value` if it is a finite number, as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def read_run(path: Path, name: str) -> Run:
    """Read the folder at `path`; what is wrong with it is in the run's notes."""
    run = Run(path, name)
    run.config = _flat(_yaml(run, ".hydra/config.yaml", {}))
    run.overrides = _assignments(_yaml(run, ".hydra/overrides.yaml", []) or _given(run))
    _read_metrics(run)
    _read_summary(run)
    _read_errors(run)
    return run


# ---- metrics ---------------------------------------------------------------------------------


def _read_metrics(run: Run) -> None:
    records, unread = _records(run)
    if unread:
        run.notes.append(f"metrics.jsonl: {_count(unread, 'line')} could not be read")
    if not records:
        return
    seconds = _elapsed(np.array([number(record.get("time")) or 0.0 for record in records]))
    points: dict[str, tuple[list[int], list[int], list[float]]] = {}
    for index, record in enumerate(records):
        step = record["step"]
        for key, value in record.items():
            if key in _NOT_CURVES or isinstance(value, str | list | dict | bool):
                continue
            steps, where, values = points.setdefault(key, ([], [], []))
            found = number(value)
            steps.append(step)
            where.append(index)
            values.append(math.nan if found is None else found)
    for key, (steps, where, values) in points.items():
        run.curves[key] = Curve(np.array(steps), seconds[where], np.array(values))
        if lost := int(np.isnan(run.curves[key].values).sum()):
            run.notes.append(f"{key}: {lost} of {_count(len(values), 'value')} not a number")
    last = records[-1]
    epoch = number(last.get("epoch"))
    if epoch is not None and last["step"] > 0:
        run.epochs_per_step = epoch / last["step"]


def _records(run: Run) -> tuple[list[dict[str, Any]], int]:
    """Records in the order of their steps, and how many lines were none.

    Where steps go back, the run was begun again from there: what it says later holds.
    """
    records: list[dict[str, Any]] = []
    unread = 0
    try:
        with (run.path / "metrics.jsonl").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if (record := _record(line)) is None:
                    unread += bool(line.strip())
                    continue
                if records and record["step"] < records[-1]["step"]:
                    run.notes.append(
                        f"metrics.jsonl goes back from step {records[-1]['step']} to "
                        f"{record['step']}; the later records are shown"
                    )
                    while records and records[-1]["step"] >= record["step"]:
                        records.pop()
                records.append(record)
    except FileNotFoundError:
        pass
    except OSError as error:
        run.notes.append(f"metrics.jsonl could not be read: {error.strerror}")
    return records, unread


def _record(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or (step := number(found.get("step"))) is None:
        return None
    return {**found, "step": int(step)}


def _elapsed(times: np.ndarray) -> np.ndarray:
    """Seconds since the first record, without the pauses of a run that was resumed later.

    A pause is a gap of over a minute and twenty times the usual one; it counts as a usual one.
    """
    gaps = np.maximum(np.diff(times, prepend=times[:1]), 0.0)
    usual = float(np.median(gaps[1:])) if len(gaps) > 1 else 0.0
    gaps[gaps > max(60.0, 20 * usual)] = usual
    return np.cumsum(gaps)


# ---- state -----------------------------------------------------------------------------------


def _read_summary(run: Run) -> None:
    """The summary if there is one, and from all that was read, the run's status."""
    path = run.path / "summary.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        run.summary = found
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        run.notes.append(f"summary.json could not be read: {error}")
    if is_locked(run.path):
        run.status = "running"
    elif path.exists():
        status = run.summary.get("status")
        run.status = status if status in STATUSES else "unknown"
        if run.summary and run.status == "unknown":
            run.notes.append(f"summary.json has an unknown status: {status!r}")
    elif run.curves:
        run.status = "no summary"
        run.notes.append("no summary.json: killed, or running on another machine")
    else:
        run.status = "empty"
        run.notes.append("nothing was logged yet")


def _read_errors(run: Run) -> None:
    if error := run.summary.get("error"):
        run.notes.append(str(error))
    for path in sorted(run.path.glob("error-rank-*.txt")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        last = text.splitlines()[-1] if text else ""
        if last and not any(last in note for note in run.notes):
            run.notes.append(f"{path.name}: {last}")
    if run.status in ("empty", "no summary"):
        run.notes += [f"{JOB_LOG}: {line}" for line in _last_lines(run.path / JOB_LOG, 1)]


def _last_lines(path: Path, count: int) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()][-count:]


def is_locked(path: Path) -> bool:
    """Whether a job on this machine holds the folder.

    Read from the kernel's table: to try the lock would, for a moment, keep a job out.
    """
    try:
        found = os.stat(path)
        table = Path("/proc/locks").read_text()
    except OSError:
        return False
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any("FLOCK" in line and device in line.split() for line in table.splitlines())


# ---- config ----------------------------------------------------------------------------------


def _yaml(run: Run, name: str, default: Any) -> Any:
    # libyaml's loader where PyYAML has it: sixty configs take seconds without.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        found = yaml.load((run.path / name).read_text(encoding="utf-8"), Loader=loader)
    except FileNotFoundError:
        return default
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        run.notes.append(f"{name} could not be read: {str(error).splitlines()[0]}")
        return default
    return found if isinstance(found, type(default)) else default


def _flat(node: Any, prefix: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}}` as `{"a.b": "1"}`."""
    found: dict[str, str] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{name}.")
        else:
            found[name] = plain(value)
    return found


def plain(value: Any) -> str:
    """A config's value as one would write it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _given(run: Run) -> list[Any]:
    """What a sweep gave a job that did not come so far as to write it down itself."""
    try:
        found = json.loads((run.path / JOB_RECORD).read_text(encoding="utf-8"))["overrides"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return found if isinstance(found, list) else []


def _assignments(lines: list[Any]) -> dict[str, str]:
    """`["optimizer.lr=0.1"]` as `{"optimizer.lr": "0.1"}`."""
    pairs = (str(line).partition("=") for line in lines)
    return {key.lstrip("+~"): value for key, equals, value in pairs if equals}


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
