"""Folders of images as ImageNet's are laid out: train/CLASS/FILE and val/CLASS/FILE.

Images are decoded as they are asked for, by Pillow in threads (it lets go of Python's lock),
never in forked processes: a process that has joined MPI must not fork.
"""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from hvdkit.data.bad_records import BadRecords, OnBadRecord
from hvdkit.data.keys import fractions
from hvdkit.data.sources import BatchSource, ImageDataset
from hvdkit.errors import HvdkitError

Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"}
# What Pillow turns into RGB without a loss that matters; 16-bit grey, say, it would clip.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_UNDECODABLE = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_TRIES = 10


def image_folder(
    *,
    path: str,
    image_size: int,
    resize: int,
    min_scale: float,
    flip: bool,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    workers: int,
    on_bad_record: OnBadRecord = "error",
) -> ImageDataset:
    """Images of `image_size` x `image_size` x 3, their classes the folders of `path`/train.

    To train on, a part of an image is taken whose area is `min_scale` to 1 of it and whose
    sides are 3/4 to 4/3 of each other (Szegedy et al. 2014, section 6), stretched to the size,
    and flipped half of the time with `flip`. To evaluate, the shorter side is scaled to `resize`
    and the centre is taken. With `mean` and `std` (of each colour, as fractions of 255) images
    are normalised fp32 numbers, else bytes. Grey, palette and CMYK images become RGB; a camera's
    note of how it was held is not heeded.

    `workers` threads decode. An image that cannot be decoded is a bad record, noticed when it
    is come by; left out, it is black and weighs nothing. Raises `HvdkitError` for a missing
    folder, an empty class, and a class in val that is not in train.
    """
    root = Path(path).expanduser()
    names = _classes(root / "train", path)
    unknown = sorted(set(_classes(root / "val", path)) - set(names))
    if unknown:
        raise HvdkitError(f"{root / 'val' / unknown[0]} is of a class that {root / 'train'} lacks")
    bad_records = BadRecords(on_bad_record)
    decoder = _Decoder(
        size=image_size, resize=resize, min_scale=min_scale, flip=flip, mean=mean, std=std,
        workers=workers, bad_records=bad_records,
    )  # fmt: skip
    return ImageDataset(
        train=ImageFolder(root / "train", names, decoder),
        evaluation=ImageFolder(root / "val", names, decoder),
        classes=len(names),
        bad_records=bad_records,
    )


def _classes(folder: Path, path: str) -> list[str]:
    if not folder.is_dir():
        raise HvdkitError(
            f"data.source.path={path}: there is no folder {folder}; images are looked for in "
            "train/CLASS and val/CLASS there"
        )
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names:
        raise HvdkitError(f"{folder} holds no folder, where each class has one of its images")
    return names


class ImageFolder(BatchSource):
    """The images of one folder of classes, in the order of their names."""

    def __init__(self, folder: Path, classes: Sequence[str], decoder: _Decoder):
        self._folder, self._classes, self._decoder = folder, classes, decoder
        self._names: list[str] = []
        counts = []
        for name in classes:
            # A class that val does not show is none of its records.
            found = _images(folder / name) if (folder / name).is_dir() else []
            self._names += found
            counts.append(len(found))
        self._labels = np.repeat(np.arange(len(classes)), counts)

    def __len__(self) -> int:
        return len(self._names)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Each image's centre."""
        return self._records(indices, None)

    def draw(self, indices: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
        """A random part of each image, by its key."""
        return self._records(indices, fractions(keys, 2 * _TRIES + 3))

    def _records(self, indices: np.ndarray, random: np.ndarray | None) -> dict[str, np.ndarray]:
        images, weights = self._decoder.decode([self._path(i) for i in indices], random)
        return {"image": images, "label": self._labels[indices], "weight": weights}

    def _path(self, index: int) -> str:
        return f"{self._folder}/{self._classes[self._labels[index]]}/{self._names[index]}"


def _images(folder: Path) -> list[str]:
    found = sorted(
        entry.name
        for entry in os.scandir(folder)
        if os.path.splitext(entry.name)[1].lower() in _SUFFIXES and not entry.name.startswith(".")
    )
    if not found:
        raise HvdkitError(f"{folder} is a class without images: add some, or remove the folder")
    return found


class _Decoder:
    """Turns files into arrays of one size, several at once."""

    def __init__(
        self,
        *,
        size: int,
        resize: int,
        min_scale: float,
        flip: bool,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        workers: int,
        bad_records: BadRecords,
    ):
        self._size, self._resize = size, resize
        self._min_scale, self._flip = min_scale, flip
        self._workers, self._bad_records = workers, bad_records
        self._normal = None
        if mean is not None and std is not None:
            # (byte / 255 - mean) / std as one product and one difference.
            factor = 1 / (255 * np.asarray(std, np.float64))
            offset = np.asarray(mean, np.float64) / np.asarray(std, np.float64)
            self._normal = factor.astype(np.float32), offset.astype(np.float32)

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._workers, thread_name_prefix="decode")

    def decode(
        self, paths: Sequence[str], random: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(images, weights): centres, or parts chosen by a row of `random` each."""
        dtype = np.uint8 if self._normal is None else np.float32
        images = np.zeros((len(paths), self._size, self._size, 3), dtype)
        weights = np.ones(len(paths), np.float32)

        def one(i: int) -> None:
            try:
                pixels = self._pixels(paths[i], None if random is None else random[i])
            except _UNDECODABLE as error:
                self._bad_records.report(paths[i], f"it cannot be decoded: {error}")
                weights[i] = 0
                return
            if self._normal is None:
                images[i] = pixels
            else:
                np.multiply(pixels, self._normal[0], out=images[i], dtype=np.float32)
                images[i] -= self._normal[1]

        if len(paths) == 1:
            one(0)
        else:
            list(self._pool.map(one, range(len(paths))))
        return images, weights

    def _pixels(self, path: str, random: np.ndarray | None) -> np.ndarray:
        with Image.open(path) as image:
            if image.mode not in _MODES:
                raise ValueError(f"pixels of mode {image.mode} are not supported")
            if random is None:
                box = centre(image.size, self._resize, self._size)
            else:
                box = random_part(image.size, random, min_scale=self._min_scale)
            part = _cut(image, box, self._size)
        pixels = np.asarray(part)
        return pixels[:, ::-1] if random is not None and self._flip and random[-1] < 0.5 else pixels


def _cut(image: Image.Image, box: Box, size: int) -> Image.Image:
    """The box of an image, `size` pixels a side."""
    width, height = image.size
    left, upper, right, lower = box
    # A JPEG is decoded at a half, quarter or eighth of its size at once, as far as the box is
    # still at least as large as what is wanted of it.
    image.draft(
        "RGB", (round(width * size / (right - left)), round(height * size / (lower - upper)))
    )
    if "transparency" in image.info and image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode != "RGB":
        image = image.convert("RGB")
    across, down = image.width / width, image.height / height
    inside = (
        max(left * across, 0.0),
        max(upper * down, 0.0),
        min(right * across, image.width),
        min(lower * down, image.height),
    )
    return image.resize((size, size), Image.Resampling.BILINEAR, box=inside)


def centre(size: tuple[int, int], resize: int, crop: int) -> Box:
    """The square in the middle that is `crop` pixels a side once the shorter side is `resize`."""
    width, height = size
    half = min(width, height) * crop / resize / 2
    return (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)


def random_part(size: tuple[int, int], random: np.ndarray, *, min_scale: float) -> Box:
    """The first of ten tries that fits into an image of `size`, or else its middle.

    `random` is fractions in [0, 1): an area and a ratio for each try, then the place.
    """
    width, height = size
    tries = random[: 2 * _TRIES].reshape(_TRIES, 2)
    areas = width * height * (min_scale + (1 - min_scale) * tries[:, 0])
    ratios = np.exp(np.log(4 / 3) * (2 * tries[:, 1] - 1))
    widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    if fits.any():
        w, h = int(widths[fits.argmax()]), int(heights[fits.argmax()])
        left = int(random[-3] * (width - w + 1))
        upper = int(random[-2] * (height - h + 1))
    else:
        w, h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
        left, upper = (width - w) // 2, (height - h) // 2
    return (left, upper, left + w, upper + h)
