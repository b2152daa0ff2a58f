"""A sweep before anything runs: its options, its folder, and each job composed and checked.

May import config, and launch, run_folder, schema and errors below it.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psutil
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from hvdkit.config import check_run
from hvdkit.errors import HvdkitError
from hvdkit.explain import explain
from hvdkit.launch.environment import available_cores
from hvdkit.launch.hosts import Host, parse_hosts, scheduled_hosts
from hvdkit.schema import at_least, check, choice, positive
from hvdkit.sweep.job import SweepJob
from hvdkit.sweep.slots import SlotPool

# Jobs of a sweep that was killed are told to stop; this many seconds they have for it.
_LEFT_OVER = 90.0
# What of Hydra's own overrides is the sweep's affair, and no job's.
_OF_THE_SWEEP = (
    "hydra.launcher",
    "hydra/launcher",
    "hydra.sweeper",
    "hydra/sweeper",
    "hydra.sweep.",
    "hydra.run.dir",
    "hydra.mode",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The values of `hydra.launcher`; `hydra_plugins/hvdkit_launcher/config.py` says each."""

    np: int = at_least(1, default=1)
    hosts: str | None = None
    fail_fast: bool = False
    timeout: float | None = positive(default=None)
    gpus: int | None = at_least(0, default=None)
    metric: str | None = None
    controller: str | None = choice("mpi", "gloo", default=None)
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, where="hydra.launcher")


class Plan:
    """What a sweep's jobs have in common, and each of them, composed.

    `config` is the sweep's own, with its `hydra` node; `program` is the recipe's file.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader, *, program: str | None = None):
        node = cast("dict[str, Any]", OmegaConf.to_container(config.hydra.launcher, resolve=True))
        self.options = Options(**{k: v for k, v in node.items() if k != "_target_"})
        self.folder = Path(config.hydra.sweep.dir).absolute()
        self.program = Path(program or sys.argv[0]).absolute()
        self.pool = SlotPool(_hosts(self.options.hosts), self.options.np)
        self.config, self.loader = config, loader
        if config.hydra.sweeper.get("max_batch_size") is not None:
            raise HvdkitError(
                "hydra.sweeper.max_batch_size would make slots wait for a whole batch: leave it "
                "out, hydra.launcher.hosts says already how many jobs run at a time"
            )

    def jobs(self, all_overrides: Sequence[Sequence[str]], first: int = 0) -> list[SweepJob]:
        """Every job, numbered from `first`, and labelled by what it does not share with all.

        Raises `HvdkitError` for the first one with a wrong value, or for two that are the same.
        """
        shared = set.intersection(*map(set, all_overrides)) if len(all_overrides) > 1 else set()
        jobs: dict[Path, SweepJob] = {}
        for number, overrides in enumerate(all_overrides, start=first):
            label = " ".join(word for word in overrides if word not in shared)
            job = self.job(number, overrides, label=label or "as it is")
            if job.folder in jobs:
                raise HvdkitError(
                    f"jobs {jobs[job.folder].number} and {number} are the same or would share a "
                    f"folder ({' '.join(overrides)}, in {job.folder}): name each value once"
                )
            jobs[job.folder] = job
        return list(jobs.values())

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """A job's config as Hydra composes it, `hydra` node included."""
        return self.loader.load_sweep_config(self.config, list(overrides))

    def job(
        self, number: int, overrides: Sequence[str], *, label: str, folder: str | None = None
    ) -> SweepJob:
        """One job; its folder lies in the sweep's, and is called `folder`, or as the config says.

        Raises `HvdkitError`, which names the job, if its config is wrong.
        """
        before = HydraConfig.instance().cfg
        try:
            config = self.compose(overrides)
            with open_dict(config):
                config.hydra.job.num = number
                config.hydra.job.id = str(number)
            HydraConfig.instance().set_config(config)
            name = folder or str(config.hydra.sweep.subdir)
            with open_dict(config):
                del config["hydra"]
            check_run(config, workers=self.options.np)
            plain = OmegaConf.to_container(config, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise HvdkitError(
                f"job {number} ({label}): {explain(error, str(self.config.hydra.job.config_name))}"
            ) from None
        except HvdkitError as error:
            raise HvdkitError(f"job {number} ({label}): {error}") from None
        finally:
            HydraConfig.instance().cfg = before
        return SweepJob(
            number=number,
            overrides=tuple(overrides),
            label=label,
            folder=self.folder / name,
            config=cast("dict[str, Any]", plain),
            ranks=self.options.np,
        )

    def hydra_arguments(self) -> list[str]:
        """What of the sweep's command line is Hydra's and holds for each job too."""
        config, words = self.config.hydra, []
        for source in config.runtime.config_sources:
            if source.provider == "command-line":
                words += ["--config-dir", source.path]
        given = [word.split("=")[0] for word in sys.argv[1:] if word.startswith("-")]
        if {"--config-name", "-cn"} & set(given):
            words += ["--config-name", config.job.config_name]
        for word in config.overrides.hydra:
            if not word.lstrip("+~").startswith(_OF_THE_SWEEP):
                words.append(word)
        return words

    @contextmanager
    def claim(self, say: Callable[[str], None]) -> Iterator[int]:
        """Keep other sweeps out of the folder; gives the file descriptor of the lock.

        Jobs inherit it, so that a sweep begun after one that was killed waits for its jobs to
        end. Raises `HvdkitError` if another sweep is at work there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder / "sweep.lock", os.O_RDWR | os.O_CREAT)
        try:
            self._lock(lock, say)
            os.ftruncate(lock, 0)
            os.pwrite(lock, _name_of(os.getpid()).encode(), 0)
            yield lock
        finally:
            os.close(lock)

    def _lock(self, lock: int, say: Callable[[str], None]) -> None:
        end = time.monotonic() + _LEFT_OVER
        told = False
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(lock, 100, 0).decode()
            if owner and _name_of(int(owner.split()[0])) == owner:
                raise HvdkitError(
                    f"another sweep (process {owner.split()[0]}) is at work in {self.folder}: "
                    "wait for it, or give this one its own folder with hydra.sweep.dir=..."
                )
            if time.monotonic() > end:
                raise HvdkitError(
                    f"jobs of an earlier sweep in {self.folder} do not end: see which processes "
                    "hold its sweep.lock (fuser, lsof), and end them"
                )
            if not told:
                say("waiting for the jobs of an earlier sweep in this folder to end")
                told = True
            time.sleep(0.1)


def _hosts(text: str | None) -> Sequence[Host]:
    if text is not None:
        return parse_hosts(text)
    return scheduled_hosts() or (Host("localhost", available_cores()),)


def _name_of(process: int) -> str:
    """A process by its number and when it began, since numbers come again; "" if it is gone.

    One that was killed is gone although whoever has started it does not know yet.
    """
    try:
        found = psutil.Process(process)
        ended = found.status() == psutil.STATUS_ZOMBIE
        return "" if ended else f"{process} {found.create_time():.2f}"
    except psutil.Error:
        return ""
