"""What a sweep tried, what came of it, and how much each parameter mattered.

May import NumPy, `hvdkit.report.reading`; Optuna, where it is installed, inside a function.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit.report.curves import HIGHER_IS_BETTER
from hvdkit.report.reading import Run

# What a sweep is judged by unless its study says more, the first that its runs have.
OBJECTIVES = (*HIGHER_IS_BETTER, "eval/loss", "train/loss")
# An Optuna sweep's study, beside its jobs.
STORAGES = ("optuna.db", "optuna.journal")
# Of fewer complete trials nothing is said.
_FEWEST_TRIALS = 4


@dataclass(frozen=True)
class Importance:
    """How much of the objective each parameter decides: shares from 0 to 1, and the measure."""

    shares: dict[str, float]
    measure: str


@dataclass
class Sweep:
    """Jobs in order, the parameters that differ between them, and the values they had."""

    path: Path
    runs: list[Run]
    parameters: list[str] = field(default_factory=list)
    values: list[dict[str, str]] = field(default_factory=list)  # one a job
    objective: str | None = None
    maximize: bool = False
    importance: Importance | None = None
    notes: list[str] = field(default_factory=list)

    def results(self) -> list[float | None]:
        if self.objective is None:
            return [None] * len(self.runs)
        return [run.result(self.objective) for run in self.runs]

    def judged(self) -> dict[int, float]:
        """The results of the jobs that came to their end; no other can be compared."""
        return {
            i: value
            for i, value in enumerate(self.results())
            if value is not None and self.runs[i].status == "completed"
        }

    def best(self) -> int | None:
        """The job with the best result."""
        judged = self.judged()
        if not judged:
            return None
        return (max if self.maximize else min)(judged, key=lambda i: judged[i])


def read_sweep(path: Path, runs: Sequence[Run]) -> Sweep:
    sweep = Sweep(path, list(runs))
    sweep.parameters = varied(runs)
    sweep.values = [
        {key: run.overrides.get(key, run.config.get(key, "")) for key in sweep.parameters}
        for run in runs
    ]
    sweep.objective = objective(runs)
    sweep.maximize = sweep.objective in HIGHER_IS_BETTER
    _rename(sweep)
    sweep.importance = of_study(sweep) or of_variance(sweep)
    unfinished = Counter(run.status for run in runs if run.status != "completed")
    if unfinished:
        said = ", ".join(f"{count} {status}" for status, count in unfinished.items())
        sweep.notes.append(f"Of {len(runs)} jobs, not completed: {said}.")
    return sweep


def number(run: Run) -> int | None:
    """A job's number, where its folder's name begins with it."""
    found = re.match(r"(?:trial-)?(\d+)(?=_|$)", run.path.name)
    return int(found[1]) if found else None


def _rename(sweep: Sweep) -> None:
    """Call each job by its number, if its folder has one, and by what it was given."""
    names = []
    for run, values in zip(sweep.runs, sweep.values, strict=True):
        said = ", ".join(f"{k.rpartition('.')[2]}={_short(v)}" for k, v in values.items())
        job = number(run)
        names.append(": ".join(filter(None, ["" if job is None else str(job), said])))
    for run, name in zip(sweep.runs, names, strict=True):
        if name and names.count(name) == 1:
            run.name = name


def _short(value: str) -> str:
    """A number that was drawn has twelve digits, of which a name needs four."""
    try:
        return value if len(value) <= 8 else f"{float(value):.4g}"
    except ValueError:
        return value


def varied(runs: Sequence[Run]) -> list[str]:
    """Overrides whose value is not the same in all jobs; a job without any is not asked."""
    asked = [run for run in runs if run.overrides]
    keys = dict.fromkeys(key for run in asked for key in run.overrides)
    return [
        key
        for key in keys
        if not key.startswith("hydra.")
        and len({run.overrides.get(key, run.config.get(key)) for run in asked}) > 1
    ]


def objective(runs: Sequence[Run]) -> str | None:
    """The result to judge by: the first of OBJECTIVES that most of the jobs with any have."""
    counts = {name: sum(run.result(name) is not None for run in runs) for name in OBJECTIVES}
    most = max(counts.values(), default=0)
    return next((name for name, count in counts.items() if 2 * count > most), None)


# ---- importance ------------------------------------------------------------------------------


def of_variance(sweep: Sweep) -> Importance | None:
    """The share of the objective's variance that each parameter explains by itself.

    That is the main effect of an analysis of variance (eta squared), which for a full grid is
    Sobol's first-order index: the variance of the means over each value, by the whole variance.
    What is missing from 1 is interaction between parameters, and noise.
    """
    judged = sweep.judged()
    results = np.array(list(judged.values()), float)
    spread = float(((results - results.mean()) ** 2).sum()) if len(results) else 0.0
    if len(judged) < 3 or not spread:
        return None
    shares = {}
    for key in sweep.parameters:
        groups: dict[str, list[float]] = {}
        for i, result in judged.items():
            groups.setdefault(sweep.values[i][key], []).append(result)
        if len(groups) in (1, len(judged)) and len(sweep.parameters) > 1:
            continue  # every job has a value of its own: that would explain anything
        between = sum(len(g) * (np.mean(g) - results.mean()) ** 2 for g in groups.values())
        shares[key] = float(between) / spread
    if left_out := [key for key in sweep.parameters if key not in shares]:
        sweep.notes.append(f"No two jobs share a value of {', '.join(left_out)}: not judged.")
    if not shares:
        return None
    return Importance(
        dict(sorted(shares.items(), key=lambda pair: -pair[1])),
        "share of variance explained by the parameter alone (ANOVA main effect, eta squared)",
    )


def of_study(sweep: Sweep) -> Importance | None:
    """Optuna's own judgement, where the folder holds a study and Optuna is installed."""
    path = next((sweep.path / n for n in STORAGES if (sweep.path / n).exists()), None)
    if path is None:
        return None
    try:
        import optuna
    except ImportError:
        sweep.notes.append(f"{path.name} was not read: Optuna is not installed.")
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts that Optuna calls experimental
        try:
            study = _study(optuna, path)
        except Exception as error:  # whatever a file that is no storage makes of the reader
            sweep.notes.append(f"{path.name} could not be read: {str(error).splitlines()[0]}")
            return None
        finished = _judge_as(sweep, study)
        if finished < _FEWEST_TRIALS:
            return None
        try:
            shares = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
        except (ValueError, RuntimeError) as error:
            sweep.notes.append(f"Optuna gives no importance: {error}")
            return None
    return Importance(
        {key: float(share) for key, share in shares.items()},
        "PED-ANOVA (Watanabe et al., IJCAI 2023) by Optuna, scaled to a sum of 1",
    )


def _study(optuna: Any, path: Path) -> Any:
    """The study in a storage file. Raises what Optuna raises."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if path.suffix == ".journal":
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
    else:
        from sqlalchemy.engine import URL  # Optuna's

        url = URL.create("sqlite", database=str(path))
        storage = optuna.storages.RDBStorage(url.render_as_string(hide_password=False))
    return optuna.load_study(study_name=None, storage=storage)


def _judge_as(sweep: Sweep, study: Any) -> int:
    """Take from the study what it judges by, and which jobs it ended early.

    Gives the number of complete trials.
    """
    sweep.maximize = study.direction.name == "MAXIMIZE"
    if metric := study.user_attrs.get("search", {}).get("metric"):
        sweep.objective = metric.replace(".", "/").replace("train_loss", "train/loss")
    trials = study.get_trials(deepcopy=False)
    pruned = {trial.number for trial in trials if trial.state.name == "PRUNED"}
    for run in sweep.runs:
        if run.status == "interrupted" and number(run) in pruned:
            run.status = "pruned"
    states = Counter(trial.state.name.lower() for trial in trials)
    said = ", ".join(f"{count} {state}" for state, count in states.items())
    sweep.notes.append(f"Optuna's study has {len(trials)} trials: {said}.")
    return states["complete"]
