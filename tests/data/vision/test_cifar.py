"""CIFAR-10's binary files: records, shifts and flips, and files that are not as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hvdkit.data.keys import position_keys
from hvdkit.data.sources import ArraySource, take
from hvdkit.data.vision import cifar10
from hvdkit.data.vision.cifar import PaddedCrops
from hvdkit.errors import HvdkitError
from tests.data.vision.files import CIFAR_FILES, write_cifar


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_records_are_read_in_the_order_of_the_files(tmp_path: Path, inside: str) -> None:
    written = write_cifar(tmp_path / inside)
    data = cifar10(path=str(tmp_path), augment=False)
    assert (data.classes, data.image_shape) == (10, (32, 32, 3))
    for source, names in ((data.train, CIFAR_FILES[:5]), (data.evaluation, CIFAR_FILES[5:])):
        records = take(source, range(len(source)))
        for part, name in enumerate(("image", "label")):
            expected = np.concatenate([written[file][part] for file in names])
            np.testing.assert_array_equal(records[name], expected)
    assert not hasattr(data.train, "draw")


def test_a_records_bytes_are_a_label_then_red_green_and_blue_planes(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    planes = np.zeros((3, 32, 32), np.uint8)
    planes[0, 0, 1], planes[1, 1, 0], planes[2, 31, 31] = 10, 20, 30
    (tmp_path / "test_batch.bin").write_bytes(bytes([7]) + planes.tobytes())
    record = cifar10(path=str(tmp_path), augment=False).evaluation[0]
    image = record["image"]
    assert record["label"] == 7
    assert (image[0, 1, 0], image[1, 0, 1], image[31, 31, 2], image.sum()) == (10, 20, 30, 60)


def images(count: int) -> PaddedCrops:
    """One image, often; no pixel is zero."""
    one = np.random.default_rng(0).integers(1, 256, (32, 32, 3), np.uint8)
    return PaddedCrops(image=np.stack([one] * count), label=np.arange(count))


def test_drawn_images_are_shifted_by_up_to_four_pixels_and_flipped_half_of_the_time() -> None:
    count = 2000
    source = images(count)
    drawn = source.draw(np.arange(count), position_keys(0, range(count)))
    np.testing.assert_array_equal(drawn["label"], np.arange(count))
    padded = np.pad(source[0]["image"], ((4, 4), (4, 4), (0, 0)))
    expected = {}
    for dy in range(9):
        for dx in range(9):
            shifted = padded[dy : dy + 32, dx : dx + 32]
            expected[shifted.tobytes()] = (dy, dx, False)
            expected[shifted[:, ::-1].tobytes()] = (dy, dx, True)
    found = [expected[image.tobytes()] for image in drawn["image"]]
    assert len(set(found)) == 9 * 9 * 2
    for axis in (0, 1):
        counts = np.bincount([shift[axis] for shift in found], minlength=9)
        assert (abs(counts - count / 9) < 5 * np.sqrt(count / 9)).all()
    flips = sum(shift[2] for shift in found)
    assert abs(flips - count / 2) < 5 * np.sqrt(count / 4)


def test_a_drawn_image_depends_on_its_key_alone() -> None:
    source, keys = images(20), position_keys(3, range(20))
    whole = source.draw(np.arange(20), keys)["image"]
    np.testing.assert_array_equal(source.draw(np.arange(20), keys)["image"], whole)
    some = np.array([17, 4])
    np.testing.assert_array_equal(source.draw(some, keys[some])["image"], whole[some])
    other = source.draw(np.arange(20), position_keys(4, range(20)))["image"]
    assert not np.array_equal(other, whole)


def test_only_training_images_vary(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    data = cifar10(path=str(tmp_path), augment=True)
    assert hasattr(data.train, "draw")
    assert type(data.evaluation) is ArraySource


def test_a_label_out_of_range_is_a_bad_record(tmp_path: Path) -> None:
    written = write_cifar(tmp_path)
    file = tmp_path / "data_batch_3.bin"
    data = bytearray(file.read_bytes())
    data[2 * 3073] = 10
    file.write_bytes(data)
    with pytest.raises(HvdkitError, match=r"data_batch_3\.bin: record 3: its label 10 is not one"):
        cifar10(path=str(tmp_path), augment=False)
    found = cifar10(path=str(tmp_path), augment=False, on_bad_record="skip")
    assert found.bad_records is not None
    assert (len(found.train), found.bad_records.count) == (19, 1)
    # The record after it has moved up to its place.
    np.testing.assert_array_equal(found.train[10]["image"], written[file.name][0][3])


def test_a_record_that_the_file_ends_within_is_a_bad_one(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    file = tmp_path / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(HvdkitError, match=r"test_batch\.bin: record 4: .* 2073 of its 3073 bytes"):
        cifar10(path=str(tmp_path), augment=False)
    found = cifar10(path=str(tmp_path), augment=False, on_bad_record="skip")
    assert found.bad_records is not None
    assert (len(found.evaluation), found.bad_records.count) == (3, 1)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(HvdkitError, match=r"data\.source\.path=.*absent: there is no such folder"):
        cifar10(path=str(tmp_path / "absent"), augment=False)
    write_cifar(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(b"")
    with pytest.raises(HvdkitError, match="no whole record in test_batch"):
        cifar10(path=str(tmp_path), augment=False)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(HvdkitError, match=r"data_batch_4\.bin cannot be read: No such file"):
        cifar10(path=str(tmp_path), augment=False)
