"""Running an unpacked image as an engine would, with what the kernel and util-linux offer.

Each container has its own process, mount, network, IPC and host name spaces, the image's own
environment, user and entrypoint, no capability, no way to gain one, and the 64 MB of /dev/shm
that Docker gives. Its first process is the entrypoint's, so a signal to it is what `docker stop`
sends. Needs root; imports `builder`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.namespaces import Host
from tests.image.builder import Config

# In the new name spaces, as their process 1, before it becomes the image's.
_SETUP = r"""
set -eu
root=$1; hostname "$2"; shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
  touch "dev/$name"; mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777,size=64m tmpfs dev/shm
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "./$2"; else touch "./$2"; fi
  mount --bind "$1" "./$2"; shift 2
done
shift
ip link set lo up
exec "$@"
"""


class Container:
    """One command in the image; `volumes` maps folders or files here to places inside.

    `host`, of the hosts that share a network, lends it its name and its network.
    """

    def __init__(
        self,
        rootfs: Path,
        config: Config,
        command: Sequence[str] | None = None,
        *,
        log: Path,
        uid: int | None = None,
        gid: int = 0,
        volumes: Mapping[Path, str] | None = None,
        host: Host | None = None,
    ):
        self._log = log
        name = host.name if host else "container"
        env = {"HOSTNAME": name, "TERM": "dumb", **config.env}
        names = log.with_suffix(".hosts")
        names.write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        places = {names: "/etc/hosts", **(volumes or {})}  # an engine names the container too
        mounts = [word for pair in places.items() for word in map(str, pair)]
        enter = ["nsenter", f"--target={host.pid}", "--net", "--"] if host else []
        spaces = ["--mount", "--pid", "--uts", "--ipc", *([] if host else ["--net"])]
        user = int(config.user) if uid is None else uid
        inside = [
            *("setpriv", f"--reuid={user}", f"--regid={gid}", "--clear-groups"),
            *("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"),
            *("env", "-i", f"--chdir={config.workdir}", *(f"{k}={v}" for k, v in env.items())),
            *config.entrypoint,
            *(config.cmd if command is None else command),
        ]
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [
                    *enter,
                    *("unshare", *spaces, "--fork", "--kill-child", "sh", "-c", _SETUP, "setup"),
                    *(str(rootfs), name, *mounts, "--", "chroot", str(rootfs), *inside),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def first(self) -> psutil.Process:
        """The container's process 1, seen from here."""
        (child,) = psutil.Process(self._process.pid).children()
        return child

    def processes(self) -> list[psutil.Process]:
        """Everything in the container, itself included."""
        found = []
        space = os.readlink(f"/proc/{self.first.pid}/ns/pid")
        for process in psutil.process_iter():
            try:
                if os.readlink(f"/proc/{process.pid}/ns/pid") == space:
                    found.append(process)
            except OSError:
                continue  # it has just ended
        return found

    def wait_for(self, text: str, timeout: float) -> None:
        """Wait until the container has printed this."""
        end = time.monotonic() + timeout
        while text not in self.output:
            assert self._process.poll() is None, f"it ended before it said {text}:\n{self.output}"
            assert time.monotonic() < end, f"it did not say {text}:\n{self.output}"
            time.sleep(0.05)

    def wait(self, timeout: float) -> int:
        """The exit status of process 1, or 128 + the signal that ended it."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end in {timeout:.0f} s:\n{self.output}") from None
        return 128 - status if status < 0 else status

    def kill(self) -> None:
        """End it, however it is: with its process 1 goes all that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
