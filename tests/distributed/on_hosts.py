"""What tests of jobs on several hosts share: a short run in fp64, and where its ranks were."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

from benchmarks.namespaces import Host
from hvdkit.callbacks import Callback
from tests.distributed.conftest import ROOT

# Any number of ranks has these losses, to 1e-8.
RUN = (
    "trainer.precision=fp64",
    "trainer.num_epochs=null",
    "trainer.log_every=1",
    "data.batch_size=48",
    "model.hidden=[32]",
    "schedule=constant",
    "callbacks.tensorboard=null",
    "callbacks.progress=null",
)
SHORT = (*RUN, "trainer.num_steps=12")
LONG = (*RUN, "trainer.num_steps=1000000")
ENV = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def vision(folder: Path | str, *overrides: str) -> list[str]:
    where = f"+callbacks.where={{_target_:tests.distributed.on_hosts.SayWhere,folder:{folder}}}"
    return ["recipes/vision.py", f"hydra.run.dir={folder}", where, *overrides]


class SayWhere(Callback):
    """Each rank leaves its host's name in a file, which is there also when the run is over."""

    every_rank = True

    def __init__(self, *, folder: str):
        self._folder = folder

    def on_start(self, trainer):
        Path(self._folder, f"host-of-{trainer.comm.rank}").write_text(socket.gethostname())


def losses(folder: Path) -> list[float]:
    """A run's losses so far, step by step."""
    file = folder / "metrics.jsonl"
    text = file.read_text() if file.is_file() else ""
    # A line that has no end yet is being written.
    records = map(json.loads, text.rpartition("\n")[0].splitlines())
    return [record["train/loss"] for record in records if "train/loss" in record]


def placed(folder: Path, made: Sequence[Host]) -> bool:
    """Whether rank i ran on host i."""
    there = [path.read_text() for path in sorted(folder.glob("host-of-*"))]
    return there == [host.name for host in made]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def checkpointed_at(folder: Path) -> int:
    """The step of the newest checkpoint, all of whose files are there."""
    checkpoint = folder / "checkpoints" / (folder / "checkpoints/latest").read_text().strip()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert all((checkpoint / name).stat().st_size for name in manifest["files"])
    return manifest["step"]
