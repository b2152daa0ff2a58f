"""What ranks print, taken apart again: launchers join all ranks' lines into one stream, tagged.

Open MPI puts a tag before every piece that a rank wrote, in the middle of a line too, so lines
are put together a rank. What has no tag is the launcher's own. Imports the standard library only.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

# mpirun --tag-output says [job,rank]<stream>:, horovodrun's Gloo launcher [rank]<stream>:.
_TAG = re.compile(r"\[(?:\d+,)?(\d+)\]<(?:stdout|stderr)>:")
# srun --label says "rank: " at the beginning of a line, padded to the width of the largest.
_LABEL = re.compile(r" *(\d+): ?")
_KEPT = 200  # lines a rank, for the moment that it fails

Listener = Callable[["int | None", str], None]
"""Takes a rank, or None for the launcher itself, and a whole line without its end."""


class Untagger:
    """Take a launcher's stream apart: every line goes to `listener` with its rank."""

    def __init__(self, listener: Listener, *, labelled: bool = False):
        self._listener = listener
        self._labelled = labelled
        self._rest = ""  # of a line that has no end yet
        self._open: dict[int, str] = {}  # by rank, what its line has come to so far

    def feed(self, text: str) -> None:
        """The next piece of the stream, of any length."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line.rstrip("\r"))

    def close(self) -> None:
        """The stream has ended: give out what had no newline."""
        if self._rest:
            self._line(self._rest, whole=False)
        for rank, text in self._open.items():
            if text:
                self._listener(rank, text)
        self._rest, self._open = "", {}

    def _line(self, line: str, *, whole: bool = True) -> None:
        if self._labelled:
            match = _LABEL.match(line)
            self._listener(int(match[1]), line[match.end() :]) if match else self._own(line)
            return
        own, *parts = _TAG.split(line)
        pieces = list(zip(map(int, parts[::2]), parts[1::2], strict=True))
        if own or not pieces:
            self._own(own)
        for rank, text in pieces:
            self._open[rank] = self._open.get(rank, "") + text
        if pieces and whole:  # the newline is the last piece's
            rank = pieces[-1][0]
            self._listener(rank, self._open.pop(rank))

    def _own(self, line: str) -> None:
        self._listener(None, line)


@dataclass
class Tails:
    """The last lines of every rank, and all that the launcher itself has said."""

    ranks: dict[int, deque[str]] = field(default_factory=dict)
    launcher: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def note(self, rank: int | None, line: str) -> None:
        if rank is None:
            self.launcher.append(line)
        else:
            self.ranks.setdefault(rank, deque(maxlen=_KEPT)).append(line)

    def of(self, rank: int, lines: int) -> list[str]:
        return list(self.ranks.get(rank, ()))[-lines:]
