"""The sweeper as Hydra sees it. Hydra imports this at every start: nothing heavy at the top."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.hvdkit_optuna import config as _registered  # noqa: F401


class OptunaSweeper(Sweeper):
    """Asks Optuna for a trial whenever slots are free, and tells it what came of each."""

    def __init__(self, **_options: Any):  # `search` reads and checks them
        self.launcher: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from hvdkit.errors import HvdkitError

        if not hasattr(self.launcher, "plan"):
            raise HvdkitError(
                "hydra/sweeper=optuna runs its trials side by side and stops poor ones, which "
                f"{type(self.launcher).__name__} cannot: add hydra/launcher=horovod"
            )
        try:
            from hvdkit.sweep.search import search
        except ModuleNotFoundError as error:
            if error.name not in ("optuna", "sqlalchemy"):
                raise
            raise HvdkitError(
                "hydra/sweeper=optuna needs Optuna: pip install 'hvdkit[optuna]'"
            ) from None
        return search(self.launcher.plan(), arguments)
