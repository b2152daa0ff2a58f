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
class MNISTOptions:
    path: str
    on_bad_record: str = choice("error", "skip")


@dataclass(kw_only=True)
class CIFAR10Options:
    path: str
    augment: bool
    on_bad_record: str = choice("error", "skip")


@dataclass(kw_only=True)
class ImageFolderOptions:
    path: str
    image_size: int = at_least(1)
    resize: int = at_least(1)
    min_scale: float = positive()
    flip: bool
    mean: list[float] | None
    std: list[float] | None = positive()
    workers: int = at_least(1)
    on_bad_record: str = choice("error", "skip")

    @staticmethod
    def check_together(node: dict[str, Any], where: str) -> None:
        mean, std = node["mean"], node["std"]
        if (mean is None) != (std is None) or any(
            len(x) != 3 for x in (mean, std) if x is not None
        ):
            raise HvdkitError(
                f"{where}.mean={mean} and {where}.std={std} need three numbers each, one a colour, "
                "or null both"
            )
        if node["image_size"] > node["resize"]:
            raise HvdkitError(
                f"{where}.image_size={node['image_size']} cannot be cut out of images whose "
                f"shorter side is scaled to {where}.resize={node['resize']}"
            )
        if node["min_scale"] > 1:
            raise HvdkitError(f"{where}.min_scale={node['min_scale']} must be at most 1")


@dataclass(kw_only=True)
class MLPOptions:
    hidden: list[int] = positive()


def _check_stages(node: dict[str, Any], where: str) -> None:
    """One width and one number of blocks a stage, and groups that divide every width."""
    widths, blocks = node["widths"], node["blocks"]
    if not widths or len(widths) != len(blocks):
        raise HvdkitError(
            f"{where}.widths={widths} and {where}.blocks={blocks} need one number each for "
            "every stage, and one stage at least"
        )
    groups = node["norm_groups"]
    wider = [4 * width for width in widths] if node.get("block") == "bottleneck" else []
    odd = [width for width in [*widths, *wider] if width % min(groups, width)]
    if node["norm_kind"] == "group" and odd:
        raise HvdkitError(
            f"{where}.norm_groups={groups} does not divide the width {odd[0]} of {where}.widths"
        )


@dataclass(kw_only=True)
class ResNetOptions:
    widths: list[int] = positive()
    blocks: list[int] = positive()
    block: str = choice("basic", "bottleneck")
    stem: str = choice("small", "imagenet")
    norm_kind: str = choice("group", "batch")
    norm_groups: int = at_least(1)
    zero_last_norm: bool

    check_together = staticmethod(_check_stages)


@dataclass(kw_only=True)
class VGGOptions:
    widths: list[int] = positive()
    blocks: list[int] = positive()
    hidden: list[int] = positive()
    pooled: int = at_least(1)
    dropout: float = between(0.0, 1.0)
    norm_kind: str = choice("none", "group", "batch")
    norm_groups: int = at_least(1)

    check_together = staticmethod(_check_stages)


@dataclass(kw_only=True)
class ViTOptions:
    patch: int = at_least(1)
    width: int = at_least(1)
    depth: int = at_least(1)
    heads: int = at_least(1)
    hidden: int = at_least(1)
    pooling: str = choice("class", "mean")
    dropout: float = between(0.0, 1.0)

    @staticmethod
    def check_together(node: dict[str, Any], where: str) -> None:
        if node["width"] % node["heads"]:
            raise HvdkitError(
                f"{where}.heads={node['heads']} does not divide {where}.width={node['width']}"
            )


SCHEMAS: dict[str, type] = {
    "hvdkit.data.digits": DigitsOptions,
    "hvdkit.data.arrays": ArraysOptions,
    "hvdkit.data.vision.mnist": MNISTOptions,
    "hvdkit.data.vision.cifar10": CIFAR10Options,
    "hvdkit.data.vision.image_folder": ImageFolderOptions,
    "hvdkit.models.vision.torch_mlp.MLP": MLPOptions,
    "hvdkit.models.vision.keras_mlp.MLP": MLPOptions,
    "hvdkit.models.vision.torch_resnet.ResNet": ResNetOptions,
    "hvdkit.models.vision.keras_resnet.ResNet": ResNetOptions,
    "hvdkit.models.vision.torch_vgg.VGG": VGGOptions,
    "hvdkit.models.vision.keras_vgg.VGG": VGGOptions,
    "hvdkit.models.vision.torch_vit.ViT": ViTOptions,
    "hvdkit.models.vision.keras_vit.ViT": ViTOptions,
}
