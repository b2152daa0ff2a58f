"""Small image sets in their true published forms, for the tests of readers and recipes."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def idx(array: np.ndarray) -> bytes:
    """An idx file of bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist_arrays(train: int = 12, test: int = 5, side: int = 28) -> dict[str, np.ndarray]:
    """By the names of MNIST's files."""
    random = np.random.default_rng(0)
    arrays = {}
    for stem, count in (("train", train), ("t10k", test)):
        shape = (count, side, side)
        arrays[f"{stem}-images-idx3-ubyte"] = random.integers(0, 256, shape, np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = random.integers(0, 10, count, np.uint8)
    return arrays


def write_mnist(folder: Path, *, zipped: bool = False, **sizes: int) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = mnist_arrays(**sizes)
    for name, array in arrays.items():
        data = idx(array)
        file = folder / (f"{name}.gz" if zipped else name)
        file.write_bytes(gzip.compress(data) if zipped else data)
    return arrays


CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def write_cifar(folder: Path, *, records: int = 4) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (records, 32, 32, 3) and labels of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    written = {}
    for name in CIFAR_FILES:
        images = random.integers(0, 256, (records, 32, 32, 3), np.uint8)
        labels = random.integers(0, 10, records, np.uint8)
        data = b"".join(
            bytes([label]) + image.transpose(2, 0, 1).tobytes()
            for image, label in zip(images, labels, strict=True)
        )
        (folder / name).write_bytes(data)
        written[name] = images, labels
    return written


def picture(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Smooth colours, as a photograph's: what JPEG keeps."""
    small = random.integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def write_folder(
    root: Path,
    *,
    classes: Sequence[str] = ("n01440764", "n02084071", "n03000684"),
    train: int = 3,
    val: int = 2,
    size: tuple[int, int] = (40, 30),
) -> None:
    """JPEGs as ImageNet names them: train/n01440764/n01440764_0.JPEG."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(random, size).save(folder / f"{name}_{i}.JPEG", "JPEG", quality=90)
