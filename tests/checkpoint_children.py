"""Programs for test_checkpoint.py: a process killed while it saves, and one on a full disk.

Run as `checkpoint_children.py killed FOLDER` or `... full FOLDER arrays|manifest`; each prints
one JSON object an outcome. A process of its own, because it forks, and limits itself.
"""

from __future__ import annotations

import itertools
import json
import logging.handlers
import os
import resource
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit.adapters.shard import Shard
from hvdkit.checkpoint import Checkpoints
from hvdkit.comm import Comm, SoloComm
from hvdkit.comm.threads import run_ranks
from hvdkit.errors import HvdkitError


def values(step: int, size: int = 1000) -> np.ndarray:
    return np.random.default_rng(step).normal(size=size)


def save(folder: Path, step: int, *, size: int = 1000, about: dict | None = None) -> list[str]:
    """Save from two ranks, each with half of an array; what went wrong on each."""
    whole = values(step, size)

    def body(comm: Comm) -> str:
        half = size // 2
        part = whole[comm.rank * half : (comm.rank + 1) * half]
        state = {"w": Shard(part, comm.rank * half, whole.shape)}
        try:
            Checkpoints(folder, comm, keep=2).save(step, state, about or {})
        except HvdkitError as error:
            return str(error)
        return ""

    return run_ranks(2, body)


def found(folder: Path) -> dict[str, Any]:
    """The newest checkpoint's step, whether it holds what that step saved, and what was wrong."""
    said = logging.handlers.BufferingHandler(99)
    logging.getLogger("hvdkit").addHandler(said)
    saved = Checkpoints(folder, SoloComm()).newest()
    logging.getLogger("hvdkit").removeHandler(said)
    assert saved is not None
    whole = saved.arrays()["w"]
    return {
        "newest": saved.step,
        "as_saved": np.array_equal(whole, values(saved.step, len(whole))),
        "damaged": [record.getMessage() for record in said.buffer],
    }


def die_at(moment: int) -> None:
    """End this process, without a word, before the given change of a file or folder from now."""
    lock, count = threading.Lock(), itertools.count()

    def deadly(event: str, _: tuple) -> None:
        if event == "open" or event.startswith(("os.", "shutil.")):
            with lock:
                if next(count) == moment:
                    os._exit(9)

    sys.addaudithook(deadly)


def killed(folder: Path) -> None:
    """Be killed at the first moment, the second, ... until none is left."""
    for moment in itertools.count():
        shutil.rmtree(folder)
        save(folder, 1)
        process = os.fork()
        if not process:
            die_at(moment)
            save(folder, 2)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        outcome = {"status": status, **found(folder)}
        save(folder, 3)
        print(json.dumps({**outcome, "after": found(folder)["newest"]}))
        if status == 0:
            return


def full(folder: Path, what: str) -> None:
    """Try to save more than fits."""
    save(folder, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    if what == "arrays":
        errors = save(folder, 2, size=100_000)
    else:
        errors = save(folder, 2, about={"text": "x" * 50_000})
    print(json.dumps({"errors": errors, **found(folder)}))


if __name__ == "__main__":
    scenario, place, *more = sys.argv[1:]
    if scenario == "killed":
        killed(Path(place))
    else:
        full(Path(place), *more)
