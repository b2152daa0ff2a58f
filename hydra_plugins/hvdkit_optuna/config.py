"""The values of `hydra/sweeper=optuna`. Hydra imports this at every start: nothing heavy.

Annotations are types, not text: Hydra runs the file before Python knows the module.
"""

from dataclasses import dataclass, field
from typing import Dict, Optional  # noqa: UP035 (what OmegaConf 2.3 reads)

from hydra.core.config_store import ConfigStore


@dataclass
class OptunaSweeperConf:
    """What is searched for, and how."""

    _target_: str = "hydra_plugins.hvdkit_optuna.sweeper.OptunaSweeper"
    # A value of summary.json, and minimize or maximize; null: as the metric's name says.
    metric: str = "eval.loss"
    direction: Optional[str] = None  # noqa: UP045
    # tpe, random or grid.
    sampler: str = "tpe"
    seed: int = 0
    # null: 20, or all points of a grid.
    n_trials: Optional[int] = None  # noqa: UP045
    # Trials at a time; null: as many as there are slots for.
    n_jobs: Optional[int] = None  # noqa: UP045
    # sqlite (optuna.db) or journal (optuna.journal), in the sweep's folder.
    storage: str = "sqlite"
    # none, asha (successive halving) or median: which trials are ended early.
    pruner: str = "none"
    # median: trials that run whole first, and steps before which none is ended.
    startup_trials: int = 5
    warmup_steps: int = 0
    # asha: steps before the first rung (null: by the first trials' length); one in so many
    # trials goes on at each.
    min_steps: Optional[int] = None  # noqa: UP045
    reduction_factor: int = 4
    # The space, as key: override; the command line's comes after it.
    params: Dict[str, str] = field(default_factory=dict)  # noqa: UP006


ConfigStore.instance().store(
    group="hydra/sweeper", name="optuna", node=OptunaSweeperConf, provider="hvdkit"
)
