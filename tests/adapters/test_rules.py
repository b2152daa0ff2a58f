"""Each update rule does the same to a model in both frameworks: in pieces here, whole there."""

from __future__ import annotations

from typing import Any

import pytest

from hvdkit.optimizers import LAMB, LARS, SGD, Adagrad, AdamW, Optimizer, RMSprop
from hvdkit.tasks import Classification
from tests.adapters.images import CLASSES, SHAPE, source
from tests.models import twins
from tests.models.twins import Problem

RULES: dict[str, Optimizer] = {
    "sgd without momentum": SGD(lr=0.1, momentum=0.0, weight_decay=0.1),
    "adamw": AdamW(lr=0.01, weight_decay=0.5),
    "rmsprop": RMSprop(lr=0.01, momentum=0.5, centered=True),
    "adagrad": Adagrad(lr=0.1),
    "lars": LARS(lr=1.0, weight_decay=0.01),
    "lamb": LAMB(lr=0.05, weight_decay=0.01),
}


def make(framework: str) -> tuple[Any, Any]:
    task = Classification(layout="nchw" if framework == "torch" else "nhwc")
    model = twins.model_class(framework, "vision", "mlp", "MLP")
    return model(input_shape=task.input_shape(SHAPE), classes=CLASSES, hidden=[11, 5]), task


CASES = [*((name, None) for name in RULES), ("adamw", 0.5), ("lamb", 0.5)]


@pytest.mark.parametrize(("name", "ema_decay"), CASES)
def test_a_rule_is_one_rule(name: str, ema_decay: float | None, monkeypatch: Any) -> None:
    import hvdkit.adapters.torch.buffers as torch_buffers

    # Several pieces a parameter, and one that ends with a bucket.
    monkeypatch.setattr(torch_buffers, "_PIECE", 100)
    made = twins.pair(
        Problem(make=make, source=source()), optimizer=RULES[name], ema_decay=ema_decay
    )
    twins.check_names_and_shapes(made)
    twins.check_losses(made, steps=6)
    torch, tensorflow = (made[framework].arrays() for framework in twins.FRAMEWORKS)
    for slot, array in torch.items():
        assert tensorflow[slot] == pytest.approx(array, rel=1e-8, abs=1e-10), slot
