"""Programs for test_checkpoint.py: a process killed while it saves, and one on a full disk.

Run as `checkpoint_children.py killed FOLDER` or `... full FOLDER arrays|manifest`; each prints
one JSON object an outcome. A process of its own, because it forks, and limits itself.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit.adapters.base import Shard
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
    """The newest checkpoint's step, and whether it holds what that step saved."""
    saved = Checkpoints(folder, SoloComm()).newest()
    assert saved is not None
    whole = saved.arrays()["w"]
    as_saved = np.array_equal(whole, values(saved.step, len(whole)))
    return {"newest": saved.step, "as_saved": as_saved}


def die_at(moment: int) -> None:
    """End this process, without a word, at the given change of the disk from now on."""
    lock, count = threading.Lock(), itertools.count()

    def deadly(change: Callable) -> Callable:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with lock:
                for act in (lambda: None, lambda: change(*args, **kwargs)):
                    result = act()
                    if next(count) == moment:
                        os._exit(9)
                return result

        return wrapped

    os.fsync = deadly(os.fsync)
    changes = [
        (shutil, "rmtree"),
        *((Path, name) for name in ("rename", "mkdir", "write_text", "unlink")),
    ]
    for owner, name in changes:
        setattr(owner, name, deadly(getattr(owner, name)))


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
