"""The wheel store: whole wheels or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvdkit.install.wheels import WheelStore
from hvdkit.launch.cache import default_cache

NAME = "horovod-0.28.1-cp311-cp311-linux_x86_64.whl"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "built" / NAME
    path.parent.mkdir()
    path.write_bytes(b"wheel" * 1000)
    return path


def test_a_wheel_is_found_under_its_key_only(tmp_path: Path, wheel: Path) -> None:
    store = WheelStore(tmp_path / "cache")
    assert store.find("one") is None
    kept = store.add("one", wheel)
    assert store.find("one") == kept
    assert kept.read_bytes() == wheel.read_bytes()
    assert store.find("two") is None


def test_a_later_build_replaces_an_earlier_one(tmp_path: Path, wheel: Path) -> None:
    store = WheelStore(tmp_path)
    store.add("one", wheel)
    wheel.write_bytes(b"newer")
    assert store.add("one", wheel).read_bytes() == b"newer"
    assert len(list(store.folder.rglob("*.whl"))) == 1


def test_a_failed_copy_leaves_no_wheel(tmp_path: Path, wheel: Path) -> None:
    store = WheelStore(tmp_path / "cache")
    wheel.unlink()
    with pytest.raises(FileNotFoundError):
        store.add("one", wheel)
    assert store.find("one") is None
    assert not list(store.folder.rglob("*.whl"))
    assert not [path for path in store.folder.iterdir() if path.name.startswith(".new-")]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HVDKIT_CACHE": "/a/b"}, Path("/a/b")),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/hvdkit")),
        ({}, Path.home() / ".cache" / "hvdkit"),
        ({"HVDKIT_CACHE": ""}, Path.home() / ".cache" / "hvdkit"),
    ],
)
def test_where_the_cache_is(environ: dict[str, str], expected: Path) -> None:
    assert default_cache(environ) == expected
