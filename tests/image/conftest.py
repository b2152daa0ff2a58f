"""One image for all tests here: built once, unpacked once, removed whatever happens.

`make image-test` runs these; no other target does, for they take minutes and gigabytes.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.image.builder import Builder, Config
from tests.image.container import Container

TAG = "localhost/hvdkit"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.image)
            item.add_marker(pytest.mark.system("buildah", "debootstrap", "ip", "unshare"))
            item.add_marker(pytest.mark.timeout(1500))


@dataclass(frozen=True)
class Image:
    """A built image: its unpacked files, its configuration, what its build printed."""

    rootfs: Path
    config: Config
    log: str


@pytest.fixture(scope="session")
def builder() -> Iterator[Builder]:
    """buildah in a folder of its own. SIGTERM ends the tests as Ctrl-C does: cleaned up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    parent = Path(tempfile.mkdtemp(prefix="hvdkit-image-"))
    builder = Builder(parent / "work", parent / "build.log")
    try:
        builder.make_base()
        yield builder
    finally:
        builder.close()
        shutil.rmtree(parent)
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def image(builder: Builder, say: Callable[[str], None]) -> Image:
    """The CPU image of both frameworks."""
    begun = time.monotonic()
    log = builder.build(TAG, {"FRAMEWORKS": "both", "REVISION": "tested"})
    config = builder.config(TAG)
    rootfs = builder.unpack(TAG)
    megabytes = builder.megabytes(TAG)
    minutes = (time.monotonic() - begun) / 60
    say(f"\nThe CPU image of both frameworks: {megabytes:.0f} MB, {minutes:.1f} minutes")
    return Image(rootfs, config, log)


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print past pytest's capture: a size that only a failure shows is not shown."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(text, flush=True)

    return say


@pytest.fixture
def run(image: Image, tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """Start containers of the image; those still running when the test ends are killed."""
    started: list[Container] = []

    def start(*command: str, **how: Any) -> Container:
        log = tmp_path / f"container-{len(started)}.log"
        container = Container(image.rootfs, image.config, command or None, log=log, **how)
        started.append(container)
        return container

    yield start
    for container in started:
        container.kill()
