"""A model and its twin are one network: names, shapes, first weights, and what they compute."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from hvdkit.adapters.base import Adapter
from hvdkit.models.initial import generator, he_normal
from hvdkit.optimizers import Adam
from tests.adapters.images import CLASSES, SHAPE, adapter, arrays, loss, train

RESNET = {"widths": [4, 8], "blocks": [1, 1], "norm_groups": 2}
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mlp": ("mlp", "MLP", {"hidden": [7, 5]}),
    "linear": ("mlp", "MLP", {"hidden": []}),
    "resnet, group norm": ("resnet", "ResNet", {**RESNET, "norm_kind": "group"}),
    "resnet, batch norm": ("resnet", "ResNet", {**RESNET, "norm_kind": "batch"}),
}


def pair(name: str) -> dict[str, Adapter]:
    """The network in both frameworks, ready to train."""
    file, kind, options = NETWORKS[name]
    shapes = {"torch": (SHAPE[2], *SHAPE[:2]), "tensorflow": SHAPE}
    made = {}
    for framework, prefix in (("torch", "torch"), ("tensorflow", "keras")):
        if prefix == "keras":
            import hvdkit.adapters.tensorflow  # chooses Keras's backend

            assert hvdkit.adapters.tensorflow
        module = importlib.import_module(f"hvdkit.models.vision.{prefix}_{file}")
        model = getattr(module, kind)(input_shape=shapes[framework], classes=CLASSES, **options)
        made[framework] = adapter(framework, model, optimizer=Adam(lr=0.01, weight_decay=0.5))
    return made


@pytest.fixture(scope="module", params=NETWORKS)
def twins(request: pytest.FixtureRequest) -> dict[str, Adapter]:
    return pair(request.param)


def test_names_and_shapes_are_the_same(twins: dict[str, Adapter]) -> None:
    torch, tensorflow = (
        {name: (array.shape, array.dtype) for name, array in arrays(made).items()}
        for made in (twins["torch"], twins["tensorflow"])
    )
    assert torch == tensorflow


def test_they_start_from_the_same_bits(twins: dict[str, Adapter]) -> None:
    assert twins["torch"].weights_sha256() == twins["tensorflow"].weights_sha256()
    assert loss(twins["torch"]) == pytest.approx(loss(twins["tensorflow"]), rel=1e-5)


@pytest.mark.parametrize(("first", "second"), [("torch", "tensorflow"), ("tensorflow", "torch")])
def test_a_state_moves_to_the_other_framework(
    twins: dict[str, Adapter], first: str, second: str
) -> None:
    untrained = loss(twins[first])
    train(twins[first], stop=5)
    assert loss(twins[first]) != pytest.approx(untrained, rel=1e-3)
    twins[second].load_state(arrays(twins[first]))
    assert loss(twins[second]) == pytest.approx(loss(twins[first]), rel=1e-5)
    assert twins[second].weights_sha256() == twins[first].weights_sha256()
    sums = []
    for made in (twins[first], twins[second]):
        made.totals = (0.0, 0.0)
        train(made, start=5, stop=7)
        sums.append(made.totals)
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)


def test_first_weights_depend_on_the_seed_and_the_name_alone() -> None:
    draws = {
        (seed, name): tuple(he_normal(seed, name, (3, 4)).reshape(-1))
        for seed in (0, 1)
        for name in ("head.weight", "layers.0.weight")
    }
    assert len(set(draws.values())) == 4
    for (seed, name), values in draws.items():
        assert tuple(he_normal(seed, name, (3, 4)).reshape(-1)) == values
        assert generator(seed, name).random() == generator(seed, name).random()


def test_kernels_have_hes_deviation_and_vectors_are_plain() -> None:
    kernel = he_normal(0, "conv.weight", (64, 32, 3, 3))
    assert kernel.std() == pytest.approx(np.sqrt(2 / (32 * 9)), rel=0.02)
    assert abs(kernel.mean()) < 0.002
    assert not he_normal(0, "head.bias", (5,)).any()
    assert (he_normal(0, "norm.weight", (5,)) == 1).all()
