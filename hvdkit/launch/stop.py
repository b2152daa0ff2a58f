"""Being told to stop by a signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignal:
    """`number` is the first SIGTERM, SIGINT or SIGUSR1 that came while it listened, or 0."""

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen: the first signal is noted, and a second acts as it would have before."""

        def note(number: int, _frame: Any) -> None:
            self.number = number
            signal.signal(number, before[number])

        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's, and its owner's to handle
            return
        before = {int(number): signal.getsignal(number) for number in _SIGNALS}
        try:
            for number in _SIGNALS:
                signal.signal(number, note)
            yield
        finally:
            for restored, handler in before.items():
                signal.signal(restored, handler)
