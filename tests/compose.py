"""Composes `conf/` as the command line would, for the tests of options and config."""

from __future__ import annotations

import functools
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

import hvdkit.config  # noqa: F401 (its resolvers)

CONF = Path(__file__).parent.parent / "conf"
# What other files of the group are made from, and what must be said with a choice.
BASES = {("data", "batches")}
NEEDED = {
    ("data", "arrays"): ("data.source.path=images.npz",),
    ("data", "labelled_text"): ("data.source.path=texts.jsonl",),
    **{
        ("data", name): ("data.source.path=folder",)
        for name in ("mnist", "cifar10", "image_folder", "movielens", "criteo")
    },
    **{
        ("experiment", name): ("data.source.path=folder",)
        for name in (
            "bert_large_lamb",
            "dlrm_criteo",
            "gpt2_124m",
            "imagenet_resnet50",
            "imagenet_vgg16",
            "mnist_mlp",
            "neumf_ml20m",
        )
    },
}


@functools.cache  # Hydra takes a tenth of a second; nobody changes what it returns
def composed(*overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("hvdkit.conf", version_base="1.3"):
            return compose("vision", list(overrides))
    finally:
        GlobalHydra.instance().clear()


def choices() -> list[tuple[str, str]]:
    """(group, name) of every file a user can choose."""
    found = [(path.parent.relative_to(CONF).as_posix(), path.stem) for path in CONF.rglob("*.yaml")]
    return sorted(pair for pair in found if pair[0] != "." and pair not in BASES)


def overrides() -> list[tuple[str, ...]]:
    """Every choice on a command line; in both frameworks where models are chosen."""
    found = [(f"{group}={name}", *NEEDED.get((group, name), ())) for group, name in choices()]
    models = [words for words in found if words[0].startswith(("model=", "experiment="))]
    return found + [(*words, "framework=tensorflow") for words in models]
