"""What `hydra/launcher=horovod` does with the jobs that a sweeper hands it.

May import the rest of this package.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobRuntime, JobStatus
from omegaconf import OmegaConf

from hvdkit.errors import HvdkitError
from hvdkit.schema import nearest
from hvdkit.sweep.job import SweepJob
from hvdkit.sweep.plan import Plan
from hvdkit.sweep.runner import Outcome, Runner
from hvdkit.sweep.screen import Screen


class Listed:
    """A list of jobs, in its order; with `fail_fast`, none after one that failed."""

    def __init__(self, jobs: Sequence[SweepJob], *, fail_fast: bool):
        self._waiting = deque(jobs)
        self._fail_fast = fail_fast
        self.outcomes: dict[int, Outcome] = {}

    def next(self) -> SweepJob | None:
        return self._waiting.popleft() if self._waiting else None

    def logged(self, job: SweepJob, records: Sequence[dict[str, Any]]) -> bool:
        return False

    def ended(self, job: SweepJob, outcome: Outcome) -> None:
        self.outcomes[job.number] = outcome
        if outcome.status == "failed" and self._fail_fast:
            raise HvdkitError(
                f"job {job.number} ({job.label}) failed: {outcome.reason}; with "
                "hydra.launcher.fail_fast=true the others were ended, with a checkpoint\n"
                "the same command runs what is missing"
            )


class Ended(JobReturn):
    """A job's return to Hydra, which raises a failed job's error without printing besides."""

    @property
    def return_value(self) -> Any:
        if self.status is JobStatus.FAILED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def launch(plan: Plan, all_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Run every job, and return what came of each. Raises SystemExit after a signal."""
    jobs = plan.jobs(all_overrides, first)
    screen = Screen(slots=plan.pool.total, total=len(jobs))
    listed = Listed(jobs, fail_fast=plan.options.fail_fast)
    with plan.claim(screen.note) as lock:
        screen.note(
            f"{len(jobs)} jobs of {plan.options.np} rank{'s' if plan.options.np > 1 else ''} on "
            f"{plan.pool.total} slots, in {shown(plan.folder)}"
        )
        try:
            with screen.shown():
                signalled = Runner(plan, listed, screen, lock=lock).run()
        finally:
            screen.close()
    if signalled:
        screen.note(how_to_go_on(len(jobs), listed.outcomes))
        sys.exit(128 + signalled)
    return [_returned(job, listed.outcomes, plan) for job in jobs]


def how_to_go_on(total: int, outcomes: dict[int, Outcome]) -> str:
    done = sum(outcome.status == "completed" for outcome in outcomes.values())
    return (
        f"interrupted: {done} of {total} jobs are completed; the same command goes on with the "
        "others from their checkpoints"
    )


def _returned(job: SweepJob, outcomes: dict[int, Outcome], plan: Plan) -> JobReturn:
    outcome = outcomes[job.number]
    returned = Ended(
        overrides=job.overrides,
        cfg=OmegaConf.create(job.config),
        working_dir=str(job.folder),
        task_name=JobRuntime.instance().get("name"),
    )
    if outcome.status == "completed":
        returned.status = JobStatus.COMPLETED
        metric = plan.options.metric
        returned.return_value = value_of(outcome.summary, metric) if metric else outcome.summary
        return returned
    failed = [n for n, o in sorted(outcomes.items()) if o.status != "completed"]
    returned.status = JobStatus.FAILED
    returned.return_value = HvdkitError(
        f"{len(failed)} of {len(outcomes)} jobs failed: {', '.join(map(str, failed))}; the same "
        "command runs only them again"
    )
    return returned


def value_of(summary: dict[str, Any], metric: str) -> float | None:
    """A value of a run's summary by its dotted name, or None where the run has none.

    Raises `HvdkitError` for a name that the summary does not know.
    """
    known = {k: v for k, v in summary.items() if k != "eval"}
    known |= {f"eval.{k}": v for k, v in (summary.get("eval") or {}).items()}
    numbers = [k for k, v in known.items() if isinstance(v, float | int)]
    if metric not in known:
        raise HvdkitError(
            f"summary.json has no {metric}{nearest(metric, numbers)}: choose one of "
            + ", ".join(numbers)
        )
    value = known[metric]
    if value is not None and (isinstance(value, bool) or not isinstance(value, float | int)):
        raise HvdkitError(f"{metric} is not a number: choose one of {', '.join(numbers)}")
    return value


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
