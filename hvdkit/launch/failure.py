"""How a rank's error ends the whole job: one message, a status, nothing left running."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

from hvdkit.errors import HvdkitError
from hvdkit.launch.environment import Job

# Ranks other than 0 hold their tongue this long, so that rank 0 can speak first for all.
_RANK_ZERO_FIRST = 2.5
_PACKAGE = str(Path(__file__).parent.parent)


def end_job(error: BaseException, job: Job, *, folder: Path | None = None) -> None:
    """Say what went wrong, and leave the process at once. Does not return.

    A mistake of the user's is every rank's mistake, and rank 0 says it alone. Any other error
    is this rank's own: it names itself, and the traceback goes to the run's folder. The status
    is 1, or 130 after Ctrl-C.
    """
    status = 1
    if isinstance(error, HvdkitError):
        if job.rank == 0:
            _say(f"error: {error}")
        else:
            # Rank 0 made the same mistake, says so and thereby ends the job; where this
            # process lives on after that time, the mistake was its alone.
            time.sleep(_RANK_ZERO_FIRST)
            _say(f"error: rank {job.rank}: {error}")
    elif isinstance(error, KeyboardInterrupt):
        if job.rank == 0:
            _say("interrupted")
        status = 130
    elif lost_a_rank(error):
        # Another rank is gone; it has said why. This one only leaves.
        time.sleep(_RANK_ZERO_FIRST)
    else:
        _say(_describe(error, job, folder))
    # Not sys.exit: Horovod's exit handler would wait for ranks that will never come, and
    # a launcher takes this status as the signal to end the other ranks.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
        file.write_text("".join(traceback.format_exception(error)))
        text += f"\nthe traceback is in {file}"
    else:
        text += "\n" + "".join(traceback.format_exception(error))
    return text
