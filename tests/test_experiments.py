"""Every experiment trains: each file is composed by its recipe and takes three steps in one
process, on a tiny set in the published form and with sizes to match. In TensorFlow, too, by
`make soak`: how the frameworks differ, tests/distributed/test_sameness.py sees.

An experiment file without an entry in `EXPERIMENTS` fails.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from hvdkit.config import build
from tests.compose import CONF, composed
from tests.data.recommender_files import write_clicks, write_ratings
from tests.data.vision.files import write_folder, write_mnist

ROOT = CONF.parent
STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Whose experiment it is, the files it needs, and what makes it small.

    `write` puts a set into a folder, which becomes data.source.path. `overrides` may change
    sizes only: all else is what the file is there to say.
    """

    recipe: str
    write: Callable[[Path], Any] | None = None
    overrides: tuple[str, ...] = ()


SMALL_IMAGES = ("data.source.image_size=64", "data.source.resize=64", "data.source.workers=1")


def write_text(folder: Path) -> None:
    """Five files of text."""
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.txt").write_text(f"The cat number {i} sat on the mat.\n" * 20)


SMALL_TEXT = (
    "data.batch_size=4",
    "data.source.context=16",
    "data.source.vocabulary=280",
    "model.layers=1",
    "model.width=16",
    "model.heads=2",
)
EXPERIMENTS = {
    "dlrm_criteo": Experiment(
        recipe="recsys",
        write=write_clicks,
        overrides=("data.source.buckets=100", "data.batch_size=8"),
    ),
    "bert_large_lamb": Experiment(recipe="nlp", write=write_text, overrides=SMALL_TEXT),
    "digits_mlp_small": Experiment(recipe="vision"),
    "digits_resnet": Experiment(recipe="vision", overrides=("model.widths=[8,8,16]",)),
    "gpt2_124m": Experiment(recipe="nlp", write=write_text, overrides=SMALL_TEXT),
    "imagenet_resnet50": Experiment(
        recipe="vision",
        write=write_folder,
        overrides=(
            *SMALL_IMAGES,
            "data.batch_size_per_worker=4",
            "model.widths=[4,8,8,16]",
            "model.blocks=[1,1,1,1]",
        ),
    ),
    "imagenet_vgg16": Experiment(
        recipe="vision",
        write=write_folder,
        overrides=(
            *SMALL_IMAGES,
            "data.batch_size_per_worker=4",
            "model.widths=[4,4,8,8,8]",
            "model.hidden=[16,16]",
            "model.pooled=2",
        ),
    ),
    "mnist_mlp": Experiment(recipe="vision", write=write_mnist, overrides=("data.batch_size=4",)),
    "neumf_ml20m": Experiment(
        recipe="recsys", write=write_ratings, overrides=("data.batch_size=8",)
    ),
}


def test_every_experiment_has_an_entry() -> None:
    assert {path.stem for path in (CONF / "experiment").glob("*.yaml")} == set(EXPERIMENTS)


def run(name: str, framework: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(summary, config) of three steps of an experiment."""
    experiment = EXPERIMENTS[name]
    words = [f"experiment={name}", f"framework={framework}", f"hydra.run.dir={folder / 'run'}"]
    if experiment.write:
        experiment.write(folder / "data")
        words.append(f"data.source.path={folder / 'data'}")
    # The time of a run is given once: whichever the experiment does not use is null anyway.
    words += [*experiment.overrides, f"trainer.num_steps={STEPS}", "trainer.num_epochs=null"]
    done = subprocess.run(
        [sys.executable, f"recipes/{experiment.recipe}.py", *words, "framework.threads=1"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HVDKIT_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((folder / "run/summary.json").read_text())
    config = OmegaConf.load(folder / "run/.hydra/config.yaml")
    return summary, cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))


@pytest.mark.launch
@pytest.mark.parametrize("framework", ["torch", pytest.param("tensorflow", marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_as_its_file_says(name: str, framework: str, tmp_path: Path) -> None:
    summary, config = run(name, framework, tmp_path)
    assert (summary["status"], summary["steps"]) == ("completed", STEPS)
    assert math.isfinite(summary["train_loss"])
    assert summary["eval"]
    assert all(math.isfinite(value) for value in summary["eval"].values())
    # What the file says is what was trained with, but for the sizes that the test changes.
    changed = {word.partition("=")[0].lstrip("+") for word in EXPERIMENTS[name].overrides}
    changed |= {"trainer.num_steps", "trainer.num_epochs", "data.batch_size"}
    file = cast(
        "dict[str, Any]",
        OmegaConf.to_container(OmegaConf.load(CONF / f"experiment/{name}.yaml")),
    )
    for key, value in leaves(file):
        found = config
        for word in key.split("."):
            found = found[word]
        assert key in changed or found == value, key


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (key, value) that an experiment file sets to a plain value."""
    for key, value in node.items():
        if key == "defaults":
            continue
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif not (isinstance(value, str) and ("${" in value or value == "???")):
            yield f"{prefix}{key}", value


def test_imagenet_resnet50_has_the_rates_of_the_paper() -> None:
    config = composed("experiment=imagenet_resnet50", "data.source.path=folder")
    workers = 256
    batch = config.data.batch_size_per_worker * workers
    assert batch == 8192
    schedule, records = build(config.schedule), 1_281_167
    steps_per_epoch = records / batch

    def rate(epoch: float) -> float:
        return schedule(
            config.optimizer.lr,
            round(epoch * steps_per_epoch),
            num_steps=round(90 * steps_per_epoch),
            workers=workers,
            steps_per_epoch=steps_per_epoch,
        )

    assert rate(0) < 0.1
    assert rate(2.5) == pytest.approx(1.6, rel=0.02)
    for epoch, expected in ((5.1, 3.2), (29.9, 3.2), (30.1, 0.32), (60.1, 0.032), (80.1, 0.0032)):
        assert rate(epoch) == pytest.approx(expected)
    # One worker trains as the paper's smallest batches: 0.1 for 256 images.
    assert config.optimizer.lr / config.data.batch_size_per_worker == pytest.approx(0.1 / 256)
