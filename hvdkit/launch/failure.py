"""How a rank's error ends the whole job: one message, a status, nothing left running."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import traceback
from pathlib import Path

from hvdkit.errors import HvdkitError
from hvdkit.launch import heartbeat
from hvdkit.launch.environment import Job

# Ranks other than 0 hold their tongue this long, so that rank 0 can speak first for all.
_RANK_ZERO_FIRST = 2.5
_PACKAGE = str(Path(__file__).parent.parent)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def end_job(error: BaseException, job: Job, *, folder: Path | None = None) -> None:
    """Say what went wrong, and leave the process at once. Does not return.

    A mistake of the user's is every rank's mistake, and rank 0 says it alone. Any other error
    is this rank's own: it names itself, and the traceback goes to the run's folder. The status
    is 1, or 130 after Ctrl-C.
    """
    status = 1
    heart = heartbeat.current()
    if isinstance(error, OSError) and error.errno in _DISK:
        error = HvdkitError(disk_full(error))
    if isinstance(error, HvdkitError):
        if job.rank == 0:
            _say(f"error: {error}")
        else:
            # Rank 0 made the same mistake, says so and thereby ends the job; where this
            # process lives on after that time, the mistake was its alone.
            time.sleep(_RANK_ZERO_FIRST)
            _say(f"error: rank {job.rank}: {error}")
        heart.end(status, "mistake", str(error))
    elif isinstance(error, KeyboardInterrupt):
        if job.rank == 0:
            _say("interrupted")
        status = 130
        heart.end(status)
    elif lost_a_rank(error):
        # Another rank is gone; it has said why. This one only leaves.
        heart.end(status, "follows")
        time.sleep(_RANK_ZERO_FIRST)
    else:
        _say(_describe(error, job, folder))
        heart.end(status, "failed", f"{type(error).__name__}: {message_of(error)}")
    # Not sys.exit: Horovod's exit handler would wait for ranks that will never come, and
    # a launcher takes this status as the signal to end the other ranks.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


FREE_SPACE = (
    "Free some space, or choose another folder with hydra.run.dir=...; every checkpoint that was "
    "whole still is, and trainer.resume=true goes on from the newest"
)


def disk_full(error: OSError) -> str:
    """What to say of a disk that takes no more."""
    where = f"{error.filename} cannot be written" if error.filename else "a file cannot be written"
    return f"{where}: {error.strerror}. {FREE_SPACE}"


def _say(text: str) -> None:
    # One write: a launcher that tags output would put a tag before print's separate newline.
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def lost_a_rank(error: BaseException) -> bool:
    """Whether a collective failed because another rank went away, whose own error is the cause."""
    text = f"{type(error).__name__}: {error}"
    signs = ("HorovodInternalError", "Horovod has been shut down", "RankFailed")
    return any(sign in text for sign in signs)


def message_of(error: BaseException) -> str:
    """An error's own words: TensorFlow's carry the stack of where a graph was traced."""
    lines = str(error).splitlines()
    if not any(line.startswith("Detected at node") for line in lines):
        return str(error)
    told = [line for line in lines if line and not line[0].isspace()]
    told = [line for line in told if not line.startswith(("Graph execution", "Detected at node"))]
    return " ".join(told) or str(error)


def _describe(error: BaseException, job: Job, folder: Path | None) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)]
    where = f" ({own[-1].filename}:{own[-1].lineno} in {own[-1].name})" if own else ""
    text = f"error: rank {job.rank} failed: {type(error).__name__}: {message_of(error)}{where}"
    if folder and folder.is_dir():
        file = folder / f"error-rank-{job.rank}.txt"
        with contextlib.suppress(OSError):  # else it goes to the screen
            file.write_text("".join(traceback.format_exception(error)))
            return f"{text}\nthe traceback is in {file}"
    return text + "\n" + "".join(traceback.format_exception(error))
