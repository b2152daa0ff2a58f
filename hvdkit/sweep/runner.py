"""Running jobs on slots: the loop of a sweep, from the first free slot to the last ended job.

May import launch, and the rest of this package.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from hvdkit.launch.stop import StopSignal
from hvdkit.sweep.job import SweepJob, devices, job_command, job_environment
from hvdkit.sweep.plan import Plan
from hvdkit.sweep.screen import Screen
from hvdkit.sweep.slots import Grant

Status = Literal["completed", "failed", "interrupted", "pruned"]
_POLL = 0.05  # seconds
_GRACE = 180.0  # seconds that jobs told to end have; hvdkit launch has its own, shorter ones
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended. `status` is "pruned" where its giver had it stopped.

    `summary` is the run's own, `reason` says why it failed, `reused` that an earlier sweep had
    completed it.
    """

    status: Status
    summary: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    reused: bool = False
    seconds: float = 0.0


class Jobs(Protocol):
    """Where jobs come from, and who hears of them."""

    def next(self) -> SweepJob | None:
        """A job for slots that are free; None: none now, and none later unless one ends."""

    def logged(self, job: SweepJob, records: Sequence[dict[str, Any]]) -> bool:
        """What a running job has logged since; whether to stop it."""

    def ended(self, job: SweepJob, outcome: Outcome) -> None:
        """A job has ended, or needed no run; not called for one that a signal interrupted."""


class Tail:
    """The records that a growing metrics.jsonl has got since the last look.

    A run that goes on cuts its file back and writes it anew; then all of it is read again.
    """

    def __init__(self, path: Path):
        self._path, self._place, self._inode = path, 0, 0

    def read(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._inode or about.st_size < self._place:
                    self._place, self._inode = 0, about.st_ino
                file.seek(self._place)
                new = file.read()
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._place += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class _Running:
    """A job's process, its slots, and what it logs."""

    def __init__(self, job: SweepJob, grant: Grant, process: subprocess.Popen[bytes]):
        self.job, self.grant, self.process = job, grant, process
        self.began = time.monotonic()
        self.tail = Tail(job.folder / "metrics.jsonl")
        self.pruned = False
        self.timed_out = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def outcome(self, *, interrupted: bool) -> Outcome:
        """How it ended, its process being gone."""
        summary = self.job.summary() or {}
        code = self.process.returncode
        if code == 0 and summary.get("status") == "completed":
            return Outcome(status="completed", summary=summary, seconds=self.seconds)
        reason = ""
        if interrupted or self.pruned:
            status: Status = "interrupted" if interrupted else "pruned"
        else:
            status = "failed"
            what = f"signal {-code}" if code < 0 else f"status {code}"
            reason = summary.get("error") or f"ended with {what}"
            if self.timed_out:
                reason = f"was ended after hydra.launcher.timeout, {self.seconds:.0f} s"
        return Outcome(status=status, summary=summary, reason=reason, seconds=self.seconds)


class Runner:
    """Gives the jobs of `jobs` to slots as these get free, until there are no more.

    `run` gives the number of the signal that ended it, or 0. The first signal ends the running
    jobs with a checkpoint; a second kills.
    """

    def __init__(self, plan: Plan, jobs: Jobs, screen: Screen, *, lock: int):
        self._plan, self._jobs, self._screen, self._lock = plan, jobs, screen, lock
        self._running: list[_Running] = []
        self._gpus = devices(plan.options.gpus)
        self._told_at: float | None = None  # when the running jobs were told to end

    def run(self) -> int:
        stop = StopSignal()
        with stop.heard(), self._ended_whatever_happens():
            while True:
                if not stop.number:
                    self._fill_slots()
                if not self._running:
                    return stop.number
                if stop.number and self._told_at is None:
                    self._screen.note(
                        f"{signal.Signals(stop.number).name}: ending {len(self._running)} running "
                        "jobs with a checkpoint (once more kills them)"
                    )
                    self._tell_all()
                for running in list(self._running):
                    self._look_at(running, interrupted=bool(stop.number))
                if self._told_at and time.monotonic() - self._told_at > _GRACE:
                    self._kill_all()
                time.sleep(_POLL)

    def _fill_slots(self) -> None:
        while self._plan.pool.free >= self._plan.pool.ranks:
            job = self._jobs.next()
            if job is None:
                return
            state = job.state()
            if state == "completed":
                outcome = Outcome(status="completed", summary=job.summary() or {}, reused=True)
                self._screen.ended(job, outcome)
                self._jobs.ended(job, outcome)
                continue
            grant = self._plan.pool.take()
            assert grant is not None
            job.prepare()
            resumed = state == "interrupted"
            self._running.append(_Running(job, grant, self._start(job, grant, resumed)))
            self._screen.started(job, str(grant), resumed=resumed)

    def _start(self, job: SweepJob, grant: Grant, resume: bool) -> subprocess.Popen[bytes]:
        options = self._plan.options
        command = job_command(
            job,
            grant,
            program=self._plan.program,
            resume=resume,
            hydra_arguments=self._plan.hydra_arguments(),
            controller=options.controller,
            environment={**job_environment(grant, self._gpus), **options.env},
        )
        with job.log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal is for the sweep, which tells its jobs itself.
                start_new_session=True,
                pass_fds=[self._lock],
                preexec_fn=_end_with_the_parent,
            )

    def _look_at(self, running: _Running, *, interrupted: bool) -> None:
        over = running.process.poll() is not None  # before the last look at what it wrote
        records = running.tail.read()
        if records:
            self._screen.logged(running.job, records)
            stop = self._jobs.logged(running.job, records)
            if stop and not over and not running.pruned and not interrupted:
                running.pruned = True
                running.process.terminate()
        limit = self._plan.options.timeout
        if limit and running.seconds > limit and not running.timed_out and not over:
            running.timed_out = True
            running.process.terminate()
        if over:
            self._running.remove(running)
            self._plan.pool.give_back(running.grant)
            outcome = running.outcome(interrupted=interrupted)
            self._screen.ended(running.job, outcome)
            if outcome.status != "interrupted":
                self._jobs.ended(running.job, outcome)

    def _tell_all(self) -> None:
        self._told_at = time.monotonic()
        for running in self._running:
            running.process.terminate()

    def _kill_all(self) -> None:
        """After a first signal, SIGINT has `hvdkit launch` kill its ranks; then it is killed."""
        for running in self._running:
            running.process.send_signal(signal.SIGINT)
        end = time.monotonic() + 5
        for running in self._running:
            try:
                running.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()

    @contextmanager
    def _ended_whatever_happens(self) -> Iterator[None]:
        """Leave no job running: told to end after an error, killed after a second Ctrl-C."""
        try:
            yield
        except KeyboardInterrupt:
            self._tell_all()
            self._kill_all()
            raise
        except BaseException:
            self._tell_all()
            end = time.monotonic() + _GRACE
            while time.monotonic() < end and any(r.process.poll() is None for r in self._running):
                time.sleep(_POLL)
            self._kill_all()
            for running in self._running:
                self._screen.ended(running.job, running.outcome(interrupted=True))
            raise


def _end_with_the_parent() -> None:
    # In the child: when the sweep dies, however it dies, its jobs are told to end.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
