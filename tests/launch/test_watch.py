"""A launcher hears its ranks: real sockets, the ranks' own side in threads of this process."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import pytest

from hvdkit.launch import heartbeat
from hvdkit.launch.command import Request
from hvdkit.launch.environment import Job
from hvdkit.launch.heartbeat import Heartbeat
from hvdkit.launch.hosts import Host
from hvdkit.launch.output import Tails
from hvdkit.launch.post_mortem import about_failure, srun_started_nothing
from hvdkit.launch.watch import Watch

SIZE = 3


@pytest.fixture
def watch(monkeypatch):
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.02)
    with selectors.DefaultSelector() as selector:
        found = Watch(SIZE, selector)
        yield found
        found.close()


def run_until(watch: Watch, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        for key, _ in watch.selector.select(0.02):
            key.data()


def join(watch: Watch, *numbers: int) -> list[Heartbeat]:
    hearts = [Heartbeat(Job("mpi", number, SIZE), watch.variables()) for number in numbers]
    for heart in hearts:
        heart.start()
    run_until(watch, lambda: all(heart._socket for heart in hearts))
    return hearts


def heard(watch: Watch, number: int, what: str) -> Callable[[], bool]:
    return lambda: watch.ranks[number].what == what


def end_all(watch: Watch, hearts: list[Heartbeat]) -> None:
    for heart in hearts:
        heart.end(0)
    run_until(watch, lambda: all(heart._socket is None for heart in hearts))


def test_a_stopped_process_is_told_from_those_that_its_silence_has_silenced(watch):
    hearts = join(watch, 0, 1, 2)
    for heart in hearts:
        heart.note("step 1")
    run_until(watch, lambda: [rank.count for rank in watch.ranks.values()] == [1, 1, 1])
    with subprocess.Popen(["sleep", "60"]) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        watch.ranks[1].pid = stopped.pid
        stall = watch.stalled(30, now=time.monotonic() + 31)
        stopped.kill()
    assert stall
    assert stall.ranks == (1,)
    assert sorted(stall.silent) == [0, 1, 2]
    end_all(watch, hearts)


def test_that_a_rank_has_begun_is_heard_at_once(watch, monkeypatch):
    monkeypatch.setattr(heartbeat, "INTERVAL", 1000.0)
    hearts = join(watch, 0)
    run_until(watch, heard(watch, 0, "starting"))
    hearts[0].note("step 1")
    run_until(watch, heard(watch, 0, "step 1"))
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.02)
    hearts[0]._beat_now()
    end_all(watch, hearts)


def test_who_stands_still_is_told_from_who_waits_for_it(watch):
    hearts = join(watch, 0, 1, 2)
    for number, heart in enumerate(hearts):
        heart.note("step 1")
        if number != 1:
            heart.note("reading data")
    run_until(watch, lambda: [watch.ranks[n].count for n in range(SIZE)] == [2, 1, 2])
    assert watch.stalled(30) is None
    stall = watch.stalled(30, now=time.monotonic() + 31)
    assert stall
    # All are silent in that future; let them be heard there, as they would be.
    later = time.monotonic() + 31
    for rank in watch.ranks.values():
        rank.heard = later
    watch.ranks[1].moved += 1.5  # its last beat came after those of the others
    stall = watch.stalled(30, now=later)
    assert stall
    assert stall.ranks == (1,)
    assert "at step 1" in stall.words
    end_all(watch, hearts)


def test_a_silent_rank_is_named_although_others_move(watch):
    hearts = join(watch, 0, 1, 2)
    for heart in hearts:
        heart.note("step 1")
    run_until(watch, lambda: all(watch.ranks[n].count for n in range(SIZE)))
    later = time.monotonic() + 31
    for number in (0, 2):
        watch.ranks[number].heard = watch.ranks[number].moved = later
    stall = watch.stalled(30, now=later)
    assert stall
    assert stall.ranks == stall.silent == (1,)
    end_all(watch, hearts)


def test_a_rank_stopped_before_its_first_word_of_training_is_named(watch):
    hearts = join(watch, 0, 1, 2)
    for heart in hearts[:2]:
        heart.note("step 1")
    run_until(watch, lambda: all(watch.ranks[n].count for n in (0, 1)))
    later = time.monotonic() + 31
    for number in (0, 1):
        watch.ranks[number].heard = watch.ranks[number].moved = later
    stall = watch.stalled(30, now=later)
    assert stall
    assert stall.ranks == (2,)
    end_all(watch, hearts)


def test_beginning_may_take_longer_than_a_step(watch):
    hearts = join(watch, 0)
    assert watch.stalled(1, now=time.monotonic() + 60) is None
    stall = watch.stalled(1, now=time.monotonic() + 1000)
    assert stall
    end_all(watch, hearts)


def test_the_first_own_failure_is_the_jobs(watch):
    hearts = join(watch, 0, 1, 2)
    hearts[0].end(1, "follows")
    run_until(watch, lambda: len(watch.ended) == 1)
    assert watch.failed() is None
    hearts[2].end(3, "failed", "ValueError: mine")
    run_until(watch, lambda: len(watch.ended) == 2)
    failed = watch.failed()
    assert failed
    assert (failed.number, failed.status) == (2, 3)
    request = Request(program=("x",), ranks=SIZE, hosts=(Host("localhost", SIZE),))
    tails = Tails()
    tails.note(2, "what it said last")
    text, status = about_failure(request, 1, watch, tails)
    assert status == 3
    assert "rank 2" in text
    assert "ValueError: mine" in text
    assert "what it said last" in text
    end_all(watch, hearts)


def test_a_connection_that_ends_without_a_word_is_a_death(watch):
    hearts = join(watch, 0, 1)
    line = hearts[1]._socket
    assert line
    hearts[1]._over.set()
    line.shutdown(socket.SHUT_RDWR)
    run_until(watch, lambda: len(watch.ended) == 1)
    failed = watch.failed()
    assert failed
    assert (failed.number, failed.status, failed.lives) == (1, None, False)
    end_all(watch, hearts)


STRANGERS = [b"hello\n", b'{"word": "guess", "rank": 0}\n', b"[]\n", b"x" * 99999]


@pytest.mark.parametrize("text", STRANGERS)
def test_strangers_are_not_heard(watch, text):
    port = int(watch.variables()[heartbeat.ADDRESS].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(text)
        stranger.setblocking(False)

        def refused() -> bool:
            try:
                return stranger.recv(10) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        run_until(watch, refused)
    assert watch.ranks == {}


def test_without_a_launcher_nothing_happens():
    heart = Heartbeat(Job(), {})
    heart.start()
    heart.note("step 1")
    heart.end(0)
    assert heart._socket is None


def test_sruns_success_without_a_rank_is_a_failure():
    tails = Tails()
    tails.note(None, "srun: error: task 0 launch failed: Unspecified error")
    assert srun_started_nothing(tails)
    tails.note(0, "and yet it ran")
    assert not srun_started_nothing(tails)
