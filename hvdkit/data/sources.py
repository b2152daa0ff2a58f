"""Where records come from. A source has a length and gives records as NumPy arrays by number.

Your own is any object with `__len__` and `__getitem__(i) -> dict[str, array]`. Two more methods
are taken where it has them: `take(indices)` gives a whole batch at once, which is faster for
arrays in memory, and `draw(indices, keys)` the records to train on where these vary from epoch
to epoch, each by its key alone (`hvdkit.data.keys`).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from zipfile import BadZipFile

import numpy as np

from hvdkit.data.bad_records import BadRecords
from hvdkit.errors import HvdkitError


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]: ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A training and an evaluation source, and what was left out of them."""

    train: Source
    evaluation: Source
    bad_records: BadRecords | None = None


@dataclass(frozen=True, kw_only=True)
class ImageDataset(Dataset):
    """Images with labels below `classes`."""

    classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return tuple(self.train[0]["image"].shape)


class BatchSource:
    """A source that gives records by the batch: one of them is a batch of one."""

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Records `indices`, stacked."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: column[0] for name, column in self.take(np.array([index])).items()}


class ArraySource:
    """Records that are rows of arrays of equal length."""

    def __init__(self, **columns: np.ndarray):
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise HvdkitError(f"the columns differ in length: {lengths}")
        self._columns = columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: column[index] for name, column in self._columns.items()}

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: column[indices] for name, column in self._columns.items()}


def take(source: Source, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Records `indices` of any source, stacked."""
    if hasattr(source, "take"):
        return source.take(np.asarray(indices))
    records = [source[int(i)] for i in indices]
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


def draw(source: Source, indices: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
    """Records `indices` to train on, stacked; those of a source that varies, by their `keys`."""
    if hasattr(source, "draw"):
        return source.draw(indices, keys)
    return take(source, indices)


def digits(*, test_fraction: float) -> ImageDataset:
    """The 1,797 scanned digits (8 x 8, grey) that scikit-learn ships (Alpaydin & Kaynak 1998).

    The same stratified split every time.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels.astype(np.int64), test_size=test_fraction, random_state=0, stratify=labels
    )
    return ImageDataset(
        train=ArraySource(image=x_train, label=y_train),
        evaluation=ArraySource(image=x_test, label=y_test),
        classes=10,
    )


def arrays(*, path: str) -> ImageDataset:
    """An .npz file of x_train, y_train, x_test, y_test, as Keras publishes small image sets.

    Images are (N, height, width) or (N, height, width, channels); uint8 is scaled to [0, 1].
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise HvdkitError(f"data.source.path={path}: there is no such file")
    try:
        # Opened here because np.load leaves the file open when it refuses it.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            columns = {k: archive[k] for k in ("x_train", "y_train", "x_test", "y_test")}
    except KeyError as error:
        raise HvdkitError(f"{file} has no array {error.args[0].split()[0]}") from None
    except (ValueError, TypeError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise HvdkitError(f"{file} is not an .npz file of plain arrays: {error}") from None
    classes = int(max(columns["y_train"].max(), columns["y_test"].max())) + 1
    train, evaluation = (
        ArraySource(image=_images(columns[f"x_{part}"]), label=columns[f"y_{part}"].reshape(-1))
        for part in ("train", "test")
    )
    return ImageDataset(train=train, evaluation=evaluation, classes=classes)


def _images(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 255
    return images[..., None] if images.ndim == 3 else images
