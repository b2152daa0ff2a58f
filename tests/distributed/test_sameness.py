"""The same config gives the same result: on 1, 2 and 3 ranks, in torch and in TensorFlow.

Every recipe's own body is run, on every kind of model. `make test` gives each model one
optimizer, and each framework one number of ranks; `make soak` all of them.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.small import MODELS, write_files

STEPS = 100
SOAK_STEPS = 200
OPTIMIZERS = {
    "sgd": ("optimizer=sgd", "optimizer.lr=0.02", "optimizer.weight_decay=0.001"),
    "adam": ("optimizer=adam", "optimizer.lr=0.001"),
    "adamw": ("optimizer=adamw", "optimizer.lr=0.001", "optimizer.weight_decay=0.01"),
}
COMMON = (
    "trainer.log_every=1",
    "trainer.eval_every=null",
    "trainer.checkpoint_every=null",
    "schedule=constant",
    "callbacks.tensorboard=null",
    "callbacks.progress=null",
)
# Each model once, and each optimizer on a third of them.
ONCE = {model: [list(OPTIMIZERS)[i % 3]] for i, model in enumerate(MODELS)}
ALL = {model: list(OPTIMIZERS) for model in MODELS}
WAYS = [("torch", 2), ("torch", 3), ("tensorflow", 1), ("tensorflow", 2), ("tensorflow", 3)]
A_FEW_WAYS = [("torch", 3), ("tensorflow", 2)]
# The metric that a run ends with, and over how many records at least it is a mean.
METRICS = ("accuracy", "ndcg_at_10", "auc")


def once(stage):
    return _runs(stage, ONCE, STEPS)


def whole(stage):
    return _runs(stage, ALL, SOAK_STEPS)


def seeds(stage):
    """What another seed changes, in fp32."""
    return {
        model: [_run(stage, model, optimizers[0], "fp32", seed, STEPS)["eval"] for seed in (1, 2)]
        for model, optimizers in ONCE.items()
    }


def _runs(stage, chosen, steps):
    return {
        f"{model} with {optimizer}": {
            precision: _run(stage, model, optimizer, precision, 0, steps)
            for precision in ("fp64", "fp32")
        }
        for model, optimizers in chosen.items()
        for optimizer in optimizers
    }


def _run(stage, model, optimizer, precision, seed, steps):
    files = stage.folder / "files"
    if stage.rank == 0 and not files.exists():
        files.mkdir()
        write_files(files)
    stage.comm.barrier()
    workload, own = MODELS[model]
    overrides = [override.replace("FILES", str(files)) for override in own]
    choices = [f"trainer.precision={precision}", f"trainer.seed={seed}"]
    choices.append(f"trainer.num_steps={steps}")
    name = f"{model}-{optimizer}-{precision}-{seed}".replace(", ", "-")
    ended = stage.recipe(
        workload, [*overrides, *OPTIMIZERS[optimizer], *COMMON, *choices], name=name
    )
    file = stage.folder / f"{name}.npz"
    if stage.rank == 0:
        np.savez(file, **{name.replace("/", ":"): x for name, x in ended.weights.items()})
    return {"losses": ended.losses, "eval": ended.eval, "weights": str(file)}


@pytest.fixture(scope="module")
def runs(on_ranks):
    """Rank 0's runs of one framework and number of ranks."""

    def runs(case, framework, np):
        cases = (case, seeds) if (case, framework, np) == (once, "torch", 1) else (case,)
        timeout = 600 if case is once else 3000
        found = on_ranks(*cases, framework=framework, np=np, timeout=timeout)[0]
        return found[case.__name__], found.get("seeds")

    return runs


def combinations(chosen):
    return [f"{model} with {o}" for model, optimizers in chosen.items() for o in optimizers]


@pytest.mark.timeout(700)
@pytest.mark.parametrize("combination", combinations(ONCE))
@pytest.mark.parametrize(("framework", "np"), A_FEW_WAYS)
def test_runs_equal_those_of_torch_on_one_rank(runs, framework, np, combination):
    """Every way of running is held against one, so all of them agree with each other."""
    reference, others = runs(once, "torch", 1)
    run = runs(once, framework, np)[0][combination]
    check_equal(reference[combination], run, STEPS)
    # In fp32 the end is compared: nearer than a few seeds are to each other.
    ends = [reference[combination]["fp32"]["eval"], *others[combination.split(" with ")[0]]]
    for metric in METRICS:
        if metric in ends[0]:
            values = [end[metric] for end in ends]
            spread = max(values) - min(values)
            assert abs(run["fp32"]["eval"][metric] - values[0]) <= max(spread, 0.01), metric


@pytest.mark.soak
@pytest.mark.timeout(3200)
@pytest.mark.parametrize("combination", combinations(ALL))
@pytest.mark.parametrize(("framework", "np"), WAYS)
def test_every_model_with_every_optimizer(runs, framework, np, combination):
    reference, run = (runs(whole, *way)[0][combination] for way in (("torch", 1), (framework, np)))
    check_equal(reference, run, SOAK_STEPS)


@pytest.mark.parametrize("combination", combinations(ONCE))
def test_the_curves_compared_are_of_models_that_learn(runs, combination):
    """Equal curves would say nothing of a model that stands still."""
    losses = runs(once, "torch", 1)[0][combination]["fp64"]["losses"]
    assert sum(losses[-20:]) < 0.97 * sum(losses[:20])


def check_equal(reference, run, steps):
    first, second = reference["fp64"], run["fp64"]
    assert len(first["losses"]) == len(second["losses"]) == steps
    assert distance(first["losses"], second["losses"]) < 1e-8
    weights = [dict(np.load(Path(x["weights"]))) for x in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        size = np.abs(expected).max() or 1.0
        error = np.abs(weights[1][name] - expected).max()
        assert error < 1e-8 * size, f"{name}: {error} of {size}"
    for key, value in first["eval"].items():
        assert second["eval"][key] == pytest.approx(value, rel=1e-8), key
    first, second = reference["fp32"], run["fp32"]
    assert distance(first["losses"][:10], second["losses"][:10]) < 1e-5


def distance(a, b):
    """The largest relative difference at any step."""
    assert all(math.isfinite(x) for x in (*a, *b))
    return max(abs(x - y) / abs(x) for x, y in zip(a, b, strict=True))
