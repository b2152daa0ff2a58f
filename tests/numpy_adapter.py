"""A third adapter, over NumPy: softmax regression with its gradient written out by hand.

It goes through the same template as the two frameworks' adapters, so the trainer, the
strategies, accumulation, clipping and resuming can be tested on N threads in milliseconds.
Beside its two parameters it keeps one statistic, a running mean of what it saw, which differs
by rank as batch norm's does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hvdkit.adapters.base import Adapter
from hvdkit.comm import Comm, SoloComm
from hvdkit.data import ArraySource, EvalData, TrainData
from hvdkit.gradients.buckets import ParamSpec
from hvdkit.gradients.compression import NoCompression
from hvdkit.models.initial import he_normal
from hvdkit.optimizers import SGD
from hvdkit.strategies import AllReduce, Parameter
from hvdkit.tasks import Classification
from hvdkit.tensors import NumpyOps

FEATURES, CLASSES, RECORDS = 6, 3, 50


class Linear:
    """Weights and a statistic, as a user's own model brings them: different on every rank."""

    def __init__(self, *, seed: int = 0, features: int = FEATURES, classes: int = CLASSES):
        random = np.random.default_rng(seed)
        self.variables = {
            "head.weight": random.normal(size=(classes, features)),
            "head.bias": random.normal(size=classes),
        }
        self.statistics = {"head.running_mean": np.zeros(features)}


class Seeded(Linear):
    """A model of ours: it says how its weights start."""

    initial_weight = staticmethod(he_normal)


class NumpyAdapter(Adapter):
    """Train a `Linear`."""

    framework = "numpy"
    threads = 1

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.ops = NumpyOps()
        self._grads: dict[str, np.ndarray] = {}
        self._slots: dict[str, dict[str, np.ndarray]] = {}

    def build(self, example):
        for arrays in (self.model.variables, self.model.statistics):
            for name in arrays:
                arrays[name] = arrays[name].astype(self.dtype)

    def parameters(self):
        kinds = ((self.model.variables, True), (self.model.statistics, False))
        return [
            Parameter(ParamSpec(name, array.shape, array.dtype.name), array, trainable)
            for arrays, trainable in kinds
            for name, array in arrays.items()
        ]

    def statistics(self):
        return list(self.model.statistics.values())

    def allocate(self):
        self._slots = {
            name: {slot: self._new_slot(slot, array) for slot in self.optimizer.slots}
            for name, array in self.model.variables.items()
        }

    def _new_slot(self, slot, array):
        start = self.optimizer.slot_start(slot)
        return array.copy() if start == "parameter" else np.full_like(array, start)

    def run_step(self, microbatches, local, scalars, step):
        self._grads = {name: np.zeros_like(x) for name, x in self.model.variables.items()}
        with np.errstate(all="ignore"):
            return self.step_body([self._cast(b) for b in microbatches], local, scalars)

    def backward(self, batch, *, last):
        x, logits = self._forward(batch)
        loss = self.task.losses(self.ops, logits, batch).sum()
        exponents = np.exp(logits - logits.max(-1, keepdims=True))
        error = exponents / exponents.sum(-1, keepdims=True)
        error[np.arange(len(x)), batch["label"]] -= 1
        error *= batch["weight"][:, None] / np.asarray(1 / self.loss_factor(loss), self.dtype)
        self._grads["head.weight"] += error.T @ x
        self._grads["head.bias"] += error.sum(0)
        mean = self.model.statistics["head.running_mean"]
        mean[...] = 0.9 * mean + 0.1 * x.mean(0)
        if last:
            for bucket in self.strategy.buckets:
                flat = np.zeros(bucket.size, bucket.dtype)
                for param, offset in zip(bucket.params, bucket.offsets, strict=True):
                    flat[offset : offset + param.numel] = self._grads[param.name].reshape(-1)
                self.hand_over(bucket, flat)
        return loss

    def update(self, bucket, gradient, scalars, multiplier):
        gradient = gradient * np.asarray(multiplier, bucket.dtype)
        scalars = {name: np.asarray(value, bucket.dtype) for name, value in scalars.items()}
        for param, offset in zip(bucket.params, bucket.offsets, strict=True):
            variable, slots = self.model.variables[param.name], self._slots[param.name]
            part = gradient[offset : offset + param.numel].reshape(param.shape)
            value, new_slots = self.new_values(param, variable, part, slots, scalars)
            variable[...] = value
            for name, new in new_slots.items():
                slots[name][...] = new

    def swap_buckets(self, slot):
        for name, variable in self.model.variables.items():
            weights = variable.copy()
            variable[...] = self._slots[name][slot]
            self._slots[name][slot][...] = weights

    def evaluate(self, batch):
        batch = self._cast(batch)
        _, logits = self._forward(batch)
        return self.task.metrics(self.ops, logits, batch)

    def communication_seconds(self):
        return 0.0

    def read_arrays(self):
        return {name: array.copy() for name, array in self._places().items()}

    def write_parameters(self, arrays):
        places = self._places()
        for name, array in arrays.items():
            places[name][...] = array

    def read_trainable(self):
        return dict(self.model.variables)

    def _places(self):
        places = {f"params/{name}": array for name, array in self.model.variables.items()}
        places |= {f"statistics/{name}": array for name, array in self.model.statistics.items()}
        for name, slots in self._slots.items():
            places |= {f"optimizer/{slot}/{name}": array for slot, array in slots.items()}
        return places

    def _forward(self, batch):
        x = batch["image"].reshape(len(batch["image"]), -1)
        return x, x @ self.model.variables["head.weight"].T + self.model.variables["head.bias"]

    def _cast(self, batch):
        return {k: x.astype(self.dtype) if x.dtype.kind == "f" else x for k, x in batch.items()}


def adapter(comm: Comm | None = None, *, model: Any = None, **options: Any) -> NumpyAdapter:
    """A NumpyAdapter in fp64 with one parameter a bucket, unless told otherwise."""
    chosen: dict[str, Any] = {
        "task": Classification(layout="nhwc"),
        "optimizer": SGD(lr=0.1, weight_decay=0.01),
        "strategy": AllReduce(compression=NoCompression(), bucket_mb=1e-6),
        "precision": "fp64",
    }
    return NumpyAdapter(model=model or Seeded(), comm=comm or SoloComm(), **{**chosen, **options})


def records(count: int = RECORDS, *, seed: int = 0) -> ArraySource:
    """Images of (1, 2, 3) with labels."""
    random = np.random.default_rng(seed)
    return ArraySource(
        image=random.normal(size=(count, 1, 2, 3)).astype(np.float32),
        label=random.integers(0, CLASSES, count),
    )


def train_data(source: Any = None, **options: Any) -> TrainData:
    chosen = {"batch_size": 8, "seed": 0, "prefetch": 0}
    task = Classification(layout="nhwc")
    return TrainData(records() if source is None else source, task, **{**chosen, **options})


def eval_data(source: Any = None, **options: Any) -> EvalData:
    source = records(23, seed=1) if source is None else source
    return EvalData(source, Classification(layout="nhwc"), **options)
