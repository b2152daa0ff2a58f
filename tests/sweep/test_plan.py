"""A sweep's jobs as Hydra composes them, and the best of them as a file that composes again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hvdkit.config import check_run, register_plugins
from hvdkit.errors import HvdkitError
from hvdkit.sweep.best import write_best
from hvdkit.sweep.plan import Plan
from tests.compose import CONF


@pytest.fixture(autouse=True)
def no_hydra_is_left() -> Iterator[None]:
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


def hydra(folder: Path | None = None) -> Hydra:
    """Hydra over our config, and a `--config-dir`."""
    register_plugins()
    path = create_config_search_path("pkg://hvdkit.conf")
    if folder:
        assert isinstance(path, ConfigSearchPathImpl)
        path.prepend("command-line", f"file://{folder}")
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2("vision", path)


def plan(folder: Path, *overrides: str) -> Plan:
    words = ["hydra/launcher=horovod", f"hydra.sweep.dir='{folder}'", *overrides]
    words.append("hydra.launcher.hosts=localhost:2")
    made = hydra()
    config = made.compose_config("vision", words, RunMode.MULTIRUN, with_log_configuration=False)
    return Plan(config, made.config_loader, program="recipes/vision.py")


def composed(folder: Path, *overrides: str) -> DictConfig:
    config = hydra(folder).compose_config(
        "vision", list(overrides), RunMode.RUN, with_log_configuration=False
    )
    plain: Any = OmegaConf.to_container(config)
    del plain["hydra"]
    return OmegaConf.create(plain)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr=0.003"],
        ["optimizer=adam", "optimizer.lr=1e-05", "+model.seed=3"],
        ["model=resnet", "model.widths=[8,8]", "model.blocks=[1,1]", "framework=tensorflow"],
        ["experiment=digits_resnet", "optimizer=lars", "optimizer.lr=0.3"],
        ["experiment=digits_mlp_small", "debug=short", "data.batch_size=16", "schedule=step"],
        ["data.batch_size_per_worker=8", "callbacks.tensorboard=null", "compression=fp16"],
        ["trainer.num_steps=7", "trainer.seed=0"],
    ],
)
def test_the_best_file_composes_what_its_overrides_do(tmp_path: Path, overrides: list[str]) -> None:
    path = write_best(plan(tmp_path), overrides, "the best")
    assert path == tmp_path / "experiment/best.yaml"
    assert path.read_text().startswith("# @package _global_\n# the best\n")
    assert composed(tmp_path, "experiment=best") == composed(tmp_path, *overrides)
    # What is said after it holds, as with any experiment.
    assert composed(tmp_path, "experiment=best", "trainer.seed=5").trainer.seed == 5


def test_a_best_file_says_no_more_than_it_must(tmp_path: Path) -> None:
    text = write_best(plan(tmp_path), ["optimizer=adam", "optimizer.lr=0.5"], "x").read_text()
    assert text.splitlines()[2:] == [
        "defaults:",
        "  - override /optimizer: adam",
        "optimizer:",
        "  lr: 0.5",
    ]


def test_jobs_are_numbered_and_named_by_what_they_do_not_share(tmp_path: Path) -> None:
    sweep = plan(tmp_path, "hydra.launcher.np=2")
    jobs = sweep.jobs(
        [["optimizer.lr=0.1", "trainer.seed=1"], ["optimizer.lr=1", "trainer.seed=1"]]
    )
    assert [(job.number, job.label) for job in jobs] == [
        (0, "optimizer.lr=0.1"),
        (1, "optimizer.lr=1"),
    ]
    assert [job.config["optimizer"]["lr"] for job in jobs] == [0.1, 1]
    assert [job.ranks for job in jobs] == [2, 2]
    assert len({job.folder for job in jobs}) == 2
    assert {job.folder.parent for job in jobs} == {tmp_path}
    # The same overrides have the same folder in any sweep.
    alone = sweep.job(7, ["optimizer.lr=1", "trainer.seed=1"], label="")
    assert alone.folder == jobs[1].folder
    assert alone.fingerprint == jobs[1].fingerprint != jobs[0].fingerprint


def test_what_is_hydras_and_not_the_sweeps_goes_to_each_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["vision.py", "-m"])
    sweep = plan(tmp_path, "hydra.verbose=true", "+hydra.launcher.env.A=1", "hydra.launcher.np=2")
    assert sweep.hydra_arguments() == ["hydra.verbose=true"]


def test_a_second_sweep_in_the_folder_is_refused(tmp_path: Path) -> None:
    with plan(tmp_path).claim(print):
        program = "from tests.sweep.test_plan import plan, print_refusal; print_refusal()"
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=CONF.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert f"another sweep (process {os.getpid()}) is at work in {tmp_path}" in done.stdout
    with plan(tmp_path).claim(print):
        pass


def print_refusal() -> None:
    """Try to claim the folder that the first argument names, and print why it cannot be."""
    try:
        with plan(Path(sys.argv[1])).claim(print):
            print("claimed")
    except HvdkitError as error:
        print(error)


def test_a_job_needs_a_batch_for_each_worker(tmp_path: Path) -> None:
    config = composed(tmp_path, "data.batch_size=2")
    check_run(config, workers=2)
    with pytest.raises(HvdkitError, match="cannot be cut into 3 slices"):
        check_run(config, workers=3)
