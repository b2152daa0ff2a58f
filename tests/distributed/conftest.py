"""Starting real jobs with a deadline, after which no process of the job is left.

Every process of a job carries a unique word in its environment, which children inherit however
they detach themselves. When a test is done with a job, whatever still carries the word is
killed, and the test fails for it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import namespaces
from hvdkit.launch.command import Request
from hvdkit.launch.command import command as launch_command
from hvdkit.launch.hosts import Host

ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent
_MARK = "HVDKIT_TEST_JOB"
_GRACE = 15.0  # seconds for a job's last processes to go, once its launcher has


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.launch)


class Job:
    """A command on `np` ranks, or alone.

    `launcher` "mpi" and "gloo" are horovodrun's; "mpirun" goes without it, which by itself takes
    two seconds a job. `host` is where it is started, if not on this machine itself.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        np: int | None,
        launcher: str = "mpirun",
        env: Mapping[str, str],
        timeout: float,
        host: namespaces.Host | None = None,
    ):
        before = _launcher(launcher, np) if np else []
        self._word = uuid.uuid4().hex
        self._log = log
        self._deadline = time.monotonic() + timeout
        path = f"{_BIN}:{os.environ['PATH']}"
        # Or each rank of each job would compile all of hvdkit anew.
        compiled = {"PYTHONDONTWRITEBYTECODE": ""}
        environ = {**os.environ, **compiled, "PATH": path, **env, _MARK: self._word}
        popen: Callable[..., subprocess.Popen[Any]] = host.popen if host else subprocess.Popen
        with log.open("w") as file:
            self._process = popen(
                [*before, *command],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """All that the job has printed, with the launcher's prefixes."""
        return self._log.read_text(errors="replace")

    @property
    def errors(self) -> list[str]:
        """The lines that report an error, without the launcher's prefixes."""
        return re.findall(r"^(?:\[[\d,]+\]<\w+>:)?(error: .*)", self.output, re.MULTILINE)

    def processes(self) -> list[psutil.Process]:
        """What is alive of this job."""
        return [p for p in psutil.process_iter() if _environ(p).get(_MARK) == self._word]

    def rank(self, number: int) -> psutil.Process:
        """The process of rank `number`, under any launcher."""
        names = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "SLURM_PROCID")
        return self._find(
            lambda p: str(number) in map(_environ(p).get, names) and "python" in p.name()
        )

    def send(self, number: int) -> None:
        """Signal the command that was started, and it alone."""
        self._process.send_signal(number)

    def mpirun(self) -> psutil.Process:
        return self._find(lambda p: _command(p).partition(" ")[0].endswith("mpirun"))

    def _find(self, matches: Callable[[psutil.Process], bool]) -> psutil.Process:
        found = [p for p in self.processes() if matches(p)]
        assert found, f"no such process in the job:\n{self.output}"
        return min(found, key=lambda p: p.create_time())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the job does."""
        while not condition():
            assert self._process.poll() is None, f"the job ended early:\n{self.output}"
            assert time.monotonic() < self._deadline, f"it never happened:\n{self.output}"
            time.sleep(0.02)

    def wait(self) -> int:
        """The job's exit status. Fails past the deadline, or if the job leaves a process."""
        try:
            code = self._process.wait(max(0.1, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the job did not end in time:\n{self.output}")
        end = time.monotonic() + _GRACE
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        commands = [_command(p) for p in left]
        self.kill()
        assert not left, f"the job left processes behind: {commands}\n{self.output}"
        return code

    def kill(self) -> None:
        """Leave nothing of the job alive."""
        while alive := self.processes():
            for process in alive:
                with _gone_is_fine():
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.05)
        self._process.wait()


def _launcher(name: str, ranks: int) -> list[str]:
    if name != "mpirun":
        return [str(_BIN / "horovodrun"), "-np", str(ranks), f"--{name}"]
    places = (Host("localhost", ranks),)
    return launch_command(Request(program=(), ranks=ranks, hosts=places), os.environ)


def _environ(process: psutil.Process) -> dict[str, str]:
    with _gone_is_fine():
        return process.environ()
    return {}


def _command(process: psutil.Process) -> str:
    with _gone_is_fine():
        return " ".join(process.cmdline())
    return "gone"


class _gone_is_fine:
    """Passes over what cannot be asked of a process that is gone, or another user's."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, psutil.Error)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a job: `start(command, np=2, launcher="mpirun", timeout=120)` -> `Job`."""
    jobs = []

    def start(command, *, np=None, launcher="mpirun", env=None, timeout=120.0, host=None):
        log = tmp_path_factory.mktemp("job") / "output"
        how = {"launcher": launcher, "env": env or {}, "timeout": timeout, "host": host}
        job = Job(command, log=log, np=np, **how)
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        job.kill()


@pytest.fixture(scope="module")
def recipe(start):
    """Start a recipe with overrides, the vision one unless `program` names another."""

    def recipe(folder, *overrides, program="vision", **options):
        command = [sys.executable, f"recipes/{program}.py", f"hydra.run.dir={folder}", *overrides]
        return start(command, **options)

    return recipe


@pytest.fixture(scope="module")
def on_ranks(start, tmp_path_factory):
    """Run functions `case(stage)` of a test module on real ranks, one job for all of them.

    `on_ranks(*cases, framework=, np=)` gives each rank's results, a dict by the cases' names.
    The same job is not run twice in a module.
    """
    done: dict[Any, list[dict[str, Any]] | str] = {}

    def on_ranks(*cases, framework, np, launcher="mpirun", env=None, timeout=200.0):
        key = (*cases, framework, np, launcher, *(env or {}).items())
        if key not in done:
            done[key] = "the job of these ranks has failed in an earlier test"
            done[key] = run(cases, framework, np, launcher, env, timeout)
        results = done[key]
        assert not isinstance(results, str), results
        return results

    def run(cases, framework, np, launcher, env, timeout):
        folder = tmp_path_factory.mktemp("ranks")
        (module,) = {case.__module__ for case in cases}
        names = [case.__name__ for case in cases]
        program = [sys.executable, "-m", "tests.distributed.ranks", str(folder), framework]
        job = start(
            [*program, module, *names],
            # One rank goes without horovodrun: a job of one is what a plain command is.
            np=np if np > 1 else None,
            launcher=launcher,
            env=env,
            timeout=timeout,
        )
        code = job.wait()
        assert code == 0, f"the job failed with {code}:\n{job.output}"
        return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(np)]

    return on_ranks
