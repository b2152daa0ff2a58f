"""The vision recipe as a sweep's program that keeps a diary: when each rank was there, and where.

`DIARY` names a folder; every rank of every job writes one file there, `begin` as soon as it runs
and `end` as the last thing it does, by the machine's clock. A rank that is killed writes no end;
its file was last touched when it was last alive.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hvdkit.launch.environment import current_job
from recipes.vision import main

_BEGAN = time.time()


@contextmanager
def diary() -> Iterator[None]:
    job = current_job()
    if job.launcher == "none":  # the sweep itself
        yield
        return
    path = Path(os.environ["DIARY"]) / f"{_BEGAN:.3f}-{os.getpid()}.json"
    about = {
        "pid": os.getpid(),
        "rank": job.rank,
        "ranks": job.size,
        "sharers": job.sharers,
        "begin": _BEGAN,
    }
    path.write_text(json.dumps(about))
    threading.Thread(target=_touch, args=[path], daemon=True).start()
    try:
        yield
    finally:
        path.write_text(json.dumps({**about, "end": time.time()}))


def _touch(path: Path) -> None:
    while True:
        os.utime(path)
        time.sleep(0.1)


if __name__ == "__main__":
    with diary():
        main()
