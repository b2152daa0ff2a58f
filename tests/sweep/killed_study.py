"""A program for a test: kills a search at each of its writes, goes on with it, prints what is left.

    python -m tests.sweep.killed_study FOLDER STORAGE SAMPLER STEP

For N = 1, 1 + STEP, 1 + 2 STEP, ... a child process begins a search of a few trials and is killed
by SIGKILL just before its N-th write to the storage; the parent then goes on with it in the same
folder until it is done, and another search, in a folder of its own, is never killed. The last N
is the first that no write reaches.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from hvdkit.sweep.space import read_space
from hvdkit.sweep.study import SearchOptions, Trials

WRITES = (
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "create_new_trial",
    "set_trial_param",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_state_values",
    "set_trial_intermediate_value",
)
SPACES = {"grid": ["x=range(0,3)", "y=a,b"], "tpe": ["x=interval(0,1)", "y=a,b"]}


def search(folder: Path, storage: str, sampler: str) -> Trials:
    """Run to its end: each trial is told its x, as its job would have it in summary.json.

    Trial 1 fails, trial 2 is pruned. `told.jsonl` gets every (number, x, y) that is given out.
    """
    folder.mkdir(exist_ok=True)
    options = SearchOptions(
        metric="eval.loss", sampler=sampler, storage=storage, n_trials=4, pruner="median"
    )
    trials = Trials(folder, read_space(SPACES[sampler]), options)
    while trial := trials.ask():
        with (folder / "told.jsonl").open("a") as file:
            file.write(json.dumps([trial.number, trial.params["x"], trial.params["y"]]) + "\n")
        if trial.number not in trial.storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(0.5, trial.number)
        if trial.number == 1:
            trials.study.tell(trial.number, state=TrialState.FAIL)
        elif trial.number == 2:
            trials.study.tell(trial.number, state=TrialState.PRUNED)
        else:
            trials.study.tell(trial.number, values=trial.params["x"])
    return trials


def kill_at(write: int) -> None:
    """From now on, end this process at its `write`-th write to any storage."""
    count = itertools.count(1)

    def watched(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(count) == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*args, **kwargs)

        return call

    # Of the cached storage, which a study writes through, and of the journal's own.
    for kind in (optuna.storages._CachedStorage, optuna.storages.JournalStorage):
        for name in WRITES:
            setattr(kind, name, watched(getattr(kind, name)))


def given_out(folder: Path) -> list[Any]:
    path = folder / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def told(trials: Trials) -> list[Any]:
    return [
        [t.number, t.state.name, t.params["x"], t.params["y"], t.user_attrs.get("again")]
        for t in trials.all()
    ]


def main() -> None:
    base, storage, sampler, step = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    whole = told(search(base / "whole", storage, sampler))
    ends: list[dict[str, Any]] = []
    while not ends or ends[-1]["killed"]:
        folder = base / str(len(ends))
        child = os.fork()
        if child == 0:
            kill_at(1 + len(ends) * step)
            search(folder, storage, sampler)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        ends.append(
            {
                "killed": os.WIFSIGNALED(status),
                "before": given_out(folder),
                "told": told(search(folder, storage, sampler)),
                "given": given_out(folder),
            }
        )
    print(json.dumps({"whole": whole, "ends": ends}))


if __name__ == "__main__":
    main()
