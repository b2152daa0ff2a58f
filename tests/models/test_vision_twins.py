"""Each image classifier and its twin are one network: names, shapes, first weights, every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hvdkit.data import ArraySource
from hvdkit.tasks import Classification
from tests.models.twins import (
    Problem,
    Twin,
    check_losses,
    check_names_and_shapes,
    check_start,
    check_state_moves,
    model_class,
    pair,
)

SHAPE, CLASSES, RECORDS = (12, 12, 3), 6, 16
RESNET = {"widths": [4, 8], "blocks": [1, 2], "norm_groups": 2}
VGG = {"widths": [4, 8], "blocks": [1, 2], "hidden": [24, 16], "dropout": 0.0, "norm_groups": 2}
VIT = {"patch": 4, "width": 8, "depth": 2, "heads": 2, "hidden": 12, "dropout": 0.0}
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "resnet, basic": ("resnet", "ResNet", {**RESNET, "zero_last_norm": True}),
    "resnet, bottleneck, imagenet stem, batch norm": (
        "resnet",
        "ResNet",
        {**RESNET, "block": "bottleneck", "stem": "imagenet", "norm_kind": "batch"},
    ),
    "vgg, pooled up": ("vgg", "VGG", {**VGG, "pooled": 5, "norm_kind": "none"}),
    "vgg, pooled down, group norm": ("vgg", "VGG", {**VGG, "pooled": 2, "norm_kind": "group"}),
    "vit, class token": ("vit", "ViT", {**VIT, "pooling": "class"}),
    "vit, mean": ("vit", "ViT", {**VIT, "pooling": "mean"}),
}


def source() -> ArraySource:
    random = np.random.default_rng(0)
    return ArraySource(
        image=random.normal(size=(RECORDS, *SHAPE)).astype(np.float32),
        label=random.integers(0, CLASSES, RECORDS),
    )


def problem(name: str) -> Problem:
    file, kind, options = NETWORKS[name]

    def make(framework: str) -> tuple[Any, Any]:
        task = Classification(layout="nchw" if framework == "torch" else "nhwc")
        made = model_class(framework, "vision", file, kind)
        return made(input_shape=task.input_shape(SHAPE), classes=CLASSES, **options), task

    return Problem(make=make, source=source())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_and_its_twin_are_one_network(name: str) -> None:
    twins: dict[str, Twin] = pair(problem(name))
    check_names_and_shapes(twins)
    check_start(twins)
    check_losses(twins)
    check_state_moves(twins)
