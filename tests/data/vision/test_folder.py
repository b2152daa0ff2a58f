"""Image folders: which files, which part of each, what becomes of other colours and bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hvdkit.data import ImageDataset, TrainData
from hvdkit.data.keys import fractions, position_keys
from hvdkit.data.sources import draw, take
from hvdkit.data.vision import image_folder
from hvdkit.data.vision.folder import _cut, centre, random_part
from hvdkit.errors import HvdkitError
from hvdkit.tasks import Classification
from tests.data.vision.files import picture, write_folder

OPTIONS: dict[str, Any] = {
    "image_size": 20,
    "resize": 30,
    "min_scale": 0.08,
    "flip": True,
    "mean": None,
    "std": None,
    "workers": 2,
}


def opened(root: Path, **changed: Any) -> ImageDataset:
    return image_folder(path=str(root), **{**OPTIONS, **changed})


def saved(root: Path, image: Image.Image, name: str = "a.png", **how: Any) -> Path:
    """One image, in both parts, as the only one of its class."""
    for part in ("train", "val"):
        (root / part / "cat").mkdir(parents=True, exist_ok=True)
        image.save(root / part / "cat" / name, **how)
    return root


def places(width: int = 40, height: int = 30) -> Image.Image:
    """Red says the column, green the row: 5 a pixel."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = 5 * np.arange(width)
    pixels[..., 1] = 5 * np.arange(height)[:, None]
    return Image.fromarray(pixels)


def test_records_are_in_the_order_of_names_with_their_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=("b", "a", "c"), train=3, val=2)
    (tmp_path / "train/a/.hidden.jpg").write_text("no image")
    (tmp_path / "train/a/notes.txt").write_text("no image")
    (tmp_path / "train/readme.md").write_text("no class")
    data = opened(tmp_path)
    assert (data.classes, data.image_shape) == (3, (20, 20, 3))
    assert take(data.train, range(9))["label"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert take(data.evaluation, range(6))["label"].tolist() == [0, 0, 1, 1, 2, 2]
    record = data.train[4]
    assert record["image"].dtype == np.uint8
    assert (int(record["label"]), float(record["weight"])) == (1, 1)
    with Image.open(tmp_path / "train/b/b_1.JPEG") as image:
        expected = np.asarray(image)[5:25, 10:30]
    np.testing.assert_array_equal(record["image"], expected)


def test_evaluation_scales_the_shorter_side_and_takes_the_centre(tmp_path: Path) -> None:
    data = opened(saved(tmp_path, places()))
    # The shorter side has the size already: the middle 20 x 20 pixels, as they are.
    expected = np.asarray(places())[5:25, 10:30]
    np.testing.assert_array_equal(data.evaluation[0]["image"], expected)
    half = opened(tmp_path, image_size=10, resize=15).evaluation[0]["image"]
    reference = np.asarray(places().resize((20, 15), Image.Resampling.BILINEAR))[3:13, 5:15]
    # Pillow's own two steps cut at whole pixels: rows 2.5 to 12.5 become 3 to 13.
    np.testing.assert_allclose(half[..., 0], reference[..., 0], atol=1)
    np.testing.assert_allclose(half[..., 1], reference[..., 1].astype(float) - 5, atol=1)


def test_the_centre_is_inside() -> None:
    assert centre((400, 300), 256, 224) == pytest.approx((68.75, 18.75, 331.25, 281.25))
    assert centre((31, 77), 40, 40) == (0, 23, 31, 54)


def test_numbers_are_normalised_by_colour(tmp_path: Path) -> None:
    data = opened(saved(tmp_path, places()), mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0])
    image = data.evaluation[0]["image"]
    assert image.dtype == np.float32
    pixels = np.asarray(places())[5:25, 10:30] / 255
    np.testing.assert_allclose(image, (pixels - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0], atol=1e-6)


# ---- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (17, 23)])
def test_random_parts_have_the_areas_and_ratios_asked_for(size: tuple[int, int]) -> None:
    width, height = size
    random = fractions(position_keys(0, range(3000)), 23)
    boxes = np.array([random_part(size, row, min_scale=0.08) for row in random])
    left, upper, right, lower = boxes.T
    assert (left >= 0).all()
    assert (upper >= 0).all()
    assert (right <= width).all()
    assert (lower <= height).all()
    across, down = right - left, lower - upper
    area, ratio = across * down / (width * height), across / down
    coarse = 0.02 if min(size) > 100 else 0.3  # sides are whole pixels
    assert 0.08 * (1 - coarse) <= area.min() < 0.1 * (1 + coarse)
    assert area.max() > 0.9
    assert 0.75 * (1 - coarse) <= ratio.min() < 0.8
    assert 1.25 < ratio.max() <= 4 / 3 * (1 + coarse)
    # The place is uniform: on average as much is left out before as behind.
    room = left / np.where(width > across, width - across, np.inf)
    assert room[width > across].mean() == pytest.approx(0.5, abs=0.05)


def test_what_no_try_fits_into_is_cut_in_the_middle() -> None:
    random = fractions(position_keys(0, range(1)), 23)[0]
    assert random_part((1000, 10), random, min_scale=1.0) == (493, 0, 506, 10)
    assert random_part((10, 1000), random, min_scale=1.0) == (0, 493, 10, 506)


def test_a_drawn_image_is_the_part_its_key_says(tmp_path: Path) -> None:
    data = opened(saved(tmp_path, places()), image_size=30)
    keys = position_keys(0, range(60))
    flips = 0
    for i, image in enumerate(draw(data.train, np.zeros(60, int), keys)["image"]):
        random = fractions(keys[i : i + 1], 23)[0]
        left, upper, right, lower = random_part((40, 30), random, min_scale=0.08)
        flipped = random[-1] < 0.5
        flips += flipped
        columns = image[..., 0].astype(float)[:, :: -1 if flipped else 1].mean(0) / 5
        rows = image[..., 1].astype(float).mean(1) / 5
        # Pixel centres of the part, evenly from one side to the other.
        for found, low, high in ((columns, left, right), (rows, upper, lower)):
            middle = (low + high - 1) / 2
            assert found.mean() == pytest.approx(middle, abs=0.25)
            assert (np.diff(found) >= 0).all()
            assert (found[0], found[-1]) == pytest.approx((low, high - 1), abs=1.0)
    assert 15 < flips < 45


def test_a_drawn_image_depends_on_its_key_alone(tmp_path: Path) -> None:
    write_folder(tmp_path)
    keys = position_keys(5, range(9))
    whole = draw(opened(tmp_path).train, np.arange(9), keys)
    again = draw(opened(tmp_path, workers=5).train, np.arange(9), keys)
    np.testing.assert_array_equal(whole["image"], again["image"])
    one = draw(opened(tmp_path).train, np.array([7]), keys[7:8])
    np.testing.assert_array_equal(one["image"][0], whole["image"][7])
    other = draw(opened(tmp_path).train, np.arange(9), position_keys(6, range(9)))
    assert not np.array_equal(other["image"], whole["image"])
    np.testing.assert_array_equal(whole["label"], np.repeat([0, 1, 2], 3))


def test_flipping_can_be_left_out(tmp_path: Path) -> None:
    data = opened(saved(tmp_path, places()), flip=False)
    images = draw(data.train, np.zeros(40, int), position_keys(0, range(40)))["image"]
    red = images[..., 0].astype(float)
    assert (np.diff(red.mean(1), axis=1) >= 0).all()


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    picture(np.random.default_rng(0), (800, 600)).save(path, quality=95)
    box = centre((800, 600), 74, 64)
    with Image.open(path) as image:
        small = np.asarray(_cut(image, box, 64), float)
        assert image.size == (100, 75)
    with Image.open(path) as image:
        whole = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR, box=box), float)
    assert abs(small - whole).mean() < 2
    assert abs(small - whole).max() < 16
    with Image.open(path) as image:
        _cut(image, (100, 100, 200, 200), 64)
        assert image.size == (800, 600)


# ---- other colours -----------------------------------------------------------------------------

RED = (200, 40, 80)


def palette(**how: Any) -> Image.Image:
    return Image.new("RGB", (40, 30), RED).quantize(4)


OTHERS: dict[str, tuple[Image.Image, str, dict[str, Any], tuple[int, int, int]]] = {
    "grey JPEG": (Image.new("L", (40, 30), 90), "a.jpg", {}, (90, 90, 90)),
    "grey PNG": (Image.new("L", (40, 30), 90), "a.png", {}, (90, 90, 90)),
    "bits": (Image.new("1", (40, 30), 1), "a.png", {}, (255, 255, 255)),
    "CMYK JPEG": (Image.new("CMYK", (40, 30), (55, 215, 175, 0)), "a.jpeg", {}, RED),
    "palette": (palette(), "a.png", {}, RED),
    "transparent palette": (palette(), "a.png", {"transparency": b"\x80\x10"}, RED),
    "transparent": (Image.new("RGBA", (40, 30), (*RED, 9)), "a.png", {}, RED),
    "GIF": (palette(), "a.gif", {}, RED),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_colours_become_red_green_and_blue(tmp_path: Path, name: str) -> None:
    image, file, how, colour = OTHERS[name]
    data = opened(saved(tmp_path, image, file, **how))
    for record in (
        data.evaluation[0],
        {k: x[0] for k, x in draw(data.train, np.array([0]), position_keys(0, range(1))).items()},
    ):
        assert record["weight"] == 1
        assert record["image"].shape == (20, 20, 3)
        np.testing.assert_allclose(
            record["image"].astype(float), np.broadcast_to(colour, (20, 20, 3)), atol=4
        )


# ---- what is wrong -------------------------------------------------------------------------------


def text(file: Path) -> None:
    file.write_text("<html>404</html>")


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:500])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def sixteen_bits(file: Path) -> None:
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(file, "PNG")


def broken_png(file: Path) -> None:
    places().save(file, "PNG")
    data = bytearray(file.read_bytes())
    data[60:90] = bytes(30)
    file.write_bytes(data)


@pytest.mark.parametrize("spoil", [text, cut_off, empty, sixteen_bits, broken_png])
def test_an_undecodable_image_is_a_bad_record(tmp_path: Path, spoil: Any) -> None:
    write_folder(tmp_path, classes=("a", "b"))
    spoil(tmp_path / "train/b/b_0.JPEG")
    keys = position_keys(0, range(6))
    with pytest.raises(HvdkitError, match=r"train/b/b_0\.JPEG: it cannot be decoded: .+ Mend it"):
        draw(opened(tmp_path).train, np.arange(6), keys)
    data = opened(tmp_path, on_bad_record="skip")
    for _ in range(2):
        records = draw(data.train, np.arange(6), keys)
        assert records["weight"].tolist() == [1, 1, 1, 0, 1, 1]
        assert records["label"].tolist() == [0, 0, 0, 1, 1, 1]
        assert not records["image"][3].any()
        assert all(records["image"][i].any() for i in (0, 1, 2, 4, 5))
    assert data.bad_records is not None
    assert data.bad_records.count == 1


def test_a_batch_counts_its_good_images_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=("a", "b"))
    text(tmp_path / "train/a/a_0.JPEG")
    data = opened(tmp_path, on_bad_record="skip")
    task = Classification(layout="nchw")
    train = TrainData(data.train, task, batch_size=6, seed=0)
    assert train.usual_count() == 6  # though the first record weighs nothing
    ((batch,),) = train.batches(start=0, stop=1, replica=(0, 1))
    assert task.count(batch) == 5
    assert batch["image"].shape == (6, 3, 20, 20)


def test_folders_that_are_not_as_expected_are_named(tmp_path: Path) -> None:
    with pytest.raises(HvdkitError, match=r"data\.source\.path=.*absent.*no folder .*absent/train"):
        opened(tmp_path / "absent")
    write_folder(tmp_path, classes=("a", "b"))
    (tmp_path / "train/empty").mkdir()
    (tmp_path / "train/empty/notes.txt").write_text("")
    with pytest.raises(HvdkitError, match="train/empty is a class without images"):
        opened(tmp_path)
    (tmp_path / "train/empty/notes.txt").unlink()
    (tmp_path / "train/empty").rmdir()
    (tmp_path / "val/z").mkdir()
    with pytest.raises(HvdkitError, match=r"val/z is of a class that .*train lacks"):
        opened(tmp_path)
    (tmp_path / "val/z").rmdir()
    write_folder(tmp_path, classes=("c",), val=0)
    (tmp_path / "val/c").rmdir()
    data = opened(tmp_path)  # a class that is not evaluated
    assert (data.classes, len(data.evaluation)) == (3, 4)
    bare = tmp_path / "bare"
    (bare / "train").mkdir(parents=True)
    with pytest.raises(HvdkitError, match="bare/train holds no folder"):
        opened(bare)
