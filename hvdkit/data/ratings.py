"""MovieLens ratings in the three forms they are published in (Harper & Konstan 2015, "The
MovieLens datasets: history and context", ACM TiiS 5:4)."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from hvdkit.data.bad_records import BadRecords, OnBadRecord
from hvdkit.data.interactions import RankingDataset, leave_one_out
from hvdkit.data.lines import blocks, existing_file, good_lines, shown
from hvdkit.errors import HvdkitError

_NAMES = ("u.data", "ratings.dat", "ratings.csv")
_HEADER = b"userId,movieId,rating,timestamp"
_FIELDS = ("user", "item", "rating", "timestamp")
_ROW = np.dtype([("user", "i8"), ("item", "i8"), ("rating", "f8"), ("timestamp", "i8")])
_WHOLE = re.compile(rb"\s*[+-]?[0-9]{1,18}\s*")
_RATING = re.compile(rb"\s*[0-9]+(\.[0-9]*)?\s*")


def movielens(
    *,
    path: str,
    negatives: int = 4,
    evaluation_negatives: int = 100,
    on_bad_record: OnBadRecord = "error",
) -> RankingDataset:
    """Every rating as an interaction, whatever it is: implicit feedback (He et al. 2017).

    `path` is the file of ratings, or the folder that holds it: u.data (ml-100k: tabs),
    ratings.dat (ml-1m, ml-10m: double colons) or ratings.csv (ml-20m, ml-25m and later: commas,
    under a header). Other files are read by their suffix, .dat and .csv, else with tabs.
    `leave_one_out` says how they are split, and what `negatives` are.
    """
    file = existing_file(path, "data.source.path", names=_NAMES)
    bad_records = BadRecords(on_bad_record)
    ratings = read_ratings(file, bad_records)
    if not len(ratings):
        raise HvdkitError(f"{file} holds no rating")
    return leave_one_out(
        ratings["user"],
        ratings["item"],
        ratings["timestamp"],
        negatives=negatives,
        evaluation_negatives=evaluation_negatives,
        bad_records=bad_records,
    )


def read_ratings(file: Path, bad_records: BadRecords) -> np.ndarray:
    """All ratings of a file, as a structured array of user, item, rating, timestamp."""
    delimiter = {".dat": b"::", ".csv": b","}.get(file.suffix, b"\t")
    parts = [np.empty(0, _ROW)]
    for number, block in blocks(file):
        if number == 1 and delimiter == b",":
            header, _, block = block.partition(b"\n")
            number = 2
            if header.strip().removeprefix(b"\xef\xbb\xbf") != _HEADER:
                raise HvdkitError(
                    f"{file}:1: the header is {shown(header.strip())}, not {_HEADER.decode()}"
                )
        parts.append(_parse(block, delimiter, bad_records, file=file, number=number))
    return np.concatenate(parts)


def _parse(
    block: bytes, delimiter: bytes, bad_records: BadRecords, *, file: Path, number: int
) -> np.ndarray:
    rows = _rows(block, delimiter)
    if rows is None:
        block = good_lines(
            block, lambda line: _problem(line, delimiter), bad_records, file=file, number=number
        )
        rows = _rows(block, delimiter)
    if rows is None:
        raise HvdkitError(f"{file}: the lines from {number} on cannot be read as ratings")
    return rows


def _rows(block: bytes, delimiter: bytes) -> np.ndarray | None:
    """The block's ratings; None unless every line is one."""
    if not block:
        return np.empty(0, _ROW)
    if len(delimiter) > 1:
        if b"\t" in block:  # what stands for the delimiter below must not be there already
            return None
        block = block.replace(delimiter, b"\t")
    try:
        rows = np.loadtxt(
            io.BytesIO(block),
            _ROW,
            comments=None,
            delimiter="," if delimiter == b"," else "\t",
            ndmin=1,
        )
    except ValueError:
        return None
    whole = len(rows) == block.count(b"\n") and np.isfinite(rows["rating"]).all()
    return rows if whole else None


def _problem(line: bytes, delimiter: bytes) -> str | None:
    """What is wrong with a line, if anything."""
    fields = line.split(delimiter)
    if len(fields) != len(_FIELDS):
        return f"{len(fields)} fields instead of {len(_FIELDS)} ({', '.join(_FIELDS)})"
    for name, field in zip(_FIELDS, fields, strict=True):
        pattern, kind = (_RATING, "number") if name == "rating" else (_WHOLE, "whole number")
        if not pattern.fullmatch(field):
            return f"the {name} is {shown(field)}, not a {kind}"
    return None
