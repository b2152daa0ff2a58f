"""What every contender of step.py is given, whatever its framework: sizes of the models,
batches, and the loop that is timed. Imports NumPy and the standard library only."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 10
MOMENTUM = 0.9
WARM_UP = 6
_BATCHES = 4  # per rank, gone over in turn


@dataclass(frozen=True)
class Model:
    """A model's size: samples a rank and step, the shape of one, the learning rate.

    The rates are low so that runs that sum in another order still end at the same loss.
    """

    title: str
    batch: int
    input_shape: tuple[int, ...]
    lr: float


MODELS = {
    "mlp": Model("MLP 3072-4096x3-10, batch 32 a rank, 46.2 M parameters", 32, (3072,), 1e-3),
    "resnet18": Model("ResNet-18, 32x32 images, batch 8 a rank, 11.2 M", 8, (3, 32, 32), 1e-3),
    "linear60": Model("60 x (Linear 256, LayerNorm), batch 32 a rank, 4.0 M", 32, (256,), 1e-3),
}
HIDDEN = (4096, 4096, 4096)
BLOCKS, WIDTH = 60, 256


def batches(model: Model, rank: int) -> list[dict[str, np.ndarray]]:
    """A rank's own batches; labels follow from the images, so there is something to learn."""
    rng = np.random.default_rng([0, rank])
    made = []
    for _ in range(_BATCHES):
        image = rng.standard_normal((model.batch, *model.input_shape), np.float32)
        label = image.reshape(model.batch, -1)[:, :CLASSES].argmax(1).astype(np.int64)
        made.append({"image": image, "label": label, "weight": np.ones(len(label), np.float32)})
    return made


def rank_and_size() -> tuple[int, int]:
    """This process's place, as torch's, Horovod's or Open MPI's launcher names it."""
    for rank, size in (
        ("RANK", "WORLD_SIZE"),
        ("HOROVOD_RANK", "HOROVOD_SIZE"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ):
        if size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


@dataclass
class Contender:
    """One way of training: `step(i)` makes update i; `barrier` waits for the other ranks.

    `loss()` is this rank's mean loss since it was last asked, `weights()` the trained arrays.
    One that owns its loop has `run(warm_up, steps)` instead of steps, which gives the seconds of
    the timed ones and the mean loss of both parts.
    """

    step: Callable[[int], Any] | None
    barrier: Callable[[], Any]
    loss: Callable[[], float]
    weights: Callable[[], list[np.ndarray]]
    run: Callable[[int, int], tuple[list[float], list[float]]] | None = None


def measure(contender: Contender, *, steps: int, out: Path) -> None:
    """Warm up, time `steps` steps one by one, and write `rank-N.json` into `out`."""
    rank, size = rank_and_size()
    seconds, losses = (contender.run or _timed(contender))(WARM_UP, steps)
    contender.barrier()
    checksum = float(sum(np.abs(array, dtype=np.float64).sum() for array in contender.weights()))
    result = {"size": size, "seconds": seconds, "loss": losses, "checksum": checksum}
    (out / f"rank-{rank}.json").write_text(json.dumps(result))


def _timed(contender: Contender) -> Callable[[int, int], tuple[list[float], list[float]]]:
    """The loop around a contender's steps."""

    def run(warm_up: int, steps: int) -> tuple[list[float], list[float]]:
        for i in range(warm_up):
            contender.step(i)
        before = contender.loss()
        contender.barrier()
        seconds = []
        for i in range(warm_up, warm_up + steps):
            start = time.perf_counter()
            contender.step(i)
            seconds.append(time.perf_counter() - start)
        return seconds, [before, contender.loss()]

    return run
