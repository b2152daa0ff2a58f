"""A callback that leaves a rank in the middle of a job, as a program with a slip in it would."""

from __future__ import annotations

import os
import sys
import time

from hvdkit.callbacks import Callback


class Leave(Callback):
    """Rank `rank` does `how` after `steps` steps of this process's own.

    "exit": sys.exit(0). "vanish": the process ends with status 0 and no goodbye. "raise": an
    error. "sleep": it does nothing any more.
    """

    every_rank = True

    def __init__(self, *, rank: int, steps: int, how: str):
        self._rank, self._left, self._how = rank, steps, how

    def on_step(self, trainer):
        self._left -= 1
        if trainer.comm.rank != self._rank or self._left:
            return
        if self._how == "vanish":
            os._exit(0)
        elif self._how == "exit":
            sys.exit(0)
        elif self._how == "sleep":
            time.sleep(1000)
        else:
            raise RuntimeError("the rank's own reason")
