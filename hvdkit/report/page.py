"""The report as one HTML file that needs nothing else: style, program, data and Plotly inside.

Everything that comes from a run's folder passes Jinja's escaping or `tojson`; the page's own
policy (CSP) forbids it to load anything. May import NumPy, Jinja2, Plotly's package (for its
JavaScript) and `hvdkit.report` modules that read.
"""

from __future__ import annotations

import base64
import functools
import gzip
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
from markupsafe import Markup

from hvdkit import __version__
from hvdkit.report import tables
from hvdkit.report.curves import (
    Chart,
    charts,
    on_one_line,
    points_per_curve,
    spans_magnitudes,
    thinned,
)
from hvdkit.report.finding import Found
from hvdkit.report.reading import Curve, Run

COLOURS, DASHES = 8, 8  # as many as page.css and page.js name


def render(found: Found) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["breakable"] = breakable
    here = Path(__file__).parent
    runs = found.runs
    drawn = charts(runs)
    return environment.get_template("page.html").render(
        title=_title(found),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=__version__,
        runs=runs,
        noted=[run for run in runs if run.notes],
        overview=tables.overview(runs),
        same_weights=tables.same_weights(runs),
        differences=tables.differences(runs),
        step_time=tables.step_time(runs),
        by_rank=tables.by_rank(runs),
        sweeps=[
            {"sweep": s, "jobs": tables.jobs(s), "importance": tables.importance(s)}
            for s in found.sweeps
        ],
        charts=[
            {
                "chart": chart,
                "name": _spoken(chart, runs),
                "data": tables.data(chart, runs),
                "on_one_line": [[runs[i].name for i in group] for group in on_one_line(chart)],
            }
            for chart in drawn
        ],
        drawing=_drawing(drawn, runs),
        colours=COLOURS,
        css=(here / "page.css").read_text(),
        js=(here / "page.js").read_text(),
        plotly=_packed_plotly() if drawn else "",
    )


def _title(found: Found) -> str:
    names = [sweep.path.resolve().name for sweep in found.sweeps] or [r.name for r in found.runs]
    kind = "Sweep" if found.sweeps else "Run" if len(names) == 1 else "Runs"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{kind} {', '.join(names[:3])}{more}"


@functools.cache
def _packed_plotly() -> str:
    """Plotly's JavaScript, gzipped: 2 MB of text in the page where it would be 5."""
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode()


def _spoken(chart: Chart, runs: Sequence[Run]) -> str:
    """A chart in a sentence, for who does not see it."""
    ends = [(runs[i].name, curve.finite()) for i, curve in chart.series]
    known = [(name, values) for name, values in ends if len(values)]
    if not known:
        return f"{chart.title} by step: no run has a number."
    low_name, low = min(known, key=lambda pair: pair[1].min())
    high_name, high = max(known, key=lambda pair: pair[1].max())
    lines = "1 run" if len(ends) == 1 else f"{len(ends)} runs"
    low_text, high_text = tables.shown(float(low.min())), tables.shown(float(high.max()))
    if len(ends) == 1:
        return f"{chart.title} by step, {lines}: from {low_text} to {high_text}."
    return (
        f"{chart.title} by step, {lines}: lowest {low_text} in {low_name}, highest {high_text} in "
        f"{high_name}."
    )


def _drawing(drawn: Sequence[Chart], runs: Sequence[Run]) -> dict[str, Any]:
    """What page.js draws."""
    most = points_per_curve(sum(len(chart.series) for chart in drawn))
    return {
        "most": most,
        "runs": [{"name": run.name, "epochs": run.epochs_per_step} for run in runs],
        "charts": [
            {
                "key": chart.key,
                "title": chart.title,
                "log": spans_magnitudes(chart),
                "percent": chart.key.endswith("_fraction"),
                "series": [
                    {"run": index, **_points(thinned(curve, most))} for index, curve in chart.series
                ],
            }
            for chart in drawn
        ],
    }


def _points(curve: Curve) -> dict[str, list[float | int | None]]:
    return {
        "step": curve.steps.tolist(),
        "seconds": np.round(curve.seconds, 1).tolist(),
        "value": [None if math.isnan(v) else float(f"{v:.6g}") for v in curve.values.tolist()],
    }


def breakable(text: str) -> Markup:
    """A long dotted name may go on in a new line after each dot."""
    escaped = markupsafe.escape(text)
    return escaped if len(text) < 20 else Markup(escaped.replace(".", Markup(".<wbr>")))
