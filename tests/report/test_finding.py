"""Paths become runs and sweeps, each run once and under a name of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvdkit.errors import HvdkitError
from hvdkit.report.finding import find, unique_names
from hvdkit.report.tables import jobs
from tests.report.folders import curve, job, written


def test_a_folder_of_runs_is_its_runs_in_the_order_that_people_count(tmp_path: Path) -> None:
    for name in ("b10", "b9", "a"):
        written(tmp_path / "runs" / name, curve(3))
    (tmp_path / "runs/notes").mkdir()
    found = find([tmp_path / "runs"])
    assert [run.name for run in found.runs] == ["a", "b9", "b10"]
    assert found.sweeps == []


def test_a_run_is_told_once_and_by_the_shortest_name_that_is_its_own(tmp_path: Path) -> None:
    for name in ("x/mlp", "y/mlp", "y/cnn"):
        written(tmp_path / name, curve(3))
    found = find([tmp_path / "x", tmp_path / "y", tmp_path / "x/mlp", tmp_path / "y/../x"])
    assert [run.name for run in found.runs] == ["x/mlp", "cnn", "y/mlp"]
    assert unique_names([Path("/a"), Path("/a/a"), Path("/b/a")]) == ["/a", "a/a", "b/a"]


def test_a_sweeps_jobs_are_named_by_what_they_were_given(tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").touch()
    job(tmp_path / "0", 0.5, optimizer__lr=0.1, seed=1)
    job(tmp_path / "1", 0.6, optimizer__lr=0.2, seed=1)
    job(tmp_path / "10", 0.7, optimizer__lr=0.3, seed=1)
    (tmp_path / "2").mkdir()  # it died before it wrote anything
    found = find([tmp_path])
    (sweep,) = found.sweeps
    assert sweep.parameters == ["optimizer.lr"]
    assert [run.name for run in found.runs] == ["0: lr=0.1", "1: lr=0.2", "2: lr=", "10: lr=0.3"]
    assert [run.status for run in found.runs][2] == "empty"
    assert "Of 4 jobs, not completed: 1 empty." in sweep.notes


def test_jobs_in_folders_named_after_values_are_named_by_what_varies(tmp_path: Path) -> None:
    (tmp_path / "sweep.lock").touch()
    for lr in ("0.123456789012", "0.01"):
        job(tmp_path / f"lr-{lr}_steps-60_a6f93e89", 0.5, optimizer__lr=lr, steps=60)
    found = find([tmp_path])
    assert [run.name for run in found.runs] == ["lr=0.01", "lr=0.1235"]
    assert [row[0].text for row in jobs(found.sweeps[0]).rows] == ["a6f93e89", "a6f93e89"]


def test_jobs_of_two_sweeps_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number, lr in enumerate((0.1, 0.2)):
            job(tmp_path / name / str(number), 0.5, lr=lr)
    found = find([tmp_path / "a", tmp_path / "b"])
    names = [run.name for run in found.runs]
    assert names == ["a/0: lr=0.1", "a/1: lr=0.2", "b/0: lr=0.1", "b/1: lr=0.2"]


def test_a_job_that_never_began_to_train_says_its_last_words(tmp_path: Path) -> None:
    job(tmp_path / "0", 0.5, lr=0.1)
    (tmp_path / "1").mkdir()
    (tmp_path / "1/job.json").write_text('{"overrides": ["lr=0.2"]}')
    (tmp_path / "1/job.log").write_text("starting\nhvdkit: no such model\n")
    found = find([tmp_path])
    assert [run.name for run in found.runs] == ["0: lr=0.1", "1: lr=0.2"]
    assert "job.log: hvdkit: no such model" in found.runs[1].notes


@pytest.mark.parametrize("what", ["nothing", "a file", "an empty folder", "other folders"])
def test_what_is_neither_is_one_message_that_says_what_was_looked_for(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "there"
    if what == "a file":
        path.touch()
    elif what != "nothing":
        path.mkdir()
    if what == "other folders":
        (path / "src/deep").mkdir(parents=True)
        written(path / "src/deep/run", curve(2))
    with pytest.raises(HvdkitError) as raised:
        find([path])
    message = str(raised.value)
    assert str(path) in message
    if path.is_dir():
        for name in ("metrics.jsonl", "summary.json", ".hydra/config.yaml", "directly below"):
            assert name in message
