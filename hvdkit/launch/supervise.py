"""Running one job to its end: its output, signals to it, its silence, and nothing left behind.

One event loop over the launcher's two streams, the ranks' heartbeats and this process's signals.
Imports the standard library and the other launch modules.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hvdkit.launch import processes, remote
from hvdkit.launch.command import Request, command, environment
from hvdkit.launch.environment import status_of
from hvdkit.launch.heartbeat import JOB
from hvdkit.launch.output import Tails, Untagger
from hvdkit.launch.post_mortem import about_failure, about_stall, srun_started_nothing
from hvdkit.launch.watch import Stall, Watch

_TICK = 0.2  # seconds between two looks at the clock
_DUMP = 2.0  # seconds for stacks to arrive
_TRAILING = 2.0  # seconds for the job's last processes to go by themselves
_FORCED = 3.0  # seconds for a launcher to notice that its ranks were killed
_STALLED = 124  # what timeout(1) exits with
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long what is waited for, in seconds.

    `stall`: for a rank to come on; None takes the config's `launch.stall_timeout`. `answer`: after
    a request to stop, until some rank comes on or leaves, as a job does that is about to end;
    `ending`: the same in all, and while a checkpoint is written.
    """

    stall: float | None = None
    answer: float = 8.0
    ending: float = 120.0


class Supervisor:
    """Run `request`'s job; `run` returns its exit status.

    Lines of rank 0 are printed as they are, those of others with their number; what the launcher
    itself says is kept back until it explains a failure.
    """

    def __init__(self, request: Request, patience: Patience, environ: Mapping[str, str]):
        self.request, self._patience = request, patience
        self.job = uuid.uuid4().hex[:16]
        self._environ = environ
        self._selector = selectors.DefaultSelector()
        self._watch = Watch(
            request.ranks,
            self._selector,
            local=not request.remote and request.launcher != "srun",
            interfaces=request.interfaces,
        )
        self._tails = Tails()
        self._stacks: dict[int, list[str]] | None = None  # a dump under way
        self._asked: int | None = None  # the signal that the job was asked to stop with
        self._asked_at = 0.0
        self._killed = False
        self._stall: Stall | None = None

    def run(self) -> int:
        variables = {**self._watch.variables(), JOB: self.job}
        environ = {**environment(self.request, self._environ), **variables}
        process = subprocess.Popen(
            command(self.request, environ),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Of its own, so that the terminal's Ctrl-C comes to us alone.
            start_new_session=True,
        )
        with contextlib.ExitStack() as held:
            held.callback(self._selector.close)
            held.callback(self._watch.close)
            held.callback(self._end_everything)
            held.enter_context(self._signals())
            streams = self._listen(process)
            self._loop(process, streams)
        return self._verdict(process.returncode)

    # ---- the loop ---------------------------------------------------------------------------

    def _loop(self, process: subprocess.Popen[bytes], streams: set[IO[bytes]]) -> None:
        ended_at: float | None = None
        while True:
            for key, _ in self._selector.select(_TICK):
                key.data()
            now = time.monotonic()
            if process.poll() is not None:
                ended_at = ended_at or now
                # A process that was left behind may hold the streams open.
                if not streams or now - ended_at > _TRAILING:
                    return
            elif self._killed:
                if now - self._asked_at > _FORCED:
                    process.kill()
            elif self._asked is not None:
                self._force_if_late(now)
            elif self._stacks is None:
                self._look_for_a_stall(now)
            elif now - self._asked_at > _DUMP:
                self._kill()

    def _listen(self, process: subprocess.Popen[bytes]) -> set[IO[bytes]]:
        assert process.stdout
        assert process.stderr
        open_streams: set[IO[bytes]] = set()
        for stream, out in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            untagger = Untagger(self._line_printer(out), labelled=self.request.launcher == "srun")
            open_streams.add(stream)
            read = self._stream_reader(stream, untagger, open_streams)
            self._selector.register(stream, selectors.EVENT_READ, read)
        return open_streams

    def _stream_reader(
        self, stream: IO[bytes], untagger: Untagger, open_streams: set[IO[bytes]]
    ) -> Callable[[], None]:
        def read() -> None:
            data = os.read(stream.fileno(), 1 << 16)
            untagger.feed(data.decode(errors="replace"))
            if not data:
                untagger.close()
                self._selector.unregister(stream)
                stream.close()
                open_streams.discard(stream)

        return read

    def _line_printer(self, out: IO[str]) -> Callable[[int | None, str], None]:
        def print_line(rank: int | None, line: str) -> None:
            self._tails.note(rank, line)
            if rank is None:
                return
            if self._stacks is not None:
                self._stacks.setdefault(rank, []).append(line)
                return
            failed = self._watch.failed()
            if failed and failed.number != rank:
                return  # what the others say now follows from it
            out.write(f"{line}\n" if rank == 0 else f"[rank {rank}] {line}\n")
            out.flush()

        return print_line

    # ---- ending the job ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Hear this process's signals in the loop."""
        woken, waker = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(waker, False)
        before: dict[int, Any] = {}
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._heard(woken))
        wakeup = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in _SIGNALS:
            before[number] = signal.signal(number, lambda *_: None)
        try:
            yield
        finally:
            for heard, handler in before.items():
                signal.signal(heard, handler)
            signal.set_wakeup_fd(wakeup)
            self._selector.unregister(woken)
            os.close(woken)
            os.close(waker)

    def _heard(self, woken: int) -> None:
        for number in os.read(woken, 64):
            if number not in _SIGNALS:
                continue
            if self._asked is None:
                self._ask(number)
            elif not self._killed and number == signal.SIGINT:
                _say("killed: steps since the last checkpoint are lost")
                self._kill()

    def _ask(self, number: int) -> None:
        """Have every rank finish its step, write a checkpoint and leave."""
        self._asked, self._asked_at = number, time.monotonic()
        # Python's own answer to SIGINT is an exception, SIGHUP's is none: both are a stop here.
        order = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        if self._watch.ask(str(int(order))):
            again = "; Ctrl-C again kills it" if number == signal.SIGINT else ""
            _say(f"stopping: the ranks finish their step and write a checkpoint{again}")
        else:
            remote.signal_everywhere(self.request, self.job, order)

    def _force_if_late(self, now: float) -> None:
        quiet = now - max(self._asked_at, self._watch.moved)
        late = quiet > self._patience.answer and not self._watch.is_saving()
        if late or now - self._asked_at > max(self._patience.answer, self._patience.ending):
            _say(f"the job did not stop within {now - self._asked_at:.0f} s: killed")
            self._kill()

    def _look_for_a_stall(self, now: float) -> None:
        timeout = self._patience.stall or self._watch.facts.get("stall_timeout")
        stall = self._watch.stalled(timeout, now) if timeout else None
        if stall is None:
            return
        self._stall, self._stacks, self._asked_at = stall, {}, now
        self._watch.ask("stacks", but=stall.silent)
        if stall.silent:
            # A stopped process prints its stack as the first thing when it goes on.
            numbers = (signal.SIGUSR2, signal.SIGCONT)
            remote.signal_everywhere(self.request, self.job, *numbers, ranks=stall.silent)

    def _kill(self) -> None:
        self._killed, self._asked_at = True, time.monotonic()
        remote.signal_everywhere(self.request, self.job, signal.SIGKILL)

    def _end_everything(self) -> None:
        """See that no process of the job is left, on any host."""
        deadline = time.monotonic() + _TRAILING
        while remote.left_here(self.job) and time.monotonic() < deadline:
            time.sleep(0.02)
        # A job that ended well has had its launcher see to the other hosts, and one that was
        # killed was killed there already: a host that does not answer is waited for once.
        unclean = self._asked is not None or self._watch.failed()
        if unclean and not self._killed:
            remote.signal_everywhere(self.request, self.job, signal.SIGKILL)
        else:
            processes.send(self.job, [signal.SIGKILL])

    # ---- the end ----------------------------------------------------------------------------

    def _verdict(self, code: int) -> int:
        status = status_of(code)
        if self._stall:
            folder = self._watch.facts.get("folder")
            stacks = self._stacks or {}
            _say(about_stall(self._stall, self._watch, stacks, Path(folder) if folder else None))
            return _STALLED
        if self._asked is not None:
            all_done = status == 0 and not self._watch.failed()
            return 0 if all_done else 128 + self._asked
        failed = self._watch.failed()
        if status == 0 and failed is None and not srun_started_nothing(self._tails):
            return 0
        text, own_status = about_failure(self.request, status, self._watch, self._tails)
        if text:
            _say(text)
        return own_status or status or 1


def _say(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"hvdkit: {text}\n")
    sys.stderr.flush()
