"""The launcher as Hydra sees it. Hydra imports this at every start: nothing heavy at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.hvdkit_launcher import config as _registered  # noqa: F401

if TYPE_CHECKING:
    from hvdkit.sweep.plan import Plan


class HorovodLauncher(Launcher):
    """Runs each job of a sweep under `hvdkit launch`, on slots that no other job has."""

    def __init__(self, **_options: Any):  # `plan` reads and checks them
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._context, self._config = hydra_context, config

    def plan(self) -> Plan:
        """The sweep's folder, options and slots: what a sweeper of ours gives jobs to."""
        from hvdkit.sweep.plan import Plan

        assert self._context is not None
        assert self._config is not None
        return Plan(self._config, self._context.config_loader)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from hvdkit.sweep.launch import launch

        return launch(self.plan(), job_overrides, initial_job_idx)
