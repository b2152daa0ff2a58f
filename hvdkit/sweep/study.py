"""An Optuna study in a sweep's folder: its options, storage, samplers and pruners.

Every write of Optuna's is one transaction, so a kill falls between two of them. What is then
half done is found again here: a trial begun and not finished is given out once more, with the
values it has. May import Optuna, schema and errors, and the rest of this package.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import URL

from hvdkit.errors import HvdkitError
from hvdkit.schema import at_least, check, choice
from hvdkit.sweep.space import Space

NAME = "sweep"
# Which way a measure of ours gets better, where nobody says it.
_HIGHER = ("accuracy", "top5", "auc", "hit_rate_at_10", "ndcg_at_10", "samples_per_second")
_LOWER = ("loss", "train_loss", "perplexity", "bits_per_byte", "step_ms_median")
_DEFAULT_TRIALS = 20


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The values of `hydra.sweeper`; `hydra_plugins/hvdkit_optuna/config.py` says each."""

    metric: str
    direction: str | None = choice("minimize", "maximize", default=None)
    sampler: str = choice("tpe", "random", "grid", default="tpe")
    seed: int = at_least(0, default=0)
    n_trials: int | None = at_least(1, default=None)
    n_jobs: int | None = at_least(1, default=None)
    storage: str = choice("sqlite", "journal", default="sqlite")
    pruner: str = choice("none", "asha", "median", default="none")
    startup_trials: int = at_least(0, default=5)
    warmup_steps: int = at_least(0, default=0)
    min_steps: int | None = at_least(1, default=None)
    reduction_factor: int = at_least(2, default=4)
    params: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, where="hydra.sweeper")

    @property
    def towards(self) -> Literal["minimize", "maximize"]:
        """The direction, said or known. Raises `HvdkitError` if it is neither."""
        measure = self.metric.rpartition(".")[2]
        if self.direction:
            return "maximize" if self.direction == "maximize" else "minimize"
        if measure not in (*_HIGHER, *_LOWER):
            raise HvdkitError(
                f"is a high {self.metric} good or bad? say hydra.sweeper.direction=maximize or "
                "minimize"
            )
        return "maximize" if measure in _HIGHER else "minimize"

    def points(self, space: Space) -> list[dict[str, Any]] | None:
        """All points of a grid, or None for another sampler."""
        return list(space.grid()) if self.sampler == "grid" else None

    @property
    def logged_as(self) -> str:
        """The metric's name in metrics.jsonl."""
        return self.metric.replace(".", "/").replace("train_loss", "train/loss")


class Trials:
    """The trials of one search, one process at a time (the sweep's folder is claimed).

    `ask` gives, first, trials that an earlier process left unfinished, with their numbers and
    values; then those that failed earlier, as new trials with the same values; then new ones.
    """

    def __init__(self, folder: Path, space: Space, options: SearchOptions):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._options = space, options
        self._points = options.points(space)
        self.study = self._open(folder)
        self._left = [t for t in self.all() if t.state is TrialState.RUNNING]
        self._run_failed_again()

    def all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def count(self, state: TrialState) -> int:
        return sum(trial.state is state for trial in self.all())

    @property
    def limit(self) -> int:
        """How many trials there will be, those that are run again not counted."""
        if self._points is not None:
            return min(len(self._points), self._options.n_trials or len(self._points))
        return self._options.n_trials or _DEFAULT_TRIALS

    def ask(self) -> Trial | None:
        """The next trial, all its values set, or None if there are enough."""
        if self._left:
            number, id_ = self._left[0].number, self._left[0]._trial_id
            self.study.sampler = self._sampler(number)
            trial = Trial(self.study, id_)
            for key, distribution in self._space.varied.items():
                trial._suggest(key, distribution)  # gives what the trial has, or sets it
            self._left.pop(0)
            return trial
        trials = self.all()
        if not any(t.state is TrialState.WAITING for t in trials):
            counted = sum("again" not in t.user_attrs for t in trials)
            if counted >= self.limit:
                return None
            if self._points is not None:
                self.study.enqueue_trial(self._points[counted])
        self.study.sampler = self._sampler(len(trials))
        return self.study.ask(dict(self._space.varied))

    def best(self) -> FrozenTrial | None:
        return self.study.best_trial if self.count(TrialState.COMPLETE) else None

    # ---- the study ---------------------------------------------------------------------------

    def _open(self, folder: Path) -> Study:
        study = self._load(folder)
        if study.user_attrs.get("search") == self._search:
            return study
        finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        if finished:
            raise HvdkitError(
                f"{folder} holds {len(finished)} trials of another search "
                f"({self._difference(study.user_attrs['search'])}): give this one its own folder "
                "with hydra.sweep.dir=..., or go on with that one by its own command"
            )
        optuna.delete_study(study_name=NAME, storage=study._storage)
        study = self._load(folder)
        study.set_user_attr("search", self._search)
        return study

    def _load(self, folder: Path) -> Study:
        return optuna.create_study(
            study_name=NAME,
            storage=_storage(folder, self._options.storage),
            direction=self._options.towards,
            pruner=self._pruner(),
            load_if_exists=True,
        )

    @property
    def _search(self) -> dict[str, Any]:
        """What makes it this search and no other."""
        return {
            "space": {key: repr(d) for key, d in sorted(self._space.varied.items())},
            "fixed": sorted(self._space.fixed),
            "metric": self._options.metric,
            "direction": self._options.towards,
        }

    def _difference(self, other: dict[str, Any]) -> str:
        changed = [key for key, value in self._search.items() if other.get(key) != value]
        return "; ".join(f"its {key}: {json.dumps(other.get(key))}" for key in changed)

    def _run_failed_again(self) -> None:
        trials = self.all()
        done = {t.user_attrs["again"] for t in trials if "again" in t.user_attrs}
        for trial in trials:
            retry = trial.state is TrialState.FAIL and "invalid" not in trial.user_attrs
            if retry and trial.number not in done:
                self.study.enqueue_trial(trial.params, user_attrs={"again": trial.number})

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler whose chance is a function of the seed and the trial's number.

        So a search that goes on draws nothing that it has drawn before.
        """
        seed = int(np.random.SeedSequence([self._options.seed, number]).generate_state(1)[0])
        if self._options.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)

    def _pruner(self) -> optuna.pruners.BasePruner:
        options = self._options
        if options.pruner == "asha":
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=options.min_steps or "auto",
                reduction_factor=options.reduction_factor,
            )
        if options.pruner == "median":
            return optuna.pruners.MedianPruner(
                n_startup_trials=options.startup_trials, n_warmup_steps=options.warmup_steps
            )
        return optuna.pruners.NopPruner()


def _storage(folder: Path, kind: str) -> BaseStorage:
    if kind == "sqlite":
        url = URL.create("sqlite", database=str(folder / "optuna.db"))
        return RDBStorage(url.render_as_string(hide_password=False))
    path = folder / "optuna.journal"
    # What a process that was killed at its writing has left: the claim on the folder says that
    # no other writes there now.
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        with path.open("r+b") as file:
            file.truncate(whole)
    return JournalStorage(JournalFileBackend(str(path)))


def check_search(options: SearchOptions, space: Space, configs: Sequence[dict[str, Any]]) -> None:
    """Raise `HvdkitError` for options that do not go together, before anything is written."""
    assert options.towards
    options.points(space)
    if options.pruner == "none":
        return
    if options.logged_as.startswith("eval/"):
        if any(config["trainer"]["eval_every"] is None for config in configs):
            raise HvdkitError(
                f"{options.metric} is measured at the end only, when there is nothing left to "
                "prune: set trainer.eval_every to a number of steps, or hydra.sweeper.pruner=none"
            )
    elif options.logged_as != "train/loss" and options.metric != "samples_per_second":
        raise HvdkitError(
            f"{options.metric} is not logged while a job runs, so nothing can be pruned by it: "
            "choose train_loss or an eval metric, or hydra.sweeper.pruner=none"
        )
