"""The dataclasses behind config nodes whose objects cannot be imported to be asked.

Optimizers, schedules and compressions are their own schema. What imports a framework, or is
no object at all, is described here; a test holds each of these against its constructor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hvdkit.errors import HvdkitError
from hvdkit.gradients.compression import FP16Compression, NoCompression
from hvdkit.launch.environment import HorovodSettings
from hvdkit.optimizers import SGD, Adam, Constant, Cosine
from hvdkit.schema import at_least, between, choice, positive


@dataclass(kw_only=True)
class FrameworkOptions:
    """`framework`: which one, its compute threads a rank (null: cores shared out)."""

    name: str = choice("torch", "tensorflow")
    threads: int | None = at_least(1, default=None)
    models: str = choice("torch", "keras")
    image_layout: str = choice("nchw", "nhwc")
    adapter: dict[str, Any]


@dataclass(kw_only=True)
class TorchOptions:
    device: str = choice("auto", "cpu", "cuda", default="auto")


@dataclass(kw_only=True)
class TensorFlowOptions:
    pass


@dataclass(kw_only=True)
class DataOptions:
    """`data`: a source and how it is cut into batches."""

    source: dict[str, Any]
    batch_size: int | None = at_least(1, default=None)
    batch_size_per_worker: int | None = at_least(1, default=None)
    eval_batch_size: int = at_least(1)
    shuffle: bool
    prefetch: int = at_least(0)


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


@dataclass(kw_only=True)
class AllReduceOptions:
    bucket_mb: float = positive()


@dataclass(frozen=True, kw_only=True)
class CommOptions(HorovodSettings):
    """`comm`: our buckets, and Horovod's own knobs."""

    bucket_mb: float = positive()


@dataclass(kw_only=True)
class TrainerOptions:
    """`trainer`: how long, how precisely, and how often what is written."""

    num_steps: int | None = at_least(1, default=None)
    num_epochs: float | None = positive(default=None)
    seed: int = at_least(0)
    precision: str = choice("fp32", "fp64")
    accumulate: int = at_least(1)
    clip_norm: float | None = positive(default=None)
    log_every: int = at_least(1)
    eval_every: int | None = at_least(1, default=None)
    checkpoint_every: int | None = at_least(1, default=None)
    keep_checkpoints: int = at_least(1)
    resume: bool


@dataclass(kw_only=True)
class WeightDigestOptions:
    every: int | None = at_least(1, default=None)


@dataclass(kw_only=True)
class NoOptions:
    pass


# By `_target_` where a node has one, else by its group.
SCHEMAS: dict[str, type] = {
    "framework": FrameworkOptions,
    "data": DataOptions,
    "comm": CommOptions,
    "trainer": TrainerOptions,
    "hvdkit.adapters.torch.TorchAdapter": TorchOptions,
    "hvdkit.adapters.tensorflow.TensorFlowAdapter": TensorFlowOptions,
    "hvdkit.data.digits": DigitsOptions,
    "hvdkit.data.arrays": ArraysOptions,
    "hvdkit.models.vision.torch_mlp.MLP": MLPOptions,
    "hvdkit.models.vision.keras_mlp.MLP": MLPOptions,
    "hvdkit.models.vision.torch_resnet.ResNet": ResNetOptions,
    "hvdkit.models.vision.keras_resnet.ResNet": ResNetOptions,
    "hvdkit.strategies.AllReduce": AllReduceOptions,
    "hvdkit.optimizers.SGD": SGD,
    "hvdkit.optimizers.Adam": Adam,
    "hvdkit.optimizers.Constant": Constant,
    "hvdkit.optimizers.Cosine": Cosine,
    "hvdkit.gradients.compression.NoCompression": NoCompression,
    "hvdkit.gradients.compression.FP16Compression": FP16Compression,
    "hvdkit.callbacks.Log": NoOptions,
    "hvdkit.callbacks.Progress": NoOptions,
    "hvdkit.callbacks.TensorBoard": NoOptions,
    "hvdkit.callbacks.WeightDigest": WeightDigestOptions,
}
