"""What every run has: a framework, batches, a trainer, update rules, ways to work together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hvdkit.errors import HvdkitError
from hvdkit.gradients.compression import (
    BF16Compression,
    FP16Compression,
    Int8Compression,
    NoCompression,
    PowerSGDCompression,
    TopKCompression,
)
from hvdkit.launch.environment import HorovodSettings
from hvdkit.optimizers import (
    LAMB,
    LARS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Constant,
    Cosine,
    Linear,
    Polynomial,
    RMSprop,
    Step,
)
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
    compile: str | None = choice("model", "blocks", default=None)


@dataclass(kw_only=True)
class TensorFlowOptions:
    jit_compile: bool = False


@dataclass(kw_only=True)
class DataOptions:
    """`data`: a source and how it is cut into batches."""

    source: dict[str, Any]
    batch_size: int | None = at_least(1, default=None)
    batch_size_per_worker: int | None = at_least(1, default=None)
    eval_batch_size: int = at_least(1)
    shuffle: bool
    prefetch: int = at_least(0)
    on_bad_record: str = choice("error", "skip")


@dataclass(kw_only=True)
class AllReduceOptions:
    bucket_mb: float = positive()
    chunk_mb: float | None = positive(default=None)
    learn_order: bool


@dataclass(kw_only=True)
class AdasumOptions:
    bucket_mb: float = positive()
    learn_order: bool


@dataclass(frozen=True, kw_only=True)
class CommOptions(HorovodSettings):
    """`comm`: our buckets and messages, and Horovod's own knobs."""

    bucket_mb: float = positive()
    chunk_mb: float | None = positive(default=None)
    learn_order: bool
    autotune: bool
    autotune_compressions: list[str]


@dataclass(kw_only=True)
class TrainerOptions:
    """`trainer`: how long, how precisely, and how often what is written."""

    num_steps: int | None = at_least(1, default=None)
    num_epochs: float | None = positive(default=None)
    seed: int = at_least(0)
    precision: str = choice("fp32", "fp64", "bf16", "fp16")
    accumulate: int = at_least(1)
    clip_norm: float | None = positive(default=None)
    label_smoothing: float = between(0.0, 1.0)
    ema_decay: float | None = between(0.0, 1.0, default=None)
    max_bad_steps: int = at_least(1)
    log_every: int = at_least(1)
    eval_every: int | None = at_least(1, default=None)
    checkpoint_every: int | None = at_least(1, default=None)
    keep_checkpoints: int = at_least(1)
    resume: bool


@dataclass(kw_only=True)
class LaunchOptions:
    """`launch`: what `hvdkit launch` is told by the ranks that it has started."""

    stall_timeout: float | None = positive(default=None)


@dataclass(kw_only=True)
class WeightDigestOptions:
    every: int | None = at_least(1, default=None)


@dataclass(kw_only=True)
class TimelineOptions:
    start: int = at_least(0, default=10)
    steps: int = at_least(1, default=5)


@dataclass(kw_only=True)
class NoOptions:
    pass


# Strategies that cannot do with some compressions: which ones, and why not.
_UNFIT = {
    "hvdkit.strategies.Adasum": (
        ("FP16", "BF16", "Int8", "TopK", "PowerSGD"),
        "compares whole gradients, which are sent as they are",
    ),
    "hvdkit.strategies.Hierarchical": (
        ("PowerSGD",),
        "shares each bucket out among a host's ranks, and powersgd needs whole matrices",
    ),
}


def check_reduction(strategy: dict[str, Any], compression: dict[str, Any]) -> None:
    """Raise `HvdkitError` for a strategy that cannot do with a compression."""
    kinds, reason = _UNFIT.get(strategy.get("_target_", ""), ((), ""))
    module, _, kind = str(compression.get("_target_", "")).rpartition(".")
    if module == "hvdkit.gradients.compression" and kind.removesuffix("Compression") in kinds:
        name = str(strategy["_target_"]).rpartition(".")[2].lower()
        raise HvdkitError(
            f"strategy={name} {reason}: choose another compression (none goes with everything), "
            "or strategy=allreduce"
        )


SCHEMAS: dict[str, type] = {
    "framework": FrameworkOptions,
    "data": DataOptions,
    "comm": CommOptions,
    "trainer": TrainerOptions,
    "launch": LaunchOptions,
    "hvdkit.adapters.torch.TorchAdapter": TorchOptions,
    "hvdkit.adapters.tensorflow.TensorFlowAdapter": TensorFlowOptions,
    "hvdkit.strategies.AllReduce": AllReduceOptions,
    "hvdkit.strategies.Hierarchical": AllReduceOptions,
    "hvdkit.strategies.Adasum": AdasumOptions,
    "hvdkit.optimizers.SGD": SGD,
    "hvdkit.optimizers.Adam": Adam,
    "hvdkit.optimizers.AdamW": AdamW,
    "hvdkit.optimizers.RMSprop": RMSprop,
    "hvdkit.optimizers.Adagrad": Adagrad,
    "hvdkit.optimizers.LARS": LARS,
    "hvdkit.optimizers.LAMB": LAMB,
    "hvdkit.optimizers.Constant": Constant,
    "hvdkit.optimizers.Linear": Linear,
    "hvdkit.optimizers.Cosine": Cosine,
    "hvdkit.optimizers.Step": Step,
    "hvdkit.optimizers.Polynomial": Polynomial,
    "hvdkit.gradients.compression.NoCompression": NoCompression,
    "hvdkit.gradients.compression.FP16Compression": FP16Compression,
    "hvdkit.gradients.compression.BF16Compression": BF16Compression,
    "hvdkit.gradients.compression.Int8Compression": Int8Compression,
    "hvdkit.gradients.compression.TopKCompression": TopKCompression,
    "hvdkit.gradients.compression.PowerSGDCompression": PowerSGDCompression,
    "hvdkit.callbacks.Log": NoOptions,
    "hvdkit.callbacks.Progress": NoOptions,
    "hvdkit.callbacks.TensorBoard": NoOptions,
    "hvdkit.callbacks.WeightDigest": WeightDigestOptions,
    "hvdkit.callbacks.Stragglers": NoOptions,
    "hvdkit.callbacks.Timeline": TimelineOptions,
}
