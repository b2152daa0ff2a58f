"""Labelled texts: three formats, their malformed records, and what becomes of good ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvdkit.data import TextDataset, labelled_text
from hvdkit.data.labelled_text import _shortened
from hvdkit.data.sources import take
from hvdkit.data.tokenizers import Bytes
from hvdkit.errors import HvdkitError

BYTES = Bytes()


def read(path: Path, **changed: Any) -> TextDataset:
    options: dict[str, Any] = {
        "path": str(path),
        "evaluation_path": str(path),
        "evaluation_fraction": 0.3,
        "text_field": "text",
        "pair_field": None,
        "label_field": "label",
        "labels": None,
        "context": 12,
        "tokenizer": "bytes",
        "vocabulary": 300,
        "on_bad_record": "error",
    }
    return labelled_text(**{**options, **changed})


def saved(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def texts(data: TextDataset) -> list[tuple[str, int]]:
    """(text, class) of every training record."""
    records = take(data.train, range(len(data.train)))
    return [
        (bytes(t for t in row.tolist() if t < 256).decode(), int(label))
        for row, label in zip(records["token"], records["label"], strict=True)
    ]


GOOD = {
    "a.jsonl": '{"text": "gut", "label": "yes"}\n\n{"label": "no", "text": "schlecht", "x": 1}\n',
    "a.csv": '\ufefftext,label\r\ngut,yes\r\n"schlecht",no\r\n',
    "a.tsv": "label\ttext\nyes\tgut\nno\tschlecht\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_the_formats_say_the_same(tmp_path: Path, name: str) -> None:
    data = read(saved(tmp_path, name, GOOD[name]))
    assert texts(data) == [("gut", 1), ("schlecht", 0)]
    assert (data.classes, data.objective, data.vocabulary) == (2, "classes", 261)


def test_csv_fields_may_hold_commas_quotes_and_lines(tmp_path: Path) -> None:
    file = saved(tmp_path, "a.csv", 'text,label\n"a, ""b""\nc",1\nd,0\n')
    assert texts(read(file)) == [('a, "b"\nc', 1), ("d", 0)]


def test_a_record_is_the_text_between_special_tokens(tmp_path: Path) -> None:
    file = saved(tmp_path, "a.csv", "text,label\nabc,0\nabcdefghijklmnop,1\n")
    data = read(file)
    short, long = data.train[0], data.train[1]
    end = [BYTES.between]
    assert short["token"].tolist() == [BYTES.first, *b"abc", *end, *[BYTES.pad] * 7]
    assert short["valid"].tolist() == [True] * 5 + [False] * 7
    assert long["token"].tolist() == [BYTES.first, *b"abcdefghij", *end]
    assert long["valid"].all()
    assert not long["segment"].any()


def test_a_second_text_is_the_second_segment(tmp_path: Path) -> None:
    file = saved(tmp_path, "a.csv", "text,label,other\nab,0,cd\nabcdefgh,1,x\n")
    record = read(file, pair_field="other").train[0]
    end = BYTES.between
    assert record["token"].tolist() == [BYTES.first, *b"ab", end, *b"cd", end, *[BYTES.pad] * 5]
    assert record["segment"].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [((3, 3), (3, 3)), ((9, 2), (7, 2)), ((2, 9), (2, 7)), ((9, 9), (5, 4)), ((5, 5), (5, 4))],
)
def test_the_longer_of_two_texts_gives_way(lengths: tuple[int, int], kept: tuple[int, int]) -> None:
    parts = _shortened([np.arange(length) for length in lengths], 12)  # 9 besides three specials
    assert tuple(map(len, parts)) == kept


def test_numbers_are_classes_in_their_order_and_words_in_theirs(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t{label}", "label": label}) for label in (10, 9, -1)]
    data = read(saved(tmp_path, "a.jsonl", "\n".join(lines)))
    assert texts(data) == [("t10", 2), ("t9", 1), ("t-1", 0)]
    listed = read(saved(tmp_path, "b.jsonl", "\n".join(lines)), labels=["9", "10", "-1"])
    assert texts(listed) == [("t10", 1), ("t9", 0), ("t-1", 2)]


def test_equal_texts_stay_on_one_side(tmp_path: Path) -> None:
    rows = "".join(f"text {i % 50},{i % 2}\n" for i in range(200))
    data = read(saved(tmp_path, "a.csv", f"text,label\n{rows}"), evaluation_path=None)
    sides = [
        {tuple(row) for row in take(part, range(len(part)))["token"].tolist()}
        for part in (data.train, data.evaluation)
    ]
    assert len(sides[0]) + len(sides[1]) == 50
    assert 5 < len(sides[1]) < 25
    assert len(data.train) + len(data.evaluation) == 200


def json_line(**record: Any) -> str:
    return json.dumps({"text": "good", "label": 1, **record})


BAD: dict[str, tuple[str, str | bytes, str]] = {
    "not JSON": ("a.jsonl", '{"text": "x", ', "is not JSON: .*column 15"),
    "not an object": ("a.jsonl", "[1, 2]", "is a list, not an object"),
    "a huge number": ("a.jsonl", '{"label": ' + "1" * 5000 + "}", "cannot be read"),
    "no text": ("a.jsonl", '{"label": 1}', "there is no field 'text'"),
    "no label": ("a.jsonl", '{"text": "x"}', "there is no field 'label'"),
    "text of another kind": ("a.jsonl", json_line(text=3), "'text' is a number, not a text"),
    "null": ("a.jsonl", json_line(text=None), "'text' is null, not a text"),
    "empty text": ("a.jsonl", json_line(text=""), "'text' is empty"),
    "label that is a fraction": ("a.jsonl", json_line(label=0.5), "'label' is a number, not a w"),
    "label that is a list": ("a.jsonl", json_line(label=[1]), "'label' is a list, not a word"),
    "label that is true": ("a.jsonl", json_line(label=True), "'label' is true or false, not a"),
    "empty label": ("a.jsonl", json_line(label=""), "'label' is empty"),
    "half a pair": ("a.jsonl", '{"text": "\\ud83d", "label": 1}', r"half a surrogate pair"),
    "bytes in JSON": ("a.jsonl", b'{"text": "\xff", "label": 1}', "byte 0xff is not UTF-8"),
    "bytes in CSV": ("a.csv", b"caf\xe9,1", "byte 0xe9 is not UTF-8"),
    "short row": ("a.csv", "alone", "row has 1 fields, and the header 2"),
    "long row": ("a.csv", "a,1,2", "row has 3 fields, and the header 2"),
    "empty field": ("a.csv", ",1", "'text' is empty"),
    "letters after a quote": ("a.csv", '"a"b,1', "is not CSV: .*expected after"),
}
AROUND = {
    "a.jsonl": ('{"text": "first", "label": 0}\n', '{"text": "last", "label": 1}\n', 2),
    "a.csv": ("text,label\nfirst,0\n", "last,1\n", 3),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_is_named_by_file_and_line_or_left_out(tmp_path: Path, kind: str) -> None:
    name, line, problem = BAD[kind]
    before, after, number = AROUND[name]
    middle = line if isinstance(line, bytes) else line.encode()
    file = saved(tmp_path, name, before.encode() + middle + b"\n" + after.encode())
    with pytest.raises(HvdkitError, match=rf"{name}:{number}: .*{problem}"):
        read(file)
    data = read(file, on_bad_record="skip")
    assert texts(data) == [("first", 0), ("last", 1)]
    assert data.bad_records is not None
    assert data.bad_records.count == 1


def test_a_row_of_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    file = saved(tmp_path, "a.csv", 'text,label\n"a\nb",0\n"c\nd"\n')
    with pytest.raises(HvdkitError, match=r"a\.csv:4: the row has 1 fields"):
        read(file)


def test_a_quote_that_is_never_closed_is_a_bad_record(tmp_path: Path) -> None:
    file = saved(tmp_path, "a.csv", 'text,label\na,0\nb,1\n"c,1\nd,0\n')
    with pytest.raises(HvdkitError, match=r"a\.csv:4: is not CSV: unexpected end of data"):
        read(file)


def test_a_label_that_training_never_saw_is_a_bad_record(tmp_path: Path) -> None:
    train = saved(tmp_path, "train.csv", "text,label\na,0\nb,1\n")
    test = saved(tmp_path, "test.csv", "text,label\na,0\nb,2\n")
    with pytest.raises(HvdkitError, match=r"test\.csv:3: the label '2' is none of: 0, 1"):
        read(train, evaluation_path=str(test))
    data = read(train, evaluation_path=str(test), on_bad_record="skip")
    assert (len(data.train), len(data.evaluation)) == (2, 1)


REFUSED = {
    "no such file": (None, None, "there is no such file"),
    "another format": ("a.txt", "x", r"must end in one of \.jsonl"),
    "an empty file": ("a.jsonl", "", "the file is empty"),
    "no record": ("a.csv", "text,label\n", "there is no record in it"),
    "no such column": ("a.csv", "text,class\na,1\n", r"a\.csv:1: there is no column 'label'"),
    "one label": ("a.csv", "text,label\na,1\nb,1\n", "every label is '1'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_cannot_serve_is_refused(tmp_path: Path, kind: str) -> None:
    name, content, problem = REFUSED[kind]
    file = saved(tmp_path, name, content or "") if name else tmp_path / "absent.csv"
    for policy in ("error", "skip"):
        with pytest.raises(HvdkitError, match=problem):
            read(file, on_bad_record=policy)


def test_a_side_without_records_is_said(tmp_path: Path) -> None:
    file = saved(tmp_path, "a.csv", "text,label\na,0\nb,1\n")
    with pytest.raises(HvdkitError, match=r"no record to evaluate on: see data\.source\.eval"):
        read(file, evaluation_path=None, evaluation_fraction=1e-9)
