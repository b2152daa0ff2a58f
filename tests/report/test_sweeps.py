"""What a sweep came to, and how much each parameter decided."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest

from hvdkit.report.finding import find
from hvdkit.report.sweeps import Sweep
from tests.report.folders import job


def swept(path: Path) -> Sweep:
    (sweep,) = find([path]).sweeps
    return sweep


def grid(path: Path, effect: dict[str, dict[object, float]], noise: float = 0.0) -> Path:
    """A full grid whose accuracy is a sum of effects."""
    random = np.random.default_rng(0)
    for number, values in enumerate(itertools.product(*effect.values())):
        given = dict(zip(effect, values, strict=True))
        accuracy = sum(effect[key][value] for key, value in given.items())
        job(path / str(number), accuracy + noise * random.normal(), **given)
    return path


def test_shares_of_variance_are_those_of_an_analysis_of_variance(tmp_path: Path) -> None:
    effect: dict[str, dict[object, float]] = {
        "lr": {0.1: 0.3, 0.01: 0.5, 0.001: 0.1},
        "width": {64: 0.0, 128: 0.1},
        "seed": {1: 0.0, 2: 0.0},
    }
    sweep = swept(grid(tmp_path, effect))
    assert sweep.importance is not None
    parts = {key: float(np.var(list(values.values()))) for key, values in effect.items()}
    expected = {key: part / sum(parts.values()) for key, part in parts.items()}
    assert sweep.importance.shares == pytest.approx(expected)
    assert list(sweep.importance.shares) == ["lr", "width", "seed"]
    assert "variance" in sweep.importance.measure
    best = sweep.best()
    assert best is not None
    assert sweep.values[best] == {"lr": "0.01", "width": "128", "seed": "1"}


def test_failed_jobs_are_left_out_and_counted(tmp_path: Path) -> None:
    grid(tmp_path, {"lr": {0.1: 0.3, 0.01: 0.5, 0.001: 0.1}})
    job(tmp_path / "9", None, lr=5)
    sweep = swept(tmp_path)
    assert sweep.results()[-1] is None
    assert sweep.notes == ["Of 4 jobs, not completed: 1 failed."]
    assert sweep.best() == 1


def test_a_parameter_with_a_value_a_job_explains_nothing_beside_others(tmp_path: Path) -> None:
    for number, (lr, width) in enumerate([(0.1, 1), (0.2, 1), (0.3, 2), (0.4, 2)]):
        job(tmp_path / str(number), 0.5 + 0.1 * number, lr=lr, width=width)
    sweep = swept(tmp_path)
    assert sweep.importance is not None
    assert set(sweep.importance.shares) == {"width"}
    assert "No two jobs share a value of lr: not judged." in sweep.notes


@pytest.mark.parametrize("accuracies", [[None, None, None], [0.5, 0.5, 0.5], [0.5, 0.6]])
def test_too_little_to_judge_by_is_no_importance(
    tmp_path: Path, accuracies: list[float | None]
) -> None:
    for number, accuracy in enumerate(accuracies):
        job(tmp_path / str(number), accuracy, lr=number)
    assert swept(tmp_path).importance is None


# A database takes its time over each trial.
@pytest.mark.parametrize(("storage", "trials"), [("optuna.db", 5), ("optuna.journal", 12)])
def test_a_studys_importance_and_direction_are_optunas(
    tmp_path: Path, storage: str, trials: int
) -> None:
    if storage == "optuna.db":
        where: object = f"sqlite:///{tmp_path / storage}"
    else:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            where = JournalStorage(JournalFileBackend(str(tmp_path / storage)))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="sweep", storage=where, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.set_user_attr("search", {"metric": "eval.loss"})
    for number in range(trials):
        trial = study.ask()
        lr, width = trial.suggest_float("lr", 1e-4, 1, log=True), trial.suggest_int("width", 1, 9)
        folder = job(tmp_path / f"trial-{number:04d}_x", 0.5, lr=lr, width=width)
        if number == trials - 1:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            text = (folder / "summary.json").read_text()
            (folder / "summary.json").write_text(text.replace("completed", "interrupted"))
        else:
            study.tell(trial, math.log10(lr) ** 2 + 0.01 * width)
    sweep = swept(tmp_path)
    assert (sweep.objective, sweep.maximize) == ("eval/loss", False)
    assert sweep.importance is not None
    assert set(sweep.importance.shares) == {"lr", "width"}
    if trials > 10:
        assert next(iter(sweep.importance.shares)) == "lr"
    assert sum(sweep.importance.shares.values()) == pytest.approx(1)
    assert "Optuna" in sweep.importance.measure
    assert f"Optuna's study has {trials} trials: {trials - 1} complete, 1 pruned." in sweep.notes
    assert [run.status for run in sweep.runs] == ["completed"] * (trials - 1) + ["pruned"]
    assert sweep.runs[2].name.startswith("2: lr=")


def test_a_storage_that_is_none_is_a_note(tmp_path: Path) -> None:
    grid(tmp_path, {"lr": {0.1: 0.3, 0.01: 0.5, 0.001: 0.1}})
    (tmp_path / "optuna.db").write_bytes(b"no database at all" * 100)
    sweep = swept(tmp_path)
    assert any(note.startswith("optuna.db could not be read") for note in sweep.notes)
    assert sweep.importance is not None
