"""For every test: hypothesis draws the same examples each time, and nothing stays behind.

A test that leaves an environment variable changed, or a thread of its own running, changes
what later tests see; it fails instead.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings

# No deadline: the machine's other load is not a property of the code.
settings.register_profile("same", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("same")

# Set by importing what tests use, once a process; nothing of hvdkit's reads them back.
_SET_BY_IMPORTS = ("ENABLE_RUNTIME_", "HDF5_", "KERAS_", "KMP_", "PYTEST_", "TF", "TORCH", "TPU_")


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(_SET_BY_IMPORTS)}


def _ranks() -> set[threading.Thread]:
    """Threads of a test's own making; libraries keep pools of theirs, as daemons."""
    return {thread for thread in threading.enumerate() if not thread.daemon}


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    environment, threads = _environment(), _ranks()
    yield
    assert _environment() == environment, "the test changed an environment variable for good"
    end = time.monotonic() + 5
    while _ranks() - threads and time.monotonic() < end:
        time.sleep(0.01)
    assert not _ranks() - threads, "the test left a thread running"
