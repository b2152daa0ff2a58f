"""What the user sees while something long runs: a bar on a terminal, plain lines elsewhere.

Imports rich.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

# `[ 42%] Building CXX object ...`, as CMake's makefiles print it
PERCENT = re.compile(r"^\s*\[\s*(\d{1,3})%\]")
PLAIN_EVERY = 10


def percent_of(line: str) -> int | None:
    """The percentage that a line of CMake's output begins with, or None."""
    match = PERCENT.match(line)
    return min(int(match.group(1)), 100) if match else None


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.1f} s"


class Reporter:
    """Prints the stages of a build, and how far each one is."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._percent = 0
        self._stage = ""

    def say(self, text: str, style: str = "") -> None:
        """One line that stays."""
        self.console.print(
            text, style=style, highlight=False, markup=False, soft_wrap=not self.console.is_terminal
        )

    @contextmanager
    def stage(self, doing: str, done: str) -> Iterator[None]:
        """A stretch of work: shown while it runs, and summed up in one line when it succeeded."""
        self._stage, self._percent, started = doing, 0, time.monotonic()
        if self.console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[percent]}"),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as bar:
                self._bar = bar
                self._task = bar.add_task(doing, total=None, percent="")
                try:
                    yield
                finally:
                    self._bar = self._task = None
        else:
            self.say(f"{doing} ...")
            yield
        self.say(f"{done} ({duration(time.monotonic() - started)})")

    def line(self, text: str) -> None:
        """A line of the running command's output; moves the bar if it tells how far it is."""
        percent = percent_of(text)
        if percent is None or percent <= self._percent:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=percent, total=100, percent=f"{percent:3d}%")
        elif percent // PLAIN_EVERY > self._percent // PLAIN_EVERY:
            self.say(f"{self._stage}: {percent}%")
        self._percent = percent
