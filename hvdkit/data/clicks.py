"""Criteo's click logs: a label, 13 counts and 26 categories a line, separated by tabs.

The form of the Kaggle display advertising challenge of 2014. Lines are parsed once into a file
of fixed-size records, which later runs map into memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit.comm import Comm
from hvdkit.data.bad_records import BadRecords, OnBadRecord
from hvdkit.data.keys import words
from hvdkit.data.lines import blocks, existing_file, good_lines, shown
from hvdkit.data.sources import BatchSource, Dataset
from hvdkit.errors import HvdkitError
from hvdkit.launch.cache import default_cache

DENSE, CATEGORIES = 13, 26
_FIELDS = 1 + DENSE + CATEGORIES
_VERSION = 1  # of what the cached records mean
_RECORD = np.dtype(
    [("dense", "<f4", (DENSE,)), ("categories", "<i4", (CATEGORIES,)), ("label", "u1")]
)
_ENDS = 2**20  # bytes at either end of a file that tell it from another of its size and time
_ABSENT = 2**32  # stands for an empty category: the others have 32 bits

_TAB, _NEWLINE, _MINUS, _ZERO = b"\t\n-0"
_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789", np.uint8)] = np.arange(10)
_HEX[np.frombuffer(b"abcdef", np.uint8)] = _HEX[np.frombuffer(b"ABCDEF", np.uint8)] = range(10, 16)


@dataclass(frozen=True, kw_only=True)
class ClickDataset(Dataset):
    """Clicks with `dense` numbers each, and categories below `tables`, one bound for each."""

    dense: int
    tables: list[int]

    @property
    def sizes(self) -> dict[str, Any]:
        """What a model for it is made of."""
        return {"dense": self.dense, "tables": self.tables}


class Clicks(BatchSource):
    """Some of the cached records: {"dense": (13,), "categories": (26,), "label": ()}."""

    def __init__(self, records: np.ndarray):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        records = self._records[indices]
        return {name: np.ascontiguousarray(records[name]) for name in _RECORD.names or ()}


def criteo(
    *,
    path: str,
    cache: str | None = None,
    buckets: int = 100_000,
    evaluation_fraction: float = 1 / 7,
    on_bad_record: OnBadRecord = "error",
    comm: Comm | None = None,
) -> ClickDataset:
    """The clicks of a labelled file, or of train.txt in a folder; its last `evaluation_fraction`
    is kept for evaluation, as lines are in order of time (a seventh of seven days is the last).

    A count x becomes log(1 + x), as do missing and negative ones as 0. A category becomes one of
    `buckets` rows of its field's table by hashing (Weinberger et al. 2009, arXiv:0902.2206); a
    missing one hashes like a value of its own.

    The parsed records, 157 bytes a line, are kept in the folder `cache`, by default hvdkit's own.
    They are made anew when the file or `buckets` changes; older ones can be deleted at any time.
    With `comm`, rank 0 makes them while the other ranks wait, then one rank of each host that
    does not see them.
    """
    file = existing_file(path, "data.source.path", names=("train.txt",))
    bad_records = BadRecords(on_bad_record)
    root = Path(cache).expanduser() if cache else default_cache(os.environ)
    folder = root / f"criteo-{_key(file, buckets)}"
    _make_once(folder, file, buckets, bad_records, comm)
    for where, problem in json.loads((folder / "bad_records.json").read_text()):
        bad_records.report(where, problem)
    records = _mapped(folder / "records", file)
    evaluation = round(len(records) * evaluation_fraction)
    if not 0 < evaluation < len(records):
        raise HvdkitError(
            f"data.source.evaluation_fraction={evaluation_fraction:g} of the {len(records)} "
            f"records of {file} leaves {evaluation} for evaluation and "
            f"{len(records) - evaluation} for training: both need one"
        )
    return ClickDataset(
        train=Clicks(records[:-evaluation]),
        evaluation=Clicks(records[-evaluation:]),
        bad_records=bad_records,
        dense=DENSE,
        tables=[buckets] * CATEGORIES,
    )


# ---- the cache ---------------------------------------------------------------------------------


def _key(file: Path, buckets: int) -> str:
    """Names what the records are made of: the file, by size, time and ends, and the settings."""
    about = file.stat()
    digest = hashlib.sha256(
        f"{_VERSION} {buckets} {file.resolve()} {about.st_size} {about.st_mtime_ns}".encode()
    )
    with file.open("rb") as stream:
        digest.update(stream.read(_ENDS))
        stream.seek(max(about.st_size - _ENDS, 0))
        digest.update(stream.read(_ENDS))
    return digest.hexdigest()[:16]


def _make_once(
    folder: Path, file: Path, buckets: int, bad_records: BadRecords, comm: Comm | None
) -> None:
    """Make the cache `folder` unless it is there; every rank sees it, or the same error."""
    turns = [True] if comm is None else [comm.rank == 0, comm.local_rank == 0]
    for turn in turns:
        problem = None
        if turn and not folder.exists():
            try:
                _make(folder, file, buckets, bad_records)
            except (HvdkitError, OSError) as error:
                problem = str(error)
        problems = [problem] if comm is None else comm.all_gather_object(problem)
        for found in problems:
            if found:
                raise HvdkitError(found)


def _make(folder: Path, file: Path, buckets: int, bad_records: BadRecords) -> None:
    """Write the cache beside its place, and give it its name when all of it is on disk."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    seen: list[tuple[str, str]] = []
    try:
        with (unfinished / "records").open("wb") as stream:
            for records in parse(file, buckets, _Noting(bad_records, seen)):
                stream.write(records.data)
            stream.flush()
            os.fsync(stream.fileno())
        (unfinished / "bad_records.json").write_text(json.dumps(seen))
        unfinished.chmod(0o755)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # else another job was first, with the same records
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


class _Noting(BadRecords):
    """Passes reports on, and keeps them for the runs that will not see the file's lines."""

    def __init__(self, bad_records: BadRecords, seen: list[tuple[str, str]]):
        super().__init__("skip")
        self._to, self._noted = bad_records, seen

    def report(self, where: str, problem: str) -> None:
        self._to.report(where, problem)
        self._noted.append((where, problem))


def _mapped(path: Path, file: Path) -> np.ndarray:
    if path.stat().st_size == 0:
        raise HvdkitError(f"{file} holds no record")
    return np.memmap(path, _RECORD, mode="r")


# ---- lines -------------------------------------------------------------------------------------


def parse(file: Path, buckets: int, bad_records: BadRecords) -> Iterator[np.ndarray]:
    """The records of a file, some at a time."""
    for number, block in blocks(file):
        records = _records(block, buckets)
        if records is None:
            block = good_lines(block, _problem, bad_records, file=file, number=number)
            records = _records(block, buckets)
        if records is None:
            raise HvdkitError(f"{file}: the lines from {number} on cannot be read as clicks")
        yield records


def _records(block: bytes, buckets: int) -> np.ndarray | None:
    """The block's records; None unless every line is one.

    All lines at once, digit by digit: some microseconds a line, and the file has 46 million.
    """
    data = np.frombuffer(block, np.uint8)
    separators = np.flatnonzero((data == _TAB) | (data == _NEWLINE))
    lines = block.count(b"\n")
    if len(separators) != lines * _FIELDS:
        return None
    ends = separators.reshape(lines, _FIELDS)
    if (data[ends[:, -1]] != _NEWLINE).any():
        return None
    starts = np.append(0, separators + 1)[:-1].reshape(ends.shape)
    counts = _whole_numbers(data, starts[:, : 1 + DENSE], ends[:, : 1 + DENSE])
    categories = _hexadecimal(data, starts[:, 1 + DENSE :], ends[:, 1 + DENSE :])
    if counts is None or categories is None:
        return None
    labelled = (ends[:, 0] - starts[:, 0] == 1) & (counts[:, 0] <= 1)
    if not labelled.all():
        return None
    records = np.empty(lines, _RECORD)
    records["label"] = counts[:, 0]
    records["dense"] = np.log1p(np.maximum(counts[:, 1:], 0).astype(np.float64))
    records["categories"] = hashed(categories, buckets)
    return records


def _whole_numbers(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """Decimal fields as int64, empty ones as 0; None if one is something else."""
    lengths = ends - starts
    negative = (lengths > 0) & (data[starts] == _MINUS)
    digits = lengths - negative
    longest = digits.max(initial=0)
    if longest > 18 or (negative & (digits == 0)).any():
        return None
    value = np.zeros(starts.shape, np.int64)
    for place in range(int(longest)):
        there = place < digits
        digit = data[np.where(there, starts + negative + place, 0)] - np.uint8(_ZERO)
        if (there & (digit > 9)).any():
            return None
        value = np.where(there, value * 10 + digit, value)
    return np.where(negative, -value, value)


def _hexadecimal(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """Hexadecimal fields as uint64, empty ones as `_ABSENT`; None if one is something else."""
    lengths = ends - starts
    longest = lengths.max(initial=0)
    if longest > 8:
        return None
    value = np.zeros(starts.shape, np.uint64)
    for place in range(int(longest)):
        there = place < lengths
        digit = _HEX[data[np.where(there, starts + place, 0)]]
        if (there & (digit > 15)).any():
            return None
        value = np.where(there, value * np.uint64(16) + digit, value)
    return np.where(lengths == 0, np.uint64(_ABSENT), value)


def hashed(categories: np.ndarray, buckets: int) -> np.ndarray:
    """Values (n, fields) as rows below `buckets`; equal values of two fields hash apart."""
    fields = np.arange(categories.shape[1], dtype=np.uint64) << np.uint64(33)
    mixed = words((categories | fields).reshape(-1), 1).reshape(categories.shape)
    return (mixed % np.uint64(buckets)).astype(np.int32)


def _problem(line: bytes) -> str | None:
    """What is wrong with a line, if anything."""
    fields = line.split(b"\t")
    if len(fields) != _FIELDS:
        return f"{len(fields)} fields instead of {_FIELDS}"
    label, counts, categories = fields[0], fields[1 : 1 + DENSE], fields[1 + DENSE :]
    if label not in (b"0", b"1"):
        return f"the label is {shown(label)}, not 0 or 1"
    for i, field in enumerate(counts, start=2):
        digits = field.removeprefix(b"-")
        if field and not (digits.isdigit() and len(digits) <= 18):
            return f"field {i} is {shown(field)}, not a whole number"
    for i, field in enumerate(categories, start=2 + DENSE):
        if len(field) > 8 or (_HEX[np.frombuffer(field, np.uint8)] > 15).any():
            return f"field {i} is {shown(field)}, not a category of 8 hexadecimal digits at most"
    return None
