"""On GPUs: NCCL reduces, half precision and compiled models train, and results are the CPU's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.conftest import Job
from tests.gpu.conftest import FRAMEWORKS

Recipe = Callable[..., Job]
every_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event["train/loss"] for event in map(json.loads, lines) if "train/loss" in event]


@pytest.mark.skipif("torch" not in FRAMEWORKS, reason="there is no CUDA build of torch here")
def test_nccl_sums_tensors_of_every_type(start: Any, gpus: int, tmp_path: Path) -> None:
    """Horovod's timeline names the operation that it took."""
    timeline = tmp_path / "timeline.json"
    job = start(
        [sys.executable, "-m", "tests.gpu.nccl_sums", str(tmp_path / "sums.json")],
        np=gpus,
        env={"HOROVOD_TIMELINE": str(timeline)},
    )
    assert job.wait() == 0, job.output
    told = json.loads((tmp_path / "sums.json").read_text())
    total = gpus * (gpus + 1) / 2
    assert told["size"] == gpus
    assert set(map(tuple, told["sums"].values())) == {(total, total, "cuda")}
    assert "NCCL_ALLREDUCE" in timeline.read_text()


@every_framework
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_precision_learns_the_digits(
    recipe: Recipe, gpus: int, tmp_path: Path, framework: str, precision: str
) -> None:
    job = recipe(tmp_path, f"framework={framework}", f"trainer.precision={precision}", np=gpus)
    assert job.wait() == 0, job.output
    assert summary(tmp_path)["world_size"] == gpus
    assert summary(tmp_path)["eval"]["accuracy"] > 0.9


@every_framework
def test_gpus_give_the_losses_of_one_cpu(
    recipe: Recipe, gpus: int, tmp_path: Path, framework: str
) -> None:
    """In fp64 at every step, to the digits that hold between numbers of workers."""
    common = (
        f"framework={framework}",
        *("trainer.precision=fp64", "trainer.num_steps=50", "trainer.log_every=1"),
    )
    on_gpus = recipe(tmp_path / "gpus", *common, np=gpus)
    assert on_gpus.wait() == 0, on_gpus.output
    on_cpu = recipe(tmp_path / "cpu", *common, env={"CUDA_VISIBLE_DEVICES": ""})
    assert on_cpu.wait() == 0, on_cpu.output
    assert losses(tmp_path / "gpus") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-8)


@pytest.mark.skipif("torch" not in FRAMEWORKS, reason="there is no CUDA build of torch here")
@pytest.mark.parametrize("compiled", ["model", "blocks"])
def test_a_compiled_model_trains_as_the_plain_one(
    recipe: Recipe, gpus: int, tmp_path: Path, compiled: str
) -> None:
    common = ("model=resnet", "trainer.num_steps=10", "trainer.log_every=1")
    job = recipe(tmp_path / "plain", *common, "framework.adapter.device=cuda", np=gpus)
    assert job.wait() == 0, job.output
    compiling = (f"framework.adapter.compile={compiled}", "framework.adapter.device=cuda")
    job = recipe(tmp_path / "compiled", *common, *compiling, np=gpus, timeout=240)
    assert job.wait() == 0, job.output
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)


@pytest.mark.skipif("tensorflow" not in FRAMEWORKS, reason="there is no TensorFlow for CUDA here")
def test_xla_trains_as_the_plain_graph(recipe: Recipe, gpus: int, tmp_path: Path) -> None:
    common = ("framework=tensorflow", "trainer.num_steps=10", "trainer.log_every=1")
    job = recipe(tmp_path / "plain", *common, np=gpus)
    assert job.wait() == 0, job.output
    job = recipe(tmp_path / "xla", *common, "framework.adapter.jit_compile=true", np=gpus)
    assert job.wait() == 0, job.output
    assert losses(tmp_path / "xla") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
