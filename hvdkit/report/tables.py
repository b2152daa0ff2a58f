"""The tables of a report, for the page and the terminal alike: what is in each cell.

May import `hvdkit.report` modules that read; nothing that draws.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hvdkit.report.curves import BY_RANK, HIGHER_IS_BETTER, TITLES, Chart
from hvdkit.report.reading import Run, number
from hvdkit.report.sweeps import Sweep
from hvdkit.report.sweeps import number as job_number

# A comparison with few runs has a column a run: two runs may differ in forty values.
_RUNS_AS_COLUMNS = 6
_DIGEST = 12


@dataclass(frozen=True)
class Cell:
    """Its text, what it sorts by if it is a number, and whether it is the best of its column.

    `parts` are shares of a whole from 0 to 1, drawn as a bar beside the text.
    """

    text: str = ""
    value: float | None = None
    best: bool = False
    status: str = ""
    parts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its heading. `essential` names columns for narrow places."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    essential: tuple[int, ...] = ()

    @property
    def has_long_names(self) -> bool:
        return any(len(row[0].text) > 20 for row in self.rows)


def shown(value: float | None) -> str:
    """A number in four digits, as people write it; nothing for None."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "NaN"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        text = f"{value:.4g}"
        return text if "e" not in text else f"{value:.0f}"
    if 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def numbers(
    values: Iterable[float | None],
    form: Callable[[float | None], str] = shown,
    best: Callable[[list[float]], float] | None = None,
) -> list[Cell]:
    """A column of numbers, the best marked if `best` (min or max) can choose.

    What most of them reach is nothing to mark.
    """
    values = list(values)
    known = [value for value in values if value is not None]
    top = best(known) if best and len(known) > 1 else None
    if 2 * sum(value == top for value in known) > len(known):
        top = None
    return [Cell(form(value), value, value is not None and value == top) for value in values]


# ---- runs ------------------------------------------------------------------------------------


def overview(runs: Sequence[Run]) -> Table:
    """What each run is and came to; what matters most stands first, for narrow screens."""
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("Run"), [Cell(run.name) for run in runs]),
        (Column("Status"), [Cell(run.status, status=run.status) for run in runs]),
    ]
    results = _results(runs)
    for name in results:
        best = max if name in HIGHER_IS_BETTER else min
        cells = numbers((run.result(name) for run in runs), best=best)
        columns.append((Column(TITLES.get(name, name), True), cells))
    speed = numbers((run.result("samples_per_second") for run in runs), best=max)
    columns += [
        (Column("Samples a second", True), speed),
        (Column("Steps", True), [_whole(run.steps) for run in runs]),
        (Column("Workers", True), numbers(number(run.summary.get("world_size")) for run in runs)),
        (Column("Framework"), [Cell(_text(run, "framework")) for run in runs]),
    ]
    for name in _extra(runs):
        cells = numbers(number(run.summary.get(name)) for run in runs)
        columns.append((Column(name.replace("_", " ").capitalize(), True), cells))
    weights = [Cell(_text(run, "weights_sha256")[:_DIGEST]) for run in runs]
    if any(cell.text for cell in weights):
        columns.append((Column("Weights (sha256)"), weights))
    caption = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
    return _table(caption, columns, (0, 1, *range(2, 2 + min(len(results), 2))))


def _results(runs: Sequence[Run]) -> list[str]:
    found = {f"eval/{key}" for run in runs for key in _evaluated(run)}
    found |= {key for run in runs for key in run.curves if key.startswith("eval/")}
    found |= {"train/loss"}
    found = {name for name in found if any(run.result(name) is not None for run in runs)}
    # A metric of the task, the losses, and other metrics.
    metrics = [name for name in HIGHER_IS_BETTER if name in found]
    order = [*metrics[:1], "eval/loss", "train/loss", *metrics[1:], *sorted(found)]
    return [name for name in dict.fromkeys(order) if name in found]


def _evaluated(run: Run) -> dict[str, object]:
    found = run.summary.get("eval")
    return found if isinstance(found, dict) else {}


# Of a summary's numbers, those that have a place of their own.
_PLACED = {"world_size", "steps", "train_loss", "samples_per_second", "step_ms_median"}


def _extra(runs: Sequence[Run]) -> list[str]:
    """Numbers that some summary has beside the usual, such as wire_ratio; none that are all 0."""
    keys = dict.fromkeys(key for run in runs for key in run.summary if key not in _PLACED)
    return [key for key in keys if any(number(run.summary.get(key)) for run in runs)]


def _text(run: Run, key: str) -> str:
    value = run.summary.get(key)
    return value if isinstance(value, str) else ""


def _whole(value: int | None) -> Cell:
    return Cell("" if value is None else f"{value:,}", value)


def _table(
    caption: str, columns: Sequence[tuple[Column, list[Cell]]], essential: tuple[int, ...] = ()
) -> Table:
    heads = tuple(column for column, _ in columns)
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    return Table(caption, heads, rows, essential)


def differences(runs: Sequence[Run]) -> Table | None:
    """What is not the same in all runs' configs and versions; None if all is."""
    values = [{**run.config, **_versions(run)} for run in runs]
    told = [found for found in values if found]
    keys = sorted({key for found in told for key in found})
    keys = [key for key in keys if len({found.get(key) for found in told}) > 1]
    if len(told) < 2 or not keys:
        return None
    caption = f"What differs in config and versions: {len(keys)} values"
    if len(runs) <= _RUNS_AS_COLUMNS:
        columns = [(Column("Value"), [Cell(key) for key in keys])]
        for run, found in zip(runs, values, strict=True):
            columns.append((Column(run.name), [Cell(found.get(key, "–")) for key in keys]))
        return _table(caption, columns)
    columns = [(Column("Run"), [Cell(run.name) for run in runs])]
    for key in keys:
        columns.append((Column(key), [Cell(found.get(key, "–")) for found in values]))
    return _table(caption, columns)


def _versions(run: Run) -> dict[str, str]:
    found = run.summary.get("versions")
    if not isinstance(found, dict):
        return {}
    return {f"versions.{name}": str(version) for name, version in found.items()}


def same_weights(runs: Sequence[Run]) -> list[str]:
    """A sentence for every set of runs that ended with the same weights, bit for bit."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        if digest := _text(run, "weights_sha256"):
            groups.setdefault(digest, []).append(run.name)
    return [
        f"The same weights, bit for bit ({digest[:_DIGEST]}): {'; '.join(names)}."
        for digest, names in groups.items()
        if len(names) > 1
    ]


# ---- time ------------------------------------------------------------------------------------


def step_time(runs: Sequence[Run]) -> Table | None:
    """Where a step's time goes; None if no run says anything about it."""
    medians = [number(run.summary.get("step_ms_median")) for run in runs]
    waits = [_mean(run, "comm_fraction") for run in runs]
    timings = _timings(runs)
    if not (any(medians) or any(wait is not None for wait in waits) or timings):
        return None
    shares: list[Cell] = []
    for wait in waits:
        parts = () if wait is None else (min(wait, 1.0), max(1 - wait, 0.0))
        shares.append(Cell(percent(wait), wait, parts=parts))
    columns = [
        (Column("Run"), [Cell(run.name) for run in runs]),
        (Column("Median step, ms", True), numbers(medians, best=min)),
        (Column("Waiting for communication", True), shares),
        (
            Column("Waiting, ms", True),
            numbers(_product(m, w) for m, w in zip(medians, waits, strict=True)),
        ),
        (
            Column("Computing and data, ms", True),
            numbers(
                _product(m, None if w is None else 1 - w)
                for m, w in zip(medians, waits, strict=True)
            ),
        ),
    ]
    for key in timings:
        form = percent if key.endswith("_fraction") else shown
        cells = numbers((_mean(run, key) for run in runs), form)
        columns.append((Column(TITLES.get(key, key), True), cells))
    return _table("Where step time goes: means over the run", columns, (0, 1, 2))


def _timings(runs: Sequence[Run]) -> list[str]:
    """Logged values that are times or shares of time, beside comm_fraction."""
    keys = dict.fromkeys(key for run in runs for key in run.curves)
    ends = ("_ms", "_seconds", "_fraction")
    return [key for key in keys if key.endswith(ends) and key != "comm_fraction"]


def by_rank(runs: Sequence[Run]) -> list[Table]:
    """For each value that runs logged by rank, its means: a row a run, a column a rank."""
    found: dict[str, set[int]] = {}
    for run in runs:
        for key in run.curves:
            if match := BY_RANK.match(key):
                found.setdefault(match["name"], set()).add(int(match["rank"]))
    tables = []
    for name, ranks in found.items():
        told = [r for r in runs if any(f"{name}_rank_{rank}" in r.curves for rank in ranks)]
        columns = [(Column("Run"), [Cell(run.name) for run in told])]
        for rank in sorted(ranks):
            cells = numbers(_mean(run, f"{name}_rank_{rank}") for run in told)
            columns.append((Column(f"Rank {rank}", True), cells))
        title = _RANK_TITLES.get(name, name)
        tables.append(_table(f"{title}: means over the run", columns))
    return tables


_RANK_TITLES = {"straggler/busy_ms": "Milliseconds of a step that each rank is busy"}


def _mean(run: Run, key: str) -> float | None:
    """The mean over a run, its first log left out where there are more: it warms up."""
    if key not in run.curves:
        return None
    values = run.curves[key].values
    values = values[1:] if len(values) > 1 else values
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _product(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b


# ---- sweeps ----------------------------------------------------------------------------------


def jobs(sweep: Sweep) -> Table:
    """What each job was given and what came of it, in the order of the sweep."""
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("Job"), [Cell(_job(run)) for run in sweep.runs])
    ]
    for key in sweep.parameters:
        values = [found[key] for found in sweep.values]
        columns.append((Column(key), [Cell(value, _number_in(value)) for value in values]))
    columns.append((Column("Status"), [Cell(run.status, status=run.status) for run in sweep.runs]))
    if sweep.objective:
        top = sweep.best()
        cells = [Cell(shown(v), v, i == top) for i, v in enumerate(sweep.results())]
        columns.append((Column(TITLES.get(sweep.objective, sweep.objective), True), cells))
    last = len(columns) - 1
    essential = (0, last - 1, last) if sweep.objective else (0, last)
    return _table(f"{len(sweep.runs)} jobs of {sweep.path.name}", columns, essential)


def _job(run: Run) -> str:
    """A job's number, or what tells its folder from others that are named after its values."""
    job = job_number(run)
    digest = re.search(r"_([0-9a-f]{8})$", run.path.name)
    return str(job) if job is not None else digest[1] if digest else run.path.name


def _number_in(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def importance(sweep: Sweep) -> Table | None:
    if sweep.importance is None:
        return None
    shares = sweep.importance.shares
    columns = [
        (Column("Parameter"), [Cell(key) for key in shares]),
        (
            Column("Share", True),
            [Cell(percent(v), v, parts=(min(v, 1.0),)) for v in shares.values()],
        ),
    ]
    title = TITLES.get(sweep.objective or "", sweep.objective or "the result")
    return _table(f"How much each parameter mattered for: {title}", columns)


# ---- a chart's data --------------------------------------------------------------------------


def data(chart: Chart, runs: Sequence[Run], samples: int = 8) -> Table:
    """The curves of a chart as numbers: extremes, and the value at or before some steps."""
    start = min(int(curve.steps[0]) for _, curve in chart.series)
    end = max(int(curve.steps[-1]) for _, curve in chart.series)
    marks = sorted({int(step) for step in np.linspace(start, end, samples)})
    rows = []
    for index, curve in chart.series:
        finite = curve.finite()
        lowest, highest = (finite.min(), finite.max()) if len(finite) else (None, None)
        cells = [Cell(runs[index].name), _whole(len(curve.steps))]
        cells += numbers([lowest, highest])
        for mark in marks:
            at = int(np.searchsorted(curve.steps, mark, side="right")) - 1
            beyond = at < 0 or mark > curve.steps[-1]
            cells += numbers([None if beyond else float(curve.values[at])])
        rows.append(tuple(cells))
    heads = [Column("Run"), Column("Points", True), Column("Lowest", True), Column("Highest", True)]
    heads += [Column(f"Step {mark:,}", True) for mark in marks]
    return Table(f"{chart.title}, by step", tuple(heads), tuple(rows), (0, 2, 3))
