"""A sweep that cannot be run whole is refused whole: one message, before any job has started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvdkit.errors import HvdkitError
from hvdkit.sweep.job import SweepJob
from hvdkit.sweep.launch import Listed, value_of
from hvdkit.sweep.runner import Outcome
from tests.compose import CONF

OPTUNA = "hydra/sweeper=optuna"


def refusal(folder: Path, *words: str, launcher: str = "horovod") -> str:
    program = [sys.executable, str(CONF.parent / "recipes/vision.py"), "-m"]
    done = subprocess.run(
        [*program, f"hydra/launcher={launcher}", *words, "hydra.sweep.dir=sweep"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CONF.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not list(folder.rglob("job.json")), "a job has begun"
    return done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optimizer.lr=choice(0.1"], ["optimizer.lr=choice(0.1 cannot be read", "docs/sweeps.md"]),
        (["optimizer.lr=interval(0.1,1)"], ["add hydra/sweeper=optuna, or name the values"]),
        (["optimizer=sgd,adem"], ["optimizer=adem is not known (did you mean adam?)"]),
        (
            ["optimizer.lr=0.1,0.2,0.3,0.4,0.5,0.6,-1"],
            ["job 6 (optimizer.lr=-1): optimizer.lr=-1 must be above 0"],
        ),
        (
            ["data.batch_size=64,1", "hydra.launcher.np=2", "hydra.launcher.hosts=localhost:2"],
            ["job 1 (data.batch_size=1): data.batch_size=1 cannot be cut into 2 slices"],
        ),
        (["optimizer.lr=0.1,0.10"], ["jobs 0 and 1 are the same", "name each value once"]),
        (
            ["hydra.launcher.np=3", "hydra.launcher.hosts=localhost:2"],
            ["hydra.launcher.np=3 is more than the 2 slots there are (localhost:2)"],
        ),
        (["hydra.launcher.hosts=localhost:x"], ["'localhost:x'", "NAME:SLOTS"]),
        (["hydra.launcher.np=two"], ["hydra.launcher.np=two", "Integer"]),
        (["hydra.launcher.controller=tcp"], ["is not one of mpi, gloo"]),
        ([OPTUNA], ["nothing to search over"]),
        ([OPTUNA, "optimizer.lr=1,-3"], ["optimizer.lr=-3 must be above 0"]),
        ([OPTUNA, "optimizer.lr=1,2", "hydra.sweeper.sampler=tp"], ["did you mean tpe?"]),
        (
            [OPTUNA, "optimizer.lr=1,2", "hydra.sweeper.pruner=asha"],
            ["eval.loss is measured at the end only", "set trainer.eval_every"],
        ),
    ],
)
def test_one_message_says_what_to_do(tmp_path: Path, words: list[str], says: list[str]) -> None:
    said = refusal(tmp_path, *words)
    assert all(part in said for part in says), said


def test_optuna_needs_slots(tmp_path: Path) -> None:
    assert "add hydra/launcher=horovod" in refusal(
        tmp_path, OPTUNA, "optimizer.lr=1,2", launcher="basic"
    )


def test_with_fail_fast_the_first_failure_ends_the_sweep(tmp_path: Path) -> None:
    job = SweepJob(number=4, overrides=(), label="x=1", folder=tmp_path, config={}, ranks=1)
    failed = Outcome(status="failed", reason="ended with status 3")
    Listed([job], fail_fast=False).ended(job, failed)
    with pytest.raises(HvdkitError, match=r"job 4 \(x=1\) failed: ended with status 3"):
        Listed([job], fail_fast=True).ended(job, failed)


def test_a_result_is_a_number_of_the_summary() -> None:
    summary = {"status": "completed", "train_loss": None, "steps": 3, "eval": {"accuracy": 0.5}}
    assert value_of(summary, "eval.accuracy") == 0.5
    assert value_of(summary, "train_loss") is None
    with pytest.raises(HvdkitError, match=r"no eval\.acuracy \(did you mean eval\.accuracy\?\)"):
        value_of(summary, "eval.acuracy")
    with pytest.raises(HvdkitError, match="status is not a number"):
        value_of(summary, "status")
