"""For every test: hypothesis draws the same examples each time, and nothing stays behind.

A test that leaves an environment variable changed, or a thread of its own running, changes
what later tests see; it fails instead. A test that needs a program which pip does not bring
says so with `@pytest.mark.system("chromium")`, and fails, not skips, where it is absent.
"""

from __future__ import annotations

import os
import shutil
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


# Where daemons and tools for root live; a user's PATH often lacks them.
_SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: one that starts the absent program would fail with less to say."""
    needed = [name for mark in item.iter_markers("system") for name in mark.args]
    absent = [name for name in needed if shutil.which(name, path=_SYSTEM_PATH) is None]
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        pytest.fail(
            f"{', '.join(absent)} {verb} not installed: as root, make test-packages; "
            "or leave these tests out with -m 'not system'",
            pytrace=False,
        )


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
