"""MNIST (LeCun et al. 1998) in its published form: idx files, plain or gzipped.

An idx file is two zero bytes, a type (8: unsigned bytes), the number of dimensions, each
dimension as a big-endian 32-bit number, then the values, the last dimension fastest.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from hvdkit.data.bad_records import BadRecords, OnBadRecord
from hvdkit.data.sources import ArraySource, ImageDataset
from hvdkit.errors import HvdkitError

_CLASSES = 10
_PARTS = {"train": "train", "evaluation": "t10k"}


def mnist(*, path: str, on_bad_record: OnBadRecord = "error") -> ImageDataset:
    """The folder of MNIST's four files, or of any set published under their names and form.

    Images are bytes (28, 28, 1). Records that a cut-off file lacks, and labels above 9, are bad
    records; a file that is no idx file of its kind, or files that disagree on how many records
    there are, raise `HvdkitError` in any case.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise HvdkitError(f"data.source.path={path}: there is no such folder")
    bad_records = BadRecords(on_bad_record)
    sources = {part: _part(folder, stem, bad_records=bad_records) for part, stem in _PARTS.items()}
    shapes = {part: source[0]["image"].shape for part, source in sources.items()}
    if shapes["train"] != shapes["evaluation"]:
        raise HvdkitError(
            f"{folder}: the training images are {shapes['train'][:2]}, the test images "
            f"{shapes['evaluation'][:2]}"
        )
    return ImageDataset(**sources, classes=_CLASSES, bad_records=bad_records)


def _part(folder: Path, stem: str, *, bad_records: BadRecords) -> ArraySource:
    image_file, label_file = (
        _find(folder, f"{stem}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
    )
    images, image_count = _read(image_file, dimensions=3)
    labels, label_count = _read(label_file, dimensions=1)
    if image_count != label_count:
        raise HvdkitError(
            f"{image_file} says that it holds {image_count} images, {label_file} that it holds "
            f"{label_count} labels: they are not of one set"
        )
    for file, whole in ((image_file, len(images)), (label_file, len(labels))):
        for missing in range(whole, image_count):
            bad_records.report(
                f"{file}: record {missing + 1}", f"the file ends before it, of {image_count}"
            )
    length = min(len(images), len(labels))
    for wrong in np.flatnonzero(labels[:length] >= _CLASSES):
        bad_records.report(
            f"{label_file}: record {wrong + 1}",
            f"its label {labels[wrong]} is not one of 0 to {_CLASSES - 1}",
        )
    good = labels[:length] < _CLASSES
    if not good.any():
        raise HvdkitError(f"{image_file} and {label_file} hold no whole record")
    return ArraySource(
        image=images[:length][good][..., None], label=labels[:length][good].astype(np.int64)
    )


def _find(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise HvdkitError(
        f"data.source.path={folder} holds neither {name} nor {name}.gz, which MNIST is published as"
    )


def _read(file: Path, *, dimensions: int) -> tuple[np.ndarray, int]:
    """The whole records of an idx file of bytes, and how many it says that it holds."""
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise HvdkitError(f"{file} cannot be read: {error}. Download it anew") from None
    magic = bytes([0, 0, 8, dimensions])
    if data[:4] != magic:
        raise HvdkitError(
            f"{file} begins with {data[:4].hex(' ') or 'nothing'}, and an idx file of bytes in "
            f"{dimensions} dimensions with {magic.hex(' ')}"
        )
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise HvdkitError(f"{file} ends within its header. Download it anew")
    count, *shape = struct.unpack_from(f">{dimensions}I", data, 4)
    size = int(np.prod(shape, dtype=np.int64))
    if count == 0 or size == 0:
        raise HvdkitError(f"{file} says that it holds {count} records of shape {tuple(shape)}")
    if len(data) > start + count * size:
        raise HvdkitError(
            f"{file} holds {len(data) - start} bytes of records, and says that there are "
            f"{count} of {size} bytes"
        )
    whole = (len(data) - start) // size
    records = np.frombuffer(data, np.uint8, whole * size, start).reshape(whole, *shape)
    return records, count
