"""The report in a terminal: the same tables, and curves as one line of blocks each.

Good from 60 columns on; plain text where the output is no terminal. May import rich, NumPy and
`hvdkit.report` modules that read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from hvdkit.report import tables
from hvdkit.report.curves import WIDE, Chart, charts
from hvdkit.report.finding import Found
from hvdkit.report.reading import Curve, Run

_BLOCKS = "▁▂▃▄▅▆▇█"
_STATUS = {"completed": "green", "failed": "bold red"}
# From this on curves are drawn wide.
_WIDE = 100
# Between two columns of a table.
_GAP = 3
# More runs than this have no curve each: the table says what they came to.
_MOST_CURVES = 12


def show(found: Found, console: Console | None = None) -> None:
    console = console or _console()
    runs = found.runs
    for sweep in found.sweeps:
        _heading(console, f"Sweep {sweep.path.name}")
        if (best := sweep.best()) is not None:
            console.print(Text(f"Best of the jobs: {sweep.runs[best].name}"))
        for note in sweep.notes:
            console.print(Text(note))
        _print(console, tables.jobs(sweep))
        if (table := tables.importance(sweep)) and sweep.importance:
            _print(console, table)
            console.print(Text(f"Measure: {sweep.importance.measure}."))
    _heading(console, "Runs")
    _print(console, tables.overview(runs))
    for sentence in tables.same_weights(runs):
        console.print(Text(sentence))
    drawn = charts(runs)
    if drawn:
        _heading(console, "Curves")
        _curves(console, drawn, runs)
    if table := tables.step_time(runs):
        _heading(console, "Where step time goes")
        _print(console, table)
        for table in tables.by_rank(runs):
            console.print()
            console.print(Text(table.caption))
            _print(console, table)
    if table := tables.differences(runs):
        _heading(console, "Differences")
        _differences(console, table)
    _notes(console, runs)


def _console() -> Console:
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:  # a terminal without Unicode gets question marks, and no traceback
        reconfigure(errors="replace")
    # Where no terminal says how wide it is, and no COLUMNS does, a table need not fold.
    width = 120 if not sys.stdout.isatty() and "COLUMNS" not in os.environ else None
    return Console(width=width, highlight=False)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def _print(console: Console, table: tables.Table) -> None:
    widths = [_width(table, index, console.width) for index in range(len(table.columns))]
    chosen = _chosen(table, widths, console.width)
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for index in chosen:
        column = table.columns[index]
        grid.add_column(
            Text(column.title),
            justify="right" if column.numeric else "left",
            overflow="fold",
            min_width=widths[index],
        )
    for row in table.rows:
        grid.add_row(*(_cell(row[index]) for index in chosen))
    console.print(grid)
    left_out = [column.title for i, column in enumerate(table.columns) if i not in chosen]
    if left_out:
        console.print(Text(f"Not shown at this width: {', '.join(left_out)}.", style="dim"))


def _width(table: tables.Table, index: int, available: int) -> int:
    """What a column needs: its cells whole, its title folded at blanks; names may fold."""
    cells = max((len(_cell(row[index]).plain) for row in table.rows), default=0)
    title = max(map(len, table.columns[index].title.split()), default=0)
    return max(min(cells, available // 3), title)


def _chosen(table: tables.Table, widths: Sequence[int], available: int) -> list[int]:
    """The first column, the essential ones, then from the left as many more as fit."""
    order = dict.fromkeys((0, *table.essential, *range(len(widths))))
    chosen: list[int] = []
    used = 0
    for index in order:
        if chosen and used + widths[index] > available:
            continue
        chosen.append(index)
        used += widths[index] + _GAP
    return sorted(chosen)


def _cell(cell: tables.Cell) -> Text:
    style = _STATUS.get(cell.status, "yellow" if cell.status else "")
    if cell.best:
        return Text(f"{cell.text} *", style="bold green")
    return Text(cell.text, style=style)


def _curves(console: Console, drawn: Sequence[Chart], runs: Sequence[Run]) -> None:
    """Each curve on a scale of its own, from its lowest to its highest value."""
    narrow = console.width < _WIDE
    width = 16 if narrow else 40
    for chart in drawn:
        grid = Grid(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
        grid.add_column(min_width=12, overflow="fold", ratio=1)
        grid.add_column(min_width=width, no_wrap=True)
        grid.add_column(no_wrap=True, justify="right")
        for index, curve in chart.series[:_MOST_CURVES]:
            grid.add_row(
                Text(f"  {runs[index].name}"), Text(sparkline(curve, width)), Text(_ends(curve))
            )
        console.print(Text(chart.title))
        console.print(grid)
        if (more := len(chart.series) - _MOST_CURVES) > 0:
            console.print(Text(f"  and {more} more runs: give fewer to see each", style="dim"))


def _ends(curve: Curve) -> str:
    first, last = (tables.shown(float(curve.values[i])) for i in (0, -1))
    return f"{first} → {last}" if len(curve.values) > 1 else last


def sparkline(curve: Curve, width: int) -> str:
    """The curve's means over `width` stretches of equal length as blocks; a blank for no number."""
    finite = curve.finite()
    if not len(finite):
        return ""
    low, high = float(finite.min()), float(finite.max())
    positive = low > 0 and high / low > WIDE  # a loss over orders of magnitude
    values = np.log(np.where(curve.values > 0, curve.values, np.nan)) if positive else curve.values
    letters = []
    levels = []
    for part in np.array_split(values, min(width, len(values))):
        part = part[np.isfinite(part)]
        levels.append(float(part.mean()) if len(part) else np.nan)
    known = [level for level in levels if np.isfinite(level)]
    bottom, spread = min(known), max(known) - min(known)
    for level in levels:
        if not np.isfinite(level):
            letters.append(" ")
        else:
            share = (level - bottom) / spread if spread else 0.5
            letters.append(_BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)])
    return "".join(letters)


def _differences(console: Console, table: tables.Table) -> None:
    """A table where it fits; else a list of values, each with its runs."""
    if len(table.columns) <= max(console.width // 24, 2):
        _print(console, table)
        return
    names = [column.title for column in table.columns]
    keys = names[1:]
    if keys and table.columns[0].title == "Run":
        entries = {
            key: [(row[0].text, row[i].text) for row in table.rows]
            for i, key in enumerate(keys, start=1)
        }
    else:
        entries = {
            row[0].text: [(name, cell.text) for name, cell in zip(keys, row[1:], strict=True)]
            for row in table.rows
        }
    for key, pairs in entries.items():
        console.print(Text(key))
        groups: dict[str, list[str]] = {}
        for run, value in pairs:
            groups.setdefault(value, []).append(run)
        for value, members in groups.items():
            text = f"  {value}: {', '.join(members[:4])}"
            more = f" and {len(members) - 4} more" if len(members) > 4 else ""
            console.print(Text(text + more))


def _notes(console: Console, runs: Sequence[Run]) -> None:
    noted = [run for run in runs if run.notes]
    if noted:
        _heading(console, "Notes")
    for run in noted:
        for note in run.notes:
            console.print(Text(f"{run.name}: {note}"))
