"""Whether decoding keeps up: python benchmarks/input_pipeline.py [--framework tensorflow]

Makes an image folder of JPEGs about as large as ImageNet's small ones, and trains on it by one
rank of one compute thread, which is fed by decoding threads of its own. Printed for each model:
what decoding alone gives, what training takes from memory, and how long the fed steps waited.
Each round measures both ways of feeding, one after the other.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from hvdkit import adapters
from hvdkit.data import ImageDataset, TrainData
from hvdkit.data.keys import position_keys
from hvdkit.data.sources import draw
from hvdkit.data.vision import image_folder
from hvdkit.gradients.compression import NoCompression
from hvdkit.optimizers import SGD
from hvdkit.strategies import AllReduce
from hvdkit.tasks import Classification

CLASSES = 10
# The size, and the timed steps of a round: more of them than are made ahead of time.
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "small, 0.3 M": ({"widths": [16, 32, 64, 128], "blocks": [1, 1, 1, 1]}, 40),
    "ResNet-18, 11.2 M": ({"widths": [64, 128, 256, 512], "blocks": [2, 2, 2, 2]}, 8),
}
_WARM_UP = 3


@dataclass
class Found:
    """One round: seconds of each step from memory; of each fed one, and of its wait for data."""

    memory: list[float]
    fed: list[float]
    waits: list[float]


def main() -> None:
    options = _options()
    comm = adapters.start(options.framework, threads=1)
    console = Console(width=100, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    with tempfile.TemporaryDirectory() as folder:
        size = write_images(Path(folder), options.images)
        console.print(
            f"{options.images} JPEGs of 400 x 300 ({size / 1000:.0f} kB each), cut to "
            f"{options.image_size} x {options.image_size}; batch {options.batch}, "
            f"{options.workers} decoding threads, {options.framework}"
        )
        dataset = _dataset(folder, options)
        rates = [decode_rate(dataset, options.batch) for _ in range(options.rounds)]
        table = Table()
        for title in (
            "model",
            "decoding, images/s",
            "memory, images/s",
            "fed, images/s",
            "waited, %",
            "worst wait, ms",
        ):
            table.add_column(title, justify="left" if title == "model" else "right")
        for name, (sizes, usual_steps) in MODELS.items():
            steps = options.steps or usual_steps
            adapter, data = _trainable(options, comm, dataset, sizes)
            rounds = [measure(adapter, data, steps) for _ in range(options.rounds)]
            memory, fed, waited = (
                statistics.median(values)
                for values in zip(
                    *(_figures(found, options.batch) for found in rounds), strict=True
                )
            )
            worst = max(wait for found in rounds for wait in found.waits)
            table.add_row(
                name,
                f"{statistics.median(rates):.0f}",
                f"{memory:.0f}",
                f"{fed:.0f}",
                f"{100 * waited:.2f}",
                f"{1000 * worst:.1f}",
            )
    console.print(table)
    console.print(f"median of {options.rounds} rounds, load {machine.load()}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--framework", choices=("torch", "tensorflow"), default="torch")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, help="timed steps a round (default: each model's)")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def write_images(root: Path, count: int) -> float:
    """Images with detail of every size, as photographs have; returns their mean size in bytes."""
    rng = np.random.default_rng(0)
    total = 0
    for i in range(count):
        pixels = np.zeros((300, 400, 3), np.float32)
        for cells in (4, 16, 64, 200):
            coarse = rng.integers(0, 256, (cells, cells, 3), np.uint8)
            layer = Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC)
            pixels += np.asarray(layer, np.float32) / 4
        for part in ("train", "val") if i < CLASSES else ("train",):
            folder = root / part / f"class{i % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:05}.jpg", quality=90)
        total += (folder / f"{i:05}.jpg").stat().st_size
    return total / count


def _dataset(folder: str, options: argparse.Namespace) -> ImageDataset:
    return image_folder(
        path=folder,
        image_size=options.image_size,
        resize=options.image_size * 256 // 224,
        min_scale=0.08,
        flip=True,
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        workers=options.workers,
    )


def decode_rate(dataset: ImageDataset, batch: int) -> float:
    """Training images a second, with nothing else to do."""
    count = len(dataset.train) // batch * batch
    start = time.perf_counter()
    for lo in range(0, count, batch):
        indices = np.arange(lo, lo + batch)
        draw(dataset.train, indices, position_keys(0, indices))
    return count / (time.perf_counter() - start)


def _trainable(
    options: argparse.Namespace, comm: Any, dataset: ImageDataset, sizes: dict[str, Any]
) -> tuple[Any, TrainData]:
    """A set-up adapter around a model, and the folder to train it on."""
    torch = options.framework == "torch"
    module = importlib.import_module(f"hvdkit.models.vision.{'torch' if torch else 'keras'}_resnet")
    task = Classification(layout="nchw" if torch else "nhwc")
    model = module.ResNet(
        input_shape=task.input_shape(dataset.image_shape),
        classes=CLASSES,
        stem="imagenet",
        norm_kind="batch",
        **sizes,
    )
    package = importlib.import_module(f"hvdkit.adapters.{options.framework}")
    adapter = (package.TorchAdapter if torch else package.TensorFlowAdapter)(
        model=model,
        task=task,
        optimizer=SGD(lr=0.001, momentum=0.9),
        strategy=AllReduce(compression=NoCompression()),
        comm=comm,
    )
    data = TrainData(dataset.train, task, batch_size=options.batch, seed=0)
    adapter.setup(seed=0, reference_count=options.batch, example=data.example())
    return adapter, data


def measure(adapter: Any, data: TrainData, steps: int) -> Found:
    """Steps on two batches that are there already, then on batches as they come."""
    stop = _WARM_UP + steps
    kept = list(data.batches(start=0, stop=2, replica=(0, 1)))
    memory, _ = _timed(adapter, itertools.islice(itertools.cycle(kept), stop))
    fed, waits = _timed(adapter, data.batches(start=0, stop=stop, replica=(0, 1)))
    return Found(memory, fed, waits)


def _timed(adapter: Any, batches: Iterator[Any]) -> tuple[list[float], list[float]]:
    """Seconds of each step, its wait included, and of the waits; the first steps are left out."""
    whole: list[float] = []
    waits: list[float] = []
    for step in itertools.count():
        start = time.perf_counter()
        microbatches = next(batches, None)
        got = time.perf_counter()
        if microbatches is None:
            return whole[_WARM_UP:], waits[_WARM_UP:]
        adapter.train_step(microbatches, step=step, lr=0.001)
        whole.append(time.perf_counter() - start)
        waits.append(got - start)
    raise AssertionError


def _figures(found: Found, batch: int) -> tuple[float, float, float]:
    """(images/s from memory, images/s fed, share of the fed time that was waiting)."""
    return (
        batch * len(found.memory) / sum(found.memory),
        batch * len(found.fed) / sum(found.fed),
        sum(found.waits) / sum(found.fed),
    )


if __name__ == "__main__":
    main()
