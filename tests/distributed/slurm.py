"""A real Slurm on hosts of our own: a controller on the first, a daemon on each."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.namespaces import Host

# What a cluster of two cores a node needs, and nothing that is slow: accounting, cgroups, prolog.
_CONFIGURATION = """\
ClusterName=hvdkit
SlurmctldHost={controller}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation=/run/slurm/state
SlurmdSpoolDir=/run/slurm/spool
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
SlurmctldLogFile=/run/slurm/slurmctld.log
SlurmdLogFile=/run/slurm/slurmd.log
TmpFS=/run/tmp
ReturnToService=2
KillWait=2
NodeName={nodes} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_START = """
set -e
mkdir -p /run/munge /run/slurm/state /run/slurm/spool
cp "$1" /run/munge/key
chmod 400 /run/munge/key
munged --key-file=/run/munge/key --socket=/run/munge/socket --pid-file=/run/munge/pid \\
  --log-file=/run/munge/log --seed-file=/run/munge/seed
"""


@contextlib.contextmanager
def slurm(made: Sequence[Host], folder: Path, environ: dict[str, str]) -> Iterator[None]:
    """Run Slurm on `made` until the end; `folder` holds its settings, as a shared one would.

    `environ` is given what commands of Slurm's need to find it.
    """
    key, settings = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(os.urandom(128))
    nodes = ",".join(host.name for host in made)
    settings.write_text(_CONFIGURATION.format(controller=made[0].name, nodes=nodes))
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    env = {**os.environ, "PATH": path, "SLURM_CONF": str(settings)}
    environ["SLURM_CONF"] = str(settings)
    for host in made:
        host.run(["sh", "-c", _START, "start", str(key)], env=env)
    daemons = [(made[0], "slurmctld"), *((host, "slurmd") for host in made)]
    with contextlib.ExitStack() as held:
        for host, daemon in daemons:
            process = host.popen([daemon, "-D"], env=env, stderr=subprocess.DEVNULL)
            held.enter_context(process)
            held.callback(process.kill)
        _wait_until_idle(made, env)
        yield


def _wait_until_idle(made: Sequence[Host], env: dict[str, str]) -> None:
    end = time.monotonic() + 60
    asked = ["sinfo", "--noheader", "--format", "%T %D"]
    while (states := made[0].run(asked, env=env, check=False)).stdout.split() != [
        "idle",
        str(len(made)),
    ]:
        assert time.monotonic() < end, f"Slurm did not start: {states.stdout}{states.stderr}"
        time.sleep(0.1)
