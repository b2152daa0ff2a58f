"""The update rules against torch's and Keras's own, where the arithmetic is defined alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hvdkit.optimizers import SGD, Adam, Optimizer
from hvdkit.tensors import NumpyOps

STEPS, SIZE = 30, 40
OPTIMIZERS = [
    SGD(lr=0.1, momentum=0.0),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.9, nesterov=True),
    SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    Adam(lr=0.01),
    Adam(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.1),
]


def start() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SIZE)


def gradients() -> Iterator[np.ndarray]:
    random = np.random.default_rng(1)
    for _ in range(STEPS):
        yield random.normal(size=SIZE)


def ours(optimizer: Optimizer, *, dtype: str = "float64", pieces: int = 1) -> np.ndarray:
    """The parameters after all steps, updated in `pieces` runs of elements."""
    param = start().astype(dtype)
    slots = {name: np.zeros_like(param) for name in optimizer.slots}
    for step, grad in enumerate(gradients()):
        given = optimizer.scalars(lr=optimizer.lr, step=step)
        scalars = {name: np.asarray(value, dtype) for name, value in given.items()}
        for part in np.array_split(np.arange(SIZE), pieces):
            value, new = optimizer.update(
                NumpyOps(),
                param[part],
                grad[part].astype(dtype),
                {name: slot[part] for name, slot in slots.items()},
                scalars,
                optimizer.weight_decay,
            )
            param[part] = value
            for name, slot in new.items():
                slots[name][part] = slot
    return param


def torchs(optimizer: Optimizer) -> np.ndarray:
    import torch

    param = torch.nn.Parameter(torch.from_numpy(start()))
    rule: Any
    if isinstance(optimizer, SGD):
        rule = torch.optim.SGD(
            [param],
            lr=optimizer.lr,
            momentum=optimizer.momentum,
            nesterov=optimizer.nesterov,
            weight_decay=optimizer.weight_decay,
        )
    else:
        assert isinstance(optimizer, Adam)
        rule = torch.optim.Adam(
            [param],
            lr=optimizer.lr,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        )
    for grad in gradients():
        param.grad = torch.from_numpy(grad)
        rule.step()
    return param.detach().numpy()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_as_torch(optimizer: Optimizer) -> None:
    np.testing.assert_allclose(ours(optimizer), torchs(optimizer), rtol=0, atol=1e-10)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_as_keras(nesterov: bool) -> None:
    # Keras keeps the rate inside its velocity, which is the same while the rate is constant,
    # and in single precision: these numbers are the same there.
    # Its Adam puts epsilon elsewhere (Kingma & Ba, section 2), and is not ours.
    import keras

    from hvdkit.adapters.tensorflow import TensorFlowAdapter  # noqa: F401 (chooses the backend)

    variable = keras.Variable(start(), dtype="float64")
    rule = keras.optimizers.SGD(0.125, momentum=0.875, nesterov=nesterov)
    rule.build([variable])
    for grad in gradients():
        rule.apply([keras.ops.convert_to_tensor(grad)])
    result = ours(SGD(lr=0.125, momentum=0.875, nesterov=nesterov))
    np.testing.assert_allclose(result, np.asarray(variable), rtol=0, atol=1e-10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cutting_into_pieces_changes_no_bit(optimizer: Optimizer, dtype: str) -> None:
    whole = ours(optimizer, dtype=dtype)
    assert whole.dtype == dtype
    for pieces in (2, 7, SIZE):
        np.testing.assert_array_equal(ours(optimizer, dtype=dtype, pieces=pieces), whole)
