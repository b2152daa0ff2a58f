"""Criteo's logs: what a line becomes, the cache, and lines that are none."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.comm.threads import run_ranks
from hvdkit.data import ClickDataset, clicks, criteo, lines
from hvdkit.data.bad_records import BadRecords
from hvdkit.data.clicks import hashed, parse
from hvdkit.data.sources import take
from hvdkit.errors import HvdkitError

COUNTS = ["1", "", "5", "0", "1382", "-2", "15", "2", "181", "1", "2", "", "2"]
CATEGORIES = ["68fd1e64", "80e26c9b", "", *(f"{i:08x}" for i in range(23))]


def line(label: Any = 0, counts: Any = COUNTS, categories: Any = CATEGORIES) -> str:
    return "\t".join([str(label), *counts, *categories]) + "\n"


def logs(number: int) -> list[str]:
    """Lines that differ in every field."""
    made = []
    for i in range(number):
        counts = [str(i * 13 + k) for k in range(13)]
        made.append(line(int(i % 3 == 0), counts, [f"{i * 26 + k:x}" for k in range(26)]))
    return made


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "train.txt"
    path.write_text("".join(logs(20)))
    return path


def read(path: Path, **options: Any) -> ClickDataset:
    chosen: dict[str, Any] = {"cache": str(path.parent / "cache"), "buckets": 50, **options}
    return criteo(path=str(path), **chosen)


def everything(data: ClickDataset) -> dict[str, np.ndarray]:
    parts = [take(source, range(len(source))) for source in (data.train, data.evaluation)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_a_line_becomes_logs_and_rows(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text(line(1) + line(0, categories=CATEGORIES[::-1]))
    data = read(path, evaluation_fraction=0.5, buckets=1000)
    record = data.train[0]
    expected = [math.log1p(max(int(count or 0), 0)) for count in COUNTS]
    assert record["dense"].tolist() == pytest.approx(expected, rel=1e-6)
    assert record["label"] == 1
    assert data.evaluation[0]["label"] == 0
    for name, shape in (("dense", (13,)), ("categories", (26,)), ("label", ())):
        assert record[name].shape == shape
    assert data.sizes == {"dense": 13, "tables": [1000] * 26}
    rows = record["categories"]
    assert 0 <= rows.min() <= rows.max() < 1000
    values = np.array([int(c, 16) if c else 2**32 for c in CATEGORIES], np.uint64)
    assert rows.tolist() == hashed(values[None], 1000)[0].tolist()


def test_values_hash_evenly_and_by_field() -> None:
    values = np.arange(30_000, dtype=np.uint64)[:, None].repeat(2, 1)
    rows = hashed(values, 10)
    for field in rows.T:
        assert np.bincount(field) == pytest.approx(np.full(10, 3000), rel=0.08)
    assert (rows[:, 0] == rows[:, 1]).mean() == pytest.approx(0.1, abs=0.01)
    # What the rows are may never change: trained tables depend on it.
    assert hashed(np.array([[0x68FD1E64, 2**32]], np.uint64), 1000).tolist() == [[782, 59]]


def test_the_last_lines_are_for_evaluation(log: Path) -> None:
    data = read(log, evaluation_fraction=0.25)
    assert (len(data.train), len(data.evaluation)) == (15, 5)
    counts = np.expm1(everything(data)["dense"][:, 0])
    assert counts == pytest.approx([13 * i for i in range(20)], rel=1e-5)
    assert everything(data)["label"].tolist() == [int(i % 3 == 0) for i in range(20)]
    taken = data.train.take(np.array([7, 0, 7]))  # type: ignore[attr-defined]
    for name, column in taken.items():
        np.testing.assert_array_equal(column, [data.train[i][name] for i in (7, 0, 7)])


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_part_without_a_record_is_refused(log: Path, fraction: float) -> None:
    with pytest.raises(HvdkitError, match=r"evaluation_fraction=.* both need one"):
        read(log, evaluation_fraction=fraction)


field = st.sampled_from(["", "0", "7", "-1", "31", "123456789"])
category = st.sampled_from(["", "0", "a", "ffffffff", "00c0FFEE"])


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.lists(field, min_size=13, max_size=13),
            st.lists(category, min_size=26, max_size=26),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_lines_at_once_are_read_as_one_by_one(rows: list[tuple], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("log") / "train.txt"
    path.write_text("".join(line(*row) for row in rows))
    (records,) = parse(path, 97, BadRecords("error"))
    for record, (label, counts, categories) in zip(records, rows, strict=True):
        assert record["label"] == label
        expected = [math.log1p(max(int(count or 0), 0)) for count in counts]
        assert record["dense"].tolist() == pytest.approx(expected, rel=1e-6)
        values = np.array([int(c, 16) if c else 2**32 for c in categories], np.uint64)
        assert record["categories"].tolist() == hashed(values[None], 97)[0].tolist()


BAD = {
    "short": (line()[:40] + "\n", "[0-9]+ fields instead of 40"),
    "long": (line()[:-1] + "\tab\n", "41 fields instead of 40"),
    "empty": ("\n", "1 fields instead of 40"),
    "label": (line("2"), "the label is '2', not 0 or 1"),
    "no label": (line(""), "the label is '', not 0 or 1"),
    "two digits": (line("01"), "the label is '01', not 0 or 1"),
    "count": (line(counts=[*COUNTS[:4], "1.5", *COUNTS[5:]]), "field 6 is '1.5', not a whole"),
    "minus": (line(counts=[*COUNTS[:4], "-", *COUNTS[5:]]), "field 6 is '-', not a whole"),
    "big": (line(counts=["9" * 19, *COUNTS[1:]]), r"field 2 is '9{19}', not a whole"),
    "category": (line(categories=[*CATEGORIES[:25], "xyz"]), "field 40 is 'xyz', not a category"),
    "wide": (line(categories=["123456789", *CATEGORIES[1:]]), "field 15 is '123456789', not a"),
    "bytes": (line().replace("68fd1e64", "68\xff"), "is not UTF-8"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_named_or_left_out_and_counted(log: Path, kind: str) -> None:
    bad, problem = BAD[kind]
    good = log.read_text().splitlines(keepends=True)
    log.write_bytes("".join([*good[:3], bad, *good[3:]]).encode("latin-1"))
    with pytest.raises(HvdkitError, match=rf"train\.txt:4: .*{problem}.*on_bad_record=skip"):
        read(log)
    for _ in range(2):  # the second reads the cache
        data = read(log, on_bad_record="skip")
        assert data.bad_records is not None
        assert data.bad_records.count == 1
        assert len(data.train) + len(data.evaluation) == 20
    with pytest.raises(HvdkitError, match=rf"train\.txt:4: .*{problem}"):
        read(log)


def test_line_numbers_go_on_from_block_to_block(log: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(clicks, "blocks", lambda file: lines.blocks(file, size=300))
    whole = np.concatenate(list(parse(log, 50, BadRecords("error"))))
    assert len(whole) == 20
    log.write_text(log.read_text().replace(logs(20)[17], "broken\n"))
    with pytest.raises(HvdkitError, match=r"train\.txt:18: 1 fields"):
        list(parse(log, 50, BadRecords("error")))
    rest = np.concatenate(list(parse(log, 50, BadRecords("skip"))))
    np.testing.assert_array_equal(rest, np.delete(whole, 17))


def test_the_files_folder_will_do(log: Path) -> None:
    assert len(read(log.parent, cache=str(log.parent / "cache")).train) == 17


def test_what_is_not_there_or_empty_is_named(log: Path) -> None:
    with pytest.raises(HvdkitError, match=r"holds no train\.txt"):
        criteo(path=str(log.parent.parent))
    with pytest.raises(HvdkitError, match=r"data\.source\.path=.*absent: there is no such file"):
        read(log.with_name("absent"))
    log.write_text("")
    with pytest.raises(HvdkitError, match=r"train\.txt is empty"):
        read(log)
    log.write_text("broken\n")
    with pytest.raises(HvdkitError, match=r"train\.txt holds no record"):
        read(log, on_bad_record="skip")


# ---- the cache -----------------------------------------------------------------------------------


def caches(log: Path) -> set[str]:
    return set(os.listdir(log.parent / "cache"))


def test_lines_are_parsed_once_for_a_file_and_its_settings(log: Path, monkeypatch: Any) -> None:
    first = everything(read(log))
    (name,) = caches(log)
    monkeypatch.setattr(clicks, "parse", _refuses)
    for key, column in everything(read(log, evaluation_fraction=0.5)).items():
        np.testing.assert_array_equal(column, first[key])
    monkeypatch.undo()
    read(log, buckets=60)
    assert len(caches(log)) == 2
    changed = log.read_text().replace("\t13\t", "\t14\t")
    log.write_text(changed)
    assert everything(read(log))["dense"][1, 0] == pytest.approx(math.log(15))
    assert len(caches(log)) == 3
    assert name in caches(log)


def _refuses(*_: Any) -> Any:
    raise AssertionError("the lines are parsed again")


def test_an_interrupted_parse_leaves_nothing(log: Path, monkeypatch: Any) -> None:
    def interrupted(*arguments: Any) -> Any:
        yield next(parse(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(clicks, "parse", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(log)
    assert caches(log) == set()
    monkeypatch.undo()
    assert len(read(log).train) == 17


def test_the_default_place_is_the_projects_cache(log: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HVDKIT_CACHE", str(log.parent / "elsewhere"))
    read(log, cache=None)
    assert [path.name[:7] for path in (log.parent / "elsewhere").iterdir()] == ["criteo-"]


def test_one_rank_parses_and_the_others_wait(log: Path, monkeypatch: Any) -> None:
    parsed = []

    def slow(*arguments: Any) -> Any:
        parsed.append(threading.current_thread().name)
        time.sleep(0.1)
        yield from parse(*arguments)

    monkeypatch.setattr(clicks, "parse", slow)
    sizes = run_ranks(3, lambda comm: len(read(log, comm=comm).train))
    assert sizes == [17] * 3
    assert len(parsed) == 1


def test_every_rank_gets_the_error_of_the_one_that_parses(log: Path) -> None:
    log.write_text("broken\n")

    def rank(comm: Any) -> str:
        with pytest.raises(HvdkitError) as caught:
            read(log, comm=comm)
        return str(caught.value)

    first, *others = run_ranks(3, rank)
    assert "train.txt:1: 1 fields instead of 40" in first
    assert others == [first] * 2
