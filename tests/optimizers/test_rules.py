"""The update rules: torch's and Keras's own where the arithmetic is defined alike, and the
papers' algorithms where no framework has them; and that every framework computes the same."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hvdkit.errors import HvdkitError
from hvdkit.optimizers import (
    LAMB,
    LARS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Averaged,
    LayerwiseOptimizer,
    Optimizer,
    RMSprop,
)
from hvdkit.tensors import NumpyOps

STEPS, SHAPE = 30, (8, 5)
ELEMENTWISE = [
    SGD(lr=0.1, momentum=0.0),
    SGD(lr=0.1, momentum=0.0, weight_decay=0.1),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.9, nesterov=True),
    SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    Adam(lr=0.01),
    Adam(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.1),
    AdamW(lr=0.01),
    AdamW(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.3),
    RMSprop(lr=0.01),
    RMSprop(lr=0.01, momentum=0.9, weight_decay=0.1),
    RMSprop(lr=0.01, alpha=0.9, eps=1e-3, centered=True),
    RMSprop(lr=0.01, alpha=0.9, momentum=0.5, centered=True),
    Adagrad(lr=0.1),
    Adagrad(lr=0.1, lr_decay=0.05, initial_accumulator=0.3, eps=1e-3, weight_decay=0.1),
]
LAYERWISE = [
    LARS(lr=0.5, trust_coefficient=0.02),
    LARS(lr=0.5, momentum=0.0, trust_coefficient=0.05, weight_decay=0.1),
    LAMB(lr=0.01, weight_decay=0.0),
    LAMB(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.3),
]
AVERAGED = [Averaged(AdamW(lr=0.01), 0.9), Averaged(LAMB(lr=0.01), 0.9)]
OPTIMIZERS: list[Optimizer] = [*ELEMENTWISE, *LAYERWISE, *AVERAGED]


def numpy_ops() -> NumpyOps:
    return NumpyOps()


def torch_ops() -> Any:
    import torch

    return importlib.import_module("hvdkit.adapters.torch.ops").TorchOps(torch.device("cpu"))


def tensorflow_ops() -> Any:
    return importlib.import_module("hvdkit.adapters.tensorflow.ops").TensorFlowOps()


def start(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def gradients(shape: tuple[int, ...] = SHAPE) -> Iterator[np.ndarray]:
    random = np.random.default_rng(1)
    for _ in range(STEPS):
        yield random.normal(size=shape)


def rate(optimizer: Any, step: int) -> float:
    """A rate that changes, so that it matters where a rule keeps it."""
    return optimizer.lr * (1 + 0.5 * math.sin(step))


def given(optimizer: Optimizer, ops: Any, step: int, dtype: str) -> dict[str, Any]:
    """A step's scalars in the form in which each framework's adapter has them."""
    scalars = optimizer.scalars(lr=rate(optimizer, step), step=step)
    if hasattr(ops, "device"):
        return scalars
    return {name: ops.array(np.asarray(value), dtype) for name, value in scalars.items()}


def slots_of(optimizer: Optimizer, ops: Any, param: np.ndarray) -> dict[str, Any]:
    starts = {name: optimizer.slot_start(name) for name in optimizer.slots}
    return {
        name: ops.array(param if first == "parameter" else np.full_like(param, first))
        for name, first in starts.items()
    }


def ours(
    optimizer: Optimizer, ops: Any, *, dtype: str = "float64", shape: tuple[int, ...] = SHAPE
) -> dict[str, np.ndarray]:
    """The parameter and its slots after all steps."""
    first = start(shape).astype(dtype)
    param, slots = ops.array(first), slots_of(optimizer, ops, first)
    decay = optimizer.weight_decay if len(shape) > 1 else 0.0
    for step, grad in enumerate(gradients(shape)):
        scalars = given(optimizer, ops, step, dtype)
        param, slots = optimizer.update(
            ops, param, ops.array(grad.astype(dtype)), slots, scalars, decay
        )
    return {"param": ops.numpy(param), **{name: ops.numpy(slot) for name, slot in slots.items()}}


# ---- against others ------------------------------------------------------------------------


def torchs(optimizer: Any) -> np.ndarray:
    import torch

    param = torch.nn.Parameter(torch.from_numpy(start()))
    name = type(optimizer).__name__
    options = {key: getattr(optimizer, key) for key in ("lr", "weight_decay")}
    if name != "SGD":
        options["eps"] = optimizer.eps
    if name in ("SGD", "RMSprop"):
        options["momentum"] = optimizer.momentum
    if name == "SGD":
        options["nesterov"] = optimizer.nesterov
    elif name in ("Adam", "AdamW"):
        options["betas"] = (optimizer.beta1, optimizer.beta2)
    elif name == "RMSprop":
        options |= {"alpha": optimizer.alpha, "centered": optimizer.centered}
    elif name == "Adagrad":
        options["lr_decay"] = optimizer.lr_decay
        options["initial_accumulator_value"] = optimizer.initial_accumulator
    rule = getattr(torch.optim, name)([param], **options)
    for step, grad in enumerate(gradients()):
        rule.param_groups[0]["lr"] = rate(optimizer, step)
        param.grad = torch.from_numpy(grad)
        rule.step()
    return param.detach().numpy()


@pytest.mark.parametrize("optimizer", ELEMENTWISE, ids=repr)
def test_as_torch(optimizer: Optimizer) -> None:
    theirs = torchs(optimizer)
    for ops in (numpy_ops(), torch_ops()):
        np.testing.assert_allclose(ours(optimizer, ops)["param"], theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_as_keras(nesterov: bool) -> None:
    # Keras keeps the rate inside its velocity, which is the same while the rate is constant,
    # and in single precision: these numbers are the same there.
    # Its Adam puts epsilon elsewhere (Kingma & Ba, section 2), and is not ours.
    import keras

    from hvdkit.adapters.tensorflow import TensorFlowAdapter  # noqa: F401 (chooses the backend)

    variable = keras.Variable(start(), dtype="float64")
    theirs = keras.optimizers.SGD(0.125, momentum=0.875, nesterov=nesterov)
    theirs.build([variable])
    rule = SGD(lr=0.125, momentum=0.875, nesterov=nesterov)
    param, slots = start(), {"velocity": np.zeros(SHAPE)}
    for grad in gradients():
        theirs.apply([keras.ops.convert_to_tensor(grad)])
        param, slots = rule.update(NumpyOps(), param, grad, slots, {"lr": np.float64(0.125)}, 0.0)
    np.testing.assert_allclose(param, np.asarray(variable), rtol=0, atol=1e-10)


def lars_of_the_paper(rule: LARS, *, adapted: bool, shape: tuple[int, ...]) -> np.ndarray:
    """You et al. 2017, algorithm 1, line by line, for one layer."""
    w, v = start(shape), np.zeros(shape)
    beta = rule.weight_decay if adapted else 0.0
    for t, g in enumerate(gradients(shape)):
        gamma = rate(rule, t)
        weights, gradient = np.linalg.norm(w), np.linalg.norm(g)
        local = rule.trust_coefficient * weights / (gradient + beta * weights) if adapted else 1.0
        v = rule.momentum * v + gamma * local * (g + beta * w)
        w = w - v
    return w


def lamb_of_the_paper(rule: LAMB, *, adapted: bool, shape: tuple[int, ...]) -> np.ndarray:
    """You et al. 2020, algorithm 2, line by line, for one layer, phi(z) = z."""
    x, m, v = start(shape), np.zeros(shape), np.zeros(shape)
    decay = rule.weight_decay if adapted else 0.0
    for t, g in enumerate(gradients(shape), start=1):
        m = rule.beta1 * m + (1 - rule.beta1) * g
        v = rule.beta2 * v + (1 - rule.beta2) * g**2
        m_hat, v_hat = m / (1 - rule.beta1**t), v / (1 - rule.beta2**t)
        r = m_hat / (np.sqrt(v_hat) + rule.eps)
        full = r + decay * x
        trust = np.linalg.norm(x) / np.linalg.norm(full) if adapted else 1.0
        x = x - rate(rule, t - 1) * trust * full
    return x


@pytest.mark.parametrize("shape", [SHAPE, (40,)], ids=["kernel", "bias"])
@pytest.mark.parametrize("optimizer", LAYERWISE, ids=repr)
def test_layerwise_rules_as_the_papers(optimizer: Any, shape: tuple[int, ...]) -> None:
    paper: Callable = lars_of_the_paper if isinstance(optimizer, LARS) else lamb_of_the_paper
    expected = paper(optimizer, adapted=len(shape) > 1, shape=shape)
    for ops in (numpy_ops(), torch_ops()):
        found = ours(optimizer, ops, shape=shape)["param"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# ---- one arithmetic --------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "close"), [("float64", 1e-13), ("float32", 2e-5)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_every_framework_computes_the_same(optimizer: Optimizer, dtype: str, close: float) -> None:
    expected = ours(optimizer, numpy_ops(), dtype=dtype)
    assert set(expected) == {"param", *optimizer.slots}
    for make in (torch_ops, tensorflow_ops):
        found = ours(optimizer, make(), dtype=dtype)
        assert set(found) == set(expected)
        for name, value in found.items():
            assert value.dtype == expected[name].dtype == dtype, name
            np.testing.assert_allclose(value, expected[name], rtol=0, atol=close, err_msg=name)


@pytest.mark.parametrize("make", [numpy_ops, torch_ops, tensorflow_ops])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_gradient_is_left_as_it_was(optimizer: Optimizer, make: Callable) -> None:
    ops = make()
    grad = ops.array(start())
    scalars = given(optimizer, ops, 0, "float64")
    slots = slots_of(optimizer, ops, start())
    optimizer.update(ops, ops.array(start()), grad, slots, scalars, optimizer.weight_decay)
    np.testing.assert_array_equal(ops.numpy(grad), start())


def in_pieces(optimizer: Any, ops: Any, *, dtype: str, pieces: int) -> np.ndarray:
    """The flat parameter after all steps, updated in runs of elements, as an adapter may."""
    flat = (math.prod(SHAPE),)
    first = start().astype(dtype).reshape(flat)
    param, slots = ops.array(first), slots_of(optimizer, ops, first)
    cuts = np.array_split(np.arange(flat[0]), pieces)
    decay = optimizer.weight_decay
    for step, full in enumerate(gradients()):
        grad = ops.array(full.astype(dtype).reshape(flat))
        scalars = given(optimizer, ops, step, dtype)
        parts = [slice(cut[0], cut[-1] + 1) for cut in cuts]
        mine = [{name: slot[part] for name, slot in slots.items()} for part in parts]
        if optimizer.layerwise:
            found = [
                optimizer.prepare(ops, param[part], grad[part], held, scalars, decay)
                for part, held in zip(parts, mine, strict=True)
            ]
            directions, mine = [a for a, _ in found], [b for _, b in found]
            norms = [ops.sqrt(ops.sum(x * x)) for x in (param, ops.concat(directions))]
            ratio = optimizer.ratio(ops, *norms, decay)
            new = [
                optimizer.apply(ops, param[part], towards, held, scalars, ratio, decay)
                for part, towards, held in zip(parts, directions, mine, strict=True)
            ]
        else:
            new = [
                optimizer.update(ops, param[part], grad[part], held, scalars, decay)
                for part, held in zip(parts, mine, strict=True)
            ]
        param = ops.concat([value for value, _ in new])
        slots = {name: ops.concat([held[name] for _, held in new]) for name in slots}
    return ops.numpy(param)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [numpy_ops, torch_ops])
def test_cutting_into_pieces_changes_no_bit(
    optimizer: Optimizer, dtype: str, make: Callable
) -> None:
    whole = in_pieces(optimizer, make(), dtype=dtype, pieces=1)
    assert whole.dtype == dtype
    for pieces in (2, 7, 40):
        np.testing.assert_array_equal(
            in_pieces(optimizer, make(), dtype=dtype, pieces=pieces), whole
        )


@pytest.mark.parametrize("optimizer", [*LAYERWISE, AVERAGED[1]], ids=repr)
def test_the_three_parts_are_the_update(optimizer: Optimizer) -> None:
    found = in_pieces(optimizer, numpy_ops(), dtype="float64", pieces=3)
    expected = ours(optimizer, numpy_ops())["param"].reshape(-1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# ---- edges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [numpy_ops, torch_ops, tensorflow_ops])
@pytest.mark.parametrize("optimizer", LAYERWISE, ids=repr)
def test_without_a_norm_the_ratio_is_one(optimizer: LayerwiseOptimizer, make: Callable) -> None:
    ops = make()
    for norms in ((0.0, 2.0), (2.0, 0.0), (0.0, 0.0)):
        for dtype in ("float32", "float64"):
            param, direction = (ops.array(np.asarray(norm), dtype) for norm in norms)
            ratio = optimizer.ratio(ops, param, direction, optimizer.weight_decay)
            assert ops.dtype(ratio) == dtype
            assert float(ratio) == 1.0


@pytest.mark.parametrize("optimizer", LAYERWISE, ids=repr)
def test_a_kernel_of_zeros_leaves_zero(optimizer: LayerwiseOptimizer) -> None:
    slots = {name: np.zeros(SHAPE) for name in optimizer.slots}
    param, _ = optimizer.update(
        NumpyOps(),
        np.zeros(SHAPE),
        start(),
        slots,
        given(optimizer, NumpyOps(), 0, "float64"),
        optimizer.weight_decay,
    )
    assert np.isfinite(param).all()
    assert (np.sign(param) == -np.sign(start())).all()


def test_a_variance_rounded_below_zero_is_no_nan() -> None:
    rule = RMSprop(lr=0.01, alpha=0.9, centered=True)
    param, grad = np.zeros(50), np.linspace(0.01, 3.0, 50)
    slots = {name: np.zeros(50) for name in rule.slots}
    below = 0
    for step in range(400):  # a constant gradient: its variance tends to 0
        param, slots = rule.update(
            NumpyOps(), param, grad, slots, given(rule, NumpyOps(), step, "float64"), 0.0
        )
        below += int((slots["square"] - slots["mean"] ** 2 < 0).sum())
    assert below > 0
    assert np.isfinite(param).all()


def test_state_is_kept_only_where_it_is_used() -> None:
    assert SGD(lr=0.1, momentum=0.0).slots == ()
    assert SGD(lr=0.1).slots == ("velocity",)
    assert RMSprop(lr=0.1).slots == ("square",)
    assert RMSprop(lr=0.1, centered=True, momentum=0.9).slots == ("square", "mean", "velocity")


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"trust_coefficient": 0.0}, {"lr": -1.0}])
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(HvdkitError, match=next(iter(wrong))):
        LARS(**{"lr": 0.1, **wrong})


# ---- the average of the weights --------------------------------------------------------------


@pytest.mark.parametrize(
    "rule", [SGD(lr=0.1), Adagrad(lr=0.1, initial_accumulator=0.2), LAMB(lr=0.1)]
)
def test_an_average_follows_the_weights_and_leaves_them_alone(rule: Optimizer) -> None:
    averaged = Averaged(rule, 0.75)
    assert (averaged.lr, averaged.weight_decay) == (rule.lr, rule.weight_decay)
    assert averaged.layerwise == rule.layerwise == isinstance(rule, LARS | LAMB)
    assert averaged.scalars(lr=0.3, step=4) == rule.scalars(lr=0.3, step=4)
    assert averaged.slots == (*rule.slots, "average")
    assert averaged.slot_start("average") == "parameter"
    assert [averaged.slot_start(name) for name in rule.slots] == [
        rule.slot_start(name) for name in rule.slots
    ]
    ops, plain, param = NumpyOps(), start(), start()
    before, slots = slots_of(rule, ops, plain), slots_of(averaged, ops, param)
    expected = start()
    for step, grad in enumerate(gradients()):
        scalars = given(rule, ops, step, "float64")
        plain, before = rule.update(ops, plain, grad, before, scalars, rule.weight_decay)
        param, slots = averaged.update(ops, param, grad, slots, scalars, rule.weight_decay)
        expected = 0.75 * expected + 0.25 * plain
        np.testing.assert_array_equal(param, plain)
        np.testing.assert_allclose(slots["average"], expected, rtol=0, atol=1e-12)
    assert np.abs(expected - plain).max() > 1e-3


def test_an_average_of_weights_that_stand_still_stays_exact() -> None:
    averaged = Averaged(SGD(lr=0.1, momentum=0.0), 0.9)
    param, slots = start(), {"average": start()}
    for _ in range(100):
        param, slots = averaged.update(
            NumpyOps(), param, np.zeros(SHAPE), slots, {"lr": np.float64(0.1)}, 0.0
        )
    np.testing.assert_array_equal(slots["average"], start())


def test_what_cannot_be_averaged_is_refused() -> None:
    for decay in (1.0, -0.1):
        with pytest.raises(HvdkitError, match="ema_decay"):
            Averaged(SGD(lr=0.1), decay)
    with pytest.raises(HvdkitError, match="averaged already"):
        Averaged(Averaged(SGD(lr=0.1), 0.9), 0.9)
    with pytest.raises(TypeError, match="not layerwise"):
        Averaged(SGD(lr=0.1), 0.9).ratio(NumpyOps(), 1.0, 1.0, 0.0)
