"""What a sweep shows: all jobs on one screen, or plain lines where there is no terminal.

May import rich, and the jobs of this package.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hvdkit.sweep.job import SweepJob

if TYPE_CHECKING:
    from hvdkit.sweep.runner import Outcome

_COLORS = {"completed": "green", "failed": "red", "interrupted": "yellow", "pruned": "cyan"}
_WIDE = 90  # columns from which on there is room for everything
_LINES = 8  # of a failed job's log


@dataclass
class _Row:
    job: SweepJob
    where: str
    began: float
    fraction: float = 0.0
    loss: float | None = None
    score: str = ""


class Screen:
    """Hears what happens to jobs. `total` jobs are expected, if that is known."""

    def __init__(self, *, slots: int, total: int | None = None, console: Console | None = None):
        console = console or Console()
        self.live = console.is_terminal
        # A file has no width: lines of it should not be folded as a narrow terminal's.
        self.console = console if self.live else Console(file=console.file, width=160)
        self.total, self.slots = total, slots
        self.best = ""  # a line that the giver of the jobs may set
        self._running: dict[int, _Row] = {}
        self._ended: list[tuple[SweepJob, Outcome]] = []
        self._began = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the running jobs in view meanwhile, then print what came of all."""
        if not self.live:
            yield
        else:
            with Live(
                get_renderable=self._view,
                console=self.console,
                refresh_per_second=4,
                transient=True,
            ):
                yield

    def note(self, text: str) -> None:
        """Say something at once."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=not self.live)

    def started(self, job: SweepJob, where: str, *, resumed: bool) -> None:
        self._running[job.number] = _Row(job, where, time.monotonic())
        if not self.live:
            what = "goes on" if resumed else "begins"
            self.note(f"job {job.number} {what} on {where}: {job.label}")

    def logged(self, job: SweepJob, records: Sequence[dict[str, Any]]) -> None:
        row = self._running[job.number]
        for record in records:
            row.fraction = job.fraction(record)
            row.loss = record.get("train/loss", row.loss)
            row.score = scores({k[5:]: v for k, v in record.items() if k[:5] == "eval/"}, row.score)

    def ended(self, job: SweepJob, outcome: Outcome) -> None:
        self._running.pop(job.number, None)
        self._ended.append((job, outcome))
        what = f"job {job.number} ({job.label}) "
        if outcome.status == "failed":
            lines = "".join(f"\n    {line}" for line in job.last_lines(_LINES))
            self.note(f"{what}failed: {outcome.reason}; the end of {job.log}:{lines}")
        elif not self.live:
            self.note(what + describe(outcome))

    # ---- what is drawn -------------------------------------------------------------------------

    def _view(self) -> RenderableType:
        wide = self.console.width >= _WIDE
        table = Table(box=None, padding=(0, 1), expand=True)
        table.add_column("job", justify="right", no_wrap=True)
        table.add_column("values", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("done", width=24 if wide else 10)
        table.add_column("loss", justify="right", no_wrap=True)
        if wide:
            table.add_column("score", no_wrap=True, max_width=20)
            table.add_column("on", no_wrap=True, max_width=18)
        table.add_column("time", justify="right", no_wrap=True)
        room = max(1, self.console.height - 6)
        rows = list(self._running.values())
        for row in rows[:room]:
            cells: list[RenderableType] = [
                str(row.job.number),
                Text(row.job.label),
                ProgressBar(total=1.0, completed=row.fraction),
                "" if row.loss is None else f"{row.loss:.4f}",
            ]
            if wide:
                cells += [row.score, row.where]
            table.add_row(*cells, duration(time.monotonic() - row.began))
        parts: list[RenderableType] = [self._headline(), table]
        if len(rows) > room:
            parts.append(Text(f"and {len(rows) - room} more", style="dim"))
        if self.best:
            parts.append(Text(self.best, no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _headline(self) -> Text:
        counts = Counter(outcome.status for _, outcome in self._ended)
        held = sum(row.job.ranks for row in self._running.values())
        words = [f"{len(self._running)} running on {held} of {self.slots} slots"]
        words += [f"{count} {status}" for status, count in counts.items()]
        if self.total is not None:
            left = self.total - len(self._ended) - len(self._running)
            words.append(f"{left} waiting")
        words.append(duration(time.monotonic() - self._began))
        return Text(" · ".join(words), style="bold", no_wrap=True, overflow="ellipsis")

    def close(self) -> None:
        """Print what came of every job."""
        table = Table(box=None, padding=(0, 1))
        table.add_column("job", justify="right", no_wrap=True)
        table.add_column("values", overflow="fold")
        table.add_column("came to", no_wrap=True)
        table.add_column("result", overflow="fold")
        table.add_column("time", justify="right", no_wrap=True)
        for job, outcome in sorted(self._ended, key=lambda pair: pair[0].number):
            color = _COLORS[outcome.status]
            table.add_row(
                str(job.number),
                Text(job.label),
                f"[{color}]{'reused' if outcome.reused else outcome.status}[/]",
                escape(outcome.reason or scores(outcome.summary.get("eval") or {})),
                "" if outcome.reused else duration(outcome.seconds),
            )
        self.console.print(table)


def scores(eval_: dict[str, Any], otherwise: str = "") -> str:
    """An evaluation in a few words: its measures, or its loss where that is the only one."""
    shown = {k: v for k, v in eval_.items() if k != "loss" or len(eval_) == 1}
    words = [f"{k} {v:.4g}" for k, v in list(shown.items())[:2] if v is not None]
    return " ".join(words) or otherwise


def describe(outcome: Outcome) -> str:
    """How a job ended, as the end of a sentence."""
    result = scores(outcome.summary.get("eval") or {})
    if outcome.reused:
        return f"was completed earlier and is not run again{result and ': ' + result}"
    if outcome.status == "completed":
        return f"completed in {duration(outcome.seconds)}{result and ': ' + result}"
    return f"was {outcome.status} after {duration(outcome.seconds)}"


def duration(seconds: float) -> str:
    """Such as 12 s, 3:05 or 2:03:05."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
