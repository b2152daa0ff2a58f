"""What happens to a record that cannot be read: `data.on_bad_record`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Literal

from hvdkit.comm import Comm
from hvdkit.errors import HvdkitError

_log = logging.getLogger(__name__)
OnBadRecord = Literal["error", "skip"]


class BadRecord(HvdkitError):
    """A record that cannot be read, met by the rank that was to train on it."""


class BadRecords:
    """Stops at the first bad record, or leaves bad ones out and counts them.

    `count` is how many were left out so far. Decoding threads may report at once.
    """

    def __init__(self, policy: OnBadRecord):
        self._policy = policy
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._before: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        return len(self._seen)

    def begin_training(self) -> None:
        """What was met so far was met in reading files, and will be whenever they are read."""
        with self._lock:
            self._before = frozenset(self._seen)

    def over_ranks(self, comm: Comm) -> frozenset[str]:
        """Where any rank has left one out; one that several met is there once. A collective."""
        with self._lock:
            mine = frozenset(self._seen)
        return frozenset().union(*comm.all_gather_object(mine))

    def met_in_training(self, comm: Comm) -> frozenset[str]:
        """Those of `over_ranks` that a resumed run might not come by again. A collective."""
        return self.over_ranks(comm) - self._before

    def recall(self, places: Iterable[str]) -> None:
        """Count those that the run had met before it was resumed."""
        with self._lock:
            self._seen.update(places)

    def report(self, where: str, problem: str) -> None:
        """Say that the record at `where` ("FILE" or "FILE:LINE") has a problem.

        Raises `BadRecord` under "error"; returns, to go on without the record, under "skip".
        The same place is counted once, however often it is come by.
        """
        if self._policy == "error":
            raise BadRecord(
                f"{where}: {problem}. Mend it, or set data.on_bad_record=skip to leave such "
                "records out"
            )
        with self._lock:
            if where in self._seen:
                return
            self._seen.add(where)
            number = self.count
        if number & (number - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: seen, and not a flood
            _log.info("left out bad record number %d: %s: %s", number, where, problem)
