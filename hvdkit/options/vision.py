"""Image data and image classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hvdkit.errors import HvdkitError
from hvdkit.schema import at_least, between, choice, positive


@dataclass(kw_only=True)
class DigitsOptions:
    test_fraction: float = between(0.0, 1.0)


@dataclass(kw_only=True)
class ArraysOptions:
    path: str


@dataclass(kw_only=True)
class MLPOptions:
    hidden: list[int] = positive()


@dataclass(kw_only=True)
class ResNetOptions:
    widths: list[int] = positive()
    blocks: list[int] = positive()
    norm_kind: str = choice("group", "batch")
    norm_groups: int = at_least(1)

    @staticmethod
    def check_together(node: dict[str, Any], where: str) -> None:
        widths, blocks = node["widths"], node["blocks"]
        if not widths or len(widths) != len(blocks):
            raise HvdkitError(
                f"{where}.widths={widths} and {where}.blocks={blocks} need one number each for "
                "every stage, and one stage at least"
            )
        odd = [width for width in widths if width % min(node["norm_groups"], width)]
        if node["norm_kind"] == "group" and odd:
            raise HvdkitError(
                f"{where}.norm_groups={node['norm_groups']} does not divide the width {odd[0]} of "
                f"{where}.widths"
            )


SCHEMAS: dict[str, type] = {
    "hvdkit.data.digits": DigitsOptions,
    "hvdkit.data.arrays": ArraysOptions,
    "hvdkit.models.vision.torch_mlp.MLP": MLPOptions,
    "hvdkit.models.vision.keras_mlp.MLP": MLPOptions,
    "hvdkit.models.vision.torch_resnet.ResNet": ResNetOptions,
    "hvdkit.models.vision.keras_resnet.ResNet": ResNetOptions,
}
