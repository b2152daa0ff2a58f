"""A run's folder: what lies in it, how it is begun, gone on with, and summed up.

Only rank 0 calls what writes. Imports comm and the errors.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from hvdkit.comm import Comm
from hvdkit.errors import HvdkitError

Status = Literal["completed", "interrupted", "failed"]
_log = logging.getLogger(__name__)
_OURS = (
    "metrics.jsonl",
    "summary.json",
    "train.log",
    "timeline.json",
    "error-rank-*.txt",
    "checkpoints",
    "tensorboard",
    ".hydra",
)


@dataclass
class Summary:
    """What a run came to; `summary.json` holds it.

    `wire_ratio` is the bytes that rank 0's gradients sent, over what they would have sent
    uncompressed in the dtype they are computed in.
    """

    status: Status
    framework: str
    world_size: int
    steps: int
    skipped_steps: int = 0
    bad_records: int = 0
    train_loss: float | None = None
    eval: dict[str, float] = field(default_factory=dict)
    samples_per_second: float | None = None
    step_ms_median: float | None = None
    wire_ratio: float | None = None
    weights_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class RunFolder:
    """The folder at `path`, named alike on every rank."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def shared(self, comm: Comm) -> RunFolder:
        """Rank 0's folder, on every rank: a name with a time in it is each rank's own.

        An empty one that another rank has made, as Hydra does, goes.
        """
        agreed = RunFolder(comm.broadcast_object(self.path))
        if agreed != self:
            with suppress(OSError):  # it holds something, or never was
                self.path.rmdir()
        return agreed

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep other jobs out of the folder meanwhile; a job that dies lets go of it.

        Raises `HvdkitError` if one is in it: two would mix their files and checkpoints.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path, os.O_RDONLY)  # the folder itself: no file is left in it
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HvdkitError(
                    f"another run is writing to {self.path}: wait for it to end, or give this "
                    "one its own folder with hydra.run.dir=..."
                ) from None
            yield
        finally:
            os.close(lock)

    def begin(self) -> None:
        """Make the folder ready for a new run: an earlier one's files move to previous/."""
        self.path.mkdir(parents=True, exist_ok=True)
        old = [path for name in _OURS for path in self.path.glob(name)]
        if not old:
            return
        aside = self.path / "previous" / datetime.now().strftime("%Y-%m-%dT%H-%M-%S.%f")
        aside.mkdir(parents=True)
        for path in old:
            path.rename(aside / path.name)
        _log.info("an earlier run's files were moved to %s", aside)

    def go_on(self, step: int) -> None:
        """Make the folder ready to go on from `step`: drop what was logged after it."""
        (self.path / "summary.json").unlink(missing_ok=True)
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:
                break  # a line that a killed process did not finish
        replace_text(self.metrics, "".join(kept))

    def has_summary(self) -> bool:
        return (self.path / "summary.json").exists()

    def write_summary(self, summary: Summary) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        replace_text(self.path / "summary.json", _json(asdict(summary), indent=1) + "\n")

    def write_config(self, texts: dict[str, str]) -> None:
        """Write `.hydra/NAME` for each name."""
        folder = self.path / ".hydra"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            replace_text(folder / name, text)


def append_json(path: Path, record: dict[str, Any]) -> None:
    """Add one line to a JSON-lines file."""
    with path.open("a") as file:
        file.write(_json(record) + "\n")


def _json(value: Any, *, indent: int | None = None) -> str:
    """JSON as others read it, which has no word for what is no number: null stands for it."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replace_text(path: Path, text: str) -> None:
    """Write a file that others see either as it was or whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def folder_name(overrides: Sequence[str]) -> str:
    """A job's folder: readable, short, and another one for other overrides."""
    words = []
    for override in overrides:
        key, equals, value = override.partition("=")
        words.append(re.sub(r"[^\w.-]+", "-", key.rpartition(".")[2] + (equals and f"-{value}")))
    told = "\n".join(sorted(overrides))
    digest = hashlib.sha256(told.encode()).hexdigest()[:8]
    return "_".join([*_fitting(words, 80), digest])


def _fitting(words: Sequence[str], length: int) -> Iterator[str]:
    """The last words that fit: a sweep's own values mostly stand at the end."""
    kept: list[str] = []
    for word in reversed(words):
        length -= len(word) + 1
        if length < 0:
            break
        kept.insert(0, word)
    yield from kept
