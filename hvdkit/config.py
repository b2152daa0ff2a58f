"""Composing a run from YAML: the entry point of recipes, the checks, and `build`.

Hydra composes `conf/`; `check` then holds every node against its dataclass before a framework
is imported or a process joined, and `build` is the only place where objects are made of nodes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hvdkit import adapters
from hvdkit.adapters.base import Adapter
from hvdkit.callbacks import Agreement, Callback, Tuning
from hvdkit.comm import Comm
from hvdkit.data import Dataset, EvalData, TrainData
from hvdkit.errors import HvdkitError
from hvdkit.explain import explain, leaves
from hvdkit.gradients.compression.named import compression_node
from hvdkit.launch import heartbeat
from hvdkit.launch.environment import HorovodSettings, current_job
from hvdkit.launch.failure import end_job
from hvdkit.launch.logs import print_logs
from hvdkit.options import SCHEMAS
from hvdkit.options.run import check_reduction
from hvdkit.run_folder import RunFolder, Summary, folder_name
from hvdkit.schema import check_node, nearest
from hvdkit.trainer import Every, Trainer

Workload = Literal["vision", "nlp", "recsys"]
Data = TypeVar("Data", bound=Dataset)
_KNOBS = tuple(field.name for field in dataclasses.fields(HorovodSettings))
_CONF = "pkg://hvdkit.conf"
_GROUPS = (
    "framework",
    "data",
    "model",
    "optimizer",
    "schedule",
    "comm",
    "strategy",
    "compression",
    "trainer",
    "callbacks",
    "launch",
)

_PLUGINS = (
    ("hydra_plugins.hvdkit_launcher.launcher", "HorovodLauncher"),
    ("hydra_plugins.hvdkit_optuna.sweeper", "OptunaSweeper"),
)

# A default that steps back when the other way of saying the same thing is used.
OmegaConf.register_new_resolver(
    "unless", lambda other, default: default if other is None else None, replace=True
)
# A sweep's job has a folder by its overrides, so that it is found again and never another's.
OmegaConf.register_new_resolver("job_folder", folder_name, replace=True)


def recipe(workload: Workload) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make `body(config)` a program: Hydra's command line, one message for every mistake.

    `workload` names the defaults (a file in `conf/`) and whose models may be chosen.
    """
    return functools.partial(_program, workload)


def _program(workload: Workload, body: Callable[[DictConfig], None]) -> Callable[[], None]:
    job = current_job()
    heartbeat.begin(job)
    _Place.workload = workload

    def guarded(config: DictConfig) -> None:
        # Errors are told here: Hydra would add a line of its own on every rank.
        try:
            body(config)
        except (Exception, KeyboardInterrupt) as error:
            end_job(error, job, folder=_Place.folder)

    # Hydra names the job, and so the run's folder, after the function's module.
    guarded.__module__ = Path(body.__code__.co_filename).stem

    @functools.wraps(body)
    def program() -> None:
        # Hydra would print its own report of a bad override; with this it raises.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            if job.launcher != "none" and {"-m", "--multirun"} & set(sys.argv[1:]):
                raise HvdkitError(
                    "-m inside a running job would make every rank run the whole sweep: "
                    "start it without horovodrun"
                )
            register_plugins()
            hydra.main(version_base="1.3", config_path=_CONF, config_name=workload)(guarded)()
        except (HvdkitError, KeyboardInterrupt) as error:
            end_job(error, job)
        except Exception as error:  # the body's own never come this far
            end_job(HvdkitError(explain(error, _Place.workload)), job)

    return program


def register_plugins() -> None:
    """Make our plugins known: Hydra walks folders for them, and an editable install has none."""
    for module, name in _PLUGINS:
        Plugins.instance().register(getattr(importlib.import_module(module), name))


class _Place:
    """What this process runs, and where it writes once that is known: errors say so."""

    workload: Workload = "vision"
    folder: Path | None = None


# ---- checks ------------------------------------------------------------------------------------


def check(config: DictConfig) -> None:
    """Raise `HvdkitError` for the first wrong value in a composed config."""
    try:
        plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise HvdkitError(str(error).splitlines()[0]) from None
    for key in plain:
        if key not in (*_GROUPS, "experiment", "debug"):
            raise HvdkitError(
                f"unknown key {key}{nearest(key, _GROUPS)}; the groups are: {', '.join(_GROUPS)}"
            )
    for group in _GROUPS:
        if not isinstance(plain.get(group), dict):
            raise HvdkitError(f"the config has no {group}: choose one with {group}=NAME")
        _check_group(group, plain[group])
    check_reduction(plain["strategy"], plain["compression"])
    _check_autotune(plain)
    trainer, data = plain["trainer"], plain["data"]
    _exactly_one("trainer", trainer, "num_steps", "num_epochs")
    _exactly_one("data", data, "batch_size", "batch_size_per_worker")


def _check_autotune(plain: dict[str, Any]) -> None:
    allowed = plain["comm"]["autotune_compressions"]
    if allowed and not plain["comm"]["autotune"]:
        raise HvdkitError(
            "comm.autotune_compressions says what autotune may choose: add comm.autotune=true, or "
            f"compression={allowed[0]} to use that"
        )
    for name in allowed:
        check_reduction(plain["strategy"], dict(compression_node(name)))


def check_run(config: DictConfig, *, workers: int) -> None:
    """Raise `HvdkitError` for what this recipe cannot run, on so many workers."""
    check_workload(config, _Place.workload)
    check(config)
    size = config.data.batch_size
    if size is not None and size < workers:
        raise HvdkitError(
            f"data.batch_size={size} cannot be cut into {workers} slices, one a worker: "
            "raise it, or use fewer workers"
        )


def check_workload(config: DictConfig, workload: Workload) -> None:
    """Raise `HvdkitError` if the model is one of ours, but for another recipe."""
    target = str(config.model.get("_target_"))
    if target.startswith("hvdkit.models.") and not target.startswith(f"hvdkit.models.{workload}."):
        raise HvdkitError(
            f"the model {target.rpartition('.')[2]} is not for this recipe: use "
            f"recipes/{target.split('.')[2]}.py, or another model=NAME"
        )
    if workload == "recsys" and config.trainer.label_smoothing:
        raise HvdkitError(
            "trainer.label_smoothing is for classes, and a recommender has none: leave it at 0"
        )


def _check_group(where: str, node: dict[str, Any]) -> None:
    schema = SCHEMAS.get(node.get("_target_", where))
    if schema:
        check_node(schema, node, where=where)
    for key, child in node.items():
        if isinstance(child, dict) and "_target_" in child:
            _check_group(f"{where}.{key}", child)


def _exactly_one(where: str, node: Mapping[str, Any], first: str, second: str) -> None:
    given = [name for name in (first, second) if node[name] is not None]
    if len(given) == 2:
        raise HvdkitError(
            f"{where}.{first}={node[first]} and {where}.{second}={node[second]} cannot both be "
            f"given: set one of them to null"
        )
    if not given:
        raise HvdkitError(f"give {where}.{first} or {where}.{second}: both are null")


# ---- building ------------------------------------------------------------------------------------


def build(node: DictConfig, **more: Any) -> Any:
    """Make the object a node's `_target_` names, of its other keys and of `more`.

    What the constructor raises is raised as it is; a `_target_` that cannot be found is an
    `HvdkitError`.
    """
    try:
        return hydra.utils.instantiate(node, **more, _convert_="object")
    except hydra.errors.InstantiationException as error:
        if error.__cause__ is not None and "Error locating target" not in str(error):
            raise error.__cause__ from None
        raise HvdkitError(
            f"_target_={node.get('_target_')} cannot be imported: {error.__cause__}"
        ) from None


def _takes(node: DictConfig, name: str, *, by_name: bool = False) -> bool:
    """Whether what a node's `_target_` names takes this argument, `by_name` or as one of any."""
    try:
        taken = inspect.signature(hydra.utils.get_object(node._target_)).parameters
    except Exception:  # `build` says what is wrong with it
        return not by_name
    anything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    return name in taken or (anything and not by_name)


class Run:
    """A checked config whose framework is started and whose job is joined.

    A context manager: leaving it leaves the job.
    """

    def __init__(self, config: DictConfig):
        check_run(config, workers=current_job().size)
        self.config = config
        self.folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))

    def __enter__(self) -> Run:
        _Place.folder = self.folder.path
        heartbeat.current().tell(stall_timeout=self.config.launch.stall_timeout)
        options = self.config.framework
        knobs = {name: self.config.comm[name] for name in _KNOBS}
        self._tuning = Tuning.of(self.config, self.folder.path, knobs)
        self.comm: Comm = adapters.start(
            options.name,
            precision=self.config.trainer.precision,
            threads=options.threads,
            horovod=HorovodSettings(**knobs),
        )
        print_logs(self.comm.rank)
        self.folder = self.folder.shared(self.comm)
        _Place.folder = self.folder.path
        heartbeat.current().tell(folder=str(_Place.folder.absolute()))
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is None:
            self.comm.close()

    @property
    def batch_size(self) -> int:
        """Samples an update, over all workers."""
        data = self.config.data
        return data.batch_size or data.batch_size_per_worker * self.comm.size

    def dataset(self, *kinds: type[Data]) -> Data:
        """The configured dataset, which must be of one of this recipe's `kinds`.

        A source that takes `comm` gets the job's, for what one rank does for all.
        """
        node = self.config.data.source
        shared = {"comm": self.comm} if _takes(node, "comm", by_name=True) else {}
        dataset = build(node, **shared)
        if not isinstance(dataset, kinds):
            needed = " or a ".join(kind.__name__ for kind in kinds)
            raise HvdkitError(
                f"data.source gives a {type(dataset).__name__}, this recipe needs a {needed}: "
                "choose another data=NAME"
            )
        return dataset

    def model(self, **sizes: Any) -> Any:
        """The configured model, of the `sizes` that the data asks for."""
        node = self.config.model
        unknown = [name for name in sizes if not _takes(node, name)]
        if unknown:
            raise HvdkitError(
                f"the model {node._target_.rpartition('.')[2]} takes no {' and '.join(unknown)}, "
                "which this data has: choose another model=NAME, or another data=NAME"
            )
        return build(node, **sizes)

    def adapter(self, model: Any, task: Any) -> Adapter:
        """The chosen framework's adapter around a model of that framework."""
        return build(
            self.config.framework.adapter,
            model=model,
            task=task,
            comm=self.comm,
            optimizer=build(self.config.optimizer),
            strategy=build(
                self.config.strategy,
                **{
                    "compression": build(self.config.compression),
                    **self._tuning.agreed(self.comm),
                },
            ),
            precision=self.config.trainer.precision,
            clip_norm=self.config.trainer.clip_norm,
            ema_decay=self.config.trainer.ema_decay,
        )

    def fit(self, adapter: Adapter, dataset: Dataset) -> Summary:
        """Train as the config says; an interrupted run ends the process with 128 + the signal."""
        trainer = self.trainer(adapter, dataset)
        summary = trainer.fit()
        if summary.status == "interrupted":
            self.comm.close()
            sys.exit(128 + (trainer.stop.number or signal.SIGTERM))
        return summary

    def trainer(self, adapter: Adapter, dataset: Dataset) -> Trainer:
        """A trainer as the `data`, `trainer`, `schedule` and `callbacks` groups say."""
        data, options = self.config.data, self.config.trainer
        train_data = TrainData(
            dataset.train,
            adapter.task,
            batch_size=self.batch_size,
            seed=options.seed,
            shuffle=data.shuffle,
            accumulate=options.accumulate,
            prefetch=data.prefetch,
        )
        return Trainer(
            adapter,
            train_data,
            eval_data=EvalData(dataset.evaluation, adapter.task, batch_size=data.eval_batch_size),
            num_steps=options.num_steps,
            num_epochs=options.num_epochs,
            schedule=build(self.config.schedule),
            callbacks=self.callbacks(),
            folder=self.folder.path,
            every=Every(
                log=options.log_every,
                evaluation=options.eval_every,
                checkpoint=options.checkpoint_every,
            ),
            resume=options.resume,
            keep_checkpoints=options.keep_checkpoints,
            seed=options.seed,
            max_bad_steps=options.max_bad_steps,
            bad_records=dataset.bad_records,
        )

    def callbacks(self) -> list[Callback]:
        """The configured callbacks, and the ones that know the config itself."""
        nodes = self.config.callbacks.values()
        facts = {key: OmegaConf.select(self.config, key) for key in leaves(self.config)}
        return [
            _ConfigFiles(self.config),
            Agreement(facts),
            *(build(node) for node in nodes if node is not None),
            *self._tuning.callbacks(),
        ]


class _ConfigFiles(Callback):
    """Write what was composed to the run's .hydra/, as Hydra would, but once a job."""

    def __init__(self, config: DictConfig):
        hydra_config = HydraConfig.get()
        self._texts = {
            "config.yaml": OmegaConf.to_yaml(config),
            "overrides.yaml": OmegaConf.to_yaml(hydra_config.overrides.task),
        }

    def on_open(self, trainer: Trainer) -> None:
        if trainer.folder:
            trainer.folder.write_config(self._texts)
