"""deploy/slurm/train.sbatch on a real Slurm: out of time, and preempted, it goes on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.slurm_node import Slurm, one_node

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/slurm/train.sbatch"
pytestmark = [
    pytest.mark.launch,
    pytest.mark.system("slurmctld", "slurmd", "sbatch", "srun", "unshare"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with one_node(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def submit(slurm: Slurm, folder: Path, *options: str) -> str:
    """A long training run by the script; returns the job's number."""
    path = f"PATH={Path(sys.executable).parent}:{slurm.environ['PATH']}"
    words = (f"hydra.run.dir={folder / 'run'}", "trainer.num_epochs=100000", "trainer.log_every=10")
    command: tuple[str | Path, ...] = ("sbatch", "--parsable", "--exclusive", *options)
    return slurm.command(
        *("env", path, *command, f"--chdir={ROOT}", f"--output={folder / 'log'}"),
        *(SCRIPT, "recipes/vision.py", *words),
    )


def wait_until(condition: Callable[[], bool], what: Callable[[], str], timeout: float) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


def steps(folder: Path) -> list[int]:
    """The steps that the run has logged; a resume cuts back what its checkpoint lacks."""
    path = folder / "run/metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run/summary.json").read_text())


@dataclass
class Training:
    """A job of the script, and the run that it trains."""

    slurm: Slurm
    folder: Path
    number: str

    def wait_past(self, step: int) -> None:
        log = self.folder / "log"
        wait_until(lambda: max(steps(self.folder), default=0) > step, log.read_text, 120)

    def wait_interrupted(self, state: str) -> int:
        """The step it stopped at, once Slurm has it in this state."""
        self.slurm.wait_for(self.number, state, 90)
        # A preempted job is pending again while its processes still save.
        written = self.folder / "run/summary.json"
        wait_until(written.exists, (self.folder / "log").read_text, 60)
        told = summary(self.folder)
        assert (told["status"], told["world_size"]) == ("interrupted", 2)
        return told["steps"]


@pytest.fixture
def training(slurm: Slurm, tmp_path: Path) -> Iterator[Training]:
    """One that has begun."""
    started = Training(slurm, tmp_path, submit(slurm, tmp_path))
    started.wait_past(20)
    yield started
    slurm.command("scancel", started.number)


def test_out_of_time_it_saves_and_goes_on(slurm: Slurm, training: Training) -> None:
    # What Slurm sends two minutes before the limit.
    slurm.command("scancel", "--signal=USR1", "--batch", training.number)
    stopped_at = training.wait_interrupted("PENDING")
    log = training.folder / "log"
    assert "queued again" in log.read_text()
    training.wait_past(stopped_at + 10)
    assert f"Start 1 of job {training.number}" in log.read_text()
    assert f"steps {stopped_at} to" in log.read_text()
    # Asked to end by a person, not by Slurm: it saves, and is not queued again.
    slurm.command("scancel", "--signal=TERM", "--batch", training.number)
    training.wait_interrupted("FAILED")


@pytest.mark.soak
def test_preempted_it_saves_and_goes_on(slurm: Slurm, training: Training) -> None:
    other = slurm.command(
        *("sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null"),
        *("--wrap", "sleep 1"),
    )
    slurm.wait_for(other, "COMPLETED", 120)
    stopped_at = training.wait_interrupted("PENDING")
    training.wait_past(stopped_at + 10)
    assert f"steps {stopped_at} to" in (training.folder / "log").read_text()


def test_without_a_recipe_it_says_what_to_name(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.command("sbatch", "--parsable", f"--output={tmp_path / 'log'}", SCRIPT)
    slurm.wait_for(job, "FAILED", 30)
    assert "Name a recipe" in (tmp_path / "log").read_text()
