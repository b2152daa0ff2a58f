"""SIGKILL at any moment of any recipe, then the same command: the run that was never killed.

Every checkpoint's files are compared by their digests, so weights, the optimizer's state and the
place in the data are equal to the bit, and so is every loss.
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

RANKS = 3
STEPS, EVERY = 60, 10
COMMON = (
    "trainer.num_epochs=null",
    f"trainer.num_steps={STEPS}",
    f"trainer.checkpoint_every={EVERY}",
    "trainer.keep_checkpoints=100",
    "trainer.log_every=1",
    "trainer.eval_every=25",
    "schedule=constant",
    "comm.bucket_mb=0.02",  # several buckets
    "callbacks.tensorboard=null",
)
# Small, but with state enough that writing it takes a while; batches that three cannot share.
RECIPES: dict[str, tuple[str, ...]] = {
    "vision": ("data.batch_size=50", "model.hidden=[1024,512]", "optimizer=adam"),
    "nlp": (
        "data.batch_size=7",
        "data.source.path=LICENSE",
        "model.layers=2",
        "model.width=64",
        "model.heads=2",
        "model.dropout=0.1",
        "data.source.context=32",
        "data.eval_batch_size=64",
    ),
    "recsys": ("data.batch_size=70", "data.eval_batch_size=64", "trainer.ema_decay=0.9"),
}
FRAMEWORKS = ("torch", "tensorflow")


def records(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says; of a step that was logged, its whole lines."""
    clocks = {"time", "samples_per_second", "comm_fraction"}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in clocks} for x in lines]


def states(folder: Path) -> dict[str, Any]:
    """The digest of every file of every checkpoint."""
    found = {}
    for manifest in sorted(folder.glob("checkpoints/step-*/manifest.json")):
        about = json.loads(manifest.read_text())
        found[manifest.parent.name] = (about["files"], about["totals"])
    return found


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The folder of a recipe's run that nothing happened to."""
    folders: dict[tuple[str, str], Path] = {}

    def whole(program, framework):
        key = program, framework
        if key not in folders:
            folders[key] = folder = tmp_path_factory.mktemp("whole") / "run"
            job = start(recipe, folder, program, framework)
            assert job.wait() == 0, job.output
        return folders[key]

    return whole


def start(recipe, folder, program, framework, *more):
    options = (f"framework={framework}", *COMMON, *RECIPES[program], *more)
    return recipe(folder, *options, program=program, np=RANKS, timeout=240)


def kill_at_a_step(job, folder, rank, step):
    log = folder / "metrics.jsonl"
    job.wait_until(log.exists)
    victim = job.rank(rank)  # found ahead of time: a run's last steps take less than looking for it
    job.wait_until(lambda: len(log.read_text().splitlines()) >= step)
    victim.send_signal(signal.SIGKILL)


def kill_while_writing(job, folder, rank, step):
    """Rank 0, the one that writes, as soon as it has begun on a checkpoint."""
    checkpoints = folder / "checkpoints"
    first = f"step-{EVERY * (step // EVERY):08d}"
    job.wait_until(lambda: (folder / "metrics.jsonl").exists())
    writer = job.rank(0)

    def begun():
        return [x for x in checkpoints.glob(".step-*") if x.name.lstrip(".") >= first]

    deadline = time.monotonic() + 200
    while not begun():
        assert time.monotonic() < deadline, job.output
        time.sleep(0.0005)
    writer.send_signal(signal.SIGKILL)


def check_one_kill(recipe, whole, folder, program, framework, kill, rank, step):
    expected = whole(program, framework)
    job = start(recipe, folder, program, framework)
    kill(job, folder, rank, step)
    assert job.wait() != 0
    assert not (folder / "summary.json").exists(), "it had ended before it could be killed"
    job = start(recipe, folder, program, framework, "trainer.resume=true")
    assert job.wait() == 0, job.output
    assert states(folder) == states(expected)
    assert records(folder) == records(expected), "each step once, with the same loss"
    ends = [json.loads((x / "summary.json").read_text()) for x in (folder, expected)]
    for key in ("status", "weights_sha256", "eval", "steps"):
        assert ends[0][key] == ends[1][key]
    assert len(states(folder)) == STEPS // EVERY


# Each framework once, and each way of being killed; `make soak` does the rest.
ONCE = [
    ("recsys", "tensorflow", kill_at_a_step),
    ("nlp", "torch", kill_while_writing),
]


@pytest.mark.parametrize(("program", "framework", "kill"), ONCE)
def test_a_killed_run_resumes_to_the_same_bits(recipe, whole, tmp_path, program, framework, kill):
    check_one_kill(recipe, whole, tmp_path / "run", program, framework, kill, rank=2, step=33)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(20))
def test_twenty_kills_at_random(recipe, whole, tmp_path, number):
    draw = random.Random(number)
    kinds = [(program, framework) for program in RECIPES for framework in FRAMEWORKS]
    program, framework = kinds[number % len(kinds)]
    kill = draw.choice([kill_at_a_step, kill_at_a_step, kill_while_writing])
    rank, step = draw.randrange(RANKS), draw.randrange(2, STEPS - 5)
    print(f"{program} in {framework}: {kill.__name__}, rank {rank}, step {step}")
    check_one_kill(recipe, whole, tmp_path / "run", program, framework, kill, rank, step)
