"""The compressions that `conf/compression` has, for those that choose one by its name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from hvdkit.errors import HvdkitError
from hvdkit.schema import nearest

if TYPE_CHECKING:
    from hvdkit.gradients.compression.base import Compression


def compressions() -> dict[str, Mapping[str, Any]]:
    """The node of each, by name."""
    from omegaconf import OmegaConf

    folder = files("hvdkit.conf").joinpath("compression")
    found = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".yaml"):
            node = OmegaConf.to_container(OmegaConf.create(path.read_text()))
            found[path.name.removesuffix(".yaml")] = cast("Mapping[str, Any]", node)
    return found


def compression_node(name: str) -> Mapping[str, Any]:
    """The node called `name`. Raises `HvdkitError` if there is none."""
    known = compressions()
    if name not in known:
        hint = nearest(name, known)
        raise HvdkitError(f"no compression {name}{hint}: there are {', '.join(known)}")
    return known[name]


def make_compression(name: str) -> Compression:
    """The compression called `name`, as its node has it."""
    from hydra.utils import instantiate

    return cast("Compression", instantiate(dict(compression_node(name))))
