"""Where records come from: what is read, what is scaled, what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvdkit.data import ArraySource, arrays, digits
from hvdkit.data.sources import take
from hvdkit.errors import HvdkitError


def columns(**changed: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    made: dict[str, Any] = {
        "x_train": random.integers(0, 256, (12, 4, 5), np.uint8),
        "y_train": np.arange(12).reshape(-1, 1) % 3,
        "x_test": random.integers(0, 256, (5, 4, 5), np.uint8),
        "y_test": np.arange(5).reshape(-1, 1) % 3,
    }
    return {name: x for name, x in {**made, **changed}.items() if x is not None}


def saved(folder: Path, **changed: Any) -> str:
    path = folder / "images.npz"
    np.savez(path, **columns(**changed))
    return str(path)


def test_grey_bytes_become_numbers_up_to_one_with_a_channel(tmp_path: Path) -> None:
    data = arrays(path=saved(tmp_path))
    assert data.image_shape == (4, 5, 1)
    assert data.classes == 3
    assert (len(data.train), len(data.evaluation)) == (12, 5)
    image = data.train[3]["image"]
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[..., 0] * 255, columns()["x_train"][3], atol=1e-4)
    assert data.train[4]["label"].shape == ()


def test_numbers_and_colours_stay_as_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(12, 4, 5, 3))
    data = arrays(path=saved(tmp_path, x_train=images))
    assert data.image_shape == (4, 5, 3)
    np.testing.assert_array_equal(data.train[7]["image"], images[7])


@pytest.mark.parametrize("name", columns())
def test_a_missing_array_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(HvdkitError, match=f"no array {name}"):
        arrays(path=saved(tmp_path, **{name: None}))


class Bomb:
    """Unpickling this would leave a file behind."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trace,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    images = np.array([Bomb(trace)] * 12, dtype=object)
    with pytest.raises(HvdkitError, match=r"not an \.npz file of plain arrays"):
        arrays(path=saved(tmp_path, x_train=images))
    assert not trace.exists()


def bytes_of(save: Callable, *args: Any, **kwargs: Any) -> bytes:
    memory = io.BytesIO()
    save(memory, *args, **kwargs)
    return memory.getvalue()


ARCHIVE = bytes_of(np.savez_compressed, **columns())
NO_ARCHIVES = {
    "empty": b"",
    "text": b"not an archive",
    "one array": bytes_of(np.save, np.zeros(3)),
    "cut short": ARCHIVE[: len(ARCHIVE) // 2],
    "altered": ARCHIVE[:80] + bytes(40) + ARCHIVE[120:],
}


@pytest.mark.parametrize("kind", NO_ARCHIVES)
def test_what_is_no_archive_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "images.npz"
    path.write_bytes(NO_ARCHIVES[kind])
    with pytest.raises(HvdkitError, match=r"images\.npz is not"):
        arrays(path=str(path))


def test_a_missing_file_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(HvdkitError, match=r"data\.source\.path=.*no such file"):
        arrays(path=str(tmp_path / "absent.npz"))


def test_images_and_labels_must_be_as_many(tmp_path: Path) -> None:
    with pytest.raises(HvdkitError, match="differ in length"):
        arrays(path=saved(tmp_path, y_train=np.zeros(11, int)))


def test_taking_is_indexing() -> None:
    source = ArraySource(a=np.arange(10), b=np.arange(20).reshape(10, 2))
    taken = source.take(np.array([7, 0, 7]))
    for name in ("a", "b"):
        np.testing.assert_array_equal(taken[name], [source[i][name] for i in (7, 0, 7)])


def test_digits_are_split_the_same_every_time_with_every_class_on_both_sides() -> None:
    first, second = digits(test_fraction=0.25), digits(test_fraction=0.25)
    assert len(first.train) + len(first.evaluation) == 1797
    assert len(first.evaluation) == pytest.approx(1797 / 4, abs=1)
    assert first.image_shape == (8, 8, 1)
    every = np.arange(len(first.evaluation))
    once, again = (take(data.evaluation, every.tolist()) for data in (first, second))
    for name in once:
        np.testing.assert_array_equal(once[name], again[name])
    assert set(once["label"].tolist()) == set(range(first.classes))
    assert 0 <= once["image"].min() <= once["image"].max() <= 1
