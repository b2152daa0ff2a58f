"""One job of a sweep: where it is, what it has left there, and the command that runs it.

May import run_folder and launch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.types import Quote, QuotedString

from hvdkit.launch.environment import DEVICES, HOST_SLOTS
from hvdkit.run_folder import RunFolder, replace_text
from hvdkit.sweep.slots import Grant

State = Literal["completed", "interrupted", "new"]
_RECORD = "job.json"


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A job, composed and checked. `config` holds its resolved values."""

    number: int
    overrides: tuple[str, ...]
    label: str
    folder: Path
    config: dict[str, Any]
    ranks: int

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.folder / "job.log"

    def state(self) -> State:
        """What an earlier sweep has left of this very job in its folder."""
        try:
            record = json.loads((self.folder / _RECORD).read_text())
        except (OSError, ValueError):
            return "new"
        if record.get("fingerprint") != self.fingerprint:
            return "new"
        status = (self.summary() or {}).get("status")
        if status == "completed":
            return "completed"
        begun = (self.folder / "checkpoints" / "latest").exists()
        return "interrupted" if begun and status != "failed" else "new"

    def prepare(self) -> State:
        """Make the folder this job's, moving aside what is another's; what there is of it."""
        state = self.state()
        record = {"overrides": self.overrides, "ranks": self.ranks, "fingerprint": self.fingerprint}
        if state == "new":
            # Before the record says whose the folder is: a kill may fall between any two lines.
            RunFolder(self.folder).begin()
        replace_text(self.folder / _RECORD, json.dumps(record, indent=1) + "\n")
        return state

    def summary(self) -> dict[str, Any] | None:
        """The run's `summary.json`, if there is one."""
        try:
            return json.loads((self.folder / "summary.json").read_text())
        except (OSError, ValueError):
            return None

    def last_lines(self, count: int = 8) -> list[str]:
        """The last lines that its processes printed."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return []
        return [line for line in lines if line.strip()][-count:]

    @property
    def fingerprint(self) -> str:
        """What decides its result: its values, and its ranks where the batch depends on them."""
        values = dict(self.config)
        values["trainer"] = {k: v for k, v in values["trainer"].items() if k != "resume"}
        if values["data"]["batch_size"] is None:
            values["ranks"] = self.ranks
        told = json.dumps(values, sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()

    def fraction(self, record: dict[str, Any]) -> float:
        """How far a log record is on the way to the end, from 0 to 1."""
        trainer = self.config["trainer"]
        if trainer["num_steps"]:
            return min(1.0, record["step"] / trainer["num_steps"])
        return min(1.0, record["epoch"] / trainer["num_epochs"])


def job_command(
    job: SweepJob,
    grant: Grant,
    *,
    program: Path,
    resume: bool,
    hydra_arguments: Sequence[str] = (),
    controller: str | None = None,
    environment: dict[str, str] | None = None,
) -> list[str]:
    """The command that runs a job on the slots it holds."""
    folder = QuotedString(str(job.folder), Quote.single).with_quotes()
    options = ["-np", str(job.ranks), "-H", str(grant)]
    if controller:
        options.append(f"--{controller}")
    for name, value in (environment or {}).items():
        options += ["--env", f"{name}={value}"]
    words = [*hydra_arguments, *job.overrides, f"hydra.run.dir={folder}"]
    if resume:
        words.append("trainer.resume=true")
    return [sys.executable, "-m", "hvdkit", "launch", *options, str(program), *words]


def job_environment(grant: Grant, gpus: Sequence[str]) -> dict[str, str]:
    """What tells a job's ranks their part of the hosts: cores by slots, and GPUs by slot.

    `gpus` names a host's devices; slots beyond them share.
    """
    told = {HOST_SLOTS: str(grant.host_slots)}
    if gpus:
        told[DEVICES] = ",".join(gpus[slot % len(gpus)] for slot in grant.by_rank)
    return told


def devices(count: int | None) -> list[str]:
    """The GPUs of a host, `count` or as many as this machine has and may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else []
    if not names and visible is None:
        found = [re.fullmatch(r"nvidia(\d+)", name) for name in os.listdir("/dev")]
        names = sorted((match[1] for match in found if match), key=int)
    if count is None:
        return names
    return names[:count] if count <= len(names) else [str(number) for number in range(count)]
