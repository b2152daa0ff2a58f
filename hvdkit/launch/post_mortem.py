"""What to tell of a job that failed or stood still: which rank, why, and its last words.

Pure: text from what was heard. Imports the standard library and the other launch modules.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from hvdkit.launch.command import Request
from hvdkit.launch.environment import status_of
from hvdkit.launch.output import Tails
from hvdkit.launch.watch import Rank, Stall, Watch

_LINES = 15  # of a rank's last output
_FRAMES = 12  # of a stack, on the screen
STACKS = "stacks.txt"

# What a launcher says of a rank's end, in words of its own.
_EXITED = re.compile(r"Process name:\s*(?:\[\[\d+,\d+\],)?(\d+)\]?\s*Exit code:\s*(-?\d+)")
_KILLED = re.compile(r"process rank (\d+) with PID \d+ on node \S+ exited on signal (\d+)")
_SRUN_KILLED = re.compile(r"srun: error: \S+: task (\d+): Killed")
_SRUN_EXITED = re.compile(r"srun: error: \S+: task (\d+): Exited with exit code (\d+)")
_IMPROPER = re.compile(r"calling finalize|calling \"finalize\"|exiting without calling", re.I)

_NOT_STARTED = re.compile(r"srun: error: task \d+ launch failed")

# Why no rank ever began, by what mpirun, ssh or srun say, and what to do about it.
_REASONS = (
    (
        r"not enough slots",
        "the launcher finds fewer slots than ranks: raise them in -H or the hostfile",
    ),
    (
        r"Could not resolve hostname (\S+?):",
        "the host {0} is not known: look for a slip in -H or the hostfile",
    ),
    (
        r"Permission denied",
        "ssh was refused: the key of this user must be in the other host's authorized_keys",
    ),
    (
        r"Connection refused",
        "ssh was refused: no sshd listens there, or on another port (--ssh-port)",
    ),
    (
        r"Host key verification failed",
        "ssh does not know the host's key: log in there once by hand, or add it to known_hosts",
    ),
    (
        r"orted: (?:command )?not found|No such file or directory.*orted",
        "Open MPI is not at the same path on the other host as here: install it there alike",
    ),
    (
        r"Invalid MPI type 'pmix'|can not load PMIx",
        "this Slurm cannot connect ranks that srun starts (no PMIx): use --mpi, which needs no "
        "ssh in an allocation either",
    ),
    (
        r"[Nn]o space left on device",
        "a disk is full: free some space in $TMPDIR and in the run's folder",
    ),
)


def about_failure(
    request: Request, status: int, watch: Watch, tails: Tails
) -> tuple[str, int | None]:
    """Why the job failed, to be said once (or nothing), and the failed rank's own exit status.

    A user's mistake was said by rank 0 already. Nothing is sure where ranks send no heartbeat.
    """
    noise = "\n".join(tails.launcher)
    told = _told(noise)
    failed = watch.failed() or next(iter(watch.ended), None)
    if failed is None:
        return _without_heartbeat(request, status, told, noise, tails), None
    if failed.kind == "mistake":
        return "", failed.status
    own = failed.status if failed.status is not None else told.get(failed.number)
    return "\n".join([f"{failed} {_how(failed, own)}", *_last_words(failed.number, tails)]), own


def _told(noise: str) -> dict[int, int]:
    """Exit statuses that the launcher names, by rank; 128 + the signal for a killed one."""
    found = {int(rank): status_of(int(code)) for rank, code in _EXITED.findall(noise)}
    found |= {int(rank): int(code) for rank, code in _SRUN_EXITED.findall(noise)}
    found |= {int(rank): 128 + signal.SIGKILL for rank in _SRUN_KILLED.findall(noise)}
    return found | {int(rank): 128 + int(number) for rank, number in _KILLED.findall(noise)}


def _how(rank: Rank, status: int | None) -> str:
    if rank.kind == "failed":
        return f"failed: {rank.cause}" if rank.cause else f"failed with exit status {status}"
    if status in (None, 0) or rank.kind == "done":
        return (
            f"left before the others were done{'' if status is None else f', with status {status}'}"
        )
    if status == 255 and rank.kind is None:  # ssh's own, whatever the signal was
        return "was killed, or the connection to its host was lost"
    if status > 128:
        name = str(status - 128)
        with contextlib.suppress(ValueError):
            name = signal.Signals(status - 128).name
        hint = "; is there memory enough for all ranks?" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with exit status {status}"


def _last_words(rank: int, tails: Tails) -> list[str]:
    lines = tails.of(rank, _LINES)
    return ["its last lines:", *(f"  | {line}" for line in lines)] if lines else []


def _without_heartbeat(
    request: Request, status: int, told: Mapping[int, int], noise: str, tails: Tails
) -> str:
    for rank, code in told.items():
        words = f"rank {rank} ended with exit status {code}"
        return "\n".join([words, *_last_words(rank, tails)])
    for pattern, remedy in _REASONS:
        if match := re.search(pattern, noise):
            return f"the job did not start: {remedy.format(*match.groups())}"
    # A program of its own kind has said what it had to say; mpirun does not always name its rank.
    if tails.ranks or "returned\na non-zero exit code" in noise:
        return f"{request.program[0]} ended with exit status {status}"
    said = "\n".join(f"  | {line}" for line in noise.splitlines() if line.strip())
    return f"the job did not start (exit status {status}); {request.launcher} says:\n{said}"


def srun_started_nothing(tails: Tails) -> bool:
    """Whether srun says that it could not start a rank, which it does with status 0."""
    return not tails.ranks and any(_NOT_STARTED.match(line) for line in tails.launcher)


def about_stall(
    stall: Stall, watch: Watch, stacks: Mapping[int, Sequence[str]], folder: Path | None
) -> str:
    """Who stands still, where every rank was, and a file with all of their stacks."""
    lines = [f"the job stands still and was ended: {stall.words}"]
    for number in sorted(watch.ranks):
        rank = watch.ranks[number]
        lines.append(f"rank {number} ({rank.what}), its main thread, innermost call first:")
        frames = _main_thread(stacks.get(number, ()))
        lines += [f"  {frame.strip()}" for frame in frames[:_FRAMES]] or ["  did not answer"]
    if folder is not None and stacks:
        whole = "".join(
            f"==== rank {number}\n" + "\n".join(stacks[number]) + "\n" for number in sorted(stacks)
        )
        with contextlib.suppress(OSError):
            (folder / STACKS).write_text(whole)
            lines.append(f"the stacks of all threads are in {folder / STACKS}")
    lines.append("raise launch.stall_timeout (or --stall-timeout) if it was only slow")
    return "\n".join(lines)


def _main_thread(lines: Sequence[str]) -> list[str]:
    """Of faulthandler's dump, the frames of its last thread, which is the main one."""
    starts = [i for i, line in enumerate(lines) if re.match(r"(Current t|T)hread 0x", line)]
    if not starts:
        return []
    frames = [line for line in lines[starts[-1] + 1 :] if line.lstrip().startswith("File ")]
    return [frame for frame in frames if "<frozen importlib" not in frame]
