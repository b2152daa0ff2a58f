"""Checkpoints: named arrays beside a manifest, published all at once or not at all.

    checkpoints/step-00000200/manifest.json       format, step, sha256 of each file
                              state-00000.safetensors      rank 0's arrays, and everyone's
    checkpoints/latest                            the newest one's name

A checkpoint is written under another name, flushed to disk, and renamed: a process killed at
any moment leaves whole ones only. Nothing is unpickled. Imports adapters' `Shard`, launch's
words for a full disk, and comm.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hvdkit.adapters.shard import Shard, without_rank
from hvdkit.comm import Comm
from hvdkit.errors import HvdkitError
from hvdkit.launch.failure import FREE_SPACE

FORMAT_VERSION = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was found whole: its folder, and its manifest's contents."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        return self.manifest["step"]

    def require_same_run(self, identity: Mapping[str, Any], num_steps: int) -> None:
        """Raise `HvdkitError` unless a run of this identity and length can go on from it.

        `identity` decides which records a step trains on.
        """
        if self.step > num_steps:
            raise HvdkitError(
                f"{self.path} is past the end of this run, which is {num_steps} steps long: "
                "raise trainer.num_steps (or num_epochs) to go on from it"
            )
        for name, value in identity.items():
            before = self.manifest[name]
            if before != value:
                raise HvdkitError(
                    f"{self.path} was trained with {name}={before}, this run has {value}: the "
                    "data would be gone over differently. Give the same value to resume, or "
                    "trainer.resume=false for a new run"
                )

    @property
    def world_size(self) -> int:
        return self.manifest["world_size"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array that is not one rank's own, put together from the ranks' shards.

        Raises `HvdkitError` if a file is no safetensors file, whatever the manifest says of it.
        """
        whole: dict[str, np.ndarray] = {}
        for rank, name, array, place in self._read(lambda rank: rank is None):
            del rank
            shape = tuple(place["global_shape"])
            if array.shape == shape:
                whole[name] = array
                continue
            flat = whole.setdefault(name, np.empty(shape, array.dtype)).reshape(-1)
            flat[place["offset"] : place["offset"] + array.size] = array.reshape(-1)
        return whole

    def own_arrays(self, rank: int) -> dict[str, np.ndarray]:
        """What rank `rank` alone held."""
        return {name: array for _, name, array, _ in self._read(lambda owner: owner == rank)}

    def sums_of_own(self) -> dict[str, np.ndarray]:
        """The sum over the ranks of what each alone held, taken in float64."""
        totals: dict[str, np.ndarray] = {}
        dtypes = {}
        for _, name, array, _ in self._read(lambda owner: owner is not None):
            dtypes[name] = array.dtype
            before = totals.get(name)
            totals[name] = array.astype(np.float64) + (0.0 if before is None else before)
        return {name: total.astype(dtypes[name]) for name, total in totals.items()}

    def _read(
        self, wanted: Callable[[int | None], bool]
    ) -> Iterator[tuple[int | None, str, np.ndarray, Mapping[str, Any]]]:
        """(owner or None, name, array, place) of each array whose owner is `wanted`."""
        for file, entry in self.manifest["files"].items():
            chosen = [name for name in entry["arrays"] if wanted(without_rank(name)[0])]
            if not chosen:
                continue
            try:
                with safe_open(self.path / file, framework="numpy") as arrays:
                    for key in chosen:
                        yield *without_rank(key), arrays.get_tensor(key), entry["arrays"][key]
            except (OSError, SafetensorError) as error:
                raise HvdkitError(f"{self.path / file} cannot be read: {error}") from None


class Checkpoints:
    """The checkpoints of one run, in `folder`, which every rank can reach.

    All ranks call each method together. The newest `keep` are kept.
    """

    def __init__(self, folder: Path, comm: Comm, *, keep: int = 3):
        self.folder, self.keep = Path(folder), keep
        self._comm = comm

    def save(self, step: int, state: Mapping[str, Shard], about: Mapping[str, Any]) -> Path:
        """Write one. `about` is what else the manifest should say (JSON values).

        Raises `HvdkitError` on every rank if any of them could not write.
        """
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".{final.name}.partial"
        self._together(lambda: self._begin(partial), on_rank=0)
        files = self._together(lambda: self._write(partial, state))
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "world_size": self._comm.size,
            **about,
            "files": {name: entry for part in files for name, entry in part.items()},
        }
        manifest["sha256"] = manifest_sha256(manifest)
        self._together(lambda: self._publish(partial, final, manifest), on_rank=0)
        return final

    def newest(self) -> Saved | None:
        """The newest whole checkpoint, or None if there are none at all.

        A damaged one is reported and passed over; if all are, that is an `HvdkitError`.
        """
        return self._together(self._find, on_rank=0)[0]

    def _together(self, action, *, on_rank=None):
        """Run `action` (on one rank, or on all) and share results; any error is everyone's."""
        result, problem = None, None
        if on_rank in (None, self._comm.rank):
            try:
                result = action()
            except (OSError, HvdkitError, SafetensorError) as error:
                problem = str(error)
        outcomes = self._comm.all_gather_object((result, problem))
        for rank, (_, problem) in enumerate(outcomes):
            if problem:
                remedy = f". {FREE_SPACE}" if os.strerror(errno.ENOSPC) in problem else ""
                raise HvdkitError(f"checkpoint in {self.folder}, rank {rank}: {problem}{remedy}")
        return [result for result, _ in outcomes]

    def _begin(self, partial: Path) -> None:
        for left in self.folder.glob(".step-*.partial"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)

    def _write(self, partial: Path, state: Mapping[str, Shard]) -> dict[str, Any]:
        if not state:
            return {}
        path = partial / f"state-{self._comm.rank:05d}.safetensors"
        arrays = {name: np.require(shard.array, requirements="C") for name, shard in state.items()}
        for name, array in arrays.items():
            if not np.all(np.isfinite(array)):
                raise HvdkitError(
                    f"{name} holds a value that is not finite, so nothing was saved: the run has "
                    "diverged; lower optimizer.lr, or set trainer.clip_norm"
                )
        save_file(arrays, path)
        _flush(path)
        places = {
            name: {"offset": shard.offset, "global_shape": list(shard.global_shape)}
            for name, shard in state.items()
        }
        entry = {"sha256": _sha256(path), "bytes": path.stat().st_size, "arrays": places}
        return {path.name: entry}

    def _publish(self, partial: Path, final: Path, manifest: Mapping[str, Any]) -> None:
        _write_text(partial / "manifest.json", json.dumps(manifest, indent=1))
        _flush(partial)
        if final.exists():  # a damaged one that the run has come back past
            self._remove(final)
        partial.rename(final)
        _flush(self.folder)
        latest = self.folder / ".latest.partial"
        _write_text(latest, final.name + "\n")
        latest.rename(self.folder / "latest")
        _flush(self.folder)
        steps = self._steps()
        # Later ones are damaged: the run fell back past them and has come this far again.
        later = [path for path in steps if path.name > final.name]
        for path in later + steps[len(later) + self.keep :]:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        """Take a checkpoint back: it is whole until it is no checkpoint any more."""
        aside = self.folder / f".{path.name}.old.partial"
        path.rename(aside)
        shutil.rmtree(aside)

    def _steps(self) -> list[Path]:
        """Published checkpoints, newest first."""
        return sorted(self.folder.glob("step-" + "[0-9]" * 8), reverse=True)

    def _find(self) -> Saved | None:
        steps = self._steps()
        for path in steps:
            try:
                return Saved(path, _verified_manifest(path))
            except HvdkitError as error:
                _log.warning("%s is damaged, falling back to an earlier one: %s", path, error)
        if steps:
            raise HvdkitError(
                f"none of the {len(steps)} checkpoints is whole, so there is nothing to resume; "
                "start again with trainer.resume=false (the old run is kept aside)"
            )
        return None


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """The digest that a manifest holds of all else in it."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _verified_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        version = manifest["format_version"]
        files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HvdkitError(f"manifest.json cannot be read: {error}") from None
    if version != FORMAT_VERSION:
        raise HvdkitError(f"its format is {version}, this hvdkit reads {FORMAT_VERSION}")
    if manifest.get("sha256") != manifest_sha256(manifest):
        raise HvdkitError("the contents of manifest.json are not those that were saved")
    for name, expected in files.items():
        try:
            actual = _sha256(path / name)
        except OSError as error:
            raise HvdkitError(f"{name} cannot be read: {error.strerror}") from None
        if actual != expected:
            raise HvdkitError(f"the contents of {name} are not those that were saved")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
    _flush(path)


def _flush(path: Path) -> None:
    """Make a file's contents, or a folder's entries, outlast a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
