"""`hvdkit launch` ends every job in good order: asked to, or for a rank that fails or stands still.

Each case takes up the run that the case before it has left, so that every ending is also shown
to be one that the next run resumes from.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.distributed.conftest import ROOT

RANKS = 2
EVERY = 20
RUN = (
    "trainer.num_epochs=null",
    "trainer.num_steps=1000000",
    f"trainer.checkpoint_every={EVERY}",
    "trainer.log_every=20",
    "trainer.resume=true",
    "data.batch_size=48",
    "model.hidden=[32]",
    "schedule=constant",
    "callbacks.tensorboard=null",
    "callbacks.progress=null",
)
SECONDS = 10.0  # from the signal to the end of the job's last process, on an idle machine


def leave(rank, how):
    target = "tests.distributed.leaving.Leave"
    return f"+callbacks.leave={{_target_:{target},rank:{rank},steps:30,how:{how}}}"


def slowness():
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def launched(start):
    """Start a recipe by `hvdkit launch`."""

    def launched(folder, *overrides, launcher="mpi", flags=(), timeout=150):
        command = [sys.executable, "-m", "hvdkit", "launch", "-np", str(RANKS), f"--{launcher}"]
        command += [*flags, "recipes/vision.py", f"hydra.run.dir={folder}", *overrides]
        return start(command, timeout=timeout, env={"PYTHONPATH": str(ROOT)})

    return launched


def step_of_latest(folder: Path) -> int:
    """The step of the newest checkpoint that is published. A job killed at once after that has
    not changed the file `latest`, which is for people, any more."""
    found = (folder / "checkpoints").glob("step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in found), default=0)


def checkpoints_are_whole(folder: Path) -> None:
    """Every published checkpoint has its manifest and all files that it names."""
    found = list((folder / "checkpoints").glob("step-*"))
    assert found
    for path in found:
        manifest = json.loads((path / "manifest.json").read_text())
        assert all((path / name).stat().st_size for name in manifest["files"])


class Case:
    """One way of ending: what is done to a running job, and how it must end.

    `patience`: seconds that are not the launcher's own, as a stall has to be waited for.
    """

    def __init__(self, act, status, *, says, more=(), summary=None, patience=0.0):
        self.act, self.status, self.says, self.more = act, status, says, more
        self.summary, self.patience = summary, patience


def ask(number):
    return lambda job: job.send(number)


def twice(job):
    job.send(signal.SIGINT)
    job.wait_until(lambda: "stopping" in job.output)
    job.send(signal.SIGINT)


def to_rank(number, rank):
    return lambda job: job.rank(rank).send_signal(number)


def nothing(job):
    job.wait_until(lambda: "hvdkit: " in job.output)


STALL = 10.0
# Under Gloo the launcher says 1 for any rank; what the rank itself said, or its killer, counts.
CASES = {
    "SIGTERM": Case(ask(signal.SIGTERM), 143, says="stopping", summary="interrupted"),
    "Ctrl-C": Case(ask(signal.SIGINT), 130, says="Ctrl-C again kills", summary="interrupted"),
    "Ctrl-C twice": Case(twice, 130, says="(killed: steps since|interrupted at step)"),
    "SIGKILL of a rank": Case(to_rank(signal.SIGKILL, 1), 137, says=r"rank 1 \(.*SIGKILL"),
    "SIGSTOP of a rank": Case(
        to_rank(signal.SIGSTOP, 1),
        124,
        says=r"stands still and was ended: rank 1 \(",
        patience=STALL + 5,
    ),
    "a rank exits 0": Case(
        nothing, None, says="rank 1 .*left before the others", more=(leave(1, "vanish"),)
    ),
    "a rank fails": Case(
        nothing, 1, says="rank 1 .*failed: RuntimeError: the rank's own", more=(leave(1, "raise"),)
    ),
}


def check_case(launched, folder, name, launcher):
    case = CASES[name]
    before = step_of_latest(folder)
    flags = ("--stall-timeout", str(STALL))
    job = launched(folder, *RUN, *case.more, launcher=launcher, flags=flags)
    if case.more:
        case.act(job)
    else:
        job.wait_until(lambda: step_of_latest(folder) > before + EVERY)
        case.act(job)
    began, load = time.monotonic(), slowness()
    code = job.wait()
    took = time.monotonic() - began
    assert re.search(case.says, job.output), job.output
    assert "Traceback" not in job.output, job.output
    if before:
        assert re.search(rf"steps {before} to", job.output), "it went on from the checkpoint"
    if case.status is None:
        assert code != 0
    else:
        assert code == case.status, job.output
    if case.act is not nothing:
        assert took < (SECONDS + case.patience) * load, f"{took:.1f} s at load {load:.1f}"
    if case.summary:
        about = json.loads((folder / "summary.json").read_text())
        assert (about["status"], about["steps"]) == (case.summary, step_of_latest(folder))
    checkpoints_are_whole(folder)
    assert step_of_latest(folder) > before or case.more


@pytest.mark.timeout(900)  # seven jobs, one after the other
@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_every_ending_is_in_good_order(launched, tmp_path, launcher):
    for name in CASES:
        check_case(launched, tmp_path / "run", name, launcher)
    stacks = (tmp_path / "run/stacks.txt").read_text()
    assert [line for line in stacks.splitlines() if line.startswith("====")] == [
        f"==== rank {rank}" for rank in range(RANKS)
    ]
    assert stacks.count("in _fit") >= RANKS  # wherever in the loop each of them was


@pytest.mark.soak
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_ten_of_ten(launched, tmp_path, launcher, name):
    for _ in range(10):
        check_case(launched, tmp_path / "run", name, launcher)


def test_a_mistake_is_told_once(launched, tmp_path):
    job = launched(tmp_path, "optimizer.lr=-1")
    assert job.wait() == 1
    said = [line for line in job.output.splitlines() if line.strip()]
    assert len(said) == 1, job.output
    assert "optimizer.lr=-1 must be" in said[0]


def test_a_finished_job_is_told_plainly(launched, tmp_path):
    """Rank 0's lines as they are, and nothing of the launcher's own."""
    job = launched(tmp_path / "${now:%H-%M-%S.%f}", "trainer.num_epochs=1")
    assert job.wait() == 0
    (folder,) = tmp_path.iterdir()  # whatever the time was on each rank
    assert re.match(r"torch on 2 workers: steps 0 to \d+, batch 64\n", job.output), job.output
    assert "<stdout>" not in job.output
    assert json.loads((folder / "summary.json").read_text())["status"] == "completed"


def test_a_rank_that_sleeps_is_told_from_those_that_wait_for_it(launched, tmp_path):
    flags = ("--stall-timeout", str(STALL))
    job = launched(tmp_path, *RUN, leave(1, "sleep"), flags=flags)
    assert job.wait() == 124
    assert "leaving.py" in job.output
    assert re.search(r"ended: rank 1 \(", job.output), job.output


def test_the_launcher_killed_leaves_no_rank(launched, tmp_path):
    """The ranks notice, write a checkpoint and leave."""
    job = launched(tmp_path, *RUN)
    job.wait_until(lambda: step_of_latest(tmp_path) > EVERY)
    job.send(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL  # and nothing is left, which `wait` sees to
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "interrupted"
