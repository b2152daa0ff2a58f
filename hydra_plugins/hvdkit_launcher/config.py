"""The values of `hydra/launcher=horovod`. Hydra imports this at every start: nothing heavy.

Annotations are types, not text: Hydra runs the file before Python knows the module.
"""

from dataclasses import dataclass, field
from typing import Dict, Optional  # noqa: UP035 (what OmegaConf 2.3 reads)

from hydra.core.config_store import ConfigStore


@dataclass
class HorovodLauncherConf:
    """How a sweep's jobs run."""

    _target_: str = "hydra_plugins.hvdkit_launcher.launcher.HorovodLauncher"
    # Ranks a job.
    np: int = 1
    # Slots to hand out, as a:4,b:4; null: the scheduler's hosts, else this machine's cores.
    hosts: Optional[str] = None  # noqa: UP045
    # Whether the first job that fails ends the sweep.
    fail_fast: bool = False
    # Seconds after which a job is ended, with a checkpoint, and counted as failed.
    timeout: Optional[float] = None  # noqa: UP045
    # GPUs of a host, one a slot; null: as many as this machine has.
    gpus: Optional[int] = None  # noqa: UP045
    # What the job's result is to Hydra: a value such as eval.accuracy; null: the whole summary.
    metric: Optional[str] = None  # noqa: UP045
    # mpi or gloo; null: as hvdkit launch chooses.
    controller: Optional[str] = None  # noqa: UP045
    # Environment variables of every rank.
    env: Dict[str, str] = field(default_factory=dict)  # noqa: UP006


ConfigStore.instance().store(
    group="hydra/launcher", name="horovod", node=HorovodLauncherConf, provider="hvdkit"
)
