"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from hvdkit.schema import at_least, check, choice

Scaling = Literal["none", "linear", "sqrt"]


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Warm-up, then a curve.

    For `warmup_steps` the factor climbs linearly from 1 / world size to its full value when
    `scale_lr` is on (Goyal et al. 2017, section 2.2), and from 0 otherwise. `scale_lr`
    multiplies the base rate by the number of workers, or by its square root (You et al.
    2019), for a batch that grows with them.
    """

    warmup_steps: int = at_least(0, default=0)
    scale_lr: Scaling = choice("none", "linear", "sqrt", default="none")

    def __post_init__(self):
        check(self)

    def __call__(self, base_lr: float, step: int, *, num_steps: int, workers: int) -> float:
        """The learning rate of update number `step` (0 is the first) of `num_steps`."""
        scale = {"none": 1.0, "linear": float(workers), "sqrt": math.sqrt(workers)}[self.scale_lr]
        if step < self.warmup_steps:
            start = 0.0 if self.scale_lr == "none" else 1.0
            return base_lr * (start + (scale - start) * (step + 1) / self.warmup_steps)
        rest = max(num_steps - self.warmup_steps, 1)
        return base_lr * scale * self.curve(min((step - self.warmup_steps) / rest, 1.0))

    @abstractmethod
    def curve(self, progress: float) -> float:
        """The factor at `progress` (0 to 1) between the end of warm-up and the last step."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The same rate throughout."""

    def curve(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine down to `final` times the rate (Loshchilov & Hutter 2017, no restarts)."""

    final: float = at_least(0.0, default=0.0)

    def curve(self, progress: float) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
