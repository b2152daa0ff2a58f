"""Which curves a report draws, under which titles, and with how many points.

May import NumPy and `hvdkit.report.reading`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hvdkit.report.reading import Curve, Run

# In the order of the page; what is not named here follows, under its own key.
TITLES = {
    "train/loss": "Training loss",
    "eval/loss": "Evaluation loss",
    "eval/accuracy": "Accuracy",
    "eval/top5": "Top-5 accuracy",
    "eval/perplexity": "Perplexity",
    "eval/bits_per_byte": "Bits per byte",
    "eval/auc": "Area under the ROC curve",
    "eval/hit_rate_at_10": "Hit rate at 10",
    "eval/ndcg_at_10": "NDCG at 10",
    "train/lr": "Learning rate",
    "samples_per_second": "Samples a second",
    "comm_fraction": "Share of time spent waiting for communication",
    "comm/bytes_per_step": "Bytes that a rank's gradients send a step",
    "straggler/cost_ms": "Cost of the slowest rank, ms a step",
    "straggler/rank": "Rank that the others wait for (-1: none)",
    "train/skipped_steps": "Updates skipped so far",
}
HIGHER_IS_BETTER = (
    "eval/accuracy",
    "eval/top5",
    "eval/auc",
    "eval/hit_rate_at_10",
    "eval/ndcg_at_10",
)
# A value of one rank, as the callback for stragglers logs it.
BY_RANK = re.compile(r"(?P<name>.+)_rank_(?P<rank>\d+)$")
# All curves of a page together; a curve alone gets at most the second, and at least the third.
_POINTS, _MOST, _LEAST = 80_000, 1_200, 60
_FEW = 8
# What spans more than this is drawn on a logarithmic axis at first.
WIDE = 200


@dataclass(frozen=True)
class Chart:
    """One value of all runs that logged it: `series` are (run's index, its curve)."""

    key: str
    title: str
    series: tuple[tuple[int, Curve], ...]


def charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for every value that some run logged; those of each rank are in a table."""
    keys = {key for run in runs for key in run.curves if not BY_RANK.match(key)}
    found = []
    for key in sorted(keys, key=_place):
        series = tuple((i, run.curves[key]) for i, run in enumerate(runs) if key in run.curves)
        found.append(Chart(key, TITLES.get(key, key), series))
    return found


def _place(key: str) -> tuple[int, str]:
    order = list(TITLES)
    if key in order:
        return order.index(key), key
    # Another metric goes with its kind, anything else to the end.
    return (order.index("eval/ndcg_at_10") if key.startswith("eval/") else len(order)), key


def spans_magnitudes(chart: Chart) -> bool:
    """Whether a loss spans so much that a linear axis would show a flat line."""
    if not chart.key.endswith(("loss", "perplexity")):
        return False
    values = np.concatenate([curve.finite() for _, curve in chart.series])
    return bool(len(values) and values.min() > 0 and values.max() / values.min() > WIDE)


def on_one_line(chart: Chart) -> list[list[int]]:
    """Runs whose curves cannot be told apart in the chart: nowhere apart by over 1 %,
    of the chart's range or of the value. Nothing is said of many runs: most lines cross then.
    """
    finite = np.concatenate([curve.finite() for _, curve in chart.series])
    if not len(finite) or len(chart.series) > _FEW:
        return []
    near = 0.0 if spans_magnitudes(chart) else 0.01 * float(np.ptp(finite))
    groups: list[tuple[Curve, list[int]]] = []
    for run, curve in chart.series:
        for first, members in groups:
            if _close(first, curve, near):
                members.append(run)
                break
        else:
            groups.append((curve, [run]))
    return [members for _, members in groups if len(members) > 1]


def _close(a: Curve, b: Curve, near: float) -> bool:
    return np.array_equal(a.steps, b.steps) and np.allclose(
        a.values, b.values, rtol=0.01, atol=near, equal_nan=True
    )


def points_per_curve(curves: int) -> int:
    """How many points each of so many curves may have."""
    return int(np.clip(_POINTS // max(curves, 1), _LEAST, _MOST))


def thinned(curve: Curve, most: int) -> Curve:
    """At most `most` points that draw the same line: M4 (Jugel et al., VLDB 2014).

    Of each stretch of equal width the first, last, lowest and highest value stay, so that no
    peak is lost, and one NaN if there is any, so that a gap stays a gap.
    """
    if len(curve.steps) <= most:
        return curve
    stretches = max(most // 5, 1)
    start, end = curve.steps[0], curve.steps[-1]
    # Integers up to the end: the last step belongs to the last stretch.
    stretch = (curve.steps - start) * stretches // (end - start + 1)
    edges = np.flatnonzero(np.diff(stretch, prepend=-1, append=stretches))
    kept: set[int] = set()
    for a, b in itertools.pairwise(edges.tolist()):
        values = curve.values[a:b]
        missing = np.isnan(values)
        if missing.any():
            kept.add(a + int(missing.argmax()))
        if not missing.all():
            present = np.flatnonzero(~missing)
            chosen = values[present]
            picks = (0, len(present) - 1, int(chosen.argmin()), int(chosen.argmax()))
            kept.update(a + int(present[i]) for i in picks)
    index = sorted(kept)
    return Curve(curve.steps[index], curve.seconds[index], curve.values[index])
