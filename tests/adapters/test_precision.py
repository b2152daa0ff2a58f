"""Half precision, compiled models and averaged weights train as they should."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hvdkit.adapters.base import Adapter
from hvdkit.adapters.loss_scale import LossScale
from hvdkit.comm import SoloComm
from hvdkit.optimizers import SGD
from hvdkit.tensors import NumpyOps
from tests.adapters.images import CLASSES, SHAPE, adapter, arrays, loss, train, train_data

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "tensorflow"])


@pytest.fixture
def keras_dtypes() -> Iterator[None]:
    """Keras's policy is the process's: put it back."""
    from hvdkit.adapters.tensorflow.runtime import use_dtype

    yield
    use_dtype("float32")


def model(framework: str, precision: str) -> Any:
    """A small network with batch norm."""
    if framework == "torch":
        from torch import nn

        return nn.Sequential(
            nn.Conv2d(SHAPE[2], 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU()),
            nn.Linear(8, CLASSES),
        )
    from hvdkit.adapters.base import COMPUTE_DTYPES
    from hvdkit.adapters.tensorflow.runtime import use_dtype

    use_dtype("float32", compute=COMPUTE_DTYPES.get(precision))
    import keras

    return keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu", name="middle"),
            keras.layers.Dense(CLASSES, name="head"),
        ]
    )


def made(framework: str, precision: str = "fp32", **options: Any) -> Adapter:
    options = {"optimizer": SGD(lr=0.05), **options}
    return adapter(framework, model(framework, precision), precision=precision, **options)


@FRAMEWORKS
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_keeps_fp32_weights(
    framework: str, precision: str, keras_dtypes: None
) -> None:
    mine, full = made(framework, precision), made(framework)
    full.load_state({k: v for k, v in arrays(mine).items() if k != "loss_scale"})
    before = loss(mine)
    assert before == pytest.approx(loss(full), rel=0.02)
    assert before != loss(full)  # it really computes in another precision
    for each in (mine, full):
        train(each, stop=20)
    assert loss(mine) < 0.8 * before
    assert loss(mine) == pytest.approx(loss(full), abs=0.1 * before)
    assert {
        array.dtype.name for name, array in arrays(mine).items() if name.startswith("params")
    } == {"float32"}


@FRAMEWORKS
def test_an_overflow_halves_the_scale_and_leaves_no_trace(
    framework: str, keras_dtypes: None
) -> None:
    mine = made(framework, "fp16")
    train(mine, stop=2)
    state = arrays(mine)
    mine.load_state({**state, "loss_scale": np.array([2.0**40, 5.0])})
    (batch,) = train_data(mine.task).batches(start=2, stop=3, replica=(0, 1))
    result = mine.train_step(batch, step=2, lr=0.05)
    assert result.skipped
    after = arrays(mine)
    assert after.pop("loss_scale").tolist() == [2.0**39, 0.0]
    for name, array in after.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)
    mine.load_state(state)
    assert not mine.train_step(batch, step=2, lr=0.05).skipped


@FRAMEWORKS
def test_a_bad_batch_leaves_no_trace_in_the_model(framework: str) -> None:
    mine = made(framework)
    train(mine, stop=2)
    before = arrays(mine)
    (microbatches,) = train_data(mine.task).batches(start=2, stop=3, replica=(0, 1))
    microbatches[0]["image"][0] = np.nan
    assert mine.train_step(microbatches, step=2, lr=0.05).skipped
    for name, array in arrays(mine).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert mine.totals[1] == 16  # two batches of 8: the skipped one does not count


def test_the_scale_doubles_after_good_updates_alone() -> None:
    scale = LossScale(NumpyOps())
    seen = []
    for step in range(2 * LossScale.patience):
        scale.adjust(np.bool_(step != LossScale.patience + 10))
        seen.append(float(scale.value))
    start = LossScale.start
    assert seen[LossScale.patience - 2] == start
    assert seen[LossScale.patience - 1] == 2 * start
    assert seen[-1] == start  # halved once, and not long enough ago
    for _ in range(60):
        scale.adjust(np.bool_(False))
    assert scale.value == 1.0


# torch's own compiler imports what torch deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("mode", ["model", "blocks"])
def test_a_compiled_torch_model_trains_alike(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hvdkit")
    plain = made("torch")
    compiled = made("torch", compile=mode)
    compiled.load_state(arrays(plain))
    for each in (plain, compiled):
        train(each, stop=3)
    for name, array in arrays(plain).items():
        np.testing.assert_allclose(arrays(compiled)[name], array, rtol=1e-4, atol=1e-6)
    said = "nothing hides the communication" in caplog.text
    assert said == (mode == "model")
    parts = [part for part in compiled.model.modules() if part._compiled_call_impl is not None]
    assert len(parts) == (1 if mode == "model" else 3)
    compiled.close()
    assert all(part._compiled_call_impl is None for part in compiled.model.modules())


def test_a_model_compiled_by_xla_trains_alike(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hvdkit")
    plain, compiled = made("tensorflow"), made("tensorflow", jit_compile=True)
    compiled.load_state(arrays(plain))
    for each in (plain, compiled):
        train(each, stop=3)
    for name, array in arrays(plain).items():
        np.testing.assert_allclose(arrays(compiled)[name], array, rtol=1e-4, atol=1e-6)
    assert "nothing hides the communication" in caplog.text


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_blocks_keep_communication_behind_the_backward_pass() -> None:
    import torch
    from torch import nn

    events: list[str] = []

    class Comm(SoloComm):
        def allreduce(self, x: Any, *, name: str, op: Any = "sum", group: Any = None) -> Any:
            events.append(name)
            return super().allreduce(x, name=name, op=op, group=group)

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = SHAPE[0] * SHAPE[1] * SHAPE[2]
            self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
            self.head = nn.Linear(width, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = self.blocks
            x = first(x.flatten(1))
            if x.requires_grad:
                x.register_hook(lambda _grad: events.append("the first block's backward"))
            return self.head(torch.relu(second(x)))

    mine = adapter("torch", Blocks(), comm=Comm(), compile="blocks", bucket_mb=0.01)
    train(mine, stop=1)  # which leaves nothing early: it tells what a gradient is made of
    events.clear()
    train(mine, start=1, stop=2)
    begun = events.index("the first block's backward")
    assert events[:begun] == ["bucket.0", "bucket.1"]
    assert len([name for name in events[begun:] if name.startswith("bucket")]) >= 1
    mine.close()
