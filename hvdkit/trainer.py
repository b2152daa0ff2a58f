"""The one training loop.

It knows steps, logs, evaluations and checkpoints; it sees no framework and no launcher. Every
rank runs it alike, and each decision that could differ between ranks is agreed on first.

May import callbacks, checkpoint, data, metrics, tasks and what is below them.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit import metrics
from hvdkit.adapters import versions
from hvdkit.adapters.base import LEARN_AT, Adapter, StepResult
from hvdkit.callbacks import Callback
from hvdkit.checkpoint import Checkpoints, Saved
from hvdkit.comm.agreement import rank_0_does
from hvdkit.data import EvalData, TrainData
from hvdkit.data.bad_records import BadRecord, BadRecords
from hvdkit.errors import HvdkitError
from hvdkit.launch import heartbeat
from hvdkit.launch.environment import current_job
from hvdkit.launch.failure import lost_a_rank, message_of
from hvdkit.launch.stop import StopSignal
from hvdkit.optimizers import Constant, Schedule
from hvdkit.run_folder import RunFolder, Status, Summary

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Every:
    """How many updates lie between two logs, evaluations, checkpoints; None: only at the end."""

    log: int = 10
    evaluation: int | None = None
    checkpoint: int | None = None


class Trainer:
    """Train `adapter`'s model on `train_data` for `num_steps` updates, or `num_epochs`.

    `folder` is the run's folder; without one nothing is written. With `resume` the run goes on
    from the folder's newest whole checkpoint, if there is one. `seed` begins every random
    stream. An update whose gradient is not finite is skipped by all ranks; `max_bad_steps` of
    them in a row end the run. `bad_records` counts what the data left out. Callbacks marked
    `every_rank` run on all ranks, the others on rank 0.
    """

    def __init__(
        self,
        adapter: Adapter,
        train_data: TrainData,
        *,
        num_steps: int | None = None,
        num_epochs: float | None = None,
        eval_data: EvalData | None = None,
        schedule: Schedule | None = None,
        callbacks: Sequence[Callback] = (),
        folder: str | Path | None = None,
        every: Every = Every(),
        resume: bool = False,
        keep_checkpoints: int = 3,
        seed: int = 0,
        max_bad_steps: int = 10,
        bad_records: BadRecords | None = None,
    ):
        if (num_steps is None) == (num_epochs is None):
            raise HvdkitError("give exactly one of num_steps and num_epochs")
        self.adapter, self.comm = adapter, adapter.comm
        self.train_data, self.eval_data = train_data, eval_data
        self.schedule = schedule or Constant()
        self.every, self.resume, self.seed = every, resume, seed
        self.step = 0
        self.samples = None if num_epochs is None else train_data.samples_in(num_epochs)
        if self.samples == 0:
            raise HvdkitError(f"num_epochs={num_epochs} is less than one record: train for longer")
        self.num_steps = num_steps or math.ceil((self.samples or 0) / train_data.batch_size)
        self.folder = RunFolder(Path(folder)) if folder else None
        self._checkpoints = (
            Checkpoints(self.folder.checkpoints, self.comm, keep=keep_checkpoints)
            if self.folder
            else None
        )
        self._callbacks = [c for c in callbacks if c.every_rank or self.comm.rank == 0]
        self._train_loss: float | None = None
        self._eval: dict[str, float] = {}
        self._step_seconds = array("d")
        self.stop = StopSignal()  # the signal that ended the run, if one did
        self.max_bad_steps, self._bad_records = max_bad_steps, bad_records or BadRecords("error")
        self.skipped_steps = 0  # updates left out because their gradient was not finite
        self._bad_in_a_row = 0
        self._updates = 0  # steps that were not skipped: what the optimizer counts
        self._saved_step: int | None = None  # the last step that a checkpoint holds
        self._opened = False  # whether the folder is this run's to write a summary in
        self._heart = heartbeat.current()  # what hvdkit launch knows this rank's progress by
        self._speed = metrics.Speed(adapter, batch_size=train_data.batch_size)

    # ---- the run -------------------------------------------------------------------------

    def fit(self) -> Summary:
        """Run to the end, or to the step at which a rank was told to stop."""
        if self.train_data.batch_size < self.comm.size:
            raise HvdkitError(
                f"a batch of {self.train_data.batch_size} cannot be cut into {self.comm.size} "
                "slices: raise data.batch_size or use fewer workers"
            )
        try:
            with ExitStack() as held:
                if (folder := self.folder) is not None:
                    rank_0_does(self.comm, lambda: held.enter_context(folder.claim()))
                return self._fit()
        except BaseException as error:
            self._note_failure(error)
            raise
        finally:
            for callback in self._callbacks:
                callback.close()

    def _fit(self) -> Summary:
        self._prepare()
        with self.stop.heard():
            self._call("on_start")
            self._speed.start(self.step)
            for microbatches in self._noted(self._batches(), "reading data"):
                self._call("on_batch")
                stop = self._train_step(microbatches)
                self._do_what_is_due()
                if stop:
                    break
            return self._finish()

    def _note_failure(self, error: BaseException) -> None:
        """Leave a summary that says so, written by the rank that knows the cause."""
        agreed = isinstance(error, HvdkitError) and not isinstance(error, BadRecord)
        everyones = agreed or lost_a_rank(error)
        if not self._opened or self.folder is None or (everyones and self.comm.rank != 0):
            return
        if lost_a_rank(error) and self.folder.has_summary():
            return
        status: Status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        text = f"rank {self.comm.rank}: {type(error).__name__}: {message_of(error)}"
        with suppress(OSError):  # a full disk may be the very error
            self.folder.write_summary(self._summary(status, error=str(error) if agreed else text))

    def _prepare(self) -> None:
        saved = self._find_saved()
        if not self.resume:
            self._open_folder()
        self._bad_records.begin_training()
        self.adapter.setup(
            seed=self.seed,
            reference_count=self.train_data.usual_count(),
            example=self.train_data.example(),
            **self._plan(saved),
        )
        if saved:
            self._take_up(saved)
        if self.resume:  # not before: a folder that cannot be gone on with stays as it was
            self._open_folder()

    def _take_up(self, saved: Saved) -> None:
        alike = saved.world_size == self.comm.size and self._reduces_alike(saved)
        own = saved.own_arrays(self.comm.rank) if alike else saved.sums_of_own()
        self.adapter.load_state(saved.arrays(), own, shared=not alike)
        self.step = self._saved_step = saved.step
        self._train_loss = saved.manifest["train_loss"]
        self._updates, self.skipped_steps, self._bad_in_a_row = saved.manifest["updates"]
        self._bad_records.recall(saved.manifest["bad_records"])
        totals = saved.manifest["totals"]
        if len(totals) != self.comm.size:  # another world size: rank 0 takes what all had
            totals = [[sum(column) for column in zip(*totals, strict=True)]]
            totals += [[0.0, 0.0]] * (self.comm.size - 1)
        loss, count = totals[self.comm.rank]
        self.adapter.totals = (loss, count)
        self._tell_rounding(saved.manifest["rounding"])

    def _tell_rounding(self, before: dict[str, Any]) -> None:
        for name, value in self._rounding().items():
            if before.get(name) != value and self.comm.rank == 0:
                _log.warning(
                    "resuming with other %s than before: the run goes on from the same state, but "
                    "its last bits may differ",
                    name,
                )

    def _find_saved(self) -> Saved | None:
        """The checkpoint to resume from, if any."""
        if self._checkpoints is None or not self.resume:
            return None
        saved = self._checkpoints.newest()
        if saved:
            saved.require_same_run(self._identity(), self.num_steps)
        elif self.comm.rank == 0:
            _log.info("there is no checkpoint to resume from in %s", self._checkpoints.folder)
        return saved

    def _open_folder(self) -> None:
        """Begin the run's folder, or take it up again at this step."""
        if self.folder is None:
            return
        if self.comm.rank == 0:
            if self._saved_step is not None:
                self.folder.go_on(self.step)
            else:
                self.folder.begin()
        self._opened = True
        self._call("on_open")

    def _identity(self) -> dict[str, Any]:
        """What decides which records a step trains on."""
        data = self.train_data
        return {
            "seed": self.seed,
            "batch_size": data.batch_size,
            "shuffle": data.shuffle,
            "records": len(data.source),
        }

    def _plan(self, saved: Saved | None) -> dict[str, Any]:
        """The saved bucket plan: the bits of a sum over three ranks or more depend on it, and on
        when it is made anew."""
        if saved is None:
            return {}
        # Other compressions and strategies have other buckets.
        if saved.world_size != self.comm.size or not self._reduces_alike(saved):
            return {"learn_at": saved.step + LEARN_AT}
        plan = saved.manifest["rounding"]["buckets"]
        return {"plan": plan, "learn_at": saved.manifest.get("learns_order_at")}

    def _reduces_alike(self, saved: Saved) -> bool:
        """Whether the saved run's strategy and compression were this one's."""
        return saved.manifest["rounding"].get("reduction") == self.adapter.strategy.reduction()

    def _rounding(self) -> dict[str, Any]:
        """What the order of the run's sums, and so its last bits, depend on."""
        return {
            "framework": self.adapter.framework,
            "threads": self.adapter.threads,
            "launcher": current_job().launcher,
            "accumulate": self.train_data.accumulate,
            "versions": versions(self.adapter.framework),
            "world size": self.comm.size,
            **self.adapter.strategy.describe(),
        }

    def _batches(self) -> Iterator[list[dict]]:
        return self.train_data.batches(
            start=self.step,
            stop=self.num_steps,
            replica=self.adapter.strategy.replica(),
            samples=self.samples,
        )

    def _noted(self, batches: Iterator[Any], next_thing: str) -> Iterator[Any]:
        for batch in batches:
            yield batch
            self._heart.note(next_thing)

    def _train_step(self, microbatches: list[dict]) -> bool:
        self._heart.note(f"step {self.step}")
        start = time.perf_counter()
        result = self.adapter.train_step(
            microbatches,
            step=self.step,
            lr=self.lr(self.step),
            flag=self.stop.number != 0,
            update=self._updates,
        )
        self.step += 1
        self._step_seconds.append(time.perf_counter() - start)
        self._count(result)
        self._call("on_step")
        return result.stop

    def _count(self, result: StepResult) -> None:
        self._updates += result.updated
        self.skipped_steps += result.skipped
        self._bad_in_a_row = self._bad_in_a_row + 1 if result.bad else 0
        if self._bad_in_a_row >= self.max_bad_steps:
            raise HvdkitError(
                f"the gradient was not finite in {self._bad_in_a_row} updates in a row, up to "
                f"number {self.step}: {self._advice()}"
            )

    def lr(self, step: int) -> float:
        """The learning rate of update number `step` (0 is the first)."""
        return self.schedule(
            self.adapter.optimizer.lr,
            step,
            num_steps=self.num_steps,
            workers=self.comm.size,
            steps_per_epoch=len(self.train_data.source) / self.train_data.batch_size,
        )

    def _do_what_is_due(self) -> None:
        if self._due(self.every.log) or self.step == self.num_steps:
            self._log_training()
        if self._due(self.every.evaluation) and self.step < self.num_steps:
            self.evaluate()
        # Not between updates that are skipped: the last good checkpoint is from before them.
        due = self._due(self.every.checkpoint) and not self._bad_in_a_row
        if due and self.step < self.num_steps:
            self.save()

    def _due(self, interval: int | None) -> bool:
        return interval is not None and self.step % interval == 0

    def _finish(self) -> Summary:
        completed = self.step == self.num_steps
        if completed and self.eval_data:
            self.evaluate()
        if self.step != self._saved_step:
            self.save()
        summary = self._summary("completed" if completed else "interrupted", **self._results())
        if self.folder and self.comm.rank == 0:
            self.folder.write_summary(summary)
        self._call("on_end", summary)
        self.adapter.close()
        return summary

    # ---- what a step may be followed by ----------------------------------------------------

    def _log_training(self) -> None:
        totals = {"loss and count": np.array(self.adapter.totals)}
        total = metrics.sum_over_ranks(totals, self.comm, self.adapter.ops, name="log")
        loss, count = total["loss and count"].tolist()
        self.adapter.totals = (0.0, 0.0)
        if count:  # else every update since the last log was skipped
            self._train_loss = loss / count
        self._stop_if_no_number(self._train_loss, "the loss")
        self._record(
            {
                **({"train/loss": loss / count} if count else {}),
                **({"train/skipped_steps": self.skipped_steps} if self.skipped_steps else {}),
                "train/lr": self.lr(self.step - 1),
                **self._speed.since_then(self.step),
            }
        )

    def _stop_if_no_number(self, loss: float | None, what: str) -> None:
        if loss is not None and not math.isfinite(loss):
            raise HvdkitError(f"{what} is {loss} by step {self.step}: {self._advice()}")

    def _advice(self) -> str:
        advice = "lower optimizer.lr, or set trainer.clip_norm"
        with suppress(HvdkitError):  # no checkpoint is whole
            if self._checkpoints and (saved := self._checkpoints.newest()):
                advice += f"; the last good checkpoint is {saved.path}"
        return advice

    def evaluate(self) -> dict[str, float]:
        """Evaluate each record of `eval_data` once over all ranks; the same on every rank."""
        if self.eval_data is None:
            raise HvdkitError("there is no evaluation data")
        start = self._speed.clock()
        self.adapter.average_statistics()
        batches = self.eval_data.batches((self.comm.rank, self.comm.size))
        with self.adapter.averaged_weights():
            batches = self._noted(batches, "evaluating")
            sums = metrics.add(self.adapter.evaluate(batch) for batch in batches)
        totals = metrics.sum_over_ranks(sums, self.comm, self.adapter.ops, name="evaluate")
        self._eval = self.adapter.task.summarize(totals)
        self._stop_if_no_number(self._eval.get("loss"), "the evaluation's loss")
        if self.step != self._saved_step:  # else a run that was finished has told it already
            self._record({f"eval/{name}": value for name, value in self._eval.items()})
        self._speed.leave_out(start)
        return self._eval

    def save(self) -> None:
        """Write a checkpoint of this step, if the run has a folder."""
        if self._checkpoints is None:
            return
        self._heart.note("saving")
        start = self._speed.clock()
        self.adapter.average_statistics()
        path = self._checkpoints.save(self.step, self.adapter.state(), self._about())
        self._saved_step = self.step
        self._call("on_checkpoint", path)
        self._speed.leave_out(start)

    def _about(self) -> dict[str, Any]:
        return {
            **self._identity(),
            "rounding": self._rounding(),
            "learns_order_at": self.adapter.learns_at,
            "totals": self.comm.all_gather_object(self.adapter.totals),
            "train_loss": self._train_loss,
            "updates": [self._updates, self.skipped_steps, self._bad_in_a_row],
            "bad_records": sorted(self._bad_records.met_in_training(self.comm)),
        }

    def _record(self, values: dict[str, float]) -> None:
        record = {
            "step": self.step,
            "epoch": self.train_data.epoch(self.step),
            "time": time.time(),
            **values,
        }
        self._call("on_log", record)

    def _summary(self, status: Status, **results: Any) -> Summary:
        return Summary(
            status=status,
            framework=self.adapter.framework,
            world_size=self.comm.size,
            steps=self.step,
            skipped_steps=self.skipped_steps,
            train_loss=self._train_loss,
            versions=versions(self.adapter.framework),
            **results,
        )

    def _results(self) -> dict[str, Any]:
        """What all ranks work out together when the run ends well."""
        median = statistics.median(self._step_seconds) if self._step_seconds else None
        sent, plain = self.adapter.strategy.wire_bytes()
        return {
            "bad_records": len(self._bad_records.over_ranks(self.comm)),
            "eval": self._eval,
            "samples_per_second": self.train_data.batch_size / median if median else None,
            "step_ms_median": 1000 * median if median else None,
            "wire_ratio": sent / plain if plain else None,
            "weights_sha256": self.adapter.weights_sha256(),
        }

    def _call(self, hook: str, *args: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, hook)(self, *args)
