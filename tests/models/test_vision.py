"""The image classifiers by themselves: published sizes, first weights, images they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hvdkit.config import build
from hvdkit.errors import HvdkitError
from hvdkit.models.vision.sizes import averaging
from tests.compose import composed
from tests.models.twins import FRAMEWORKS, model_class

# Trainable parameters at 224 x 224 x 3 and 1,000 classes, as published with the reference weights.
PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "vgg16": 138_357_544,
    "vit_tiny": 5_717_416,
    "vit_small": 22_050_664,
    "vit_base": 86_567_656,
}
VIT = {"patch": 4, "width": 8, "depth": 1, "heads": 2, "hidden": 8, "pooling": "mean"}
VGG = {"blocks": [1, 1, 1], "hidden": [8], "pooled": 1, "norm_kind": "none", "norm_groups": 1}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vgg": ("VGG", {**VGG, "widths": [4, 4, 4]}),
    "vit": ("ViT", VIT),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(preset: str) -> None:
    import torch

    node = composed(f"model={preset}").model
    with torch.device("meta"):  # sizes without memory
        model = build(node, input_shape=(3, 224, 224), classes=1000)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[preset]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("block", "last"), [("basic", "norm2"), ("bottleneck", "norm3")])
def test_the_last_norm_of_each_block_may_start_at_zero(
    framework: str, block: str, last: str
) -> None:
    cls = model_class(framework, "vision", "resnet", "ResNet")
    for zero in (True, False):
        model = cls(
            input_shape=(8, 8, 8), classes=2, widths=[4], blocks=[2], block=block,
            norm_groups=2, zero_last_norm=zero,
        )  # fmt: skip
        for i in range(2):
            scale = model.initial_weight(0, f"blocks.{i}.{last}.weight", (4,))
            assert (scale == (0 if zero else 1)).all()
        for name in ("norm.weight", "blocks.0.norm1.weight", "blocks.0.shortcut_norm.weight"):
            assert (model.initial_weight(0, name, (4,)) == 1).all()
        assert model.initial_weight(0, "blocks.0.conv1.weight", (4, 4, 3, 3)).all()


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("file", "size", "said"),
    [
        ("vgg", (9, 7), "3 times, which 9 x 7 ones are too small for: give images of 8 x 8"),
        ("vit", (8, 10), "model.patch=4 does not divide images of 8 x 10"),
    ],
)
def test_images_of_a_wrong_size_are_refused(
    framework: str, file: str, size: tuple[int, int], said: str
) -> None:
    name, options = MODELS[file]
    shape = (3, *size) if framework == "torch" else (*size, 3)
    with pytest.raises(HvdkitError, match=said):
        model_class(framework, "vision", file, name)(
            input_shape=shape, classes=2, dropout=0.0, **options
        )


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("file", MODELS)
def test_dropout_is_for_training_alone(framework: str, file: str) -> None:
    name, options = MODELS[file]
    shape = (3, 8, 8) if framework == "torch" else (8, 8, 3)
    model = model_class(framework, "vision", file, name)(
        input_shape=shape, classes=5, dropout=0.5, **options
    )
    images = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    if framework == "torch":
        import torch

        for param in model.parameters():
            torch.nn.init.normal_(param, std=0.3)

        def run(training: bool) -> np.ndarray:
            return model.train(training)(torch.from_numpy(images)).detach().numpy()
    else:

        def run(training: bool) -> np.ndarray:
            return model(images, training=training).numpy()

    np.testing.assert_array_equal(run(False), run(False))
    assert not np.array_equal(run(True), run(True))


@pytest.mark.parametrize(("size", "cells"), [(1, 7), (3, 7), (7, 7), (9, 7), (14, 7), (5, 2)])
def test_averaging_is_torchs_adaptive_pooling(size: int, cells: int) -> None:
    import torch

    x = np.random.default_rng(0).normal(size=(1, 2, size))
    expected = torch.nn.functional.adaptive_avg_pool1d(torch.from_numpy(x), cells).numpy()
    np.testing.assert_allclose(x @ averaging(size, cells).T, expected, rtol=1e-12)
