"""A job's folder: found again by the job that made it, and never taken for another's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.launch.environment import DEVICES, Job, current_job, take_devices
from hvdkit.run_folder import append_json, folder_name
from hvdkit.sweep.job import SweepJob, devices, job_command, job_environment
from hvdkit.sweep.runner import Tail
from hvdkit.sweep.slots import Grant

WORD = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=40)


def job(folder: Path, *, lr: float = 0.1, ranks: int = 2, **data: Any) -> SweepJob:
    config = {
        "optimizer": {"lr": lr},
        "data": {"batch_size": 64, "batch_size_per_worker": None, **data},
        "trainer": {"num_steps": 100, "num_epochs": None, "resume": False},
    }
    return SweepJob(
        number=3,
        overrides=(f"optimizer.lr={lr}",),
        label="",
        folder=folder,
        config=config,
        ranks=ranks,
    )


def ended(folder: Path, status: str) -> None:
    (folder / "summary.json").write_text(json.dumps({"status": status}))


def saved(folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/latest").write_text("step-00000010")


def test_only_a_completed_job_is_not_run_again(tmp_path: Path) -> None:
    this = job(tmp_path)
    assert this.prepare() == this.state() == "new"
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert this.state() == "new", "killed before its first checkpoint"
    saved(tmp_path)
    assert this.state() == "interrupted", "killed without a word"
    ended(tmp_path, "interrupted")
    assert this.state() == "interrupted"
    ended(tmp_path, "failed")
    assert this.state() == "new", "what failed begins anew"
    ended(tmp_path, "completed")
    assert this.state() == "completed"
    assert (tmp_path / "metrics.jsonl").exists(), "nothing was moved meanwhile"


@pytest.mark.parametrize("change", [{"lr": 0.2}, {"classes": 3}])
def test_another_config_in_the_folder_is_not_taken_for_the_same(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    job(tmp_path).prepare()
    saved(tmp_path)
    ended(tmp_path, "completed")
    other = job(tmp_path, **change)
    assert other.state() == "new"
    other.prepare()
    # What it was is moved aside, so that a kill right now leaves nothing to be mistaken.
    assert not (tmp_path / "summary.json").exists()
    assert len(list(tmp_path.glob("previous/*/summary.json"))) == 1
    assert other.state() == "new"
    assert job(tmp_path).state() == "new"


def test_ranks_matter_where_the_batch_depends_on_them(tmp_path: Path) -> None:
    job(tmp_path, ranks=1).prepare()
    ended(tmp_path, "completed")
    assert job(tmp_path, ranks=2).state() == "completed"
    each: dict[str, Any] = {"batch_size": None, "batch_size_per_worker": 8}
    job(tmp_path, ranks=1, **each).prepare()
    ended(tmp_path, "completed")
    assert job(tmp_path, ranks=1, **each).state() == "completed"
    assert job(tmp_path, ranks=2, **each).state() == "new"


@given(st.lists(st.builds("{}={}".format, WORD, WORD), max_size=30))
def test_a_folder_name_is_short_and_can_be_said_on_a_command_line(overrides: list[str]) -> None:
    name = folder_name(overrides)
    assert 8 <= len(name) <= 100
    assert "/" not in name
    assert not name.startswith(".")
    assert folder_name(list(reversed(overrides)))[-8:] == name[-8:]
    assert folder_name([*overrides, "x=1"])[-8:] != name[-8:]


def test_the_command_says_the_folder_so_that_hydra_reads_it(tmp_path: Path) -> None:
    odd = tmp_path / "it's, a=b {x} $y"
    command = job_command(
        job(odd),
        Grant({"a": (1, 2), "b": (0,)}, host_slots=4),
        program=Path("recipes/vision.py"),
        resume=True,
        environment={"A": "1 2"},
        controller="gloo",
    )
    assert command[1:10] == [
        "-m",
        "hvdkit",
        "launch",
        "-np",
        "2",
        "-H",
        "a:2,b:1",
        "--gloo",
        "--env",
    ]
    assert command[10:12] == ["A=1 2", "recipes/vision.py"]
    told = OverridesParser.create().parse_overrides(command[12:])
    assert {o.key_or_group: o.value() for o in told} == {
        "optimizer.lr": 0.1,
        "hydra.run.dir": str(odd),
        "trainer.resume": True,
    }


def test_each_rank_sees_the_gpus_of_its_hosts_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert (devices(0), devices(2), devices(5)) == ([], ["4", "5"], ["0", "1", "2", "3", "4"])
    told = job_environment(Grant({"a": (2, 3), "b": (0,)}, host_slots=4), devices(None))
    assert told == {"HVDKIT_HOST_SLOTS": "4", DEVICES: "6,7,4"}
    monkeypatch.setenv(DEVICES, told[DEVICES])
    seen = []
    for rank, local, size in [(0, 0, 2), (1, 1, 2), (2, 0, 1)]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        take_devices(Job("mpi", rank, 3, local, size))
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["6,7", "6,7", "4"]


def test_a_job_shares_its_hosts_cores_with_the_other_slots() -> None:
    inside = {
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    }
    assert current_job(inside).sharers == 2
    assert current_job({**inside, "HVDKIT_HOST_SLOTS": "8"}).sharers == 8


# ---- what a running job logs ---------------------------------------------------------------------


def test_a_tail_gives_every_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    for step in range(3):
        append_json(path, {"step": step})
    with path.open("a") as file:
        file.write('{"step": 3')
        file.flush()
        assert [r["step"] for r in tail.read()] == [0, 1, 2]
        assert tail.read() == []
        file.write("}\n")
    assert tail.read() == [{"step": 3}]


def test_a_tail_reads_a_file_that_was_cut_back_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in range(5):
        append_json(path, {"step": step})
    tail = Tail(path)
    assert len(tail.read()) == 5
    anew = tmp_path / "anew"
    anew.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    anew.replace(path)
    append_json(path, {"step": 2, "again": True})
    assert tail.read() == [{"step": 0}, {"step": 1}, {"step": 2, "again": True}]


def test_progress_is_counted_in_steps_or_in_epochs(tmp_path: Path) -> None:
    this = job(tmp_path)
    assert this.fraction({"step": 25, "epoch": 3.0}) == 0.25
    this.config["trainer"].update(num_steps=None, num_epochs=4)
    assert this.fraction({"step": 25, "epoch": 3.0}) == 0.75
