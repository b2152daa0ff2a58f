"""Small images, and both adapters around a model of any kind, for the tests of the adapters."""

from __future__ import annotations

from typing import Any

import numpy as np

from hvdkit.adapters.base import Adapter
from hvdkit.comm import SoloComm
from hvdkit.data import ArraySource, TrainData
from hvdkit.gradients.compression import NoCompression
from hvdkit.optimizers import SGD
from hvdkit.strategies import AllReduce
from hvdkit.tasks import Classification

SHAPE, CLASSES, RECORDS = (6, 6, 2), 3, 20


def source(*, seed: int = 0) -> ArraySource:
    random = np.random.default_rng(seed)
    return ArraySource(
        image=random.normal(size=(RECORDS, *SHAPE)).astype(np.float32),
        label=random.integers(0, CLASSES, RECORDS),
    )


def train_data(task: Any, *, batch_size: int = 8, **options: Any) -> TrainData:
    return TrainData(source(), task, batch_size=batch_size, seed=0, prefetch=0, **options)


def adapter(
    framework: str,
    model: Any,
    *,
    bucket_mb: float = 4.0,
    learn_order: bool = True,
    **options: Any,
) -> Adapter:
    """A set-up adapter of one framework around a model of it, alone."""
    chosen: dict[str, Any] = {"optimizer": SGD(lr=0.1), "precision": "fp32"}
    if framework == "torch":
        import torch

        from hvdkit.adapters.torch import TorchAdapter

        torch.set_num_threads(1)  # a second one costs more than such small models have to do
        made: Any = TorchAdapter
        task = Classification(layout="nchw")
        chosen["device"] = "cpu"
    else:
        from hvdkit.adapters.tensorflow import TensorFlowAdapter

        made = TensorFlowAdapter
        task = Classification(layout="nhwc")
    strategy = AllReduce(compression=NoCompression(), bucket_mb=bucket_mb, learn_order=learn_order)
    result: Adapter = made(
        model=model, task=task, strategy=strategy, **{"comm": SoloComm(), **chosen, **options}
    )
    data = train_data(task)
    result.setup(seed=0, reference_count=data.usual_count(), example=data.example())
    return result


def train(made: Adapter, *, start: int = 0, stop: int = 4, **options: Any) -> None:
    """Take steps [start, stop)."""
    batches = train_data(made.task, **options).batches(start=start, stop=stop, replica=(0, 1))
    for step, microbatches in enumerate(batches, start=start):
        made.train_step(microbatches, step=step, lr=made.optimizer.lr)


def loss(made: Adapter) -> float:
    """The mean loss over all records."""
    records = source().take(np.arange(RECORDS))
    sums = made.evaluate(made.task.prepare(records, valid=True))  # type: ignore[attr-defined]
    return float(sums["loss"] / sums["count"])


def arrays(made: Adapter) -> dict[str, np.ndarray]:
    return {name: shard.array.copy() for name, shard in made.state().items()}
