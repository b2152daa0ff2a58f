"""A real Slurm of one node, on loopback, for as long as a test needs it.

Its daemons are the first processes of a PID namespace: when its owner ends it, or dies, every job
and every daemon is killed with them. Authentication is Slurm's `none`, so no munge is needed.
Needs root, slurmctld, slurmd and Slurm's commands. Imports the standard library.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CPUS = 4
# A requeued job waits until its node has forgotten that it was ended, 120 s by default, and is
# refused before (cred_expire). Jobs of `low` give way to those of `high`. A job that is to end
# gets SIGTERM, and SIGKILL after KillWait seconds.
_CONF = """\
ClusterName=test
SlurmctldHost={name}(127.0.0.1)
AuthType=auth/none
AuthInfo=cred_expire=6
CredType=cred/none
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
TmpFS={folder}/tmp
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
NodeName={name} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=2
"""
_DAEMONS = """
slurmctld -D -f "$SLURM_CONF" > "$1/slurmctld.log" 2>&1 &
slurmd -D -f "$SLURM_CONF" > "$1/slurmd.log" 2>&1 &
exec cat
"""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm; its commands find it by `environ`."""

    folder: Path
    environ: dict[str, str]

    def command(self, *words: str | Path) -> str:
        """What a Slurm command prints. Raises, with its words, where it fails."""
        done = subprocess.run(
            words, env=self.environ, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{words} failed: {done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        return self.command("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.folder.glob("slurm*.log"))

    def wait_for(self, job: str, state: str, timeout: float) -> None:
        """Wait until the job is in this state."""
        end = time.monotonic() + timeout
        while (now := self.state(job)) != state:
            assert time.monotonic() < end, f"job {job} is {now}, not {state}:\n{self.logs()}"
            time.sleep(0.2)


@contextmanager
def one_node(folder: Path) -> Iterator[Slurm]:
    """Start Slurm with its files in `folder`; everything that it has started ends with it."""
    # Of its own, like the rest: a killed Slurm leaves files in TmpFS, by the numbers of its steps,
    # and steps of these numbers could not be started by the next one.
    for name in ("state", "spool", "tmp"):
        (folder / name).mkdir()
    name = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(name=name, ports=_free_ports(), folder=folder, cpus=CPUS))
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    environ = {**os.environ, "SLURM_CONF": str(conf), "PATH": path}
    spaces = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
    daemons = subprocess.Popen(
        [*spaces, "sh", "-c", _DAEMONS, "daemons", str(folder)],
        env=environ,
        stdin=subprocess.PIPE,  # closed when its owner is gone, and that ends it
        start_new_session=True,
    )
    slurm = Slurm(folder, environ)
    try:
        _wait_until_it_runs_jobs(slurm, daemons)
        yield slurm
    finally:
        daemons.kill()
        daemons.communicate()


def _wait_until_it_runs_jobs(slurm: Slurm, daemons: subprocess.Popen[bytes]) -> None:
    """Try until a job has run: the controller calls a node idle before its daemon takes any."""
    end = time.monotonic() + 60
    while True:
        asked = subprocess.run(
            ["srun", "--mpi=pmix", "echo", "ready"],
            env=slurm.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if asked.stdout.strip() == "ready":
            return
        assert daemons.poll() is None, slurm.logs()
        assert time.monotonic() < end, f"{asked.stdout}{asked.stderr}\n{slurm.logs()}"
        time.sleep(0.5)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
