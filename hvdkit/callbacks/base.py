"""The moments of a run that a callback can act on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from hvdkit.run_folder import Summary
    from hvdkit.trainer import Trainer


class Callback:
    """Does nothing at every moment; override what you need.

    With `every_rank` it runs on all ranks and may call collectives; otherwise on rank 0 alone.
    """

    every_rank: ClassVar[bool] = False

    def on_open(self, trainer: Trainer) -> None:
        """The run's folder (`trainer.folder`) is ready to be written to; nothing is yet."""

    def on_start(self, trainer: Trainer) -> None:
        """Parameters agree; no step has been taken since the start or the resume."""

    def on_batch(self, trainer: Trainer) -> None:
        """The next step's batch is there; nothing has been done with it."""

    def on_step(self, trainer: Trainer) -> None:
        """An update was made; `trainer.step` counts it."""

    def on_log(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """A log event: `step`, `epoch`, `time`, and what was measured, over all ranks."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """A checkpoint was published."""

    def on_end(self, trainer: Trainer, summary: Summary) -> None:
        """The run completed or was interrupted (not: failed)."""

    def close(self) -> None:
        """The run is over, however it ended: give back files and the terminal."""
