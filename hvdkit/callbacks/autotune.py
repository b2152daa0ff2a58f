"""Finding how gradients travel fastest for one model on one kind of host, in a run's own steps.

Every trial step is a real one: what is tried changes when and in what messages sums travel, and
so the last bits of a run at three ranks or more, never what is summed. Only those compressions are
tried that the user allows, because they change what is learnt. Horovod reads its cycle time when
it starts, and starting it again in one process ends in MPI's abort: so each of the first runs
tries one more of those.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from hvdkit.adapters import versions
from hvdkit.callbacks.base import Callback
from hvdkit.comm import Comm
from hvdkit.errors import HvdkitError
from hvdkit.gradients.compression.named import make_compression
from hvdkit.launch.cache import default_cache
from hvdkit.launch.environment import Job, available_cores, current_job

_log = logging.getLogger(__name__)
FILE = "autotune.json"
_BUCKETS_MB = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_CHUNKS_MB = (2.0, 4.0, 8.0, 16.0, 1024.0)  # the last: whole
_CYCLES_MS = (None, 2.0, 5.0)  # None: the default
_BETTER = 0.98  # of the best step so far: less of a gain is noise


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How gradients travel: `comm.*` of the same names, whether during the backward pass, and
    the compression's name (None: the configured one)."""

    bucket_mb: float
    chunk_mb: float | None = None
    overlap: bool = True
    compression: str | None = None


class Memory:
    """What was found for one kind of job, in the user's cache and in the run's folder.

    `key` is what the answer depends on: model, batch, host shape, versions.
    """

    def __init__(self, key: Mapping[str, Any], *, cache: Path, folder: Path | None):
        text = json.dumps(key, sort_keys=True, default=str)
        self._key = json.loads(text)
        self._cached = cache / "autotune" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        self._here = folder / FILE if folder else None

    def recall(self, *, resume: bool) -> dict[str, Any] | None:
        """What this run found before it was broken off, or an earlier one on such a job."""
        if resume and self._here and (own := _read(self._here)):
            return own
        return _read(self._cached)

    def keep(self, found: Mapping[str, Any]) -> None:
        """Write it for this run, and for those to come."""
        for path in filter(None, (self._here, self._cached)):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.write_text(json.dumps({"key": self._key, **found}, indent=1) + "\n")
            partial.replace(path)


class Tuning:
    """What is known of a configured run before it starts, and the callback that finds the rest."""

    def __init__(
        self,
        memory: Memory | None,
        found: dict[str, Any] | None,
        cycle: float | None,
        compressions: Sequence[str] = (),
    ):
        self.memory, self.found, self.cycle_time_ms = memory, found, cycle
        self.compressions = tuple(compressions)

    @classmethod
    def of(cls, node: DictConfig, folder: Path, knobs: dict[str, Any]) -> Tuning:
        """What the config asks for: without `comm.autotune`, nothing. May set the cycle time
        among Horovod's `knobs`. Raises `HvdkitError` with one worker, which sends nothing."""
        if not node.comm.autotune:
            return cls(None, None, None)
        job = current_job()
        if job.size == 1:
            raise HvdkitError(
                "comm.autotune does nothing with one worker, which sends no gradients: start "
                "more with horovodrun -np N, or leave it out"
            )
        config = cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))
        memory = Memory(_key(config, job), cache=default_cache(os.environ), folder=folder)
        found = memory.recall(resume=config["trainer"]["resume"])
        knobs["cycle_time_ms"] = knobs["cycle_time_ms"] or _next_cycle(found)
        allowed = config["comm"]["autotune_compressions"]
        return cls(memory, found, knobs["cycle_time_ms"], allowed)

    def agreed(self, comm: Comm) -> dict[str, Any]:
        """What a strategy is made with, as rank 0 knows it."""
        if self.memory is None:
            return {}
        self.found = comm.broadcast_object(self.found)
        if not self.found:
            return {}
        chosen = Settings(**self.found["chosen"])
        known: dict[str, Any] = {"bucket_mb": chosen.bucket_mb, "chunk_mb": chosen.chunk_mb}
        if chosen.compression:
            known["compression"] = make_compression(chosen.compression)
        return known

    def callbacks(self) -> list[Callback]:
        if self.memory is None:
            return []
        cycle, allowed = self.cycle_time_ms, self.compressions
        return [Autotune(self.memory, self.found, cycle_time_ms=cycle, compressions=allowed)]


def _key(config: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """What a choice depends on."""
    groups = ("framework", "model", "optimizer", "strategy", "compression")
    whole = {group: {**config[group]} for group in groups}
    for name in ("bucket_mb", "chunk_mb", "learn_order"):
        whole["strategy"].pop(name, None)
    names = ("precision", "accumulate", "clip_norm", "ema_decay")
    return {
        **whole,
        "data": {name: config["data"][name] for name in ("batch_size", "batch_size_per_worker")},
        "trainer": {name: config["trainer"][name] for name in names},
        "allowed": sorted(config["comm"]["autotune_compressions"]),
        "ranks": [job.launcher, job.size, job.local_size],
        "host": [platform.machine(), available_cores()],
        "versions": versions(config["framework"]["name"]),
    }


def _next_cycle(found: Mapping[str, Any] | None) -> float | None:
    """The cycle time (ms; None: the default) to start with: one not tried yet, or the best."""
    tried = _cycles(found)
    for cycle in _CYCLES_MS:
        if cycle not in tried:
            return cycle
    return min(tried, key=lambda cycle: tried[cycle])


class Autotune(Callback):
    """Try bucket sizes, message sizes, overlap, and those of `compressions` (by name) in the first
    steps, and go on with the best.

    A trial takes `steps` steps after `warm_up` others, and counts as the slowest rank's median.
    `found` is what is known already: then nothing but this run's cycle time is new.
    """

    every_rank = True

    def __init__(
        self,
        memory: Memory,
        found: Mapping[str, Any] | None,
        *,
        cycle_time_ms: float | None = None,
        compressions: Sequence[str] = (),
        steps: int = 8,
        warm_up: int = 2,
    ):
        self._memory, self._cycle = memory, cycle_time_ms
        self._found: dict[str, Any] = dict(found or {"trials": [], "chosen": None, "cycles": []})
        self._allowed = tuple(compressions)
        self._steps, self._warm_up = steps, warm_up
        self._seconds: list[float] = []
        self._trials: Iterator[Settings] | None = None

    def on_start(self, trainer):
        strategy = trainer.adapter.strategy
        self._configured = strategy.compression
        self._best = Settings(bucket_mb=strategy.bucket_mb, chunk_mb=strategy.chunk_mb)
        self._best_ms = float("inf")
        self._in_use: str | None = None
        if chosen := self._found["chosen"]:
            self._best = Settings(**chosen)
            self._in_use = self._best.compression  # the strategy was made with it
            trainer.adapter.overlap = self._best.overlap
            self._trials = iter((self._best,))
        else:
            self._trials = self._candidates()
        # The order of gradients is learnt first: it is the same for all trials.
        self._wait = self._warm_up + max(0, (trainer.adapter.learns_at or 0) + 1 - trainer.step)
        self._now = next(self._trials)
        self._tried = {self._sizes(trainer, self._now)}

    def _candidates(self) -> Iterator[Settings]:
        """One knob after another, each from the best that was found before."""
        yield self._best
        for bucket_mb in _BUCKETS_MB:
            yield replace(self._best, bucket_mb=bucket_mb)
        for chunk_mb in _CHUNKS_MB:
            yield replace(self._best, chunk_mb=chunk_mb)
        yield replace(self._best, overlap=not self._best.overlap)
        for name in self._allowed:
            yield replace(self._best, compression=name)

    def on_batch(self, trainer):
        self._began = time.perf_counter()

    def on_step(self, trainer):
        if self._trials is None:
            return
        if self._wait:
            self._wait -= 1
            return
        self._seconds.append(time.perf_counter() - self._began)
        if len(self._seconds) < self._steps:
            return
        self._judge(trainer)
        for settings in self._trials:
            if self._is_new(trainer, settings):
                self._try(trainer, settings)
                return
        self._finish(trainer)

    def _is_new(self, trainer, settings):
        """Whether no trial so far had the same messages: a small model has one bucket anyway."""
        before = len(self._tried)
        self._tried.add(self._sizes(trainer, settings))
        return len(self._tried) > before

    def _sizes(self, trainer, settings):
        chunk_mb = trainer.adapter.strategy.message_mb(settings.chunk_mb)
        largest = 0.0
        buckets = trainer.adapter.strategy.planned_with(bucket_mb=settings.bucket_mb)
        for bucket in buckets:
            largest = max(largest, sum(param.nbytes for param in bucket.params) / 2**20)
        whole = chunk_mb is None or chunk_mb >= largest
        names = tuple(bucket.names for bucket in buckets)
        return names, None if whole else chunk_mb, settings.overlap, settings.compression

    def on_end(self, trainer, summary):
        if self._trials is not None and trainer.comm.rank == 0:
            _log.warning(
                "autotune: the run was over after %d trials, so nothing was chosen",
                len(self._found["trials"]),
            )

    def _judge(self, trainer):
        """Note this trial's step time, the same on every rank."""
        comm, ops = trainer.comm, trainer.adapter.ops
        median = np.array([1000 * statistics.median(self._seconds)])
        agreed = comm.allreduce(ops.array(median), name="autotune", op="max").wait()
        (milliseconds,) = ops.numpy(agreed).tolist()
        self._found["trials"].append({"settings": asdict(self._now), "step_ms": milliseconds})
        if milliseconds < _BETTER * self._best_ms:
            self._best, self._best_ms = self._now, milliseconds

    def _try(self, trainer, settings):
        adapter = trainer.adapter
        self._now, self._seconds, self._wait = settings, [], self._warm_up
        adapter.overlap = settings.overlap
        if settings.compression != self._in_use:
            self._in_use = settings.compression
            adapter.strategy.exchange(self._compression(settings))
        buckets = adapter.strategy.planned_with(
            bucket_mb=settings.bucket_mb, chunk_mb=settings.chunk_mb
        )
        adapter.lay_out(buckets)

    def _compression(self, settings):
        name = settings.compression
        return self._configured if name is None else make_compression(name)

    def _finish(self, trainer):
        if self._best == self._now:
            trainer.adapter.strategy.bucket_mb = self._best.bucket_mb
        else:
            self._try(trainer, self._best)
        self._trials = None
        cycles = _cycles(self._found) | {self._cycle: self._best_ms}
        self._found["cycles"] = [{"ms": c, "step_ms": t} for c, t in cycles.items()]
        self._found["chosen"] = asdict(self._best)
        if trainer.comm.rank == 0:
            self._memory.keep(self._found)
            message_mb = trainer.adapter.strategy.message_mb(self._best.chunk_mb)
            _log.info(
                "autotune: %.1f ms a step with buckets of %g MB, messages of %s, %s%s; %s has what "
                "was tried",
                self._best_ms,
                self._best.bucket_mb,
                f"at most {message_mb:g} MB" if message_mb else "any size",
                "overlapped" if self._best.overlap else "after the backward pass",
                f", compression={self._best.compression}" if self._best.compression else "",
                FILE,
            )


def _cycles(found: Mapping[str, Any] | None) -> dict[float | None, float]:
    return {each["ms"]: each["step_ms"] for each in (found or {}).get("cycles", ())}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
