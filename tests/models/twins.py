"""A model and its twin, each in an adapter of its framework, and what the two must share.

For the tests of every workload's models: make a `Problem`, have `pair` build it twice, and hand
the pair to the checks at the end. In fp64 the two differ by rounding alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hvdkit.adapters.base import Adapter, Precision
from hvdkit.comm import SoloComm
from hvdkit.data import TrainData
from hvdkit.data.sources import Source, take
from hvdkit.gradients.compression import NoCompression
from hvdkit.optimizers import SGD, Optimizer
from hvdkit.strategies import AllReduce

FRAMEWORKS = ("torch", "tensorflow")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What to train: `make(framework)` gives a new model and its task."""

    make: Callable[[str], tuple[Any, Any]]
    source: Source
    batch_size: int = 8


@dataclass(frozen=True)
class Twin:
    """One framework's adapter around one of the two models."""

    adapter: Adapter
    problem: Problem

    def losses(self, *, start: int, stop: int) -> list[float]:
        """Take steps [start, stop): the mean loss of each."""
        adapter = self.adapter
        data = TrainData(
            self.problem.source,
            adapter.task,
            batch_size=self.problem.batch_size,
            seed=0,
            prefetch=0,
        )
        found = []
        batches = data.batches(start=start, stop=stop, replica=(0, 1))
        for step, microbatches in enumerate(batches, start=start):
            adapter.totals = (0.0, 0.0)
            adapter.train_step(microbatches, step=step, lr=adapter.optimizer.lr)
            total, count = adapter.totals
            found.append(total / count)
        return found

    def evaluate(self) -> dict[str, float]:
        """The task's metrics over all records."""
        source, task = self.problem.source, self.adapter.task
        batch = task.prepare(take(source, range(len(source))), valid=True)  # type: ignore[attr-defined]
        return task.summarize(self.adapter.evaluate(batch))

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: shard.array.copy() for name, shard in self.adapter.state().items()}


def model_class(framework: str, workload: str, file: str, name: str) -> Any:
    """A class of hvdkit/models/WORKLOAD/{torch,keras}_FILE.py."""
    prefix = {"torch": "torch", "tensorflow": "keras"}[framework]
    importlib.import_module(f"hvdkit.adapters.{framework}")  # chooses Keras's backend
    return getattr(importlib.import_module(f"hvdkit.models.{workload}.{prefix}_{file}"), name)


def twin(
    framework: str,
    problem: Problem,
    *,
    optimizer: Optimizer | None = None,
    precision: Precision = "fp64",
    ema_decay: float | None = None,
) -> Twin:
    """The problem's model in one framework, ready to take steps."""
    made: Any
    options: dict[str, Any] = {}
    if framework == "torch":
        import torch

        from hvdkit.adapters.torch import TorchAdapter as made

        torch.set_num_threads(1)  # a second one costs more than such small models have to do
        options["device"] = "cpu"
    else:
        from hvdkit.adapters.tensorflow import TensorFlowAdapter as made
    with _keras_dtype(framework, precision):
        model, task = problem.make(framework)
        adapter = made(
            model=model,
            task=task,
            optimizer=optimizer or SGD(lr=0.05, momentum=0.9),
            strategy=AllReduce(compression=NoCompression(), bucket_mb=4.0),
            comm=SoloComm(),
            precision=precision,
            ema_decay=ema_decay,
            **options,
        )
        data = TrainData(problem.source, task, batch_size=problem.batch_size, seed=0, prefetch=0)
        adapter.setup(seed=0, reference_count=data.usual_count(), example=data.example())
    return Twin(adapter, problem)


def pair(problem: Problem, **options: Any) -> dict[str, Twin]:
    """The problem in both frameworks; `options` as for `twin`."""
    return {framework: twin(framework, problem, **options) for framework in FRAMEWORKS}


@contextmanager
def _keras_dtype(framework: str, precision: Precision) -> Iterator[None]:
    """Keras's global dtype, which its layers take over when they are made."""
    if framework != "tensorflow":
        yield
        return
    import keras

    from hvdkit.adapters.base import DTYPES
    from hvdkit.adapters.tensorflow.runtime import use_dtype

    before = keras.config.floatx()
    use_dtype(DTYPES[precision])
    try:
        yield
    finally:
        use_dtype(before)


# ---- what must hold ----------------------------------------------------------------------------


def check_names_and_shapes(twins: dict[str, Twin]) -> None:
    """The same canonical names, shapes and dtypes, optimizer slots included."""
    torch, tensorflow = (
        {name: (array.shape, array.dtype) for name, array in twins[framework].arrays().items()}
        for framework in FRAMEWORKS
    )
    assert torch == tensorflow


def check_start(twins: dict[str, Twin], *, rel: float = 1e-10) -> None:
    """The same bits in every weight, and the same evaluation."""
    torch, tensorflow = (twins[framework] for framework in FRAMEWORKS)
    assert torch.adapter.weights_sha256() == tensorflow.adapter.weights_sha256()
    assert torch.evaluate() == pytest.approx(tensorflow.evaluate(), rel=rel)


def check_losses(twins: dict[str, Twin], *, steps: int = 4, rel: float = 1e-8) -> None:
    """The same loss at every step, and the same trained weights (only from the start on)."""
    torch, tensorflow = (twins[framework] for framework in FRAMEWORKS)
    found = torch.losses(start=0, stop=steps)
    assert tensorflow.losses(start=0, stop=steps) == pytest.approx(found, rel=rel)
    assert len(set(found)) == steps
    theirs = tensorflow.adapter.read_trainable()
    for name, array in torch.adapter.read_trainable().items():
        np.testing.assert_allclose(theirs[name], array, rtol=rel, atol=rel, err_msg=name)


def check_state_moves(twins: dict[str, Twin], *, steps: int = 2, rel: float = 1e-8) -> None:
    """A state that either has trained goes on alike in the other."""
    for first, second in (FRAMEWORKS, FRAMEWORKS[::-1]):
        source, target = twins[first], twins[second]
        before = source.adapter.weights_sha256()
        source.losses(start=10, stop=10 + steps)
        assert source.adapter.weights_sha256() != before
        target.adapter.load_state(source.arrays())
        assert target.adapter.weights_sha256() == source.adapter.weights_sha256()
        assert target.evaluate() == pytest.approx(source.evaluate(), rel=rel)
        losses = [made.losses(start=20, stop=20 + steps) for made in (source, target)]
        assert losses[0] == pytest.approx(losses[1], rel=rel)
