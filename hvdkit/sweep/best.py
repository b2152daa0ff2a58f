"""The best trial as an experiment file: what of its config is not what the recipe does anyway.

May import the rest of this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from hvdkit.run_folder import replace_text
from hvdkit.sweep.plan import Plan

# Groups that are other groups' values: what they say is written as those.
_SPREAD = ("experiment", "debug")


def write_best(plan: Plan, overrides: Sequence[str], about: str) -> Path:
    """Write `experiment/best.yaml` in the sweep's folder; `about` is its first comment.

    With `--config-dir FOLDER experiment=best` the recipe composes what `overrides` do.
    """
    whole = plan.compose(overrides)
    choices, base = whole.hydra.runtime.choices, plan.compose([]).hydra.runtime.choices
    groups = {
        group: name
        for group, name in choices.items()
        if name != base.get(group) and not group.startswith("hydra/") and group not in _SPREAD
    }
    plain = plan.compose([f"{group}={_name(name)}" for group, name in groups.items()])
    values: dict[str, Any] = {}
    for key, value in _changed(_without_hydra(whole), _without_hydra(plain)):
        OmegaConf.update(node := OmegaConf.create(values), key, value, force_add=True)
        values = cast("dict[str, Any]", OmegaConf.to_container(node))
    text = f"# @package _global_\n# {about}\n"
    if groups:
        lines = "".join(f"  - override /{g}: {_name(name)}\n" for g, name in groups.items())
        text += f"defaults:\n{lines}"
    path = plan.folder / "experiment" / "best.yaml"
    replace_text(path, text + (OmegaConf.to_yaml(values) if values else ""))
    return path


def _name(choice: Any) -> str:
    return "null" if choice is None else str(choice)


def _without_hydra(config: DictConfig) -> dict[str, Any]:
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
    del plain["hydra"]
    return plain


def _changed(
    whole: dict[str, Any], plain: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Every (key, value) that the first has otherwise than the second."""
    for key, value in whole.items():
        other = plain.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _changed(value, other, f"{prefix}{key}.")
        elif key not in plain or value != other or type(value) is not type(other):
            yield f"{prefix}{key}", value
    for key in plain.keys() - whole.keys():
        yield f"{prefix}{key}", None
