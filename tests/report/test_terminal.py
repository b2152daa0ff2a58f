"""The report in a terminal, wide and narrow, and in a pipe."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hvdkit.report.finding import find
from hvdkit.report.reading import Curve
from hvdkit.report.terminal import show, sparkline
from tests.report.folders import job, trained, written


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    trained(path / "a-run-with-quite-a-long-name-of-its-own")
    trained(path / "short", lr=0.2)
    trained(path / "failed", lr=1e308, max_bad_steps=2)
    written(path / "[bold]odd", ["{"])
    return path


def text(path: Path, width: int, terminal: bool = False) -> str:
    file = io.StringIO()
    show(find([path]), Console(file=file, width=width, force_terminal=terminal, highlight=False))
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 120])
def test_every_run_is_told_within_the_width(runs: Path, width: int) -> None:
    shown = text(runs, width)
    assert max(map(len, shown.splitlines())) <= width
    for heading in ("Runs", "Curves", "Where step time goes", "Differences", "Notes"):
        assert f"\n{heading}\n" in shown
    for name in ("a-run-with-quite", "short", "failed", "[bold]odd"):  # what is long is folded
        assert f"\n{name}" in shown
    assert "completed" in shown
    assert "lower optimizer.lr" in re.sub(r"\s+", " ", shown)
    assert "\x1b" not in shown
    assert "\x1b" in text(runs, width, terminal=True)


def test_a_sweep_has_its_jobs_and_importance(tmp_path: Path) -> None:
    for number, lr in enumerate((0.1, 0.01, 0.001)):
        job(tmp_path / str(number), 0.9 - 0.1 * number, lr=lr)
    shown = text(tmp_path, 60)
    assert "Best of the jobs: 0: lr=0.1" in shown
    assert re.search(r"lr +100.0%", shown)
    assert "eta squared" in re.sub(r"\s+", " ", shown)


def test_a_sparkline_goes_where_the_curve_goes() -> None:
    def line(values: list[float], width: int = 8) -> str:
        steps = np.arange(len(values))
        return sparkline(Curve(steps, steps, np.array(values, float)), width)

    assert line(list(range(8))) == "▁▂▃▄▅▆▇█"
    assert line(list(range(800))) == "▁▂▃▄▅▆▇█"
    assert line([5, 5, 5]) == "▅▅▅"
    assert line([1, float("nan"), 2]) == "▁ █"
    assert line([float("nan")]) == ""
    assert line([3]) == "▅"
    # Over orders of magnitude it is their logarithm that is drawn.
    assert line([1e-6, 1e-4, 1e-2, 1]) == "▁▃▆█"
