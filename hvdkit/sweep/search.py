"""What `hydra/sweeper=optuna` does: trials as jobs on slots, pruned as they run.

A trial is asked for when slots are free, never in batches. May import the rest of this package.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from hvdkit.errors import HvdkitError
from hvdkit.run_folder import folder_name
from hvdkit.sweep.best import write_best
from hvdkit.sweep.job import SweepJob
from hvdkit.sweep.launch import shown, value_of
from hvdkit.sweep.plan import Plan
from hvdkit.sweep.runner import Outcome, Runner
from hvdkit.sweep.screen import Screen
from hvdkit.sweep.space import Space, read_space
from hvdkit.sweep.study import SearchOptions, Trials, check_search


class Search:
    """The jobs of a study: gives a trial's job out, hears what it logs, tells what it came to."""

    def __init__(
        self, plan: Plan, options: SearchOptions, space: Space, trials: Trials, screen: Screen
    ):
        self._plan, self._options, self._space = plan, options, space
        self._trials, self._screen = trials, screen
        self._at_a_time = options.n_jobs or plan.pool.total // plan.pool.ranks
        self._running: dict[int, Trial] = {}
        self._best: int | None = None
        self.show_best()

    def next(self) -> SweepJob | None:
        while len(self._running) < self._at_a_time:
            trial = self._trials.ask()
            if trial is None:
                return None
            if "pruned" in trial.user_attrs:  # by a process that could not tell it any more
                self._tell(trial.number, state=TrialState.PRUNED)
                continue
            try:
                job = self._job(trial)
            except HvdkitError as error:  # values that do not go together
                trial.set_user_attr("invalid", str(error))
                self._tell(trial.number, state=TrialState.FAIL)
                self._screen.note(f"{error}\n(trial {trial.number} counts as failed)")
                continue
            self._running[trial.number] = trial
            return job
        return None

    def _job(self, trial: Trial) -> SweepJob:
        overrides = self._space.overrides(trial.params)
        own = self._space.own_overrides(trial.params)
        digest = folder_name(overrides).rpartition("_")[2]
        name = f"trial-{trial.number:04d}_{folder_name(own).rpartition('_')[0]}_{digest}"
        return self._plan.job(trial.number, overrides, label=" ".join(own), folder=name)

    def logged(self, job: SweepJob, records: Sequence[dict[str, Any]]) -> bool:
        trial = self._running[job.number]
        if self._options.pruner == "none" or "pruned" in trial.user_attrs:
            return False
        told = self._trials.study._storage.get_trial(trial._trial_id).intermediate_values
        for record in records:
            value = record.get(self._options.logged_as)
            if value is None or record["step"] in told:
                continue
            trial.report(value, record["step"])
            if trial.should_prune():
                # Before it is stopped: a stopped job and a killed sweep must not look like one
                # that is to go on.
                trial.set_user_attr("pruned", record["step"])
                return True
        return False

    def ended(self, job: SweepJob, outcome: Outcome) -> None:
        trial = self._running.pop(job.number)
        if outcome.status == "pruned":
            self._tell(trial.number, state=TrialState.PRUNED)
            return
        if outcome.status == "completed":
            value = value_of(outcome.summary, self._options.metric)
            if value is not None:
                self._tell(trial.number, values=value)
                self.show_best()
                return
            self._screen.note(f"trial {trial.number} failed: {self._options.metric} is no number")
        trial.set_user_attr("reason", outcome.reason or f"{self._options.metric} is no number")
        self._tell(trial.number, state=TrialState.FAIL)
        if self._plan.options.fail_fast:
            raise HvdkitError(
                f"trial {trial.number} failed: {outcome.reason}; with "
                "hydra.launcher.fail_fast=true the others were ended, with a checkpoint"
            )

    def _tell(self, number: int, **what: Any) -> None:
        self._trials.study.tell(number, **what)

    def show_best(self) -> None:
        """Write the best trial's experiment file, if there is a better one than before."""
        best = self._trials.best()
        if best is None or best.number == self._best:
            return
        self._best = best.number
        label = " ".join(self._space.own_overrides(best.params))
        self._screen.best = f"best: {self._options.metric} {best.value:.6g} ({label})"
        about = f"Trial {best.number}: {self._options.metric} {best.value:.6g}, with {label}."
        write_best(self._plan, self._space.overrides(best.params), about)
        if not self._screen.live:
            self._screen.note(f"trial {best.number} is the {self._screen.best}")


def search(plan: Plan, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a whole search. Raises SystemExit after a signal, `HvdkitError` if no trial completed."""
    options = read_options(plan)
    given = [f"{key}={value}" for key, value in options.params.items()]
    space = read_space([*given, *arguments], plan.loader)
    corners = [
        plan.job(0, space.overrides(point), label=" ".join(space.own_overrides(point)), folder="x")
        for point in space.corners()
    ]
    check_search(options, space, [job.config for job in corners])
    screen = Screen(slots=plan.pool.total)
    with plan.claim(screen.note) as lock:
        OmegaConf.save(plan.config, plan.folder / "multirun.yaml")
        trials = Trials(plan.folder, space, options)
        screen.total = trials.limit
        screen.note(f"{_opening(trials)}, {plan.pool.total} slots, in {shown(plan.folder)}")
        jobs = Search(plan, options, space, trials, screen)
        try:
            with screen.shown():
                signalled = Runner(plan, jobs, screen, lock=lock).run()
        finally:
            screen.close()
    return _closing(plan, options, trials, screen, signalled)


def read_options(plan: Plan) -> SearchOptions:
    """`hydra.sweeper`, checked."""
    node: Any = OmegaConf.to_container(plan.config.hydra.sweeper, resolve=True)
    return SearchOptions(**{key: value for key, value in node.items() if key != "_target_"})


def _opening(trials: Trials) -> str:
    states = {
        "completed": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
        "to go on with": TrialState.RUNNING,
    }
    counts = {word: trials.count(state) for word, state in states.items()}
    found = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{trials.limit} trials" + (f" ({found} from an earlier sweep)" if found else "")


def _closing(
    plan: Plan, options: SearchOptions, trials: Trials, screen: Screen, signalled: int
) -> dict[str, Any]:
    done = trials.count(TrialState.COMPLETE)
    counts = f"{done} completed, {trials.count(TrialState.PRUNED)} pruned, "
    counts += f"{trials.count(TrialState.FAIL)} failed"
    best = trials.best()
    if best is not None:
        screen.note(f"{screen.best}\nto train with it: {_use(plan)}")
    if signalled:
        screen.note(f"interrupted: {counts}; the same command goes on with the others")
        sys.exit(128 + signalled)
    if best is None:
        raise HvdkitError(
            f"no trial completed ({counts}): each one's job.log in {shown(plan.folder)} says why"
        )
    screen.note(counts)
    higher = trials.study.direction is StudyDirection.MAXIMIZE
    return {
        "metric": options.metric,
        "direction": "maximize" if higher else "minimize",
        "best_value": best.value,
        "best_params": best.params,
    }


def _use(plan: Plan) -> str:
    return f"python {shown(plan.program)} --config-dir {shown(plan.folder)} experiment=best"
