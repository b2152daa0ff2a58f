"""A few steps of all ranks in one file for Perfetto, on one clock."""

from __future__ import annotations

import json
import logging
import socket
import tempfile
import time
from pathlib import Path

from hvdkit.callbacks.base import Callback
from hvdkit.callbacks.trace import TracedRank, TracedStep, document, events, horovod_events
from hvdkit.comm.clocks import METHOD, clock_offsets
from hvdkit.errors import HvdkitError
from hvdkit.strategies import Recorded

_log = logging.getLogger("hvdkit.run")
_PATIENCE = 2.0  # seconds for Horovod's writer to finish


class Timeline(Callback):
    """Write `steps` steps to the run folder's timeline.json, from the `start`-th of this run on.

    In it: each rank's steps (input, forward and backward pass, each wait, the update), each
    bucket from the moment a rank has it to the moment it has the sum, and, where
    `comm.timeline=DYNAMIC`, Horovod's own timeline. Clocks are aligned over barriers.

    Horovod's thread that writes its timeline spins on a core of rank 0's host, from Horovod's
    start on: steps take longer than without.
    """

    every_rank = True

    def __init__(self, *, start: int = 10, steps: int = 5):
        self._start, self._count = start, steps
        self._seen: TracedRank | None = None

    def on_start(self, trainer):
        if trainer.folder is None:
            raise HvdkitError("a timeline is written to the run's folder, and this run has none")
        self._first = trainer.step + self._start
        if self._first >= trainer.num_steps:
            raise HvdkitError(
                f"the timeline would begin at step {self._first}, and the run ends at step "
                f"{trainer.num_steps}: set callbacks.timeline.start lower"
            )
        self._end = min(self._first + self._count, trainer.num_steps)
        self._recorded = Recorded.of(trainer.adapter)

    def on_batch(self, trainer):
        self._began = time.time()
        if trainer.step == self._first:
            self._open(trainer)
            self._asked_input = self._began = time.time()

    def _open(self, trainer):
        comm = trainer.comm
        self._offsets = clock_offsets(comm)
        mine = self._offsets[comm.rank]
        self._seen = TracedRank(comm.rank, socket.gethostname(), [], *mine)
        self._origin = time.time()
        self._folder = tempfile.TemporaryDirectory()
        self._horovods = Path(self._folder.name) / "horovod.json"
        without = comm.start_timeline(str(self._horovods))
        self._without = without
        if without and comm.rank == 0:
            _log.info("the timeline is without Horovod's own: %s", without)

    def on_step(self, trainer):
        now = time.time()
        if self._seen is None or trainer.step > self._end:
            return
        stamps = (stamp.tolist() for stamp in self._recorded.stamps())
        self._seen.steps.append(
            TracedStep(trainer.step - 1, self._asked_input, self._began, now, *stamps)
        )
        if trainer.step == self._end:
            self._write(trainer)
        self._asked_input = time.time()

    def on_log(self, trainer, record):
        self._asked_input = time.time()

    def on_checkpoint(self, trainer, path):
        self._asked_input = time.time()

    def _write(self, trainer):
        comm = trainer.comm
        self._recorded.on = False
        if not self._without:
            comm.stop_timeline()
        ranks = comm.all_gather_object(self._seen)
        if comm.rank == 0:
            names = [message.name for message in self._recorded.messages]
            own = [] if self._without else _when_written(self._horovods, self._origin)
            content = document(
                [*events(ranks, names, self._origin), *own],
                first_step=self._first,
                clocks=METHOD,
                clock_offset_seconds={seen.rank: seen.offset for seen in ranks},
                clock_bound_seconds={seen.rank: seen.bound for seen in ranks},
                without_horovod=self._without,
            )
            path = trainer.folder.path / "timeline.json"
            path.write_text(json.dumps(content))
            _log.info(
                "steps %d to %d are in %s: open it at https://ui.perfetto.dev",
                self._first,
                self._end - 1,
                path,
            )
        self._seen = None

    def close(self):
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def _when_written(path: Path, origin: float) -> list[dict]:
    """Horovod's events, once its writing thread has come to its end."""
    deadline, size = time.monotonic() + _PATIENCE, -1
    while time.monotonic() < deadline:
        now = path.stat().st_size if path.exists() else 0
        if now == size and (found := horovod_events(path, origin)):
            return found
        size = now
        time.sleep(0.05)
    return horovod_events(path, origin)
