"""A run's folder: earlier runs are moved aside, logs are cut back, files replaced whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hvdkit.run_folder import RunFolder, Summary, append_json


def filled(path: Path, mark: str) -> RunFolder:
    """A folder in which a run has left everything it writes."""
    folder = RunFolder(path)
    folder.begin()
    folder.write_config({"config.yaml": mark})
    append_json(folder.metrics, {"step": 1, "mark": mark})
    folder.write_summary(Summary("completed", "numpy", 1, 1, error=mark))
    for name in ("checkpoints/step-00000001/manifest.json", "tensorboard/events", "train.log"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(mark)
    return folder


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_earlier_run_is_moved_aside_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs/digits"
    filled(path, "first")
    first = files(path)
    filled(path, "second")
    RunFolder(path).begin()
    assert {name for name in files(path) if not name.startswith("previous/")} == set()
    previous = sorted((path / "previous").iterdir())
    assert len(previous) == 2
    assert files(previous[0]) == first
    assert set(files(previous[1]).values()) & set(first.values()) == set()


def test_a_users_own_files_stay_where_they_are(tmp_path: Path) -> None:
    folder = filled(tmp_path, "first")
    (tmp_path / "notes.txt").write_text("mine")
    folder.begin()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_metrics_are_cut_back_to_a_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (10, 20, 20, 30, 40):
        append_json(folder.metrics, {"step": step, "train/loss": 1 / step})
    before = folder.metrics.read_text().splitlines()
    folder.go_on(20)
    assert folder.metrics.read_text().splitlines() == before[:3]
    folder.go_on(0)
    assert folder.metrics.read_text() == ""


def test_a_line_that_was_not_finished_is_cut(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    append_json(folder.metrics, {"step": 10})
    append_json(folder.metrics, {"step": 20})
    whole = folder.metrics.read_text()
    for end in range(len(whole) - 1, len('{"step": 10}\n'), -1):
        folder.metrics.write_text(whole[:end])
        folder.go_on(30)
        steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
        assert steps in ([10], [10, 20])
        append_json(folder.metrics, {"step": 31})
        assert json.loads(folder.metrics.read_text().splitlines()[-1])["step"] == 31


def test_going_on_takes_back_the_summary_and_nothing_else(tmp_path: Path) -> None:
    folder = filled(tmp_path, "first")
    before = files(tmp_path)
    folder.go_on(1)
    assert files(tmp_path) == {k: x for k, x in before.items() if k != "summary.json"}
    folder.metrics.unlink()
    folder.go_on(1)
    assert not folder.metrics.exists()


def test_a_summary_is_replaced_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    folder.write_summary(Summary("completed", "numpy", 2, 7, eval={"loss": 0.5}))
    path = tmp_path / "new/summary.json"
    first = path.open()
    folder.write_summary(Summary("interrupted", "numpy", 2, 9))
    # Who had the old one open reads all of the old one.
    assert json.load(first)["steps"] == 7
    first.close()
    found = json.loads(path.read_text())
    assert (found["status"], found["steps"], found["world_size"]) == ("interrupted", 9, 2)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["summary.json"]


def test_what_is_no_number_is_null_in_json(tmp_path: Path) -> None:
    append_json(tmp_path / "metrics.jsonl", {"step": 1, "eval/perplexity": float("inf")})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "eval/perplexity": None}
