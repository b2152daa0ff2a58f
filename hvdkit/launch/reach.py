"""Whether a job's other hosts can be reached, before anything is started on one of them.

A launcher's own words for this are long, late, or none. Imports the standard library and the
other launch modules.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence

from hvdkit.errors import HvdkitError
from hvdkit.launch.command import Request
from hvdkit.launch.hosts import Host
from hvdkit.launch.remote import ssh

_TIMEOUT = 8.0  # seconds in all, ssh's own 5 for a connection among them
_PAUSE = 2.0  # seconds between two tries

_REMEDIES = (
    (
        r"Could not resolve|Name or service not known",
        "its name is not known: look for a slip in it",
    ),
    (
        r"Connection refused",
        "nothing listens for ssh there: start sshd, or give its port (--ssh-port)",
    ),
    (
        r"Permission denied",
        "ssh lets this user in only with a key: add yours to authorized_keys there",
    ),
    (
        r"Host key verification failed",
        "ssh does not know its key: log in there once, or add it to known_hosts",
    ),
    (
        r"timed out|No route to host|Network is unreachable",
        "it does not answer: is it up, and on this network?",
    ),
)


def check_hosts(request: Request, *, wait: float = 0.0) -> None:
    """Raise `HvdkitError` naming the hosts that ssh cannot enter, or that lack this Python.

    For `wait` seconds, hosts that are still starting are tried again.
    """
    deadline = time.monotonic() + wait
    while problems := _problems(request):
        if time.monotonic() + _PAUSE > deadline:
            raise HvdkitError("\n".join(problems))
        time.sleep(_PAUSE)


def _problems(request: Request) -> list[str]:
    running = [(host, _look(request, host)) for host in request.remote]
    deadline = time.monotonic() + _TIMEOUT
    found = [_problem(host, process, deadline) for host, process in running]
    return [problem for problem in found if problem]


def _look(request: Request, host: Host) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ssh(request, host, "test", "-x", sys.executable),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _problem(host: Host, process: subprocess.Popen[str], deadline: float) -> str | None:
    try:
        _, said = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        said = "timed out"
    if process.returncode == 0:
        return None
    if process.returncode == 1 and not said.strip():
        return f"{host.name} has no {sys.executable}: hvdkit must be at the same path on all hosts"
    return f"{host.name} cannot be used: {_remedy(said.strip().splitlines())}"


def _remedy(said: Sequence[str]) -> str:
    text = "\n".join(said)
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, text):
            return remedy
    return said[-1] if said else "ssh to it failed"
