"""`hvdkit build-horovod` run for real, as far as it goes without compiling for minutes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest

from hvdkit.install.build import Options, build_environment
from hvdkit.install.plan import Wishes, make_plan
from hvdkit.install.survey import Survey, child_environment, take_survey
from hvdkit.install.wheels import read_record

COMMAND = [sys.executable, "-m", "hvdkit", "build-horovod"]


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env={**os.environ, **(env or {})}
    )


def test_a_dry_run_prints_the_plan_and_changes_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done = run("--dry-run", "--cache-dir", str(cache))
    assert done.returncode == 0, done.stderr
    for text in ("Rules:", "Environment:", "HOROVOD_WITH_GLOO=1", "pip download", "horovodrun"):
        assert text in done.stdout
    assert not cache.exists()
    plan = make_plan(take_survey(), Wishes(), os.environ)
    assert plan.key in done.stdout
    for rule in plan.rules:
        assert rule.name in done.stdout


def test_the_same_environment_has_the_same_key_again() -> None:
    keys = {make_plan(take_survey(), Wishes(), os.environ).key for _ in range(2)}
    assert len(keys) == 1


def test_the_nccl_link_folder(gpu_survey: Survey, tmp_path: Path) -> None:
    plan = make_plan(gpu_survey, Wishes(), {})
    added = build_environment(tmp_path, plan, Options(jobs=3))
    link = Path(added["HOROVOD_NCCL_LIB"]) / "libnccl.so"
    assert os.readlink(link) == "/env/nccl/lib/libnccl.so.2"
    assert added["MAKEFLAGS"] == "-j3"
    assert not [value for value in added.values() if "{" in value]


@pytest.mark.launch
def test_a_horovod_built_here_is_found_again_and_proved() -> None:
    plan = make_plan(take_survey(child_environment()), Wishes(), os.environ)
    record = read_record()
    assert record is not None
    assert record.get("key") == plan.key, "this environment was not made by `make setup`"
    started = time.monotonic()
    done = run()
    assert done.returncode == 0, done.stderr
    assert "installed already" in done.stdout
    for framework in plan.frameworks:
        assert f"Proved in {framework}: 2 ranks" in done.stdout
    assert time.monotonic() - started < 90


@pytest.mark.launch
def test_a_proof_that_fails_is_an_error(tmp_path: Path) -> None:
    """A rank that finds another sum must not be taken for a proof."""
    framework = next(iter(take_survey().frameworks))
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import sys\nfrom hvdkit.install import allreduce\n"
        "right = allreduce.contribution\n"
        "allreduce.contribution = lambda f, m, rank: right(f, m, rank) * (1 + rank)\n"
        f"sys.exit(allreduce.main({framework!r}))\n"
    )
    done = subprocess.run(
        ["horovodrun", "-np", "2", sys.executable, str(wrong)],
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert done.returncode != 0
    assert "element 1 of the sum is 5.0, not 3" in done.stdout
    assert "hvdkit-proof" not in done.stdout


@pytest.mark.launch
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_build_leaves_nothing_behind(
    tmp_path: Path, number: int, status: int
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [*COMMAND, "--cache-dir", str(tmp_path / "cache"), "--no-install"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        # A shell that runs its jobs in the background has them ignore Ctrl-C; a user's does not.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert process.stdout is not None
    seen = next((line for line in process.stdout if "Compiling Horovod ..." in line), None)
    assert seen is not None
    folder = next(temporary.glob("hvdkit-horovod-*"))
    while not processes_in(folder):
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "everything it had started was ended" in errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 20  # a killed process is still listed until it is reaped
    while processes_in(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_in(folder) == []
    assert list(temporary.iterdir()) == []
    assert not list((tmp_path / "cache").rglob("*.whl"))


def processes_in(folder: Path) -> list[list[str]]:
    """The command lines of all processes that work in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.cwd() or str(folder) in " ".join(process.cmdline()):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found


@pytest.mark.soak
def test_a_whole_build_from_nothing(tmp_path: Path) -> None:
    """Compile for every installed framework, and look at what is in the wheel."""
    done = run("--cache-dir", str(tmp_path), "--no-install")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("wheels/*/horovod-0.28.1-*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        assert "horovod/built_against.json" in names
        assert "horovod/metadata.json" in names
        extensions = {"torch": "torch/mpi_lib_v2", "tensorflow": "tensorflow/mpi_lib"}
        for framework in take_survey().frameworks:
            assert [n for n in names if n.startswith(f"horovod/{extensions[framework]}.")]
    again = run("--cache-dir", str(tmp_path), "--no-install")
    assert "Found the wheel of an earlier build" in again.stdout
