"""The rank's side of being watched: it tells its launcher that it lives, and how far it is.

`hvdkit launch` puts an address and a word into the environment; without them nothing here does
anything. A thread sends what the training loop last noted, about once a second, so that a rank
that stands still can be told from one whose process is stopped; and it does what the launcher
asks, which needs no other way to reach this host. `watch.py` describes the protocol. Imports the
standard library and the rank's job only.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

from hvdkit.launch.environment import Job

ADDRESS = "HVDKIT_LAUNCH_ADDRESS"
"""`host,host,...:port`: where the launcher listens, by each of its addresses."""
WORD = "HVDKIT_LAUNCH_WORD"
"""What a rank says first, so that nobody else can speak for it."""
JOB = "HVDKIT_JOB"
"""The job's name, in the environment of each of its processes."""

INTERVAL = 1.0  # seconds between two beats
_CONNECT_TIMEOUT = 3.0
_CONNECTING = 30.0  # seconds to try in, from the beginning; without a line nobody is watched
_REPLY_TIMEOUT = 60.0  # a line that was let go would look like a rank that died
_UNANSWERED = 60  # seconds until a beat that nobody has acknowledged means that the line is dead
_LEAVING = 120.0  # seconds to leave in, once the launcher is gone

EndKind = Literal["done", "mistake", "failed", "follows"]
"""Why a rank leaves: it has done its work, or was stopped; a mistake of the user's, which it has
told; an error of its own; or another rank's."""


class Heartbeat:
    """Tells the launcher what this rank does. Without a launcher, `note` and `end` do nothing.

    `note` is for the thread that trains: it costs an assignment. `stall_timeout` is in seconds,
    None leaves the launcher's own.
    """

    def __init__(self, job: Job, environ: Mapping[str, str] = os.environ):
        self._job = job
        self._address = environ.get(ADDRESS, "")
        self._word = environ.get(WORD, "")
        self._state: tuple[int, str] = (0, "starting")
        self._facts: dict[str, Any] = {}
        self._sent_facts: dict[str, Any] = {}
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._waker: socket.socket | None = None  # a byte sent here has the next beat come at once
        self._farewell: dict[str, Any] | None = None  # what is still to be said on leaving

    def start(self) -> None:
        """Begin to beat, if there is a launcher; SIGUSR2 will print this rank's Python stacks."""
        if not self._address:
            return
        with contextlib.suppress(ValueError, OSError):  # stderr may be no real file
            faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=True)
        threading.Thread(target=self._run, name="hvdkit-heartbeat", daemon=True).start()

    def note(self, what: str) -> None:
        """This rank has come on: `what` it does next, in words."""
        first = not self._state[0]
        self._state = (self._state[0] + 1, what)
        if first:
            # That it has begun is said at once. While another rank stands still, Horovod may block
            # the thread that trains and with it all of Python, this class's thread as well.
            self._beat_now()

    def tell(self, **facts: Any) -> None:
        """Let the launcher know a fact of the run, such as its folder or `stall_timeout`."""
        self._facts = {**self._facts, **facts}

    def end(self, status: int, kind: EndKind = "done", cause: str = "") -> None:
        """This rank leaves with `status`: once it has said so, it says nothing more."""
        if not self._over.is_set():
            self._farewell = {"end": status, "kind": kind, "cause": cause}
            self._over.set()
            self._take_leave()

    def _beat_now(self) -> None:
        if self._waker is not None:
            with contextlib.suppress(OSError):
                self._waker.send(b"x")

    # ---- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        found = self._connect()
        if found is None:
            return
        woken, waker = socket.socketpair()
        with found, woken, waker:
            self._socket, self._waker = found, waker
            while not self._over.is_set():
                self._beat()
                self._obey(woken)
            self._take_leave()  # if it was said before there was a line to say it on
            with self._lock:
                self._socket = None

    def _connect(self) -> socket.socket | None:
        hosts, _, port = self._address.rpartition(":")
        hello = {
            "word": self._word,
            "rank": self._job.rank,
            "size": self._job.size,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        deadline = time.monotonic() + _CONNECTING
        while time.monotonic() < deadline:
            for host in hosts.split(","):
                with contextlib.suppress(OSError):
                    found = socket.create_connection((host, int(port)), _CONNECT_TIMEOUT)
                    found.settimeout(_REPLY_TIMEOUT)
                    found.sendall(json.dumps(hello).encode() + b"\n")
                    if found.recv(3) == b"ok\n":
                        found.setsockopt(
                            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _UNANSWERED
                        )
                        return found
                    found.close()
            time.sleep(INTERVAL)
        return None

    def _beat(self) -> None:
        count, what = self._state
        beat: dict[str, Any] = {"beat": count, "what": what}
        facts = self._facts
        if facts != self._sent_facts:
            beat["facts"] = self._sent_facts = facts
        self._send(beat)

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock, contextlib.suppress(OSError):  # `_obey` notices a launcher that is gone
            if self._socket is not None:
                self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _take_leave(self) -> None:
        farewell = self._farewell
        if farewell and self._socket is not None:
            self._farewell = None
            self._send(farewell)

    def _obey(self, woken: socket.socket) -> None:
        """Wait for the next beat, and do what the launcher asks meanwhile."""
        assert self._socket
        try:
            ready, _, _ = select.select([self._socket, woken], [], [], INTERVAL)
            if woken in ready:
                woken.recv(1)
            if self._socket not in ready:
                return
            orders = self._socket.recv(1024)
        except (OSError, ValueError):
            orders = b""
        for order in orders.split():
            if order == b"stacks":
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            else:
                os.kill(os.getpid(), int(order))
        if not orders and not self._over.is_set():
            # The launcher died, or its host is cut off: as if it had asked to finish the step,
            # save and leave. A rank that waits for a host that is gone never would.
            self._over.set()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_LEAVING)
            os._exit(128 + signal.SIGTERM)


_current: Heartbeat | None = None


def current() -> Heartbeat:
    """This process's heartbeat; one that is silent until `begin` was called."""
    return _current or Heartbeat(Job(), {})


def begin(job: Job) -> Heartbeat:
    """Start this process's one heartbeat, at the beginning of its program."""
    global _current
    if _current is None:
        _current = Heartbeat(job)
        _current.start()
        # A program that reaches its end has done its work, whatever it calls on the way.
        atexit.register(_current.end, 0)
    return _current
