"""The digits recipe on two ranks as it comes: accuracy, and what the run's folder then holds."""

from __future__ import annotations

import json

import pytest

RECORD = {"step", "epoch", "time"}
TRAIN = {"train/loss", "train/lr", "samples_per_second", "comm_fraction", "comm/bytes_per_step"}
EVAL = {"eval/loss", "eval/accuracy", "eval/top5"}


@pytest.fixture(scope="module", params=["torch", "tensorflow"])
def run(request, recipe, tmp_path_factory):
    """(framework, folder, job) of the default run."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    job = recipe(folder, f"framework={request.param}", np=2, launcher="mpi")
    assert job.wait() == 0, job.output
    return request.param, folder, job


def test_the_summary_says_what_the_run_came_to(run):
    framework, folder, _ = run
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["eval"]["accuracy"] >= 0.97
    assert set(summary["eval"]) == {"loss", "accuracy", "top5"}
    assert (summary["status"], summary["error"]) == ("completed", None)
    assert (summary["framework"], summary["world_size"]) == (framework, 2)
    assert summary["steps"] == 450  # 20 epochs of 1,437 records in batches of 64
    assert 0 < summary["train_loss"] < 0.1
    assert summary["samples_per_second"] > 0
    assert summary["step_ms_median"] > 0
    assert len(summary["weights_sha256"]) == 64
    assert {"python", "numpy", "horovod", framework} <= set(summary["versions"])


def test_metrics_hold_one_object_a_log_event(run):
    _, folder, _ = run
    lines = list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
    *training, evaluation = lines
    assert [line["step"] for line in training] == [*range(50, 450, 50), 450]
    assert {frozenset(line) for line in training} == {frozenset(RECORD | TRAIN)}
    assert set(evaluation) == RECORD | EVAL
    assert all(0 <= line["comm_fraction"] <= 1 for line in training)
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_the_folder_holds_config_log_events_and_checkpoints(run):
    _, folder, job = run
    assert "test_fraction: 0.2" in (folder / ".hydra/config.yaml").read_text()
    assert "completed at step 450" in (folder / "train.log").read_text()
    assert list(folder.rglob("events.out.tfevents.*"))
    latest = (folder / "checkpoints/latest").read_text().strip()
    assert latest == "step-00000450"
    manifest = json.loads((folder / "checkpoints" / latest / "manifest.json").read_text())
    assert (manifest["step"], manifest["world_size"]) == (450, 2)
    # It ends by saying how good the model is, and where it is.
    assert "test accuracy 0.9" in job.output
    assert str(folder) in job.output
