"""The launcher's side of the heartbeat: which ranks live, how far each is, who stands still.

A rank connects and says `{"word", "rank", "size", "host", "pid"}`, is answered `ok`, then says
`{"beat": count, "what": words}` about once a second, with `"facts"` where there are new ones, and
`{"end": status, "kind", "cause"}` when it leaves: one JSON object a line. A connection that ends
without the last is a rank that died. The launcher says `stacks` (print them) or a signal's number
(take it), a word a line. Runs in the caller's event loop, by callbacks in a selector.
Imports the standard library, psutil and the ranks' side.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from hvdkit.launch.heartbeat import ADDRESS, WORD, EndKind

_LONGEST = 1 << 16  # bytes a message; more is no rank of ours
# Seconds that a rank has to begin, however little patience there is with one that trains: a
# framework's import can take a minute from a cold disk, and says nothing meanwhile.
_BEGINNING = 300.0
_BEATS_APART = 3.0  # seconds that the beats of ranks which stopped together may lie apart


@dataclass
class Rank:
    """What is known of a rank. Times are `time.monotonic()`'s."""

    number: int
    host: str
    pid: int
    began: float  # when it was first heard
    heard: float  # when it last said anything
    moved: float  # when its loop last came on
    count: int = 0
    what: str = "starting"
    status: int | None = None  # once it has said that it leaves
    kind: EndKind | None = None
    cause: str = ""
    gone: bool = False  # its connection has ended

    @property
    def lives(self) -> bool:
        return self.status is None and not self.gone

    def __str__(self) -> str:
        return f"rank {self.number} ({self.host}, process {self.pid})"


@dataclass(frozen=True)
class Stall:
    """Why the job is held to stand still, and which ranks are to blame as far as one can see.

    Of the ranks that are `silent` not even the heartbeat comes.
    """

    ranks: tuple[int, ...]
    words: str
    silent: tuple[int, ...] = ()


@dataclass
class _Line:
    """A connection that has not said yet whose it is, or that of a rank."""

    rest: bytes = b""
    rank: Rank | None = None


@dataclass
class Watch:
    """Listen for the ranks of one job of `size`; `selector` is the event loop's.

    `local` keeps to the loopback interface; else every address of this machine is listened on,
    or those of `interfaces` alone.
    """

    size: int
    selector: selectors.BaseSelector
    local: bool = True
    interfaces: Sequence[str] = ()
    ranks: dict[int, Rank] = field(default_factory=dict)
    ended: list[Rank] = field(default_factory=list)  # in the order in which they left
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._word = secrets.token_hex(16)
        self._server = socket.create_server(("127.0.0.1" if self.local else "", 0))
        self._server.setblocking(False)
        self.selector.register(self._server, selectors.EVENT_READ, self._accept)
        self._lines: dict[socket.socket, _Line] = {}
        self.moved = time.monotonic()  # when any rank last came on, or left
        self._begun = 0.0  # when the first rank began to train

    def variables(self) -> dict[str, str]:
        """What a rank's environment must hold to find this."""
        hosts = ["127.0.0.1"] if self.local else [*addresses(self.interfaces), "127.0.0.1"]
        port = self._server.getsockname()[1]
        return {ADDRESS: f"{','.join(hosts)}:{port}", WORD: self._word}

    def close(self) -> None:
        for line in [*self._lines]:
            self._drop(line)
        self.selector.unregister(self._server)
        self._server.close()

    # ---- verdicts ---------------------------------------------------------------------------

    def stalled(self, timeout: float, now: float | None = None) -> Stall | None:
        """Whether a rank has been silent, or stood still, for `timeout` seconds."""
        now = time.monotonic() if now is None else now
        living = [rank for rank in self.ranks.values() if rank.lives]
        if not living:
            return None
        # They begin to train together: once one does, the others have as long as for a step.
        limit = timeout if self._begun else max(timeout, _BEGINNING)
        # Beats come one by one: who fell silent, or stood still, first may be heard a little later.
        margin = min(limit / 2, _BEATS_APART)
        unheard = {rank.number: now - max(rank.heard, self._begun) for rank in living}
        if max(unheard.values()) > limit:
            silent = [rank for rank in living if unheard[rank.number] > limit - margin]
            why = f"not heard of for {timeout:g} s: stopped, or its host is gone"
            # Horovod may silence those that wait for it, too (heartbeat.py).
            stopped = [rank for rank in silent if _is_stopped(rank)]
            return _stall(stopped or silent, why, silent)
        first = min(rank.began for rank in self.ranks.values())
        missing = [n for n in range(self.size) if n not in self.ranks]
        if missing and now - first > max(timeout, _BEGINNING):
            listed = ", ".join(map(str, missing))
            return Stall(tuple(missing), f"rank {listed} never began")
        stood = {rank.number: now - max(rank.moved, self._begun) for rank in living}
        if max(stood.values()) <= limit:
            return None
        still = [rank for rank in living if stood[rank.number] > limit - margin]
        behind = min(rank.count for rank in still)
        blamed = [rank for rank in still if rank.count == behind]
        return _stall(blamed, f"no progress for {timeout:g} s")

    def failed(self) -> Rank | None:
        """The first rank that failed by itself, or died without a word."""
        kinds = ("mistake", "failed", None)
        return next((rank for rank in self.ended if rank.kind in kinds), None)

    def is_saving(self) -> bool:
        """Whether a rank was last heard to write a checkpoint."""
        return any(rank.lives and rank.what == "saving" for rank in self.ranks.values())

    def ask(self, order: str, *, but: Sequence[int] = ()) -> int:
        """Send a signal's number or `stacks` to all ranks that live; how many there were."""
        asked = 0
        for line, state in self._lines.items():
            if state.rank and state.rank.lives and state.rank.number not in but:
                with contextlib.suppress(OSError):
                    line.sendall(order.encode() + b"\n")
                    asked += 1
        return asked

    # ---- connections ------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            line, _ = self._server.accept()
            line.setblocking(False)
            self._lines[line] = _Line()
            self.selector.register(line, selectors.EVENT_READ, self._reader(line))

    def _reader(self, line: socket.socket) -> Callable[[], None]:
        return lambda: self._read(line)

    def _read(self, line: socket.socket) -> None:
        try:
            data = line.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        state = self._lines[line]
        *messages, state.rest = (state.rest + data).split(b"\n")
        try:
            for message in messages:
                self._hear(line, state, json.loads(message))
        except (ValueError, KeyError, TypeError):
            data = b""  # no rank of ours speaks like that
        if not data or len(state.rest) > _LONGEST:
            self._drop(line)

    def _hear(self, line: socket.socket, state: _Line, message: dict[str, Any]) -> None:
        now = time.monotonic()
        if state.rank is None:
            if not secrets.compare_digest(str(message["word"]), self._word):
                raise ValueError("a stranger")
            line.sendall(b"ok\n")
            number = int(message["rank"])
            state.rank = Rank(number, str(message["host"]), int(message["pid"]), now, now, now)
            self.ranks[number] = state.rank
            return
        rank = state.rank
        rank.heard = now
        if "beat" in message:
            if message["beat"] != rank.count:
                rank.count, rank.moved = int(message["beat"]), now
                self.moved, self._begun = now, self._begun or now
            rank.what = str(message["what"])
            self.facts |= message.get("facts", {})
        else:
            rank.status, rank.cause = int(message["end"]), str(message["cause"])
            rank.kind = message["kind"]
            self.moved = now
            self.ended.append(rank)

    def _drop(self, line: socket.socket) -> None:
        state = self._lines.pop(line)
        self.selector.unregister(line)
        line.close()
        if state.rank:
            if state.rank.status is None:
                self.ended.append(state.rank)
            state.rank.gone = True
            self.moved = time.monotonic()


def _stall(ranks: Sequence[Rank], why: str, silent: Sequence[Rank] = ()) -> Stall:
    each = "; ".join(f"{rank}, last seen {_doing(rank.what)}" for rank in ranks)
    blamed, unheard = (tuple(rank.number for rank in group) for group in (ranks, silent))
    return Stall(blamed, f"{each}: {why}", unheard)


def _is_stopped(rank: Rank) -> bool:
    """Whether its process was stopped by a signal, as far as this host knows it."""
    if rank.host != socket.gethostname():
        return False
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(rank.pid).status() == psutil.STATUS_STOPPED)
    return False


def _doing(what: str) -> str:
    return f"at {what}" if what.startswith("step") else what


def addresses(interfaces: Iterable[str] = ()) -> list[str]:
    """This machine's IPv4 addresses other than loopback's, or those of the given interfaces."""
    wanted = set(interfaces)
    return [
        entry.address
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET
        and (name in wanted if wanted else not entry.address.startswith("127."))
    ]
