"""Interactions and recommender models."""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.errors import HvdkitError
from hvdkit.schema import at_least, between, choice, positive


@dataclass(kw_only=True)
class TastesOptions:
    users: int = at_least(2)
    items: int = at_least(2)
    factors: int = at_least(1)
    interactions: int = at_least(5)
    taste: float = at_least(0.0)
    popularity: float = at_least(0.0)
    seed: int = at_least(0)
    negatives: int = at_least(1)
    evaluation_negatives: int = at_least(1)


@dataclass(kw_only=True)
class MovieLensOptions:
    path: str
    negatives: int = at_least(1)
    evaluation_negatives: int = at_least(1)
    on_bad_record: str = choice("error", "skip")


@dataclass(kw_only=True)
class CriteoOptions:
    path: str
    cache: str | None = None
    buckets: int = at_least(1)
    evaluation_fraction: float = between(0.0, 1.0)
    on_bad_record: str = choice("error", "skip")


@dataclass(kw_only=True)
class MFOptions:
    dimension: int = at_least(1)
    sparse: bool = False


@dataclass(kw_only=True)
class NeuMFOptions:
    factors: int = at_least(1)
    dimension: int = at_least(1)
    hidden: list[int] = positive()
    sparse: bool = False


@dataclass(kw_only=True)
class DLRMOptions:
    bottom: list[int] = positive()
    top: list[int] = positive()
    sparse: bool = False

    @staticmethod
    def check_together(node: dict[str, list[int]], where: str) -> None:
        for name in ("bottom", "top"):
            if not node[name]:
                raise HvdkitError(f"{where}.{name} is empty: it needs the width of one layer")


SCHEMAS: dict[str, type] = {
    "hvdkit.data.tastes": TastesOptions,
    "hvdkit.data.movielens": MovieLensOptions,
    "hvdkit.data.criteo": CriteoOptions,
    "hvdkit.models.recsys.torch_mf.MF": MFOptions,
    "hvdkit.models.recsys.keras_mf.MF": MFOptions,
    "hvdkit.models.recsys.torch_neumf.NeuMF": NeuMFOptions,
    "hvdkit.models.recsys.keras_neumf.NeuMF": NeuMFOptions,
    "hvdkit.models.recsys.torch_dlrm.DLRM": DLRMOptions,
    "hvdkit.models.recsys.keras_dlrm.DLRM": DLRMOptions,
}
