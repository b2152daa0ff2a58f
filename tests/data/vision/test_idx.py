"""MNIST's files: what is read, and what is said of files that are not as published."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from hvdkit.data.sources import take
from hvdkit.data.vision import mnist
from hvdkit.errors import HvdkitError
from tests.data.vision.files import idx, mnist_arrays, write_mnist

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("zipped", [False, True])
def test_plain_and_zipped_files_give_the_same_records(tmp_path: Path, zipped: bool) -> None:
    arrays = write_mnist(tmp_path, zipped=zipped)
    data = mnist(path=str(tmp_path))
    assert (data.classes, data.image_shape) == (10, (28, 28, 1))
    for source, stem in ((data.train, "train"), (data.evaluation, "t10k")):
        records = take(source, range(len(source)))
        assert records["image"].dtype == np.uint8
        np.testing.assert_array_equal(records["image"][..., 0], arrays[f"{stem}-images-idx3-ubyte"])
        np.testing.assert_array_equal(records["label"], arrays[f"{stem}-labels-idx1-ubyte"])
    assert data.bad_records is not None
    assert data.bad_records.count == 0


def test_rows_are_rows(tmp_path: Path) -> None:
    """Written out by hand: the header's numbers are big-endian, the columns fastest."""
    write_mnist(tmp_path, train=1, test=1)
    pixels = bytes(range(6))
    for stem in ("train", "t10k"):
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(
            b"\0\0\x08\x03" + b"\0\0\0\1" + b"\0\0\0\2" + b"\0\0\0\3" + pixels
        )
    image = mnist(path=str(tmp_path)).train[0]["image"]
    np.testing.assert_array_equal(image[..., 0], [[0, 1, 2], [3, 4, 5]])


def write(folder: Path, name: str, data: bytes) -> str:
    write_mnist(folder)
    (folder / name).write_bytes(data)
    return str(folder)


GOOD = mnist_arrays()
WRONG = {
    "labels for images": (
        IMAGES,
        idx(GOOD[LABELS]),
        rf"{IMAGES} begins with 00 00 08 01.*with 00 00 08 03",
    ),
    "floats": (
        IMAGES,
        b"\0\0\x0d\x03" + idx(GOOD[IMAGES])[4:],
        rf"{IMAGES} begins with 00 00 0d 03",
    ),
    "nothing": (LABELS, b"", rf"{LABELS} begins with nothing"),
    "half a header": (IMAGES, idx(GOOD[IMAGES])[:10], rf"{IMAGES} ends within its header"),
    "too long": (
        LABELS,
        idx(GOOD[LABELS]) + b"\0",
        rf"{LABELS} holds 13 bytes of records.* 12 of 1 b",
    ),
    "no records": (IMAGES, idx(GOOD[IMAGES][:0]), rf"{IMAGES} says that it holds 0 records"),
    "another count": (
        LABELS,
        idx(GOOD[LABELS][:7]),
        rf"{IMAGES} .* 12 images, .*{LABELS} .* 7 labels",
    ),
    "another size": (IMAGES, idx(GOOD[IMAGES][:, :9]), r"training images are \(9, 28\)"),
}


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_such_file_is_named(tmp_path: Path, name: str, policy: str) -> None:
    file, data, said = WRONG[name]
    with pytest.raises(HvdkitError, match=said):
        mnist(path=write(tmp_path, file, data), on_bad_record=policy)  # type: ignore[arg-type]


# Named, as zipped bytes hold the time and would be another test in each of pytest's processes.
@pytest.mark.parametrize(
    "data", [b"plain", gzip.compress(idx(GOOD[LABELS]))[:-9]], ids=["plain", "cut off"]
)
def test_what_cannot_be_unzipped_is_named(tmp_path: Path, data: bytes) -> None:
    write_mnist(tmp_path, zipped=True)
    (tmp_path / f"{LABELS}.gz").write_bytes(data)
    with pytest.raises(HvdkitError, match=rf"{LABELS}\.gz cannot be read"):
        mnist(path=str(tmp_path))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(HvdkitError, match=r"data\.source\.path=.*absent: there is no such folder"):
        mnist(path=str(tmp_path / "absent"))
    write_mnist(tmp_path)
    (tmp_path / LABELS).unlink()
    with pytest.raises(HvdkitError, match=rf"neither {LABELS} nor {LABELS}\.gz"):
        mnist(path=str(tmp_path))


def test_records_beyond_a_cut_are_bad(tmp_path: Path) -> None:
    # 9 whole images and a part of the 10th, of 12.
    path = write(tmp_path, IMAGES, idx(GOOD[IMAGES])[: 16 + 9 * 784 + 100])
    with pytest.raises(HvdkitError, match=rf"{IMAGES}: record 10: the file ends before it, of 12"):
        mnist(path=path)
    data = mnist(path=path, on_bad_record="skip")
    assert data.bad_records is not None
    assert (len(data.train), data.bad_records.count) == (9, 3)
    np.testing.assert_array_equal(data.train[8]["label"], GOOD[LABELS][8])


def test_labels_that_are_no_digits_are_bad(tmp_path: Path) -> None:
    labels = GOOD[LABELS].copy()
    labels[[2, 7]] = 10, 255
    path = write(tmp_path, LABELS, idx(labels))
    with pytest.raises(
        HvdkitError, match=rf"{LABELS}: record 3: its label 10 is not one of 0 to 9"
    ):
        mnist(path=path)
    data = mnist(path=path, on_bad_record="skip")
    assert data.bad_records is not None
    assert (len(data.train), data.bad_records.count) == (10, 2)
    kept = [i for i in range(12) if i not in (2, 7)]
    records = take(data.train, range(10))
    np.testing.assert_array_equal(records["image"][..., 0], GOOD[IMAGES][kept])
    np.testing.assert_array_equal(records["label"], labels[kept])


def test_a_set_without_a_good_record_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, LABELS, idx(np.full(12, 77)))
    with pytest.raises(HvdkitError, match="hold no whole record"):
        mnist(path=path, on_bad_record="skip")
