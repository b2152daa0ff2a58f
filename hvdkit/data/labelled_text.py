"""Labelled texts, or pairs of texts, from JSONL, CSV or TSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit.comm import Comm, SoloComm
from hvdkit.data.bad_records import BadRecords, OnBadRecord
from hvdkit.data.sources import ArraySource
from hvdkit.data.text import TextDataset, agree, not_utf8, share
from hvdkit.data.tokenizers import Tokenizer, TokenizerKind, make_tokenizer
from hvdkit.errors import HvdkitError

_FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv")


@dataclass(frozen=True)
class Example:
    """One record as it was read, and where."""

    where: str
    texts: tuple[str, ...]
    label: str


def labelled_text(
    *,
    path: str,
    evaluation_path: str | None,
    evaluation_fraction: float,
    text_field: str,
    pair_field: str | None,
    label_field: str,
    labels: Sequence[str] | None,
    context: int,
    tokenizer: TokenizerKind,
    vocabulary: int,
    on_bad_record: OnBadRecord,
    comm: Comm | None = None,
) -> TextDataset:
    """Texts to be classified, from .jsonl (one object a line) or .csv and .tsv (with a header).

    A label is a word or a whole number; `labels` lists them in the order of their classes, null
    takes those found (of the training file, if `evaluation_path` is given), in order. With
    `pair_field` each record has two texts. If `evaluation_path` is null, `evaluation_fraction`
    of the records are evaluated on, chosen by the digests of their texts, so that equal texts
    stay on one side.

    Records are {"token", "segment", "valid": (context,), "label": ()}: the first token, the
    text, the one between, and likewise the second text as segment 1; cut where they would be
    longer than `context`, the longer text first.

    Bad records: bytes that are not UTF-8, a line that is not JSON, a missing or an empty field,
    a row that is not as long as the header, a label of another kind or one that is not listed.
    """
    comm, bad = comm or SoloComm(), BadRecords(on_bad_record)
    fields = (text_field, pair_field, label_field)
    train = _examples(path, "path", fields, bad)
    if evaluation_path is not None:
        evaluation = _examples(evaluation_path, "evaluation_path", fields, bad)
        known = _classes(train, labels)
    else:
        known = _classes(train, labels)
        train, evaluation = _split(train, evaluation_fraction)
    train, evaluation = (
        [example for example in part if _is_known(example, known, bad)]
        for part in (train, evaluation)
    )
    for name, part in (("train on", train), ("evaluate on", evaluation)):
        if not part:
            raise HvdkitError(
                f"data.source.path={path}: no record to {name}: see "
                "data.source.evaluation_fraction and data.source.evaluation_path"
            )
    if len(known) < 2:
        raise HvdkitError(
            f"data.source.path={path}: every label is {known[0]!r}: there is nothing to tell apart"
        )
    agree(comm, *([repr((e.texts, e.label)) for e in part] for part in (train, evaluation)))
    texts = [text for example in train for text in example.texts]
    made = make_tokenizer(tokenizer, texts, vocabulary=vocabulary, comm=comm)
    return TextDataset(
        train=_source(train, known, made, context),
        evaluation=_source(evaluation, known, made, context),
        bad_records=bad,
        vocabulary=made.vocabulary,
        context=context,
        objective="classes",
        classes=len(known),
    )


# ---- records to arrays -------------------------------------------------------------------------


def _source(
    examples: Sequence[Example], known: Sequence[str], tokenizer: Tokenizer, context: int
) -> ArraySource:
    numbers = {label: number for number, label in enumerate(known)}
    token = np.full((len(examples), context), tokenizer.pad, tokenizer.dtype)
    segment = np.zeros((len(examples), context), np.uint8)
    valid = np.zeros((len(examples), context), bool)
    for i, example in enumerate(examples):
        parts = _shortened([tokenizer.encode(text) for text in example.texts], context)
        row = [np.array([tokenizer.first])]
        for part in parts:
            row += [part, np.array([tokenizer.between])]
        joined = np.concatenate(row)
        token[i, : len(joined)] = joined
        segment[i, len(parts[0]) + 2 : len(joined)] = 1
        valid[i, : len(joined)] = True
    label = np.array([numbers[example.label] for example in examples], np.int64)
    return ArraySource(token=token, segment=segment, valid=valid, label=label)


def _shortened(parts: list[np.ndarray], context: int) -> list[np.ndarray]:
    """At most `context` tokens with the special ones: the longer part gives way first."""
    room = context - 1 - len(parts)
    if len(parts) == 1:
        return [parts[0][:room]]
    first, second = parts
    half = room // 2
    keep = max(room - len(second), min(len(first), room - half))
    return [first[:keep], second[: room - min(len(first), keep)]]


def _classes(examples: Sequence[Example], labels: Sequence[str] | None) -> list[str]:
    if labels is not None:
        return list(labels)
    found = {example.label for example in examples}
    if all(label.removeprefix("-").isdecimal() for label in found):
        return sorted(found, key=int)
    return sorted(found)


def _is_known(example: Example, known: Sequence[str], bad: BadRecords) -> bool:
    if example.label in known:
        return True
    listed = ", ".join(known[:10]) + (" ..." if len(known) > 10 else "")
    bad.report(example.where, f"the label {example.label!r} is none of: {listed}")
    return False


def _split(examples: Sequence[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    train: list[Example] = []
    evaluation: list[Example] = []
    for example in examples:
        side = evaluation if share("\0".join(example.texts)) < fraction else train
        side.append(example)
    return train, evaluation


# ---- files to records --------------------------------------------------------------------------


def _examples(
    path: str, key: str, fields: tuple[str, str | None, str], bad: BadRecords
) -> list[Example]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise HvdkitError(f"data.source.{key}={path}: there is no such file")
    if file.suffix not in _FORMATS:
        raise HvdkitError(
            f"data.source.{key}={path}: the name must end in one of {', '.join(_FORMATS)}"
        )
    if file.stat().st_size == 0:
        raise HvdkitError(f"data.source.{key}={path}: the file is empty")
    read = _json_lines if file.suffix in (".jsonl", ".ndjson") else _rows
    found = []
    try:
        for where, record in read(file, fields, bad):
            example = _example(where, record, fields, bad)
            if example is not None:
                found.append(example)
    except OSError as error:
        raise HvdkitError(f"data.source.{key}={path}: cannot be read: {error.strerror}") from None
    if not found:
        raise HvdkitError(f"data.source.{key}={path}: there is no record in it")
    return found


def _example(
    where: str, record: Mapping[str, Any], fields: tuple[str, str | None, str], bad: BadRecords
) -> Example | None:
    """The record, checked; None if it is bad and left out."""
    *text_fields, label_field = (field for field in fields if field is not None)
    problem = next(filter(None, (_text_problem(record, field) for field in text_fields)), None)
    problem = problem or _label_problem(record, label_field)
    if problem:
        bad.report(where, problem)
        return None
    return Example(where, tuple(record[field] for field in text_fields), str(record[label_field]))


def _text_problem(record: Mapping[str, Any], field: str) -> str | None:
    if field not in record:
        return f"there is no field {field!r}"
    text = record[field]
    if not isinstance(text, str):
        return f"the field {field!r} is {_kind(text)}, not a text"
    return _not_writable(text) if text else f"the field {field!r} is empty"


def _label_problem(record: Mapping[str, Any], field: str) -> str | None:
    if field not in record:
        return f"there is no field {field!r}"
    label = record[field]
    if isinstance(label, bool) or not isinstance(label, (str, int)):
        return f"the label {field!r} is {_kind(label)}, not a word or a whole number"
    return _not_writable(str(label)) if label != "" else f"the label {field!r} is empty"


def _not_writable(text: str) -> str | None:
    """What is wrong with a text that has no UTF-8: a byte kept as a surrogate, or a \\ud800."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return not_utf8(code - 0xDC00)
        return f"the text has half a surrogate pair, \\u{code:04x}"
    return None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else "a text")


def _lines(file: Path) -> Iterator[str]:
    # Bytes that are not UTF-8 are kept as surrogates, so that the record they are in is named.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        yield from stream


def _json_lines(file: Path, _fields: Any, bad: BadRecords) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(_lines(file), start=1):
        where = f"{file}:{number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            bad.report(where, f"is not JSON: {error.msg}, column {error.colno}")
            continue
        except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's
            bad.report(where, f"cannot be read: {error}")
            continue
        if isinstance(record, dict):
            yield where, record
        else:
            bad.report(where, f"is {_kind(record)}, not an object")


def _rows(
    file: Path, fields: tuple[str, str | None, str], bad: BadRecords
) -> Iterator[tuple[str, dict]]:
    delimiter = "\t" if file.suffix == ".tsv" else ","
    reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        where = f"{file}:{reader.line_num + 1}"  # a row may go over several lines: its first
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad.report(where, f"is not CSV: {error}")
            continue
        if not row:
            continue
        if header is None:
            header = row
            absent = [field for field in fields if field is not None and field not in header]
            if absent:
                raise HvdkitError(
                    f"{where}: there is no column {absent[0]!r} in the header: {', '.join(header)}"
                )
        elif len(row) != len(header):
            bad.report(where, f"the row has {len(row)} fields, and the header {len(header)}")
        else:
            yield where, dict(zip(header, row, strict=True))
