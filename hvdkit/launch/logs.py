"""How a rank prints what hvdkit has to say. Imports the standard library only."""

from __future__ import annotations

import logging
import sys


class _Printer(logging.Handler):
    """Write to sys.stdout as it is now, which a progress bar may have redirected."""

    def emit(self, record: logging.LogRecord) -> None:
        # One write a line: a launcher that prefixes output would split print's two.
        sys.stdout.write(self.format(record) + "\n")
        sys.stdout.flush()


def print_logs(rank: int) -> None:
    """Rank 0 prints what it has to say; the others only warnings, with their number."""
    handler = _Printer(logging.INFO if rank == 0 else logging.WARNING)
    handler.setFormatter(
        logging.Formatter("%(message)s" if rank == 0 else f"rank {rank}: %(message)s")
    )
    logger = logging.getLogger("hvdkit")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [handler]
    logger.propagate = False
