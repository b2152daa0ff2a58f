"""Sweeps of real jobs: slots are never over-used, a lost rank is one job's loss, no job runs twice.

What the jobs did is read from the diaries that their ranks keep (`sweep_program.py`) and from
their run folders, never from what the sweep says of itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

SLOTS = 2
EVERY = 10
SMALL = (
    "model.hidden=[8]",
    "trainer.num_epochs=null",
    "trainer.num_steps=40",
    f"trainer.checkpoint_every={EVERY}",
    "trainer.log_every=5",
    "callbacks.tensorboard=null",
    # Slow to read, that there is time to see a job running.
    "~data.source",
    "+data.source._target_=tests.distributed.slow.digits_slow_on",
    "+data.source.rank=0",
    "data.prefetch=0",
)


class Sweep:
    """A sweep in a folder of its own, which can be begun again."""

    def __init__(self, start, base, np, *overrides):
        self._start, self.np = start, np
        self.folder, self.diary = base / "sweep", base / "diary"
        self.diary.mkdir()
        self.overrides = overrides

    def begin(self, *more, timeout=800):
        """Start the sweep's process."""
        return self._start(
            [
                sys.executable,
                "tests/distributed/sweep_program.py",
                "-m",
                "hydra/launcher=horovod",
                f"hydra.launcher.np={self.np}",
                f"hydra.launcher.hosts=localhost:{SLOTS}",
                f"hydra.sweep.dir={self.folder}",
                *SMALL,
                f"+data.source.seconds={0.0005 * self.np}",  # 32 ms a step
                *self.overrides,
                *more,
            ],
            env={"PYTHONPATH": os.getcwd(), "DIARY": str(self.diary), "OMP_NUM_THREADS": "1"},
            timeout=timeout,
        )

    def ranks(self) -> list[dict[str, Any]]:
        """The diaries of all ranks so far, in the order of their beginnings."""
        found = []
        for path in sorted(self.diary.glob("*.json")):
            found.append({"end": path.stat().st_mtime, **json.loads(path.read_text())})
        return found

    def jobs(self) -> dict[str, Path]:
        """Run folders by the first of their overrides that this sweep varies."""
        found = {}
        for path in sorted(self.folder.glob("*/job.json")):
            varied = [w for w in json.loads(path.read_text())["overrides"] if "optimizer.lr" in w]
            found[varied[0]] = path.parent
        return found

    def summary(self, job: str) -> dict[str, Any]:
        return json.loads((self.jobs()[job] / "summary.json").read_text())

    def statuses(self) -> set[str]:
        return {self.summary(job)["status"] for job in self.jobs()}

    def has_logged(self, job: str) -> bool:
        return job in self.jobs() and (self.jobs()[job] / "metrics.jsonl").exists()

    def has_saved(self, job: str) -> bool:
        return job in self.jobs() and (self.jobs()[job] / "checkpoints/latest").exists()

    def check_slots(self) -> None:
        """Hold that never more ranks lived than there are slots."""
        ranks = self.ranks()
        changes = [(r["begin"], 1) for r in ranks] + [(r["end"], -1) for r in ranks]
        alive, most = 0, 0
        for _, change in sorted(changes):
            alive += change
            most = max(most, alive)
        assert most <= SLOTS, f"{most} ranks at once"
        assert most == SLOTS, "the slots were not used"
        assert {r["sharers"] for r in ranks} == {SLOTS}, "cores are shared by all of them"
        assert {r["ranks"] for r in ranks} == {self.np}


def step_of(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r["step"] for r in map(json.loads, lines) if "train/loss" in r]


@pytest.fixture
def sweep(start, tmp_path):
    def sweep(np, *overrides):
        return Sweep(start, tmp_path, np, *overrides)

    return sweep


def kill_a_rank(sweep, job, name):
    """SIGKILL the rank of a job, once it is training."""
    job.wait_until(lambda: sweep.has_logged(name))
    folder = str(sweep.jobs()[name])
    (victim,) = (
        p
        for p in job.processes()
        if "OMPI_COMM_WORLD_RANK" in p.environ() and folder in " ".join(p.cmdline())
    )
    victim.send_signal(signal.SIGKILL)


def check_a_killed_rank(sweep: Sweep, values: list[float]) -> None:
    """One rank is killed: its job alone has failed, and alone is run by the next sweep."""
    names = [f"optimizer.lr={value}" for value in values]
    job = sweep.begin("optimizer.lr=" + ",".join(map(str, values)), timeout=130 * len(values))
    kill_a_rank(sweep, job, names[1])
    assert job.wait() == 1, job.output
    assert f"1 of {len(values)} jobs failed: 1; the same command" in job.output
    assert re.search(r"job 1 \(optimizer.lr=\S+\) failed", job.output)
    assert "Traceback" not in job.output
    whole = [name for name in names if name != names[1]]
    assert {sweep.summary(name)["status"] for name in whole} == {"completed"}
    sweep.check_slots()
    ran = len(sweep.ranks())
    assert ran == len(values)
    before = {name: (sweep.jobs()[name] / "summary.json").stat().st_mtime_ns for name in whole}

    again = sweep.begin("optimizer.lr=" + ",".join(map(str, values)))
    assert again.wait() == 0, again.output
    assert sweep.statuses() == {"completed"}
    assert len(sweep.ranks()) == ran + 1, "only the one that had failed"
    assert again.output.count("was completed earlier and is not run again") == len(whole)
    for name, time_ns in before.items():
        assert (sweep.jobs()[name] / "summary.json").stat().st_mtime_ns == time_ns


@pytest.mark.timeout(900)
def test_a_killed_rank_is_one_jobs_loss(sweep):
    check_a_killed_rank(sweep(1), [0.1, 0.2, 0.3])


def check_interrupted_sweeps(sweep: Sweep, values: list[float]) -> None:
    """Ctrl-C, then SIGKILL of the sweep, then the rest: every step of every job was taken once."""
    names = [f"optimizer.lr={value}" for value in values]
    lrs = "optimizer.lr=" + ",".join(map(str, values))
    first = sweep.begin(lrs)
    first.wait_until(lambda: sweep.has_saved(names[0]))
    first.send(signal.SIGINT)
    assert first.wait() == 130, first.output
    assert f"interrupted: 0 of {len(values)} jobs are completed; the same command" in first.output
    assert sweep.summary(names[0])["status"] == "interrupted"
    at = sweep.summary(names[0])["steps"]
    assert at >= EVERY

    second = sweep.begin(lrs)
    second.wait_until(lambda: sweep.has_saved(names[1]))
    assert sweep.summary(names[0])["status"] == "completed"
    assert f"job 0 goes on on localhost:{sweep.np}" in second.output
    second.send(signal.SIGKILL)
    # At once: its job still has the slots, and the next sweep waits until it has ended.
    third = sweep.begin(lrs, timeout=130 * len(values))
    assert third.wait() == 0, third.output
    assert second.wait() == -signal.SIGKILL
    assert f"job 0 ({names[0]}) was completed earlier" in third.output
    assert f"job 1 goes on on localhost:{sweep.np}" in third.output
    assert sweep.statuses() == {"completed"}
    assert len(sweep.jobs()) == len(values)
    sweep.check_slots()
    assert len(sweep.ranks()) == (len(values) + 2) * sweep.np, "two of them in two parts"
    for name in names:
        assert step_of(sweep.jobs()[name]) == list(range(5, 41, 5)), "each step once"
        assert sweep.summary(name)["world_size"] == sweep.np


@pytest.mark.timeout(900)
def test_a_sweep_that_was_interrupted_and_killed_does_only_the_rest(sweep):
    check_interrupted_sweeps(sweep(2), [0.1, 0.2, 0.3])


def load(folder: Path, storage: str) -> optuna.Study:
    """The study in a sweep's folder."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        where: Any = f"sqlite:///{folder / 'optuna.db'}"
        if storage == "journal":
            file = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
            where = optuna.storages.JournalStorage(file)
        return optuna.load_study(study_name="sweep", storage=where)
    finally:
        optuna.logging.set_verbosity(before)


@pytest.mark.timeout(900)
def test_a_search_prunes_and_survives_its_own_death(sweep):
    search = sweep(
        1,
        "hydra/sweeper=optuna",
        "hydra.sweeper.sampler=grid",
        "hydra.sweeper.n_jobs=1",  # so that the second is compared with the first
        "hydra.sweeper.pruner=median",
        "hydra.sweeper.startup_trials=1",
        "hydra.sweeper.metric=train_loss",
        "optimizer.lr=0.02,1e-06,0.1",
    )
    first = search.begin()
    first.wait_until(lambda: search.has_saved("optimizer.lr=0.1"))
    first.send(signal.SIGKILL)
    second = search.begin()
    assert second.wait() == 0, second.output
    assert first.wait() == -signal.SIGKILL
    trials = load(search.folder, "sqlite").trials
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED", "COMPLETE"], second.output
    assert [t.params["optimizer.lr"] for t in trials] == ["0.02", "1e-06", "0.1"]
    assert "1 completed, 1 pruned, 1 to go on with from an earlier sweep" in second.output
    # Each job once, and the killed one in two parts; the pruned one ended before its end.
    assert len(search.ranks()) == 4
    assert len(search.jobs()) == 3
    assert step_of(search.jobs()["optimizer.lr=0.1"]) == list(range(5, 41, 5))
    assert step_of(search.jobs()["optimizer.lr=1e-06"])[-1] < 40
    for trial, name in ((trials[0], "optimizer.lr=0.02"), (trials[2], "optimizer.lr=0.1")):
        assert trial.value == search.summary(name)["train_loss"]
    best = min((trials[0], trials[2]), key=lambda t: t.value)
    file = (search.folder / "experiment/best.yaml").read_text()
    assert f"# Trial {best.number}: train_loss" in file
    assert f"with optimizer.lr={best.params['optimizer.lr']}.\n" in file


@pytest.mark.soak
def test_twelve_jobs_of_one_rank_on_two_slots(sweep):
    check_a_killed_rank(sweep(1), [round(0.01 * i, 2) for i in range(1, 13)])


@pytest.mark.soak
def test_twelve_jobs_of_two_ranks_on_two_slots(sweep):
    check_interrupted_sweeps(sweep(2), [round(0.01 * i, 2) for i in range(1, 13)])


@pytest.mark.soak
@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_twenty_trials_find_no_worse_a_rate_than_the_default(start, recipe, tmp_path, storage):
    """On the digits, killed twice on the way; the best file then trains to the same accuracy."""
    options = {"env": {"OMP_NUM_THREADS": "1"}, "timeout": 1700}
    folder = tmp_path / "search"
    command = [sys.executable, "recipes/vision.py", "-m", "hydra/launcher=horovod"]
    command += ["hydra/sweeper=optuna", "hydra.launcher.hosts=localhost:2"]
    command += ["hydra.sweeper.metric=eval.accuracy", "hydra.sweeper.n_trials=20"]
    command += [f"hydra.sweeper.storage={storage}", f"hydra.sweep.dir={folder}"]
    command += ["optimizer.lr=tag(log,interval(1e-3,1))", "framework.threads=1"]

    def told():
        return len(list(folder.glob("trial-*/summary.json")))

    for kill_at in (5, 12):
        job = start(command, **options)
        job.wait_until(lambda at=kill_at: told() >= at)
        job.send(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
    job = start(command, **options)
    assert job.wait() == 0, job.output
    study = load(folder, storage)
    assert [t.number for t in study.trials] == list(range(20))
    assert {t.state.name for t in study.trials} == {"COMPLETE"}
    numbers = sorted(int(path.name[6:10]) for path in folder.glob("trial-*"))
    assert numbers == list(range(20)), "a folder each"
    for trial in study.trials:
        (path,) = folder.glob(f"trial-{trial.number:04d}_*/summary.json")
        assert json.loads(path.read_text())["eval"]["accuracy"] == trial.value

    found = {}
    for name, words in (
        ("default", []),
        ("best", ["experiment=best", "--config-dir", str(folder)]),
    ):
        job = recipe(tmp_path / name, "framework.threads=1", *words, np=1, **options)
        assert job.wait() == 0, job.output
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        found[name] = summary["eval"]["accuracy"]
    print(f"default {found['default']:.4f}, best of 20 trials {found['best']:.4f}")
    assert found["best"] == study.best_value >= found["default"]
