"""The models that the cost model is held to published figures on are the published models."""

from __future__ import annotations

import pytest

from benchmarks import published_scaling as published


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As torchvision's documentation has them (Inception V3 less its auxiliary head).
    [("Inception V3", 23_834_568), ("ResNet-101", 44_549_160), ("VGG-16", 138_357_544)],
)
def test_a_model_has_its_parameters(name: str, parameters: int) -> None:
    assert sum(layer.params for layer in published.MODELS[name]) == parameters
    sent = sum(nbytes for message in published.work(name).messages for _, nbytes in message.wires)
    assert sent == 4 * parameters


def test_a_step_lasts_as_long_as_one_gpu_was_measured_to_take() -> None:
    for name in published.PUBLISHED:
        assert published.work(name).seconds == 64 / published.images_a_second(name)
    assert 91.8 < published.images_a_second("ResNet-101") < 219
