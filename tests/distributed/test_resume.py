"""A run that was stopped and resumed is, bit for bit, the run that was not."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

RUN = (
    "data.batch_size=50",  # which three ranks cannot share out evenly
    "trainer.num_epochs=null",
    "trainer.num_steps=240",
    "trainer.checkpoint_every=10",
    "trainer.log_every=1",
    "trainer.eval_every=50",
    "comm.bucket_mb=0.02",  # several buckets, whose sums a launcher could fuse as it likes
    "callbacks.tensorboard=null",
)
FRAMEWORKS = ("torch", "tensorflow")


def records(folder: Path, key: str = "train/loss") -> list[tuple[int, float]]:
    """(step, value) of a number in metrics.jsonl."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line[key]) for line in lines if key in line]


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The folder of a run at three ranks that nothing happened to."""
    folders = {}

    def whole(framework):
        if framework not in folders:
            folders[framework] = folder = tmp_path_factory.mktemp("whole") / "run"
            job = recipe(folder, f"framework={framework}", *RUN, np=3)
            assert job.wait() == 0, job.output
        return folders[framework]

    return whole


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_same_command_gives_the_same_bits(whole, recipe, tmp_path, framework):
    """At three ranks in fp32: two ranks never show an order of summation that wanders."""
    job = recipe(tmp_path, f"framework={framework}", *RUN, np=3)
    assert job.wait() == 0, job.output
    assert summary(tmp_path)["weights_sha256"] == summary(whole(framework))["weights_sha256"]
    assert records(tmp_path) == records(whole(framework))


def relay_to_all(job):
    """What a batch system does: mpirun relays SIGUSR1 to every rank and lives on."""
    job.mpirun().send_signal(signal.SIGUSR1)


def terminate_one(job):
    """One rank alone is told to stop; the others must stop at the same step."""
    job.rank(1).send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("framework", "stop"), [("torch", relay_to_all), ("tensorflow", terminate_one)]
)
def test_a_run_that_was_stopped_resumes_to_the_same_bits(whole, recipe, tmp_path, framework, stop):
    options = (f"framework={framework}", *RUN)
    job = recipe(tmp_path, *options, np=3)
    # Past a checkpoint, and some steps further.
    log = tmp_path / "metrics.jsonl"
    job.wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > 25)
    stop(job)
    assert job.wait() != 0
    assert len(records(tmp_path)) < 240, "it had ended before it could be stopped"
    assert summary(tmp_path)["status"] == "interrupted"
    assert summary(tmp_path)["steps"] == len(records(tmp_path))

    job = recipe(tmp_path, *options, "trainer.resume=true", np=3)
    assert job.wait() == 0, job.output
    assert summary(tmp_path)["status"] == "completed"
    assert summary(tmp_path)["weights_sha256"] == summary(whole(framework))["weights_sha256"]
    assert records(tmp_path) == records(whole(framework)), "each step once, with the same loss"
    for metric in ("eval/loss", "eval/accuracy"):
        assert records(tmp_path, metric) == records(whole(framework), metric)


# What follows is the same on any number of ranks but for the time it takes, so one runs it.

SHORT = (
    "data.batch_size=50",
    "trainer.num_epochs=null",
    "trainer.num_steps=6",
    "trainer.checkpoint_every=2",
    "trainer.log_every=1",
    "callbacks.tensorboard=null",
)


@pytest.fixture(scope="module")
def short(recipe, tmp_path_factory):
    """A finished run's folder, with the checkpoints of steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("short") / "run"
    job = recipe(folder, *SHORT)
    assert job.wait() == 0, job.output
    return folder


@pytest.fixture
def folder(short, tmp_path):
    """A copy of it to do damage to."""
    shutil.copytree(short, tmp_path / "run")
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def truncate(checkpoint: Path) -> None:
    state = checkpoint / "state-00000.safetensors"
    state.write_bytes(state.read_bytes()[:-100])


def alter(checkpoint: Path) -> None:
    """One bit of one weight: the file stays well-formed."""
    state = checkpoint / "state-00000.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)


def lose(checkpoint: Path) -> None:
    (checkpoint / "state-00000.safetensors").unlink()


def break_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text('{"step": 6')


@pytest.mark.parametrize("damage", [truncate, alter, lose, break_manifest])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(recipe, short, folder, damage):
    damage(folder / "checkpoints/step-00000006")
    job = recipe(folder, *SHORT, "trainer.resume=true")
    assert job.wait() == 0, job.output
    assert "step-00000006 is damaged, falling back to an earlier one" in job.output
    assert "steps 4 to 6" in job.output
    assert summary(folder)["weights_sha256"] == summary(short)["weights_sha256"]
    assert records(folder) == records(short)


def test_without_a_whole_checkpoint_it_stops(recipe, folder):
    for checkpoint in (folder / "checkpoints").glob("step-*"):
        truncate(checkpoint)
    before = files(folder)
    job = recipe(folder, *SHORT, "trainer.resume=true", np=2)
    assert job.wait() != 0
    assert len(job.errors) == 1, job.output
    assert "none of the 3 checkpoints is whole" in job.errors[0]
    assert "Traceback" not in job.output
    assert _lost(before, files(folder)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["model=resnet"], ["another model", "absent"]),
        (
            ["model.hidden=[256,64]"],
            ["another model", "of shape [10, 128] there", "of shape [10, 64] here"],
        ),
        (["optimizer=adam"], ["another model or optimizer", "optimizer/"]),
        (["data.batch_size=64"], ["batch_size=50", "64"]),
        (["trainer.seed=1"], ["seed=0", "1"]),
    ],
    ids=lambda value: value[0] if value[0].count("=") == 1 else "",
)
def test_another_runs_folder_is_refused_and_kept(recipe, folder, change, words):
    before = files(folder)
    ranks = 2 if "model=resnet" in change else None
    job = recipe(folder, *SHORT, *change, "trainer.resume=true", np=ranks)
    assert job.wait() != 0
    assert len(job.errors) == 1, job.output
    assert [word for word in words if word not in job.errors[0]] == [], job.output
    assert "Traceback" not in job.output
    assert _lost(before, files(folder)) == []


def test_a_finished_run_that_is_resumed_loses_nothing(recipe, folder):
    before, logged = summary(folder), records(folder)
    job = recipe(folder, *SHORT, "trainer.resume=true")
    assert job.wait() == 0, job.output
    after = summary(folder)
    for key in ("status", "steps", "train_loss", "eval", "weights_sha256"):
        assert after[key] == before[key], key
    assert records(folder) == logged
    assert len(list((folder / "checkpoints").glob("step-*"))) == 3


def test_a_new_run_in_the_folder_puts_the_old_one_aside(recipe, folder):
    before = files(folder)
    job = recipe(folder, *SHORT)
    assert job.wait() == 0, job.output
    (aside,) = (folder / "previous").iterdir()
    assert files(aside) == before


def _lost(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """The files that an attempt has changed or removed; a log may have grown."""
    return [name for name, data in before.items() if not after.get(name, b"").startswith(data)]
