"""The same config gives the same result: on 1, 2 and 3 ranks, in torch and in TensorFlow."""

from __future__ import annotations

import math

import pytest

from hvdkit.optimizers import SGD, Adam

MODELS = ("mlp", "resnet")
OPTIMIZERS = {
    "sgd": lambda: SGD(lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda: Adam(lr=1e-3),
}
BATCH = 32  # which three ranks cannot share out evenly


def double_curves(stage):
    """100 steps of each model and optimizer in fp64."""
    return _curves(stage, "fp64", 100)


def single_curves(stage):
    """The first 10 steps of each in fp32, where rounding grows from step to step."""
    return _curves(stage, "fp32", 10)


def _curves(stage, precision, steps):
    return {
        f"{model} {name}": stage.train(
            model=model,
            optimizer=optimizer(),
            precision=precision,
            steps=steps,
            batch_size=BATCH,
        ).losses
        for model in MODELS
        for name, optimizer in OPTIMIZERS.items()
    }


@pytest.fixture(scope="module")
def curves(on_ranks):
    """Rank 0's curves of one framework and number of ranks."""

    def curves(framework, np):
        return on_ranks(double_curves, single_curves, framework=framework, np=np)[0]

    return curves


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("framework", "np"),
    [("torch", 2), ("torch", 3), ("tensorflow", 1), ("tensorflow", 2), ("tensorflow", 3)],
)
def test_curves_equal_those_of_torch_on_one_rank(curves, framework, np, model, optimizer):
    """Every way of running is held against one, so all of them agree with each other."""
    reference, other = curves("torch", 1), curves(framework, np)
    combination = f"{model} {optimizer}"
    doubles = reference["double_curves"][combination], other["double_curves"][combination]
    singles = reference["single_curves"][combination], other["single_curves"][combination]
    assert [len(curve) for curve in (*doubles, *singles)] == [100, 100, 10, 10]
    assert _distance(*doubles) < 1e-8
    assert _distance(*singles) < 1e-5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_the_curves_compared_are_of_models_that_learn(curves, model, optimizer):
    """Equal curves would say nothing of a model that stands still."""
    curve = curves("torch", 1)["double_curves"][f"{model} {optimizer}"]
    assert sum(curve[-10:]) < 0.8 * sum(curve[:10])


def _distance(a, b):
    """The largest relative difference at any step."""
    assert all(math.isfinite(x) for x in (*a, *b))
    return max(abs(x - y) / abs(x) for x, y in zip(a, b, strict=True))
