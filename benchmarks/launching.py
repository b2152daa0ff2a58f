"""Starts a contender's ranks on this machine and sees that none of them stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from namespaces import Host

from hvdkit.bench import jobs

HERE = Path(__file__).parent
# What a shell might carry over and one contender would then have and another not.
_DROPPED = (
    "HOROVOD_",
    "OMPI_",
    "PMIX_",
    "TF_CONFIG",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_",
)
# Hosts on one machine share its cores, and each believes all of them to be its own.
_SHARED_CORES = {"OMPI_MCA_mpi_yield_when_idle": "1"}


class ContenderFailed(SystemExit):
    """A contender ended with an error or was stopped at the time limit."""


def run(
    framework: str, contender: str, model: str, *, ranks: int, steps: int, timeout: float
) -> list[dict]:
    """Run one contender once and return what each rank measured, in rank order.

    `single` is one process, Horovod's are started by horovodrun, the rest process by process.
    """
    with tempfile.TemporaryDirectory() as out:
        worker = HERE / f"worker_{framework}.py"
        python = [sys.executable, str(worker), contender, model, str(steps), out]
        if contender.partition(":")[0] in ("horovod", "hvdkit"):
            commands = [(["horovodrun", "-np", str(ranks), *python], {})]
        elif contender == "single":
            commands, ranks = [(python, {})], 1
        else:
            commands = [(python, extra) for extra in _environments(contender, ranks)]
        return _measured(commands, f"{contender} on {model}", Path(out), ranks, timeout)


def run_program(program: list[str], *, ranks: int, timeout: float) -> list[dict]:
    """Run `python PROGRAM... OUT` under horovodrun; each rank leaves OUT/rank-N.json."""
    with tempfile.TemporaryDirectory() as out:
        command = ["horovodrun", "-np", str(ranks), sys.executable, *program, out]
        return _measured([(command, {})], " ".join(program), Path(out), ranks, timeout)


def run_on_hosts(
    hosts: Sequence[Host],
    contender: str,
    model: str,
    *,
    a_host: int,
    steps: int,
    timeout: float,
    variables: Sequence[str] = (),
) -> list[dict]:
    """Run a torch contender once on `a_host` ranks of each host; hvdkit's by `hvdkit launch`, with
    `variables` (NAME=VALUE) set."""
    with tempfile.TemporaryDirectory() as out:
        python = [sys.executable, str(HERE / "worker_torch.py"), contender, model, str(steps), out]
        ranks = len(hosts) * a_host
        if contender.partition(":")[0] == "hvdkit":
            places = ",".join(f"{host.name}:{a_host}" for host in hosts)
            launch = [sys.executable, "-m", "hvdkit", "launch", "-np", str(ranks), "-H", places]
            launch += ["--wait-for-hosts", "60"]
            shared = (f"{name}={value}" for name, value in _SHARED_CORES.items())
            for pair in (*shared, *variables):
                launch += ["--env", pair]
            commands = [(hosts[0].command([*launch, *python], cwd=HERE.parent), {})]
        else:
            commands = [
                (hosts[rank // a_host].command(python, cwd=HERE.parent), extra)
                for rank, extra in enumerate(_on_hosts(hosts, a_host))
            ]
        try:
            return _measured(commands, f"{contender} on {model}", Path(out), ranks, timeout)
        finally:
            for process in (p for host in hosts for p in host.processes()):
                with contextlib.suppress(psutil.Error):
                    process.kill()


def run_a_rank_each(
    hosts: Sequence[Host],
    command: Sequence[str],
    *,
    log: Path,
    timeout: float,
    what: str,
    env: Mapping[str, str],
) -> None:
    """Run a program as one job, a rank on each host, with `env` set."""
    places = ",".join(f"{host.name}:1" for host in hosts)
    launch = jobs.under_launcher(command, ranks=len(hosts), hosts=places)
    jobs.run(
        hosts[0].command(launch, cwd=HERE.parent),
        log=log,
        timeout=timeout,
        env={**_SHARED_CORES, **env},
        what=what,
    )


def _on_hosts(hosts: Sequence[Host], a_host: int) -> list[dict[str, str]]:
    ranks = len(hosts) * a_host
    return [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank % a_host),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": hosts[0].address,
            "MASTER_PORT": "29400",
            "GLOO_SOCKET_IFNAME": "eth0",
        }
        for rank in range(ranks)
    ]


def _measured(
    commands: list[tuple[list[str], dict]], what: str, out: Path, ranks: int, timeout: float
) -> list[dict]:
    log = out / "log"
    with log.open("w") as file:
        processes = [_start(command, extra, file) for command, extra in commands]
        try:
            ended_well = _wait(processes, timeout)
        finally:
            _end_sessions({process.pid for process in processes})
    found = [out / f"rank-{rank}.json" for rank in range(ranks)]
    if not ended_well or not all(path.exists() for path in found):
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise ContenderFailed(f"{what} did not finish:\n{tail}")
    return [json.loads(path.read_text()) for path in found]


def _environments(contender: str, ranks: int) -> list[dict[str, str]]:
    ports = _free_ports(ranks)
    workers = [f"127.0.0.1:{port}" for port in ports]
    environments = []
    for rank in range(ranks):
        extra = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(ports[0]),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        if contender == "mwms":
            task = {"type": "worker", "index": rank}
            extra["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
        environments.append(extra)
    return environments


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start(command: list[str], extra: dict[str, str], log) -> subprocess.Popen:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_DROPPED)}
    environment = {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', '')}",
        "OMP_NUM_THREADS": "1",
        **extra,
    }
    # A session of its own: horovodrun's shell, mpirun and the ranks all stay in it.
    return subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, cwd=HERE.parent, start_new_session=True
    )


def _wait(processes: list[subprocess.Popen], timeout: float) -> bool:
    """Whether all end with status 0 in time; False as soon as one does not."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if any(codes):
            return False
        if all(code == 0 for code in codes):
            return True
        time.sleep(0.05)
    return False


def _end_sessions(leaders: set[int]) -> None:
    """Kill what is left of the sessions that began with these processes."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if process.status() != psutil.STATUS_ZOMBIE and os.getsid(process.pid) in leaders:
                process.send_signal(signal.SIGKILL)
