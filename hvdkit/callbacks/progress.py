"""A progress bar where there is a terminal."""

from __future__ import annotations

import sys

from hvdkit.callbacks.base import Callback


class Progress(Callback):
    """A bar with the newest loss and speed on rank 0's terminal; nothing without one.

    Lines that are logged meanwhile scroll by above it.
    """

    def __init__(self):
        self._bar = None
        self._text = ""

    def on_start(self, trainer):
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            refresh_per_second=5,
        )
        self._task = self._bar.add_task("", total=trainer.num_steps, completed=trainer.step)
        self._bar.start()

    def on_step(self, trainer):
        if self._bar:
            self._bar.update(self._task, completed=trainer.step)

    def on_log(self, trainer, record):
        if self._bar and "train/loss" in record:
            text = f"loss {record['train/loss']:.4f}  {record['samples_per_second']:,.0f}/s"
            self._bar.update(self._task, description=text)

    def close(self):
        if self._bar:
            self._bar.stop()
            self._bar = None
