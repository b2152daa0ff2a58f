"""The hosts that benchmarks and launch tests share: real ssh, a rate that holds, no remains."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

import psutil
import pytest

from benchmarks.namespaces import Host, hosts

pytestmark = pytest.mark.system("ip", "tc", "unshare", "nsenter", "ssh", "sshd")

_MARK = "HVDKIT_TEST_HOSTS"

# Takes one connection, reads it to its end, answers with one byte.
_TAKE = """
import socket
listening = socket.create_server(("0.0.0.0", 5000))
print("listening", flush=True)
connection, _ = listening.accept()
while connection.recv(2**18): pass
connection.send(b"x")
"""

_GIVE = """
import socket, sys, time
address, size = sys.argv[1], int(sys.argv[2])
connection = socket.create_connection((address, 5000))
start = time.monotonic()
connection.sendall(bytes(size))
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
print(time.monotonic() - start)
"""

# An owner with a daemon of its own in a host: in another session, held by nobody.
_OWNER = """
import signal, sys, time
from benchmarks.namespaces import hosts
# A shell's background job, which the tests may be, ignores it, and so would this.
signal.signal(signal.SIGINT, signal.default_int_handler)
with hosts(2) as (one, other):
    one.run(["ssh", other.name, f"{sys.argv[1]} setsid sleep 600 < /dev/null > /dev/null 2>&1 &"])
    one.run(["sh", "-c", f"{sys.argv[1]} setsid sleep 600 < /dev/null > /dev/null 2>&1 &"])
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def pair():
    with hosts(2, rate="100mbit") as made:
        yield made


def transfer(source: Host, target: Host, size: int) -> float:
    """Seconds that `size` bytes take from one host to the other."""
    taking = target.popen([sys.executable, "-c", _TAKE], stdout=subprocess.PIPE)
    with taking:
        assert taking.stdout is not None
        assert taking.stdout.readline() == "listening\n"
        giving = source.run([sys.executable, "-c", _GIVE, target.address, str(size)])
        assert taking.wait(10) == 0
    return float(giving.stdout)


def test_hosts_reach_each_other_over_ssh_by_name_and_by_address(pair):
    for one, other in (pair, reversed(pair)):
        for place in (other.name, other.address):
            name = one.run(["ssh", place, "hostname"]).stdout.strip()
            assert name == other.name


def test_nobody_comes_in_without_the_key(pair):
    one, other = pair
    known = "UserKnownHostsFile=/run/ssh/known_hosts"
    bare = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", known, other.name, "true"]
    refused = one.run(bare, check=False)
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr


@pytest.mark.parametrize(("rate", "bits", "size"), [("100mbit", 1e8, 4e6), ("1gbit", 1e9, 4e7)])
def test_a_link_has_its_rate_both_ways_and_counts_its_bytes(rate, bits, size):
    with hosts(2, rate=rate) as (one, other):
        for source, target in ((one, other), (other, one)):
            sent, received = source.sent(), target.received()
            seconds = transfer(source, target, int(size))
            # Never faster, beyond a full bucket at the start; slower only on a busy machine.
            assert 0.5 * bits < 8 * size / seconds < 1.05 * bits
            assert size < source.sent() - sent < 1.06 * size
            assert size < target.received() - received < 1.06 * size


def test_a_process_is_signalled_and_reports_its_end_as_if_it_were_local(pair):
    one, other = pair
    with one.popen(["sleep", "600"]) as process:
        while [p.name() for p in one.processes()] != ["sleep"]:
            assert process.poll() is None
        assert not other.processes()
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM
    assert one.run(["sh", "-c", "exit 3"], check=False).returncode == 3
    with pytest.raises(subprocess.TimeoutExpired):
        one.run(["sleep", "600"], timeout=0.2)
    assert not one.processes()


def test_a_host_can_refuse_ssh_and_be_unplugged_and_come_back(pair):
    one, other = pair
    patient = ["ssh", "-o", "ConnectTimeout=1", other.name, "true"]
    other.refuse_ssh()
    assert "Connection refused" in one.run(patient, check=False).stderr
    other.accept_ssh()
    other.unplug()
    assert "timed out" in one.run(patient, check=False).stderr
    other.plug()
    one.run(["ssh", "-o", "ConnectTimeout=10", other.name, "true"])


def test_two_users_at_once_do_not_meet(pair):
    with hosts(2) as (first, second):
        assert first.address == pair[0].address
        before = pair[1].received()
        assert first.run(["ssh", second.name, "hostname"]).stdout == "host1\n"
        assert pair[1].received() - before < 1000
    pair[0].run(["ssh", pair[1].name, "true"])


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_hosts_whose_owner_dies(sig):
    word = f"{_MARK}={uuid.uuid4().hex}"
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, word],
        env={**os.environ, **dict([word.split("=")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        assert within(10, lambda: sum(p.name() == "sleep" for p in carrying(word)) == 2)
        # The owner, three first processes with their unshare, two sshds, two daemons.
        assert len(carrying(word)) >= 9
        owner.send_signal(sig)
        owner.wait(10)
        assert within(10, lambda: not carrying(word))
    finally:
        owner.kill()
        owner.communicate()


def within(seconds: float, condition: Callable[[], object]) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(true)


def carrying(word: str) -> list[psutil.Process]:
    """Every process with this in its environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            name, value = word.split("=")
            if process.environ().get(name) == value:
                found.append(process)
    return found


def test_an_error_of_the_user_ends_the_hosts_too():
    def fail() -> None:
        with hosts(1) as (one,):
            processes.append(one.popen(["sleep", "600"]))
            assert within(10, one.processes)
            raise ZeroDivisionError

    processes: list[subprocess.Popen[str]] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert processes[0].wait(10) == -signal.SIGKILL


def test_what_cannot_be_made_is_said():
    with pytest.raises(RuntimeError, match="rate"), hosts(1, rate="fast"):
        pass
    with pytest.raises(ValueError, match="1 to 200"), hosts(0):
        pass
