"""What the trainer itself costs a step: python benchmarks/trainer_cost.py

An adapter that computes nothing is given real batches (made ahead in the loader's thread),
with the default callbacks, logs every 10 steps and a run folder; then without any of these.
The cost is the wall time between two steps, which includes everything around the adapter.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import machine
import numpy as np

from hvdkit.adapters.base import Adapter
from hvdkit.callbacks import Agreement, Callback, Log, Progress, TensorBoard, WeightDigest
from hvdkit.comm import SoloComm
from hvdkit.data import ArraySource, TrainData
from hvdkit.gradients.buckets import ParamSpec
from hvdkit.gradients.compression import NoCompression
from hvdkit.optimizers import SGD
from hvdkit.strategies import AllReduce, Parameter
from hvdkit.tasks import Classification
from hvdkit.tensors import NumpyOps
from hvdkit.trainer import Trainer


class NoOpAdapter(Adapter):
    """One parameter that no step changes."""

    framework = "torch"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ops = NumpyOps()
        self._weight = np.zeros(4, np.float32)
        self.stamps: list[float] = []

    def parameters(self):
        return [Parameter(ParamSpec("weight", (4,), "float32"), self._weight)]

    def run_step(self, microbatches, local, scalars, step):
        self.stamps.append(time.perf_counter())
        return local

    @property
    def totals(self):
        return 1.0, 1.0

    @totals.setter
    def totals(self, value):
        pass

    @property
    def threads(self):
        return 1

    def communication_seconds(self):
        return 0.0

    def read_arrays(self):
        return {"params/weight": self._weight}

    def read_trainable(self):
        return {"weight": self._weight}

    def build(self, example): ...

    def allocate(self): ...

    def write_parameters(self, arrays): ...

    def backward(self, batch, *, last): ...

    def update(self, bucket, gradient, scalars, multiplier): ...

    def evaluate(self, batch): ...


def _milliseconds(
    steps: int, *, callbacks: tuple[Callback, ...], folder: str | None
) -> list[float]:
    """The time from each step to the next."""
    task = Classification(layout="nchw")
    rng = np.random.default_rng(0)
    source = ArraySource(
        image=rng.standard_normal((1797, 8, 8, 1), np.float32), label=rng.integers(0, 10, 1797)
    )
    adapter = NoOpAdapter(
        model=None,
        task=task,
        optimizer=SGD(lr=0.1),
        strategy=AllReduce(compression=NoCompression()),
        comm=SoloComm(),
    )
    data = TrainData(source, task, batch_size=64, seed=0)
    Trainer(adapter, data, num_steps=steps, callbacks=callbacks, folder=folder).fit()
    return list(1000 * np.diff(adapter.stamps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    options = parser.parse_args()
    default = (Agreement(), Log(), Progress(), TensorBoard(), WeightDigest())
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            "default callbacks and a run folder": {"callbacks": default, "folder": folder},
            "no callbacks, no folder": {"callbacks": (), "folder": None},
        }
        for title, settings in cases.items():
            found = _milliseconds(options.steps, **settings)
            print(
                f"{title}: median {statistics.median(found):.3f} ms a step, "
                f"mean {statistics.mean(found):.3f} ms ({options.steps} steps, "
                f"load {machine.load()})"
            )


if __name__ == "__main__":
    main()
