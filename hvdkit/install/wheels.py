"""The store of built Horovod wheels, and the record of what each was built against.

A wheel lies in a folder named by its key and appears there whole or not at all. Imports the
standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from hvdkit.install.rules import RECORD_FILE
from hvdkit.install.survey import package_folder


class WheelStore:
    """`wheels/<key>/horovod-....whl` under a cache folder."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache / "wheels"

    def find(self, key: str) -> Path | None:
        """The wheel built under this key, if there is one."""
        return next(iter(sorted((self.folder / key).glob("horovod-*.whl"))), None)

    def add(self, key: str, wheel: Path) -> Path:
        """Take a finished wheel in.

        It is copied beside its place and renamed into it, so a reader never meets half a wheel
        and two builds at once do no harm: the later one stays.
        """
        place = self.folder / key
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".new-") as staging:
            copy = Path(shutil.copy2(wheel, staging))
            with copy.open("rb") as file:
                os.fsync(file.fileno())
            place.mkdir(exist_ok=True)
            os.replace(copy, place / wheel.name)
        return place / wheel.name


def read_record() -> dict[str, object] | None:
    """What the installed Horovod was built against, or None if it does not say.

    A Horovod that hvdkit did not build has only its own `metadata.json`, which names the
    versions of the frameworks; it is returned under the same names.
    """
    folder = package_folder("horovod")
    if folder is None:
        return None
    ours = read_json(folder / RECORD_FILE)
    if ours is not None:
        return ours
    theirs = read_json(folder / "metadata.json")
    if theirs is None:
        return None
    names = {"pytorch": "torch", "tensorflow": "tensorflow"}
    return {names[key]: value for key, value in theirs.items() if key in names}


def read_json(path: Path) -> dict[str, object] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
