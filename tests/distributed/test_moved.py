"""A checkpoint goes on at another number of ranks, and in the other framework."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

STEPS, MOVED = 24, 12
COMMON = (
    "trainer.num_epochs=null",
    "trainer.log_every=1",
    "trainer.eval_every=4",
    "trainer.precision=fp64",
    "schedule=constant",
    "callbacks.tensorboard=null",
)
RECIPES: dict[str, tuple[str, ...]] = {
    "vision": (
        "data.batch_size=50",
        "model=resnet",
        "model.widths=[4,8]",
        "model.blocks=[1,1]",
        "model.norm_groups=2",
        "optimizer=adam",
    ),
    "nlp": (
        "data.batch_size=7",
        "data.source.path=LICENSE",
        "model.layers=2",
        "model.width=32",
        "model.heads=2",
        "model.dropout=0",
        "data.source.context=32",
    ),
    "recsys": ("data.batch_size=70", "model.sparse=true"),
}
# A recipe, and where its run begins and goes on: each recipe once, and these in `make soak`.
MORE = [
    ("vision", ("torch", 3), ("torch", 2)),
    ("nlp", ("tensorflow", 2), ("tensorflow", 3)),
    ("recsys", ("torch", 3), ("torch", None)),
    ("vision", ("tensorflow", 2), ("torch", 2)),
    ("recsys", ("torch", 2), ("tensorflow", None)),
]


def losses(folder: Path) -> dict[int, float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def evaluations(folder: Path) -> dict[int, dict[str, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        line["step"]: {k: v for k, v in line.items() if k.startswith("eval/")}
        for line in lines
        if any(key.startswith("eval/") for key in line)
    }


@pytest.fixture(scope="module")
def run(recipe):
    def run(folder, program, framework, steps, np, *more):
        options = (f"framework={framework}", *COMMON, *RECIPES[program], *more)
        steps = f"trainer.num_steps={steps}"
        job = recipe(folder, *options, steps, program=program, np=np)
        assert job.wait() == 0, job.output
        return json.loads((folder / "summary.json").read_text())

    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """Each recipe in torch on one process, from start to end."""
    folders: dict[str, Path] = {}

    def whole(program):
        if program not in folders:
            folders[program] = folder = tmp_path_factory.mktemp("whole") / "run"
            run(folder, program, "torch", STEPS, None)
        return folders[program]

    return whole


@pytest.mark.parametrize(
    ("program", "first", "then"),
    [
        ("nlp", ("torch", 2), ("tensorflow", None)),
        ("recsys", ("tensorflow", 2), ("torch", 3)),
        *(pytest.param(*case, marks=pytest.mark.soak) for case in MORE),
    ],
)
def test_a_run_goes_on_elsewhere_as_if_it_had_never_moved(
    run, whole, tmp_path, program, first, then
):
    """The reference is one process in torch: the order of samples is the same everywhere, or the
    losses would part at once."""
    before = run(tmp_path / "run", program, first[0], MOVED, first[1])
    # Told to go no further, it evaluates what it has taken up.
    there = run(tmp_path / "run", program, then[0], MOVED, then[1], "trainer.resume=true")
    assert there["framework"] == then[0]
    assert there["eval"] == pytest.approx(before["eval"], rel=1e-5)
    assert there["weights_sha256"] == before["weights_sha256"]
    run(tmp_path / "run", program, then[0], STEPS, then[1], "trainer.resume=true")
    expected = whole(program)
    found = losses(tmp_path / "run")
    assert sorted(found) == list(range(1, STEPS + 1))
    assert found == pytest.approx(losses(expected), rel=1e-8)
    for step, values in evaluations(expected).items():
        assert evaluations(tmp_path / "run")[step] == pytest.approx(values, rel=1e-6, abs=1e-9)
