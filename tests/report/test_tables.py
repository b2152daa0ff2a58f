"""What the tables of a report say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hvdkit.report import tables
from hvdkit.report.curves import charts
from hvdkit.report.reading import read_run
from tests.report.folders import configured, curve, trained, written


def cells(table: tables.Table | None) -> dict[str, dict[str, str]]:
    """Row by row: the heading of each column, and the text below it."""
    assert table is not None
    heads = [column.title for column in table.columns]
    return {row[0].text: dict(zip(heads, (c.text for c in row), strict=True)) for row in table.rows}


def test_the_overview_has_what_summaries_say(tmp_path: Path) -> None:
    summary = trained(tmp_path / "a")
    assert summary is not None
    written(tmp_path / "b", curve(3), {"status": "failed", "wire_ratio": 0.25, "world_size": 4})
    runs = [read_run(tmp_path / name, name) for name in "ab"]
    found = cells(tables.overview(runs))
    assert found["a"]["Accuracy"] == tables.shown(summary.eval["accuracy"])
    assert found["a"]["Training loss"] == tables.shown(summary.train_loss)
    assert found["a"]["Weights (sha256)"] == str(summary.weights_sha256)[:12]
    assert found["a"]["Wire ratio"] == found["b"]["Accuracy"] == ""
    assert (found["b"]["Status"], found["b"]["Workers"]) == ("failed", "4")
    assert found["b"]["Wire ratio"] == "0.25"
    # What a run without a final result logged last stands in for it.
    assert found["b"]["Training loss"] == tables.shown(curve(3)[-1]["train/loss"])


def test_runs_with_the_same_weights_are_named(tmp_path: Path) -> None:
    for name in "ab":
        trained(tmp_path / name)
    trained(tmp_path / "c", lr=0.2)
    runs = [read_run(tmp_path / name, name) for name in "abc"]
    (sentence,) = tables.same_weights(runs)
    assert "a; b." in sentence


@pytest.mark.parametrize("count", [2, 20])
def test_differences_are_what_differs_and_nothing_else(tmp_path: Path, count: int) -> None:
    runs = []
    for i in range(count):
        config = {"optimizer": {"lr": i}, "data": {"batch_size": 8}, "only": {"here": 1}}
        if i:
            del config["only"]
        path = written(tmp_path / str(i), [], {"status": "completed", "versions": {"torch": "2"}})
        configured(path, config)
        runs.append(read_run(path, f"run {i}"))
    found = cells(tables.differences(runs))
    if count == 2:  # a column a run
        assert found == {
            "only.here": {"Value": "only.here", "run 0": "1", "run 1": "–"},
            "optimizer.lr": {"Value": "optimizer.lr", "run 0": "0", "run 1": "1"},
        }
    else:
        assert set(found["run 7"]) == {"Run", "only.here", "optimizer.lr"}
        assert found["run 7"]["optimizer.lr"] == "7"
    assert tables.differences(runs[:1]) is None


def test_step_time_is_split_by_what_was_logged(tmp_path: Path) -> None:
    records = [{**record, "data_fraction": 0.1} for record in curve(5)]
    written(tmp_path / "a", records, {"status": "completed", "step_ms_median": 20})
    written(tmp_path / "b", [{"step": 1, "train/loss": 1.0}])
    runs = [read_run(tmp_path / name, name) for name in "ab"]
    found = cells(tables.step_time(runs))
    assert found["a"]["Waiting for communication"] == "25.0%"
    assert (found["a"]["Waiting, ms"], found["a"]["Computing and data, ms"]) == ("5", "15")
    assert found["a"]["data_fraction"] == "10.0%"
    assert set(found["b"].values()) == {"b", ""}
    assert tables.step_time(runs[1:]) is None


def test_values_of_each_rank_are_a_table_and_no_charts(tmp_path: Path) -> None:
    records = [
        {**record, "straggler/busy_ms_rank_0": 5.0, "straggler/busy_ms_rank_10": 9.0}
        for record in curve(5)
    ]
    runs = [read_run(written(tmp_path / "a", records), "a")]
    runs.append(read_run(written(tmp_path / "b", curve(5)), "b"))
    (table,) = tables.by_rank(runs)
    assert cells(table) == {"a": {"Run": "a", "Rank 0": "5", "Rank 10": "9"}}
    assert not any("rank" in chart.key for chart in charts(runs))


def test_a_charts_numbers_are_the_runs_own(tmp_path: Path) -> None:
    written(tmp_path / "a", curve(15))
    written(tmp_path / "b", curve(8))
    runs = [read_run(tmp_path / name, name) for name in "ab"]
    (chart, *_) = charts(runs)
    found = cells(tables.data(chart, runs))
    logged = {record["step"]: record["train/loss"] for record in curve(15)}
    assert found["a"]["Points"] == "15"
    assert found["a"]["Lowest"] == tables.shown(min(logged.values()))
    assert found["a"]["Step 7"] == tables.shown(logged[7])
    assert found["b"]["Step 9"] == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (math.nan, "NaN"),
        (0, "0"),
        (0.97777, "0.9778"),
        (-0.00012345, "-0.000123"),
        (9999.6, "10000"),
        (12345.6, "12,346"),
        (1.5e33, "1.5e+33"),
    ],
)
def test_numbers_are_short_and_read_back(value: float | None, text: str) -> None:
    assert tables.shown(value) == text
    if value and math.isfinite(value):
        assert float(text.replace(",", "")) == pytest.approx(value, rel=1e-2)
