"""Curves are thinned to what a screen can show, and nothing that matters is lost."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.report.curves import Chart, charts, on_one_line, points_per_curve, thinned
from hvdkit.report.reading import Curve, read_run
from tests.report.folders import curve, written


def made(values: list[float], every: int = 1) -> Curve:
    steps = np.arange(1, len(values) + 1) * every
    return Curve(steps, steps / 2, np.array(values, float))


VALUES = st.lists(st.floats(width=32, allow_infinity=False), min_size=1, max_size=600)


@given(values=VALUES, most=st.integers(5, 300), every=st.integers(1, 10**9))
def test_thinning_keeps_ends_extremes_and_gaps(values: list[float], most: int, every: int) -> None:
    whole = made(values, every)
    thin = thinned(whole, most)
    assert len(thin.steps) <= max(most, 5)
    points = {(s, t) for s, t in zip(whole.steps.tolist(), whole.seconds.tolist(), strict=True)}
    assert {(s, t) for s, t in zip(thin.steps.tolist(), thin.seconds.tolist(), strict=True)} <= (
        points
    )
    assert (np.diff(thin.steps) > 0).all()
    finite = whole.finite()
    assert bool(np.isnan(thin.values).any()) == bool(np.isnan(whole.values).any())
    if len(finite):
        assert thin.finite().min() == finite.min()
        assert thin.finite().max() == finite.max()
        assert (thin.finite()[0], thin.finite()[-1]) == (finite[0], finite[-1])


def test_a_short_curve_stays_as_it_is() -> None:
    whole = made([1.0, math.nan, 3.0])
    assert thinned(whole, 3) is whole


def test_a_page_of_sixty_runs_has_few_enough_points_and_one_run_has_many() -> None:
    assert points_per_curve(1) * 1 >= 1000
    assert points_per_curve(60 * 8) * 60 * 8 <= 100_000
    assert points_per_curve(10_000) >= 50


def test_every_value_that_is_logged_has_a_chart_losses_first(tmp_path: Path) -> None:
    records = [*curve(3), {"step": 4, "eval/f1": 0.5, "eval/loss": 0.2, "gpu/watts": 300}]
    drawn = charts([read_run(written(tmp_path, records), "one")])
    assert [chart.key for chart in drawn] == [
        "train/loss",
        "eval/loss",
        "eval/f1",
        "train/lr",
        "samples_per_second",
        "comm_fraction",
        "gpu/watts",
    ]
    assert drawn[-1].title == "gpu/watts"


def test_curves_that_cover_each_other_are_named() -> None:
    falling = [1 / step for step in range(1, 50)]
    near = [value * 1.001 for value in falling]
    other = [value + 0.1 for value in falling]
    short = falling[:-1]
    series = tuple(enumerate(made(v) for v in (falling, other, near, short)))
    assert on_one_line(Chart("train/loss", "Loss", series)) == [[0, 2]]
    assert on_one_line(Chart("x", "x", ((0, made([math.nan])),))) == []
