"""The program that a rank runs for a test: functions of the test's module, one after another.

    horovodrun -np 2 python -m tests.distributed.ranks FOLDER FRAMEWORK MODULE FUNCTION...

Each function gets a `Stage`, which trains through hvdkit's Python API, and returns JSON values;
rank R writes all of them to FOLDER/rank-R.json, and the test judges them.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

import hvdkit.config
from hvdkit import adapters
from hvdkit.adapters.base import DTYPES, Adapter
from hvdkit.callbacks import Callback
from hvdkit.checkpoint import Checkpoints
from hvdkit.comm import Comm, SoloComm
from hvdkit.data import EvalData, TrainData, digits
from hvdkit.gradients.compression import NoCompression
from hvdkit.optimizers import SGD, Optimizer
from hvdkit.strategies import AllReduce, Strategy
from hvdkit.tasks import Classification
from hvdkit.trainer import Every, Trainer

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("MLP", {"hidden": [32, 16]}),
    "resnet": ("ResNet", {"widths": [8, 16], "blocks": [1, 1], "norm_groups": 4}),
}


class Curve(Callback):
    """Every step's loss, and every evaluation, as logged."""

    def __init__(self):
        self.losses: list[float] = []
        self.eval: dict[str, float] = {}

    def on_log(self, trainer, record):
        if "train/loss" in record:
            self.losses.append(record["train/loss"])
        self.eval |= {k: v for k, v in record.items() if k.startswith("eval/")}


@dataclass
class Trained:
    """What a run came to; `losses` and `eval` are rank 0's."""

    trainer: Trainer
    losses: list[float]
    eval: dict[str, float]

    @property
    def adapter(self) -> Adapter:
        return self.trainer.adapter

    @property
    def digest(self) -> str:
        return self.adapter.weights_sha256()


@dataclass
class Ended:
    """What a recipe's run came to: its losses and last evaluation, and (on rank 0) its weights."""

    losses: list[float]
    eval: dict[str, float]
    weights: dict[str, np.ndarray]


class Stage:
    """A rank of a job in one framework, with what a test needs to train on it."""

    def __init__(self, folder: Path, framework: str):
        self.folder, self.framework = folder, framework
        self.comm = adapters.start(framework, threads=1)
        self.rank, self.size = self.comm.rank, self.comm.size
        self.dataset = digits(test_fraction=0.2)
        self.task = Classification(layout="nchw" if framework == "torch" else "nhwc")

    def model(self, name: str, **more: Any) -> Any:
        """One of our models in this stage's framework; make it after `precision`."""
        kind = "torch" if self.framework == "torch" else "keras"
        module = importlib.import_module(f"hvdkit.models.vision.{kind}_{name}")
        cls, options = MODELS[name]
        shape = self.task.input_shape(self.dataset.image_shape)
        return getattr(module, cls)(input_shape=shape, classes=10, **{**options, **more})

    def precision(self, precision: str) -> None:
        """What `adapters.start` does for a precision, which a process does once."""
        if self.framework == "tensorflow":
            from hvdkit.adapters.tensorflow.runtime import use_dtype

            use_dtype(DTYPES[precision])

    def adapter(
        self,
        *,
        model: Any = "mlp",
        precision: str = "fp64",
        optimizer: Optimizer | None = None,
        strategy: Strategy | None = None,
        clip_norm: float | None = None,
    ) -> Adapter:
        """An adapter around one of `MODELS`, or around any model made by calling `model`."""
        self.precision(precision)
        module = importlib.import_module(f"hvdkit.adapters.{self.framework}")
        cls = module.TorchAdapter if self.framework == "torch" else module.TensorFlowAdapter
        return cls(
            model=self.model(model) if isinstance(model, str) else model(),
            task=self.task,
            optimizer=optimizer or SGD(lr=0.05, momentum=0.9),
            strategy=strategy or AllReduce(compression=NoCompression()),
            comm=self.comm,
            precision=precision,
            clip_norm=clip_norm,
        )

    def train(
        self,
        *,
        steps: int | None = None,
        epochs: float | None = None,
        batch_size: int = 32,
        accumulate: int = 1,
        seed: int = 0,
        train: Any = None,
        evaluation: Any = None,
        callbacks: Sequence[Callback] = (),
        **of_adapter: Any,
    ) -> Trained:
        """Train on the digits, or on the source `train`, and keep every step's loss."""
        curve = Curve()
        trainer = Trainer(
            self.adapter(**of_adapter),
            TrainData(
                train or self.dataset.train,
                self.task,
                batch_size=batch_size,
                seed=seed,
                accumulate=accumulate,
            ),
            eval_data=EvalData(evaluation, self.task) if evaluation else None,
            num_steps=steps,
            num_epochs=epochs,
            callbacks=[curve, *callbacks],
            every=Every(log=1),
            seed=seed,
        )
        trainer.fit()
        return Trained(trainer, curve.losses, curve.eval)

    def recipe(
        self, workload: hvdkit.config.Workload, overrides: Sequence[str], *, name: str
    ) -> Ended:
        """Run a recipe's own body in this process, in the job that it has joined already."""
        # What earlier runs have left is looked through by every full garbage collection, which
        # came to take most of a small step.
        gc.collect()
        gc.freeze()
        body = importlib.import_module(f"recipes.{workload}").main.__wrapped__
        folder = self.folder / "runs" / f"{self.framework}-{self.size}" / name
        with initialize_config_module("hvdkit.conf", version_base="1.3"):
            chosen = [f"framework={self.framework}", f"hydra.run.dir={folder}", *overrides]
            config = compose(workload, overrides=chosen, return_hydra_config=True)
        OmegaConf.update(config, "hydra.runtime.output_dir", str(folder), force_add=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        with mock.patch.object(adapters, "start", self._started):
            hvdkit.config._Place.workload = workload
            body(config)
        if self.rank:
            return Ended([], {}, {})
        records = list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
        summary = json.loads((folder / "summary.json").read_text())
        saved = Checkpoints(folder / "checkpoints", SoloComm()).newest()
        assert saved
        weights = {k: x for k, x in saved.arrays().items() if k.startswith("params/")}
        losses = [record["train/loss"] for record in records if "train/loss" in record]
        return Ended(losses, summary["eval"], weights)

    def _started(self, framework: str, *, precision: str, **_: Any) -> Any:
        self.precision(precision)
        return _Stays(self.comm)


class _Stays:
    """A job's communicator, which the end of one run does not close."""

    def __init__(self, comm: Comm):
        self._comm = comm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def close(self) -> None:
        pass


def main() -> None:
    folder, framework, module, *names = sys.argv[1:]
    stage = Stage(Path(folder), framework)
    try:
        cases = importlib.import_module(module)
        results = {name: getattr(cases, name)(stage) for name in names}
        Path(folder, f"rank-{stage.rank}.json").write_text(json.dumps(results))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # Horovod's exit handler would wait for ranks that may be stuck
    stage.comm.close()


if __name__ == "__main__":
    main()
