"""The image as it is run: as uid 1000 or any other, stopped by SIGTERM, over ssh."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from tests.image.builder import Builder, BuildFailed
from tests.image.conftest import Image
from tests.image.container import Container

ROOT = Path(__file__).parents[2]
Run = Callable[..., Container]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder for runs, as a volume that uid 1000 may write."""
    folder = tmp_path / "runs"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_says_what_it_is(image: Image) -> None:
    assert image.config.user == "1000"
    assert image.config.ports == ["2222/tcp"]
    assert image.config.entrypoint[:2] == ["/usr/bin/tini", "--"]
    labels = image.config.labels
    assert labels["org.opencontainers.image.revision"] == "tested"
    assert labels["hvdkit.frameworks"] == "both"
    assert labels["hvdkit.variant"] == "cpu"


def test_its_build_proved_horovod_in_both_frameworks(image: Image) -> None:
    for part in ("PyTorch", "TensorFlow", "MPI", "Gloo"):
        assert f"[X] {part}" in image.log
    for framework in ("torch", "tensorflow"):
        assert f"Proved in {framework}: 2 ranks over MPI" in image.log


def test_holds_no_key(image: Image) -> None:
    """One in the image would be everybody's. sshd's package makes some when it is installed."""
    folders = [image.rootfs / name for name in ("etc", "home", "root", "workspace", "usr/local")]
    found = subprocess.run(
        ["grep", "--recursive", "--files-with-matches", "-e", "-----BEGIN.*PRIVATE KEY", *folders],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1, f"{found.stdout}{found.stderr}"
    assert not list((image.rootfs / "home/hvdkit/.ssh").iterdir())


def test_every_package_is_pinned(image: Image, run: Run) -> None:
    container = run("pip", "list", "--format=json", "--disable-pip-version-check")
    assert container.wait(60) == 0, container.output
    installed = {canonicalize_name(p["name"]): p["version"] for p in json.loads(container.output)}
    places = [ROOT / "deploy/image/constraints.txt", *ROOT.glob("deploy/image/frameworks/cpu-*")]
    pins = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", "".join(map(Path.read_text, places)), re.MULTILINE)
    )
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    ours = {"hvdkit", "horovod", "pip"}  # pip is the distribution's
    loose = {
        name: version
        for name, version in installed.items()
        if name not in ours and pinned.get(name) != version.split("+")[0]
    }
    assert not loose, "add these to deploy/image/constraints.txt"


def test_helps_unless_told_what_to_do(run: Run) -> None:
    container = run()
    assert container.wait(30) == 0
    assert "usage: hvdkit" in container.output


@pytest.mark.parametrize("uid", [1000, 54321])
def test_the_doctor_finds_nothing_wrong(run: Run, uid: int) -> None:
    container = run("hvdkit", "doctor", "--json", "-np", "2", uid=uid)
    assert container.wait(120) == 0, container.output


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_trains_on_two_ranks(run: Run, runs: Path, framework: str) -> None:
    container = run(
        *("hvdkit", "launch", "-np", "2", "recipes/vision.py", f"framework={framework}"),
        "hydra.run.dir=/workspace/runs/digits",
        volumes={runs: "/workspace/runs"},
    )
    assert container.wait(240) == 0, container.output
    told = summary(runs / "digits")
    assert (told["status"], told["world_size"]) == ("completed", 2)
    assert told["eval"]["accuracy"] > 0.9
    assert (runs / "digits/summary.json").stat().st_uid == 1000


def test_a_user_id_that_the_platform_chose_trains_too(run: Run, runs: Path) -> None:
    container = run(
        *("horovodrun", "-np", "2", "python", "recipes/vision.py", "trainer.num_steps=20"),
        "hydra.run.dir=/workspace/runs/digits",
        volumes={runs: "/workspace/runs"},
        uid=54321,
    )
    assert container.wait(120) == 0, container.output
    assert summary(runs / "digits")["status"] == "completed"


def test_sigterm_to_its_first_process_leaves_a_checkpoint(run: Run, runs: Path) -> None:
    train = (
        *("hvdkit", "launch", "-np", "2", "recipes/vision.py", "trainer.num_epochs=1000"),
        *("hydra.run.dir=/workspace/runs/digits", "trainer.log_every=10"),
    )
    container = run(*train, volumes={runs: "/workspace/runs"})
    container.wait_for("step 20", 120)
    assert container.first.name() == "tini"
    container.first.terminate()
    assert container.wait(30) == 143, container.output
    told = summary(runs / "digits")
    assert (told["status"], told["world_size"]) == ("interrupted", 2)
    stopped_at = summary(runs / "digits")["steps"]
    assert (runs / "digits/checkpoints/latest").exists()
    resumed = run(
        *train,
        *("trainer.resume=true", "trainer.num_epochs=null", f"trainer.num_steps={stopped_at + 5}"),
        volumes={runs: "/workspace/runs"},
    )
    assert resumed.wait(120) == 0, resumed.output
    assert summary(runs / "digits")["status"] == "completed"
    assert summary(runs / "digits")["steps"] == stopped_at + 5


def test_orphans_are_reaped(run: Run) -> None:
    """A child whose parent is gone becomes process 1's, which has to wait for it."""
    container = run("sh", "-c", "(sleep 0.1 & sleep 0.1 &); sleep 1; echo waited; exec sleep 30")
    container.wait_for("waited", 30)
    assert sorted(process.name() for process in container.processes()) == ["sleep", "tini"]


def test_one_gpu_image_for_both_frameworks_is_refused(builder: Builder) -> None:
    with pytest.raises(BuildFailed) as failed:
        builder.build("localhost/no", {"VARIANT": "gpu", "FRAMEWORKS": "both"})
    assert "torch's GPU wheels want CUDA 13 and TensorFlow's CUDA 12" in str(failed.value)
