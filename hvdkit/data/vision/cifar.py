"""CIFAR-10 (Krizhevsky 2009) in its binary version: records of a label and 32 x 32 colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hvdkit.data.bad_records import BadRecords, OnBadRecord
from hvdkit.data.keys import fractions, integers
from hvdkit.data.sources import ArraySource, ImageDataset
from hvdkit.errors import HvdkitError

_CLASSES, _SIDE = 10, 32
_RECORD = 1 + 3 * _SIDE * _SIDE  # a label, then all red, all green, all blue, row by row
_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = ("test_batch.bin",)
_ARCHIVE = "cifar-10-batches-bin"  # the folder in the published archive
_PAD = 4


class PaddedCrops(ArraySource):
    """Square images that are shifted by up to 4 pixels, zeros coming in, and flipped half of the
    time when they are drawn to train on (He et al. 2015, section 4.2)."""

    def draw(self, indices: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
        records = self.take(indices)
        images = records["image"]
        side = images.shape[1]
        padded = np.pad(images, ((0, 0), (_PAD, _PAD), (_PAD, _PAD), (0, 0)))
        rows, columns = (
            start[:, None] + np.arange(side) for start in integers(keys, 2, 2 * _PAD + 1).T
        )
        flipped = fractions(keys, 1, stream=1)[:, 0] < 0.5
        columns[flipped] = columns[flipped, ::-1]
        each = np.arange(len(images))[:, None, None]
        return {**records, "image": padded[each, rows[:, :, None], columns[:, None, :]]}


def cifar10(*, path: str, augment: bool, on_bad_record: OnBadRecord = "error") -> ImageDataset:
    """The folder of CIFAR-10's six binary files, or the one that its archive was unpacked in.

    Images are bytes (32, 32, 3); with `augment` those to train on are shifted and flipped. A
    label above 9 and a record that a file ends within are bad records.
    """
    folder = Path(path).expanduser()
    if (folder / _ARCHIVE).is_dir():
        folder /= _ARCHIVE
    if not folder.is_dir():
        raise HvdkitError(f"data.source.path={path}: there is no such folder")
    bad_records = BadRecords(on_bad_record)
    train, test = (_read_all(folder, names, bad_records) for names in (_TRAIN, _TEST))
    return ImageDataset(
        train=PaddedCrops(**train) if augment else ArraySource(**train),
        evaluation=ArraySource(**test),
        classes=_CLASSES,
        bad_records=bad_records,
    )


def _read_all(folder: Path, names: Sequence[str], bad_records: BadRecords) -> dict[str, np.ndarray]:
    labels, images = zip(*(_read(folder / name, bad_records) for name in names), strict=True)
    if not any(map(len, labels)):
        raise HvdkitError(f"{folder}: there is no whole record in {', '.join(names)}")
    return {"label": np.concatenate(labels), "image": np.concatenate(images)}


def _read(file: Path, bad_records: BadRecords) -> tuple[np.ndarray, np.ndarray]:
    """(labels, images) of one file."""
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise HvdkitError(
            f"{file} cannot be read: {error.strerror}. CIFAR-10's binary version has "
            f"{', '.join((*_TRAIN, *_TEST))}"
        ) from None
    count, left = divmod(len(data), _RECORD)
    if left:
        bad_records.report(
            f"{file}: record {count + 1}", f"the file ends after {left} of its {_RECORD} bytes"
        )
    records = data[: count * _RECORD].reshape(count, _RECORD)
    labels = records[:, 0]
    for wrong in np.flatnonzero(labels >= _CLASSES):
        bad_records.report(
            f"{file}: record {wrong + 1}",
            f"its label {labels[wrong]} is not one of 0 to {_CLASSES - 1}",
        )
    good = records[labels < _CLASSES]
    planes = good[:, 1:].reshape(-1, 3, _SIDE, _SIDE)
    return good[:, 0].astype(np.int64), np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
