"""MovieLens in its three published forms, and lines that are not in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvdkit.data import lines, movielens
from hvdkit.data import ratings as ratings_module
from hvdkit.data.bad_records import BadRecords
from hvdkit.data.ratings import read_ratings
from hvdkit.data.sources import take
from hvdkit.errors import HvdkitError

ROWS = [
    (196, 242, "3", 881250949),
    (186, 302, "3", 891717742),
    (196, 377, "1", 878887116),
    (186, 51, "5", 880606923),
    (244, 242, "4", 880606924),
]
HEADER = "userId,movieId,rating,timestamp\n"
FORMS = {"u.data": ("\t", ""), "ratings.dat": ("::", ""), "ratings.csv": (",", HEADER)}


def text(name: str, rows: list[Any] = ROWS) -> str:
    delimiter, header = FORMS[name]
    return header + "".join(delimiter.join(map(str, row)) + "\n" for row in rows)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", FORMS)
def test_each_form_gives_the_same_interactions(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, text(name))
    ratings = read_ratings(path, BadRecords("error"))
    assert ratings["user"].tolist() == [row[0] for row in ROWS]
    assert ratings["item"].tolist() == [row[1] for row in ROWS]
    assert ratings["rating"].tolist() == [3, 3, 1, 5, 4]
    assert ratings["timestamp"].tolist() == [row[3] for row in ROWS]
    for where in (path, tmp_path):  # the file, or its folder
        data = movielens(path=str(where), negatives=2, evaluation_negatives=1)
        assert (data.users, data.items) == (3, 4)  # users 186 196 244, items 51 242 302 377
        held = take(data.evaluation, range(2))
        assert held["user"].tolist() == [0, 1]
        assert held["items"][:, 0].tolist() == [2, 1]
        records = take(data.train, range(3))
        assert records["user"].tolist() == [[0] * 3, [1] * 3, [2] * 3]
        assert records["item"][:, 0].tolist() == [0, 3, 1]
        assert data.bad_records is not None
        assert data.bad_records.count == 0


def test_half_stars_and_a_missing_last_newline_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "ratings.csv", HEADER + "1,296,3.5,1147880044\n1,306,0.5,11478688")
    assert read_ratings(path, BadRecords("error"))["rating"].tolist() == [3.5, 0.5]


def test_carriage_returns_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, "ratings.csv", text("ratings.csv").replace("\n", "\r\n"))
    assert len(read_ratings(path, BadRecords("error"))) == len(ROWS)


BAD: dict[str, tuple[str | bytes, str]] = {
    "short row": ("1{d}2{d}3\n", "3 fields instead of 4"),
    "long row": ("1{d}2{d}3{d}4{d}5\n", "5 fields instead of 4"),
    "no number": ("1{d}two{d}3{d}4\n", "the item is 'two', not a whole number"),
    "a fraction": ("1{d}2{d}3{d}4.5\n", "the timestamp is '4.5', not a whole number"),
    "not finite": ("1{d}2{d}nan{d}4\n", "the rating is 'nan', not a number"),
    "another alphabet": (b"1{d}2{d}\xff{d}4\n", "is not UTF-8"),
    "empty line": ("\n", "1 fields instead of 4"),
    "other delimiter": ("1;2;3;4\n", "1 fields instead of 4"),
    "huge": ("1{d}" + "9" * 30 + "{d}3{d}4\n", r"the item is '9{20}\.\.\.', not a whole number"),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_named_or_left_out_and_counted(tmp_path: Path, name: str, kind: str) -> None:
    line, problem = BAD[kind]
    delimiter, header = FORMS[name]
    bad = (line.encode() if isinstance(line, str) else line).replace(b"{d}", delimiter.encode())
    good = text(name).encode().splitlines(keepends=True)
    at = len(good) - 2
    path = written(tmp_path, name, b"".join([*good[:at], bad, *good[at:]]))
    with pytest.raises(HvdkitError, match=rf"{name}:{at + 1}: .*{problem}.*on_bad_record=skip"):
        movielens(path=str(path), negatives=2, evaluation_negatives=1)
    data = movielens(path=str(path), negatives=2, evaluation_negatives=1, on_bad_record="skip")
    assert data.bad_records is not None
    assert data.bad_records.count == 1
    assert len(data.train) + len(data.evaluation) == len(ROWS)
    assert header == "" or at == 4


def test_a_tab_where_colons_belong_is_no_delimiter(tmp_path: Path) -> None:
    path = written(tmp_path, "ratings.dat", "1\t2::3::4\n1::2::3::4\n")
    with pytest.raises(HvdkitError, match=r"ratings\.dat:1: 3 fields"):
        read_ratings(path, BadRecords("error"))
    bad_records = BadRecords("skip")
    assert len(read_ratings(path, bad_records)) == 1
    assert bad_records.count == 1


def test_line_numbers_go_on_from_block_to_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratings_module, "blocks", lambda file: lines.blocks(file, size=50))
    rows = [(i, i % 7, 3, i) for i in range(200)]
    content = text("ratings.dat", rows).splitlines(keepends=True)
    content[150] = "broken\n"
    path = written(tmp_path, "ratings.dat", "".join(content))
    with pytest.raises(HvdkitError, match=r"ratings\.dat:151: 1 fields"):
        read_ratings(path, BadRecords("error"))
    ratings = read_ratings(path, BadRecords("skip"))
    assert ratings["user"].tolist() == [i for i in range(200) if i != 150]


@pytest.mark.parametrize("header", ["userId,movieId,rating\n", "1,2,3,4\n", "\xff\n"])
def test_a_wrong_header_is_another_file(tmp_path: Path, header: str) -> None:
    path = written(tmp_path, "ratings.csv", (header + "1,2,3,4\n").encode("latin-1"))
    with pytest.raises(HvdkitError, match=r"ratings\.csv:1: the header is .*, not userId,movieId"):
        movielens(path=str(path), on_bad_record="skip")


def test_what_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(HvdkitError, match=r"data\.source\.path=.*absent: there is no such file"):
        movielens(path=str(tmp_path / "absent"))
    with pytest.raises(HvdkitError, match=r"holds none of u\.data, ratings\.dat, ratings\.csv"):
        movielens(path=str(tmp_path))
    written(tmp_path, "u.data", "")
    with pytest.raises(HvdkitError, match=r"u\.data is empty"):
        movielens(path=str(tmp_path))
    path = written(tmp_path, "ratings.csv", HEADER)
    with pytest.raises(HvdkitError, match=r"ratings\.csv holds no rating"):
        movielens(path=str(path))


def test_too_few_items_to_rank_among_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, "u.data", text("u.data"))
    with pytest.raises(HvdkitError, match=r"user \d+ did not come to .*evaluation_negatives=100"):
        movielens(path=str(path))


def test_parsing_keeps_integers_whole(tmp_path: Path) -> None:
    big = 2**53 + 1
    path = written(tmp_path, "u.data", f"{big}\t1\t5\t{big}\n")
    ratings = read_ratings(path, BadRecords("error"))
    assert (ratings["user"][0], ratings["timestamp"][0]) == (big, big)
    assert ratings.dtype["user"] == np.int64
