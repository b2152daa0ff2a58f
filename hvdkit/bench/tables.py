"""What the benchmarks print and plot. Imports rich; matplotlib only for a plot."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from hvdkit.bench.units import in_words
from hvdkit.errors import HvdkitError
from hvdkit.gradients.cost import Cluster
from hvdkit.launch.environment import current_job


def print_table(table: Table) -> None:
    plain = False if current_job().launcher != "none" else None  # mpirun gives ranks a terminal
    width = max(110, Console().width)
    Console(highlight=False, width=width, force_terminal=plain).print(table)


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, caption_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", no_wrap=True)
    return table


# ---- allreduce ---------------------------------------------------------------------------------

_WAYS = {"horovod": "Horovod", "mpi": "raw MPI"}


def allreduce_table(measured: Mapping[str, Any]) -> Table:
    ways = _ways(measured)
    title = f"allreduce of float32, {measured['ranks']} ranks, {measured['framework']}"
    columns = [c for way in ways for c in (f"{_WAYS[way]}: time", "algorithm GB/s", "bus GB/s")]
    table = _table(title, "size", *columns)
    for row in measured["rows"]:
        cells = [in_words(row["bytes"])]
        for way in ways:
            found = row[way]
            cells.append(_time(found["seconds"]))
            cells.append(f"{found['algorithm_bandwidth'] / 1e9:.3g}")
            cells.append(f"{found['bus_bandwidth'] / 1e9:.3g}")
        table.add_row(*cells)
    if "mpi" not in ways:
        table.caption = "raw MPI has a job of its own: hvdkit bench allreduce -np N measures both"
    return table


def _ways(measured: Mapping[str, Any]) -> list[str]:
    return [way for way in _WAYS if all(way in row for row in measured["rows"])]


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.1f} us" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"


def require_plotting() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise HvdkitError("--plot needs matplotlib: pip install 'hvdkit[plot]'")


def allreduce_plot(measured: Mapping[str, Any], path: Path) -> None:
    """Time and bus bandwidth over size, both ways, to an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    times, speeds = figure.subplots(1, 2)
    sizes = [row["bytes"] for row in measured["rows"]]
    for way in _ways(measured):
        found = [row[way] for row in measured["rows"]]
        times.loglog(sizes, [1e3 * f["seconds"] for f in found], "o-", label=_WAYS[way])
        speeds.semilogx(sizes, [f["bus_bandwidth"] / 1e9 for f in found], "o-", label=_WAYS[way])
    for axes, label in ((times, "milliseconds"), (speeds, "bus bandwidth, GB/s")):
        axes.set_xlabel("bytes")
        axes.set_ylabel(label)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.suptitle(f"allreduce, {measured['ranks']} ranks")
    figure.savefig(path)


# ---- step --------------------------------------------------------------------------------------

_PARTS = {
    "input": "waiting for input",
    "compute": "forward and backward pass",
    "exposed": "communication that nothing hides",
    "update": "update, and the rest",
}


def step_table(measured: Mapping[str, Any]) -> Table:
    columns = {"step": f"{measured['workers']} ranks", "silent": "nothing sent"}
    columns = {k: v for k, v in {**columns, "alone": "one alone"}.items() if measured.get(k)}
    batch = measured["batch_size"]
    title = f"a step in {measured['framework']}, ms: batch {batch}, {measured['threads']} threads"
    table = _table(title, "", *columns.values())
    for part, words in _PARTS.items():
        cells = [
            "" if part == "exposed" and kind != "step" else f"{1e3 * measured[kind][part]:.1f}"
            for kind in columns
        ]
        table.add_row(words, *cells)
    table.add_section()
    table.add_row("a step", *(f"{1e3 * measured[kind]['seconds']:.1f}" for kind in columns))
    low, high = (1e3 * value for value in measured["spread"])
    table.caption = f"medians; half of the steps took {low:.1f} to {high:.1f} ms"
    return table


def step_notes(measured: Mapping[str, Any]) -> list[str]:
    """What the numbers come to, in words."""
    step, silent = measured["step"], measured["silent"]
    if not silent:
        return []
    total, exposed = measured["communication"], step["exposed"]
    hidden = max(0.0, 1 - exposed / total) if total else 1.0
    sent = sum(nbytes or 0 for _, nbytes in measured["messages"])
    notes = [
        f"communication alone takes {1e3 * total:.1f} ms ({len(measured['messages'])} messages, "
        f"{in_words(sent)} before compression): {hidden:.0%} of that is hidden",
        f"communication costs {1e3 * (step['seconds'] - silent['seconds']):.1f} ms a step in all, "
        "with what it takes from computing",
    ]
    if measured.get("alone"):
        ratio = measured["alone"]["seconds"] / step["seconds"]
        notes.append(f"efficiency against one process alone with a rank's batch: {ratio:.0%}")
    notes.append(
        "where a step is one graph (TensorFlow), an update under way during a wait counts as wait"
    )
    return notes


# ---- predict -----------------------------------------------------------------------------------


def predict_table(
    rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Any], cluster: Cluster
) -> Table:
    link = cluster.network
    title = (
        f"predicted: {link.bandwidth * 8e-9:g} Gbit/s, {link.latency * 1e6:g} us, "
        f"{cluster.local_workers} workers a host, {measured['batch_size'] // measured['workers']} "
        "samples a worker"
    )
    table = _table(
        title, "workers", "compression", "algorithm", "step ms", "exposed ms", "efficiency", left=3
    )
    before = None
    for row in rows:
        if before not in (None, row["workers"]):
            table.add_section()
        table.add_row(
            str(row["workers"]) if row["workers"] != before else "",
            row["compression"],
            row["algorithm"],
            f"{1e3 * row['seconds']:.1f}",
            f"{1e3 * row['exposed']:.1f}",
            f"{row['efficiency']:.0%}",
        )
        before = row["workers"]
    alone = measured["silent"] or measured["step"]
    seconds = alone["input"] + alone["compute"] + alone["update"]  # what efficiency is of
    table.caption = f"one worker's step without communication: {1e3 * seconds:.1f} ms"
    return table
