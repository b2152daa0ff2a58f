"""A search that is killed between any two of its writes goes on: no trial lost, none doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from hvdkit.errors import HvdkitError
from hvdkit.sweep.space import read_space
from hvdkit.sweep.study import SearchOptions, Trials, check_search
from tests.compose import CONF


def kill_everywhere(folder: Path, storage: str, sampler: str, *, step: int) -> list[dict[str, Any]]:
    """A search killed before each `step`-th of its writes, and gone on with; what came of each."""
    program = [sys.executable, "-m", "tests.sweep.killed_study"]
    done = subprocess.run(
        [*program, str(folder), storage, sampler, str(step)],
        cwd=CONF.parent,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    states = ["COMPLETE", "FAIL", "PRUNED", "COMPLETE"]
    assert [row[1] for row in told["whole"]] == states
    assert [end["killed"] for end in told["ends"]] == [True] * (len(told["ends"]) - 1) + [False]
    return told["ends"]


# A write to SQLite takes long: all of them are for `make soak`.
@pytest.mark.parametrize(
    ("storage", "sampler", "step", "kills"),
    [
        ("journal", "tpe", 1, 20),
        ("journal", "grid", 1, 20),
        ("sqlite", "tpe", 6, 4),
        pytest.param("sqlite", "tpe", 1, 20, marks=pytest.mark.soak),
        pytest.param("sqlite", "grid", 1, 20, marks=pytest.mark.soak),
    ],
)
def test_a_kill_at_any_write_loses_and_doubles_no_trial(
    tmp_path: Path, storage: str, sampler: str, step: int, kills: int
) -> None:
    ends = kill_everywhere(tmp_path, storage, sampler, step=step)
    assert len(ends) > kills
    for end in ends:
        # The one that failed is run again, in a trial of its own, by the sweep that goes on.
        trials = [row for row in end["told"] if row[4] is None]
        again = [row for row in end["told"] if row[4] is not None]
        assert [row[0] for row in end["told"]] == list(range(len(end["told"]))), end
        assert len(trials) == 4, end
        assert {row[4] for row in again} <= {row[0] for row in end["told"] if row[1] == "FAIL"}
        assert len({row[4] for row in again}) == len(again), "once each"
        # What was given out before the kill has the same number and values after it.
        values = {number: [x, y] for number, _, x, y, _ in end["told"]}
        for number, x, y in end["given"]:
            assert values[number] == [x, y], end
        # And nothing that was told is given out a second time.
        before = [number for number, *_ in end["before"]]
        assert before == sorted(set(before))
        assert len(end["given"]) <= len(end["told"]) + 1, "only the one that was running"
        if sampler == "grid":
            points = [(x, y) for _, _, x, y, again in end["told"] if again is None]
            assert points == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


@pytest.fixture
def trials(tmp_path):
    """Open the study in the test's folder."""
    before = optuna.logging.get_verbosity()

    def trials(space="x=interval(0,1)", **options):
        options = {"metric": "eval.loss", "n_trials": 4, "storage": "journal", **options}
        return Trials(tmp_path, read_space(space.split()), SearchOptions(**options))

    yield trials
    optuna.logging.set_verbosity(before)


def finish(trials: Trials, count: int) -> None:
    for _ in range(count):
        trial = trials.ask()
        assert trial is not None
        trials.study.tell(trial.number, values=trial.params["x"])


def test_a_finished_study_is_not_taken_for_another_search(trials):
    finish(trials(), 1)
    for change in ({"space": "x=interval(0,2)"}, {"direction": "maximize"}, {"metric": "eval.auc"}):
        with pytest.raises(HvdkitError, match=r"another search.*hydra\.sweep\.dir=") as caught:
            trials(**change)
        assert next(iter(change)) in str(caught.value)
    # Neither more trials nor another way of choosing them make another search.
    finish(trials(n_trials=6, sampler="random", pruner="asha"), 5)
    assert trials(n_trials=6).ask() is None


def test_a_search_of_which_nothing_is_finished_gives_way(trials):
    assert trials(metric="eval.acuracy", direction="maximize").ask() is not None
    again = trials()
    assert again.all() == []
    finish(again, 4)


def test_equal_seeds_draw_equal_values_and_others_do_not(tmp_path, trials):
    def drawn(name, **options):
        (tmp_path / name).mkdir()
        study = Trials(
            tmp_path / name,
            read_space(["x=interval(0,1)"]),
            SearchOptions(metric="eval.loss", n_trials=12, storage="journal", **options),
        )
        finish(study, 12)
        return [trial.params["x"] for trial in study.all()]

    trials()
    one, same, other = drawn("one"), drawn("same"), drawn("other", seed=1)
    assert one == same != other
    assert len(set(one)) == len(one)


def test_a_failed_trial_is_run_once_again_by_the_next_sweep(trials):
    first = trials(n_trials=2)
    x = first.ask().params["x"]
    first.study.tell(0, state=TrialState.FAIL)
    assert first.ask().number == 1, "not by the same one"
    first.study.tell(1, values=1.0)
    assert first.ask() is None
    again = trials(n_trials=2).ask()
    assert (again.number, again.params["x"]) == (2, x)


def test_a_grid_has_an_end(trials):
    study = trials("x=range(0,3)", sampler="grid", n_trials=None)
    finish(study, 3)
    assert study.ask() is None
    assert [t.params["x"] for t in study.all()] == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "eval_every", "says"),
    [
        ({"metric": "eval.accuracy", "pruner": "asha"}, None, "set trainer.eval_every"),
        ({"metric": "step_ms_median", "pruner": "median"}, 5, "not logged while a job runs"),
        ({"metric": "eval.mine"}, 5, "say hydra.sweeper.direction="),
        ({"metric": "eval.loss", "sampler": "grid"}, 5, "a grid needs values"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, eval_every, says):
    config = {"trainer": {"eval_every": eval_every}}
    with pytest.raises(HvdkitError, match=says):
        check_search(SearchOptions(**options), read_space(["x=interval(0,1)"]), [config])
