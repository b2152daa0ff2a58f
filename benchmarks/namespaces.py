"""Hosts on one machine: network namespaces on a switch of their own, links of a given rate.

Each host has its own network, host name, processes, /run, /dev/shm, /etc/hosts and a real sshd;
the file system is otherwise the machine's, as a cluster's shared one is. The communication
benchmarks and the tests of launching use it; it needs root, iproute2, util-linux and OpenSSH.

Nothing outlives its owner. A host's first process reads from a pipe that the owner holds: when
the owner closes it, or dies in whatever way, that process ends, and the kernel kills all others
of the host (it was the first of their PID namespace), then drops its links and its mounts.
Nothing is written where the machine's own programs look, so any number of users run at once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil

_TOOLS = ("ip", "tc", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen")
_SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))

# The first process of the switch. Its /run, in memory, holds what is prepared for the hosts: a
# folder each.
_SWITCH = """
set -e
mount -t tmpfs -o mode=755 none /run
ip link add switch type bridge
ip link set switch up
echo ready
exec cat
"""

# The first process of host $1. SIGCHLD is ignored so that the kernel reaps what is left to PID 1.
_HOST = """
set -e
mount --bind "/run/$1/hosts" /etc/hosts
mount --bind "/run/$1/ssh_config" /etc/ssh/ssh_config
if [ -e /etc/resolv.conf ]; then mount --bind /dev/null /etc/resolv.conf; fi
if [ -d ~/.ssh ]; then mount -t tmpfs none ~/.ssh; fi
mount -t tmpfs -o mode=1777 none /dev/shm
mount --bind "/run/$1/run" /run
hostname "$1"
ip link set lo up
echo ready
exec env --ignore-signal=CHLD cat
"""

# In the switch: a cable to host $1 of process $2.
_PLUG = """
set -e
ip link add "port$1" type veth peer name eth0 netns "$2"
ip link set "port$1" master switch up
tc qdisc add dev "port$1" root tbf rate "$3" burst 128kb latency 50ms
"""

# In the host: its address $1, and the link's rate $2 in the other direction.
_START = """
set -e
ip address add "$1/24" dev eth0
ip link set eth0 up
tc qdisc add dev eth0 root tbf rate "$2" burst 128kb latency 50ms
"""

# In the switch or a host: device $1 hands packets to the processors of mask $2, those of a
# connection to one.
_STEER = """
set -e
mount -t sysfs none /sys
echo "$2" > "/sys/class/net/$1/queues/rx-0/rps_cpus"
"""

_SSH = """\
Host *
    User root
    IdentityFile /run/ssh/id
    IdentitiesOnly yes
    GlobalKnownHostsFile /run/ssh/known_hosts
    UserKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    PasswordAuthentication no
"""

# TMPDIR, because two hosts that share /tmp is what no cluster has.
_SSHD = """\
HostKey /run/ssh/host
PidFile /run/ssh/sshd.pid
AuthorizedKeysFile /run/ssh/id.pub
AllowUsers root
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 100
SetEnv TMPDIR=/run/tmp
"""


class Process(subprocess.Popen[str]):
    """A process of a host. `pid` is nsenter's, which waits for it and ends as it ended."""

    def inside(self) -> psutil.Process:
        """The process itself, by the number that this machine knows it by."""
        while self.poll() is None:
            for child in psutil.Process(self.pid).children():
                return child
            time.sleep(0.001)
        raise psutil.NoSuchProcess(self.pid)

    def send_signal(self, sig: int) -> None:
        with suppress(psutil.NoSuchProcess):
            self.inside().send_signal(sig)


@dataclass(frozen=True)
class Host:
    """One host: its name, its address on the private network, its first process."""

    name: str
    address: str
    pid: int
    _switch: int
    _port: str

    def command(self, argv: Sequence[str], *, cwd: str | Path | None = None) -> list[str]:
        """What runs `argv` there, in the same folder unless `cwd` is another."""
        place = ["env", f"--chdir={cwd or Path.cwd()}", "TMPDIR=/run/tmp"]
        return [*_enter(self.pid, "net", "uts", "mount", "pid"), *place, *argv]

    def popen(
        self, argv: Sequence[str], *, cwd: str | Path | None = None, **options: Any
    ) -> Process:
        """Start `argv` there, with the options of `subprocess.Popen`; its streams are text."""
        return Process(self.command(argv, cwd=cwd), text=True, **options)

    def run(
        self, argv: Sequence[str], *, timeout: float = 60, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` there to its end. Raises as `subprocess.run` does."""
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        with self.popen(argv, **{**streams, **options}) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(list(argv), process.returncode, out, err)
        if check and done.returncode:
            raise subprocess.CalledProcessError(done.returncode, done.args, out, err)
        return done

    def processes(self) -> list[psutil.Process]:
        """What runs there, without the host's own: its first process and a waiting sshd."""
        own = {self.pid, self._sshd()}
        place = os.readlink(f"/proc/{self.pid}/ns/pid")
        return [p for p in psutil.process_iter() if p.pid not in own and _namespace(p) == place]

    def sent(self) -> int:
        """Bytes this host has sent over its link so far.

        A little more than the payload: of the headers, those of TCP segments that a real card
        would cut are missing (0.1 to 0.2 % more than the payload in long transfers, not 4 %).
        """
        return self._counters()[8]

    def received(self) -> int:
        """Bytes that have come over its link."""
        return self._counters()[0]

    def _counters(self) -> list[int]:
        lines = Path(f"/proc/{self.pid}/net/dev").read_text()
        (counters,) = re.findall(r"^\s*eth0:(.*)", lines, re.MULTILINE)
        return [int(number) for number in counters.split()]

    def refuse_ssh(self) -> None:
        """Stop listening; sessions that are open go on."""
        psutil.Process(cast(int, self._sshd())).terminate()
        while self._sshd() is not None:
            time.sleep(0.01)

    def accept_ssh(self) -> None:
        """Listen (again)."""
        self.run(["/usr/sbin/sshd", "-f", "/run/ssh/sshd_config"])

    def _sshd(self) -> int | None:
        for child in psutil.Process(self.pid).children():
            with suppress(psutil.NoSuchProcess):
                # Not one of its sessions, which it leaves to PID 1.
                if "/run/ssh/sshd_config" in " ".join(child.cmdline()):
                    return cast(int, child.pid)
        return None

    def unplug(self) -> None:
        """Cut the cable: what is sent to this host is lost, and nobody says so."""
        self._set_port("down")

    def plug(self) -> None:
        self._set_port("up")

    def _set_port(self, state: str) -> None:
        _run([*_enter(self._switch, "net"), "ip", "link", "set", self._port, state])


@contextmanager
def hosts(count: int, *, rate: str = "1gbit") -> Iterator[list[Host]]:
    """`count` hosts named host0, host1, ..., each on a link of `rate` (of `tc`) both ways.

    Raises RuntimeError, saying what is missing, where such hosts cannot be made.
    """
    _refuse_if_impossible(count)
    first: list[subprocess.Popen[str]] = []
    try:
        switch = _first_process(first, [], ["net", "mount", "pid"], _SWITCH)
        addresses = {f"host{i}": f"10.77.0.{i + 1}" for i in range(count)}
        _prepare(Path(f"/proc/{switch}/root/run"), addresses)
        made = []
        for i, (name, address) in enumerate(addresses.items()):
            kinds = ["net", "uts", "mount", "pid"]
            pid = _first_process(first, _enter(switch, "mount"), kinds, _HOST, name)
            _run([*_enter(switch, "net"), "sh", "-c", _PLUG, "plug", str(i), str(pid), rate])
            _run([*_enter(pid, "net"), "sh", "-c", _START, "start", address, rate])
            _keep_order(switch, f"port{i}")
            _keep_order(pid, "eth0")
            made.append(Host(name, address, pid, switch, f"port{i}"))
            made[-1].accept_ssh()
        yield made
    finally:
        _end(first)


def _refuse_if_impossible(count: int) -> None:
    if not 1 <= count <= 200:
        raise ValueError(f"{count} hosts: from 1 to 200 have addresses")
    absent = [tool for tool in _TOOLS if shutil.which(tool, path=_SYSTEM_PATH) is None]
    if absent:
        raise RuntimeError(f"hosts need {', '.join(absent)}: as root, make test-packages")
    if os.geteuid() != 0:
        raise RuntimeError("hosts are made of namespaces, which only root may make")


def _prepare(folder: Path, addresses: Mapping[str, str]) -> None:
    """For every host, what it mounts: names, ssh's settings, keys, and a /run with the latter."""
    _generate_key(folder / "id")
    known = ""
    for name, address in addresses.items():
        (folder / name / "hosts").parent.mkdir()
        names = "".join(f"{a} {n}\n" for n, a in addresses.items())
        (folder / name / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{names}")
        (folder / name / "ssh_config").write_text(_SSH)
        run = folder / name / "run"
        for place in ("ssh", "sshd", "tmp"):
            (run / place).mkdir(parents=True)
        (run / "tmp").chmod(0o1777)
        (run / "ssh/sshd_config").write_text(_SSHD)
        _generate_key(run / "ssh/host")
        known += f"{name},{address} {(run / 'ssh/host.pub').read_text()}"
        for key in ("id", "id.pub"):
            shutil.copy(folder / key, run / "ssh")
    for name in addresses:
        (folder / name / "run/ssh/known_hosts").write_text(known)


def _generate_key(path: Path) -> None:
    _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)])


def _first_process(
    first: list[subprocess.Popen[str]],
    enter: Sequence[str],
    kinds: Sequence[str],
    script: str,
    *arguments: str,
) -> int:
    """Start PID 1 of new namespaces, held by its standard input; its number on this machine."""
    unshare = ["unshare", *(f"--{kind}" for kind in kinds), "--mount-proc", "--fork"]
    process = subprocess.Popen(
        [*enter, *unshare, "--kill-child", "sh", "-c", script, "first", *arguments],
        env=_environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C at the terminal is for the owner, which then lets go of its hosts.
        start_new_session=True,
    )
    first.append(process)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"no hosts can be made here: {process.communicate()[1].strip()}")
    (child,) = psutil.Process(process.pid).children()
    return cast(int, child.pid)


def _keep_order(pid: int, device: str) -> None:
    """Have one processor receive all packets of a connection, as a network card does.

    A veth device has the sender's processor receive, which changes as processes move: packets
    overtake each other, TCP takes that for loss and slows down (20 % at 1 Gbit/s, as measured).
    """
    processors = os.cpu_count() or 1
    if processors > 1:  # else nothing can overtake, and the kernel may have no such file
        mask = f"{(1 << processors) - 1:x}"
        words = [mask[max(0, end - 8) : end] for end in range(len(mask), 0, -8)]
        steer = ["sh", "-c", _STEER, "steer", device, ",".join(reversed(words))]
        _run([*_enter(pid, "net"), "unshare", "--mount", *steer])


def _end(first: Sequence[subprocess.Popen[str]]) -> None:
    """Let go of the hosts, and wait until they and all their processes are gone."""
    for process in first:
        assert process.stdin is not None
        process.stdin.close()
    for process in first:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()  # takes PID 1 with it, and PID 1 the rest
            process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def _enter(pid: int, *kinds: str) -> list[str]:
    return ["nsenter", "--target", str(pid), *(f"--{kind}" for kind in kinds), "--"]


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(
        argv,
        env=_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _environ() -> dict[str, str]:
    return {**os.environ, "PATH": _SYSTEM_PATH}


def _namespace(process: psutil.Process) -> str | None:
    try:
        return os.readlink(f"/proc/{process.pid}/ns/pid")
    except OSError:
        return None  # gone
