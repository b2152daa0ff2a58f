"""A run's folder is read in whatever state it is, and nothing in it changes."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from hvdkit.report.reading import Run, is_run, read_run
from hvdkit.run_folder import RunFolder
from tests.report.folders import configured, curve, trained, written


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_is_read_as_it_was_logged(tmp_path: Path) -> None:
    summary = trained(tmp_path)
    assert summary is not None
    before = files(tmp_path)
    run = read_run(tmp_path, "one")
    assert files(tmp_path) == before
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for key in ("train/loss", "train/lr", "samples_per_second", "eval/accuracy", "eval/loss"):
        logged = [(line["step"], line[key]) for line in lines if key in line]
        found = run.curves[key]
        assert list(zip(found.steps.tolist(), found.values.tolist(), strict=True)) == logged
    assert set(run.curves) == {k for line in lines for k in line} - {"step", "epoch", "time"}
    assert (run.status, run.steps, run.notes) == ("completed", 40, [])
    assert run.result("train/loss") == summary.train_loss
    assert run.result("eval/accuracy") == summary.eval["accuracy"]
    assert run.result("step_ms_median") == summary.step_ms_median
    assert run.epochs_per_step == pytest.approx(8 / 50)
    assert run.config == {"optimizer.lr": "0.1", "trainer.num_steps": "40"}


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    assert trained(tmp_path, lr=1e308, max_bad_steps=3) is None
    run = read_run(tmp_path, "one")
    assert run.status == "failed"
    assert any("lower optimizer.lr" in note for note in run.notes)


def test_a_run_that_is_at_work_is_running_and_then_not(tmp_path: Path) -> None:
    trained(tmp_path)
    with RunFolder(tmp_path).claim():
        assert read_run(tmp_path, "one").status == "running"
    assert read_run(tmp_path, "one").status == "completed"


def test_what_was_cut_off_in_the_middle_is_read_up_to_there(tmp_path: Path) -> None:
    written(tmp_path, curve(30))
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    for end in random.Random(0).sample(range(len(whole)), 20):
        (tmp_path / "metrics.jsonl").write_bytes(whole[:end])
        run = read_run(tmp_path, "one")
        steps = run.curves["train/loss"].steps.tolist() if run.curves else []
        # A line is whole even without its newline.
        ended = whole[:end].count(b"\n")
        assert steps in (list(range(1, ended + 1)), list(range(1, ended + 2)))
        assert run.status == ("no summary" if steps else "empty")


def test_a_run_that_was_begun_again_from_an_earlier_step_is_one_curve(tmp_path: Path) -> None:
    written(tmp_path, [*curve(9), *curve(12, scale=2.0)[5:]])
    run = read_run(tmp_path, "one")
    assert run.curves["train/loss"].steps.tolist() == list(range(1, 13))
    expected = [r["train/loss"] for r in (*curve(9)[:5], *curve(12, scale=2.0)[5:])]
    assert run.curves["train/loss"].values.tolist() == expected
    assert any("goes back from step 9 to 6" in note for note in run.notes)


def test_a_pause_before_a_resume_is_no_training_time(tmp_path: Path) -> None:
    records = curve(40)
    for record in records[20:]:
        record["time"] += 86_400
    run = read_run(written(tmp_path, records), "one")
    assert run.curves["train/loss"].seconds[-1] == pytest.approx(39)


def test_null_is_a_gap_and_said(tmp_path: Path) -> None:
    records = curve(5)
    records[2]["train/loss"] = None
    run = read_run(written(tmp_path, records), "one")
    assert np.isnan(run.curves["train/loss"].values).tolist() == [False, False, True, False, False]
    assert run.notes[0] == "train/loss: 1 of 5 values not a number"
    assert run.result("train/loss") == records[-1]["train/loss"]


BAD = {
    "not JSON": {"metrics.jsonl": "{", "summary.json": "{", ".hydra/config.yaml": "a: ["},
    "another kind": {"metrics.jsonl": "[1]\n3\nnull\n", "summary.json": "[]"},
    "binary": {"metrics.jsonl": "\x00\x01", "summary.json": "\x00", ".hydra/config.yaml": "\x00"},
    "no step": {"metrics.jsonl": '{"train/loss": 1}\n{"step": "x"}\n{"step": NaN}\n'},
    "huge": {"metrics.jsonl": '{"step": 1, "train/loss": 1e999}\n{"step": 1' + "0" * 400 + "}\n"},
    "deep": {"metrics.jsonl": "[" * 100_000, "summary.json": "[" * 100_000},
    "odd": {"summary.json": '{"status": 3, "eval": [1], "versions": "x", "steps": "y"}'},
    "odd config": {".hydra/config.yaml": "- 1", ".hydra/overrides.yaml": "a: 1"},
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_went_bad_is_a_note_and_no_error(tmp_path: Path, name: str) -> None:
    for file, text in BAD[name].items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    run = read_run(tmp_path, "one")
    assert run.status in ("empty", "unknown", "no summary")
    assert run.notes
    assert all("\n" not in note for note in run.notes)
    assert run.result("eval/accuracy") is None
    assert run.steps in (None, 1)


def test_a_number_beyond_all_floats_is_none(tmp_path: Path) -> None:
    summary = {"status": "completed", "train_loss": 10**400, "eval": {"loss": math.nan}}
    run = read_run(written(tmp_path, [], summary), "one")
    assert run.result("train/loss") is run.result("eval/loss") is None


def test_what_makes_a_folder_a_run(tmp_path: Path) -> None:
    assert not is_run(tmp_path)
    configured(tmp_path / "a", {})
    written(tmp_path / "b")
    assert is_run(tmp_path / "a")
    assert is_run(tmp_path / "b")
    run: Run = read_run(tmp_path / "a", "a")
    assert (run.status, run.curves) == ("empty", {})
