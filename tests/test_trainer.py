"""The loop, on N ranks of NumPy: what is logged, evaluated and saved when, and how it ends."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvdkit.callbacks import Callback, Log
from hvdkit.comm import Comm, SoloComm
from hvdkit.comm.threads import run_ranks
from hvdkit.data import ArraySource
from hvdkit.data.bad_records import BadRecords
from hvdkit.errors import HvdkitError
from hvdkit.optimizers import Adam, Constant, Cosine
from hvdkit.run_folder import RunFolder, Summary
from hvdkit.tasks import Classification
from hvdkit.trainer import Every, Trainer
from tests.numpy_adapter import NumpyAdapter, adapter, eval_data, records, train_data

STEPS = 20


class Recorder(Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []
        self.saved: list[int] = []
        self.steps: list[int] = []

    def on_log(self, trainer, record):
        self.logs.append(record)

    def on_checkpoint(self, trainer, path):
        self.saved.append(trainer.step)

    def on_step(self, trainer):
        self.steps.append(trainer.step)

    def steps_of(self, key: str) -> list[int]:
        return [record["step"] for record in self.logs if key in record]


class StopAt(Callback):
    """Sends this process a signal after a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM):
        self.step, self.number = step, number

    def on_step(self, trainer):
        if trainer.step == self.step:
            os.kill(os.getpid(), self.number)


def trainer(
    comm: Comm | None = None, *, data: Any = None, made: Any = None, **options: Any
) -> Trainer:
    chosen: dict[str, Any] = {
        "eval_data": eval_data(),
        "every": Every(log=5, evaluation=None, checkpoint=None),
        "schedule": Cosine(warmup_steps=3),
    }
    if "num_epochs" not in options:
        chosen["num_steps"] = STEPS
    return Trainer(
        made or adapter(comm or SoloComm()), data or train_data(), **{**chosen, **options}
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    clocks = ("time", "samples_per_second", "comm_fraction")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in clocks} for x in lines]


# ---- what happens when -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "logs", "evaluations", "checkpoints"),
    [
        (Every(log=5), [5, 10, 15, 20], [20], [20]),
        (Every(log=7, evaluation=8), [7, 14, 20], [8, 16, 20], [20]),
        (Every(log=50, evaluation=20, checkpoint=6), [20], [20], [6, 12, 18, 20]),
        (Every(log=1, checkpoint=10), list(range(1, 21)), [20], [10, 20]),
    ],
)
def test_each_happens_at_its_interval_and_at_the_end(
    tmp_path: Path, every: Every, logs: list, evaluations: list, checkpoints: list
) -> None:
    seen = Recorder()
    trainer(every=every, callbacks=[seen], folder=tmp_path).fit()
    assert seen.steps_of("train/loss") == logs
    assert seen.steps_of("eval/loss") == evaluations
    assert seen.saved == checkpoints
    assert seen.steps == list(range(1, STEPS + 1))


def test_epochs_are_as_many_samples_the_last_step_being_short() -> None:
    seen = Recorder()
    summary = trainer(num_epochs=2.0, callbacks=[seen], data=train_data(batch_size=8)).fit()
    assert summary.steps == 13  # 100 samples: 12 batches of 8, and 4
    assert seen.logs[-1]["epoch"] == pytest.approx(2.08)


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    trainer(callbacks=[Log()]).fit()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("both", [{"num_steps": 3, "num_epochs": 1.0}, {"num_steps": None}])
def test_exactly_one_length_is_given(both: dict[str, Any]) -> None:
    with pytest.raises(HvdkitError, match="exactly one of num_steps and num_epochs"):
        trainer(**both)


def test_a_batch_smaller_than_the_world_is_refused_on_all_ranks() -> None:
    def body(comm: Comm) -> None:
        with pytest.raises(HvdkitError, match="batch of 2 cannot be cut into 3"):
            trainer(comm, data=train_data(batch_size=2)).fit()

    run_ranks(3, body)


# ---- the same result -----------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_any_number_of_workers_gives_the_same_curve(ranks: int, accumulate: int) -> None:
    def fit(comm: Comm) -> tuple[list[dict[str, Any]], Summary]:
        seen = Recorder()
        data = train_data(accumulate=accumulate)
        every = Every(log=1, evaluation=4)
        summary = trainer(comm, data=data, callbacks=[seen], every=every).fit()
        return seen.logs, summary

    logs, summary = fit(SoloComm())
    results = run_ranks(ranks, fit)
    for found, expected in zip(results[0][0], logs, strict=True):
        for name in expected.keys() & {"step", "epoch", "train/loss", "train/lr", "eval/accuracy"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-8)
    for _, other in results:
        assert other.eval == results[0][1].eval
        assert other.weights_sha256 == results[0][1].weights_sha256
        assert other.eval["loss"] == pytest.approx(summary.eval["loss"], rel=1e-8)


def test_the_logged_loss_is_the_mean_over_the_steps_since_the_last(tmp_path: Path) -> None:
    each, some = Recorder(), Recorder()
    trainer(every=Every(log=1), callbacks=[each]).fit()
    trainer(every=Every(log=5), callbacks=[some]).fit()
    losses = [record["train/loss"] for record in each.logs if "train/loss" in record]
    grouped = [record["train/loss"] for record in some.logs if "train/loss" in record]
    np.testing.assert_allclose(grouped, np.reshape(losses, (-1, 5)).mean(1))


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("stop", [4, 10, 19])
def test_a_resumed_run_is_an_uninterrupted_one_to_the_bit(
    tmp_path: Path, ranks: int, stop: int
) -> None:
    def fit(comm: Comm, folder: Path, **options: Any) -> Summary:
        made = adapter(comm, precision="fp32", clip_norm=0.5)
        return trainer(comm, made=made, folder=folder, callbacks=[Log()], **options).fit()

    def interrupted(comm: Comm) -> Summary:
        folder = tmp_path / "interrupted"
        # As if killed between the checkpoint at `stop` and the end.
        every = Every(log=5, evaluation=3, checkpoint=stop)
        fit(comm, folder, every=every, keep_checkpoints=9)
        comm.barrier()
        if comm.rank == 0:
            for path in (folder / "checkpoints").glob("step-*"):
                if int(path.name[5:]) > stop:
                    path.rename(folder / path.name)
        comm.barrier()
        return fit(comm, folder, every=every, resume=True)

    every = Every(log=5, evaluation=3, checkpoint=stop)
    whole = run_ranks(ranks, lambda comm: fit(comm, tmp_path / "whole", every=every))
    resumed = run_ranks(ranks, interrupted)
    for one, other in zip(whole, resumed, strict=True):
        assert other.status == "completed"
        assert other.steps == one.steps == STEPS
        assert other.weights_sha256 == one.weights_sha256
        assert other.eval == one.eval
        assert other.train_loss == one.train_loss
    assert metrics(tmp_path / "interrupted") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_is_resumed_at_another_world_size(tmp_path: Path, ranks: int, caplog: Any) -> None:
    first = Every(log=5, checkpoint=10)

    def fit(comm: Comm, steps: int, **options: Any) -> Summary:
        schedule = Cosine(warmup_steps=3)
        return trainer(comm, num_steps=steps, every=first, schedule=schedule, **options).fit()

    whole = trainer(every=first).fit()
    seen = Recorder()
    run_ranks(3, lambda comm: killed_after(comm, tmp_path, 10))
    results = run_ranks(
        ranks, lambda comm: fit(comm, STEPS, folder=tmp_path, resume=True, callbacks=[seen])
    )
    assert seen.steps == list(range(11, STEPS + 1))
    assert [r.getMessage() for r in caplog.records if "last bits may differ" in r.getMessage()] == [
        "resuming with other world size than before: the run goes on from the same state, but "
        "its last bits may differ"
    ]
    assert results[0].eval["loss"] == pytest.approx(whole.eval["loss"], rel=1e-8)
    assert results[0].train_loss == pytest.approx(whole.train_loss, rel=1e-8)


class DieAfter(Callback):
    """Ends the run, on all ranks, by an error in the step after the given one."""

    every_rank = True

    def __init__(self, step: int, error: Exception):
        self.step, self.error = step, error

    def on_step(self, trainer):
        if trainer.step == self.step + 1:
            raise self.error


def killed_after(comm: Comm, folder: Path, step: int) -> None:
    dying = DieAfter(step, HvdkitError("all of us"))
    every = Every(log=5, checkpoint=step)
    with pytest.raises(HvdkitError, match="all of us"):
        trainer(comm, folder=folder, every=every, callbacks=[dying]).fit()


def test_resuming_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    first = trainer(folder=tmp_path, callbacks=[Log()]).fit()
    logged = metrics(tmp_path)
    seen = Recorder()
    again = trainer(folder=tmp_path, resume=True, callbacks=[seen]).fit()
    assert seen.steps == seen.saved == []
    assert again.status == "completed"
    assert (again.steps, again.weights_sha256) == (first.steps, first.weights_sha256)
    assert again.eval == first.eval
    assert metrics(tmp_path) == [r for r in logged if r["step"] <= STEPS]


def test_resuming_nothing_is_a_start(tmp_path: Path) -> None:
    assert trainer(folder=tmp_path, resume=True).fit().steps == STEPS


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"data": lambda: train_data(batch_size=4)}, "batch_size=8, this run has 4"),
        ({"data": lambda: train_data(records(49))}, "records=50, this run has 49"),
        ({"seed": lambda: 5}, "seed=0, this run has 5"),
    ],
)
def test_a_run_over_other_data_is_not_resumed(tmp_path: Path, changed: dict, names: str) -> None:
    trainer(folder=tmp_path).fit()
    options = {name: make() for name, make in changed.items()}
    with pytest.raises(HvdkitError, match=names):
        trainer(folder=tmp_path, resume=True, **options).fit()


@pytest.mark.parametrize("ranks", [1, 3])
def test_two_runs_do_not_share_a_folder(tmp_path: Path, ranks: int) -> None:
    trainer(folder=tmp_path, num_steps=4).fit()
    before = (tmp_path / "summary.json").read_text()

    def body(comm: Comm) -> None:
        with pytest.raises(HvdkitError, match="another run is writing to"):
            trainer(comm, folder=tmp_path, num_steps=4).fit()

    with RunFolder(tmp_path).claim():
        run_ranks(ranks, body)
    assert (tmp_path / "summary.json").read_text() == before
    trainer(folder=tmp_path, num_steps=4).fit()


def test_a_run_is_not_resumed_past_its_end(tmp_path: Path) -> None:
    trainer(folder=tmp_path, num_steps=6).fit()
    with pytest.raises(HvdkitError, match="past the end of this run, which is 4 steps long"):
        trainer(folder=tmp_path, num_steps=4, resume=True).fit()
    assert (tmp_path / "summary.json").exists()


def test_a_run_of_another_optimizer_is_not_resumed(tmp_path: Path) -> None:
    from hvdkit.optimizers import Adam

    trainer(folder=tmp_path).fit()
    made = adapter(optimizer=Adam(lr=0.1))
    with pytest.raises(HvdkitError, match=r"another model or optimizer: optimizer/m/.* absent"):
        trainer(made=made, folder=tmp_path, resume=True).fit()


# ---- how it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    run = trainer(folder=tmp_path, callbacks=[StopAt(7, number)])
    summary = run.fit()
    assert summary.status == "interrupted"
    assert run.stop.number == number
    assert summary.steps == 8  # the step after learns of it together with all other ranks
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "interrupted"
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    whole = trainer().fit()
    resumed = trainer(folder=tmp_path, resume=True).fit()
    assert resumed.status == "completed"
    assert resumed.weights_sha256 == whole.weights_sha256


def poisoned(*steps: int) -> ArraySource:
    """Data whose batches of these numbers (unshuffled, of 8) cannot be learned from."""
    columns = records().take(np.arange(50))
    for step in steps:
        columns["image"][8 * step] = np.inf
    return ArraySource(**columns)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_update_with_a_bad_gradient_is_skipped_by_all_ranks(
    tmp_path: Path, ranks: int, clip_norm: float | None
) -> None:
    class Weights(Callback):
        every_rank = True

        def __init__(self) -> None:
            self.digests: list[str] = []

        def on_step(self, trainer: Trainer) -> None:
            self.digests.append(trainer.adapter.weights_sha256())

    def body(comm: Comm) -> tuple[list[str], Summary]:
        weights = Weights()
        made = trainer(
            comm,
            data=train_data(poisoned(2, 3), shuffle=False),
            made=adapter(comm, clip_norm=clip_norm),
            num_steps=6,
            folder=tmp_path,
            callbacks=[weights, Log()],
            every=Every(log=1),
        )
        return weights.digests, made.fit()

    results = run_ranks(ranks, body)
    for digests, summary in results:
        assert digests == results[0][0]
        assert digests[1] == digests[2] == digests[3]
        assert len(set(digests)) == 4
        assert (summary.status, summary.skipped_steps) == ("completed", 2)
    lines = list(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()))
    assert ["train/loss" in line for line in lines[:6]] == [True, True, False, False, True, True]
    assert [line.get("train/skipped_steps") for line in lines[:6]] == [None, None, 1, 2, 2, 2]
    assert json.loads((tmp_path / "summary.json").read_text())["skipped_steps"] == 2


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_gradients_in_a_row_stop_all_ranks_and_name_the_last_checkpoint(
    tmp_path: Path, ranks: int
) -> None:
    def body(comm: Comm) -> str:
        data = train_data(poisoned(1, 3, 4), shuffle=False)
        every = Every(log=1, checkpoint=3)
        with pytest.raises(HvdkitError, match="in 2 updates in a row, up to number 5") as caught:
            trainer(comm, data=data, folder=tmp_path, every=every, max_bad_steps=2).fit()
        return str(caught.value)

    messages = run_ranks(ranks, body)
    assert len(set(messages)) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("failed", messages[0])
    assert str(tmp_path / "checkpoints/step-00000003") in messages[0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_resumed_run_remembers_its_bad_steps(tmp_path: Path) -> None:
    data = train_data(poisoned(1, 2, 3, 4), shuffle=False)
    trainer(data=data, folder=tmp_path, num_steps=3).fit()
    again = trainer(data=data, folder=tmp_path, num_steps=6, resume=True, max_bad_steps=3)
    with pytest.raises(HvdkitError, match="in 3 updates in a row, up to number 4"):
        again.fit()
    assert again.skipped_steps == 3


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_batch_of_bad_records_alone_changes_nothing(ranks: int, clip_norm: float | None) -> None:
    columns = records().take(np.arange(50))
    weight = np.ones(50)
    weight[8:16] = 0  # all of the second batch

    def body(comm: Comm) -> tuple[str, Summary]:
        data = train_data(ArraySource(**columns, weight=weight), shuffle=False)
        first, both = (
            Trainer(adapter(comm, clip_norm=clip_norm), data, num_steps=steps) for steps in (1, 2)
        )
        first.fit()
        return first.adapter.weights_sha256(), both.fit()

    for digest, summary in run_ranks(ranks, body):
        assert summary.weights_sha256 == digest
        assert summary.skipped_steps == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_skipped_steps_are_no_updates_to_the_optimizer() -> None:
    """Adam's first update is its first, however many steps were skipped before it."""
    data = {bad: train_data(poisoned(*bad), shuffle=False) for bad in ((), (0, 1, 2))}
    sizes = []
    for bad, batches in data.items():
        made = trainer(
            data=batches,
            made=adapter(optimizer=Adam(lr=0.01)),
            num_steps=len(bad) + 1,
            schedule=Constant(),
            eval_data=None,
        )
        made.adapter.setup(seed=0, reference_count=8, example=batches.example())
        before = made.adapter.model.variables["head.weight"].copy()
        made.fit()
        sizes.append(np.abs(made.adapter.model.variables["head.weight"] - before).max())
    assert sizes[0] == pytest.approx(0.01, rel=1e-3)
    assert sizes[1] == pytest.approx(0.01, rel=1e-3)


def test_overflows_that_a_smaller_scale_may_mend_do_not_end_a_run() -> None:
    class Overflows(NumpyAdapter):
        """Its gradient overflows while the loss scale is above 4."""

        def backward(self, batch: Any, *, last: bool) -> Any:
            assert self._loss_scale
            if self._loss_scale.value > 4:
                batch = {**batch, "image": np.full_like(batch["image"], np.inf)}
            return super().backward(batch, last=last)

    template = adapter()
    made = Overflows(
        model=template.model,
        task=template.task,
        optimizer=template.optimizer,
        strategy=template.strategy,
        comm=SoloComm(),
        precision="fp16",
    )
    with np.errstate(all="ignore"):
        summary = Trainer(made, train_data(), num_steps=20, max_bad_steps=3).fit()
    assert (summary.status, summary.skipped_steps) == ("completed", 13)  # from 2**15 to 2**2


def test_a_resumed_run_still_counts_the_records_it_had_left_out(tmp_path: Path) -> None:
    def run(steps: int, place: str, **options: Any) -> int:
        bad = BadRecords("skip")
        bad.report("file:3", "met whenever it is read")

        class Meets(Callback):
            def on_step(self, trainer: Trainer) -> None:
                bad.report(place, "met in training")

        made = trainer(
            folder=tmp_path, num_steps=steps, bad_records=bad, callbacks=[Meets()], **options
        )
        return made.fit().bad_records

    assert run(3, "a.jpg") == 2
    assert run(6, "b.jpg", resume=True) == 3


def test_a_record_that_one_rank_cannot_read_is_named_in_the_summary(tmp_path: Path) -> None:
    class Torn(Callback):
        every_rank = True

        def on_step(self, trainer: Trainer) -> None:
            if trainer.comm.rank == 1:
                BadRecords("error").report("7.jpg", "it cannot be decoded")

    with pytest.raises(HvdkitError, match=r"7\.jpg: it cannot be decoded"):
        run_ranks(2, lambda comm: trainer(comm, folder=tmp_path, callbacks=[Torn()]).fit())
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["error"].startswith("rank 1: BadRecord: 7.jpg: it cannot be decoded")


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_loss_that_is_no_number_stops_all_ranks(ranks: int) -> None:
    class Overflowing(Classification):
        """Its gradient is finite, its loss is not."""

        def losses(self, ops: Any, outputs: Any, batch: Any) -> Any:
            return super().losses(ops, outputs, batch) + np.inf

    def body(comm: Comm) -> str:
        made = adapter(comm, task=Overflowing(layout="nhwc"))
        with pytest.raises(HvdkitError, match="the loss is inf by step 1") as caught:
            Trainer(made, train_data(), num_steps=3, every=Every(log=1)).fit()
        return str(caught.value)

    assert len(set(run_ranks(ranks, body))) == 1


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_evaluation_whose_loss_is_no_number_ends_the_run(tmp_path: Path, ranks: int) -> None:
    def body(comm: Comm) -> str:
        made = trainer(comm, eval_data=eval_data(poisoned(1)), folder=tmp_path)
        with pytest.raises(HvdkitError, match="the evaluation's loss is nan by step 20") as caught:
            made.fit()
        return str(caught.value)

    assert len(set(run_ranks(ranks, body))) == 1
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["status"] == "failed"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_checkpoint_is_written_between_skipped_updates(tmp_path: Path) -> None:
    seen = Recorder()
    data = train_data(poisoned(2, 3), shuffle=False)
    every = Every(log=1, checkpoint=1)
    trainer(data=data, num_steps=6, folder=tmp_path, callbacks=[seen], every=every).fit()
    assert seen.saved == [1, 2, 5, 6]


def test_records_that_several_ranks_left_out_count_once(tmp_path: Path) -> None:
    def body(comm: Comm) -> int:
        bad = BadRecords("skip")
        for place in ("both", f"mine-{comm.rank}", f"mine-{comm.rank}"):
            bad.report(place, "torn")
        return trainer(comm, folder=tmp_path, bad_records=bad).fit().bad_records

    assert run_ranks(3, body) == [4, 4, 4]
    assert json.loads((tmp_path / "summary.json").read_text())["bad_records"] == 4


def test_averaged_weights_are_what_is_evaluated(tmp_path: Path) -> None:
    class Weights(Callback):
        def __init__(self) -> None:
            self.average: dict[str, np.ndarray] = {}
            self.weights: dict[str, np.ndarray] = {}

        def on_start(self, trainer: Trainer) -> None:
            self._follow(trainer, 0.0)

        def on_step(self, trainer: Trainer) -> None:
            self._follow(trainer, 0.75)

        def _follow(self, trainer: Trainer, decay: float) -> None:
            for name, x in trainer.adapter.read_trainable().items():
                before = self.average.get(name, 0.0)
                self.average[name] = decay * before + (1 - decay) * x
                self.weights[name] = x.copy()

    weights = Weights()
    made = trainer(made=adapter(ema_decay=0.75), callbacks=[weights])
    summary = made.fit()
    model = made.adapter.model
    for name, x in weights.weights.items():
        np.testing.assert_array_equal(model.variables[name], x)  # put back after evaluating
        np.testing.assert_allclose(
            made.adapter.read_arrays()[f"optimizer/average/{name}"], weights.average[name]
        )
    for name, x in weights.average.items():
        model.variables[name][...] = x
    plain = adapter(model=model)
    (batch,) = eval_data().batches((0, 1))
    sums = plain.evaluate(batch)
    assert summary.eval["loss"] == pytest.approx(float(sums["loss"] / sums["count"]), rel=1e-12)


def test_a_summary_says_what_the_run_came_to(tmp_path: Path) -> None:
    summary = run_ranks(2, lambda comm: trainer(comm, folder=tmp_path).fit())[0]
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["status"] == "completed"
    assert written["world_size"] == 2
    assert written["steps"] == STEPS
    assert written["eval"] == summary.eval
    assert set(written["eval"]) == {"loss", "accuracy", "top5"}
    assert written["samples_per_second"] == pytest.approx(8000 / written["step_ms_median"])
    assert len(written["weights_sha256"]) == 64
    assert {"python", "numpy", "hvdkit"} <= set(written["versions"])
    assert written["error"] is None


def test_an_error_is_raised_as_it_is_and_noted_with_its_rank(tmp_path: Path) -> None:
    dying = DieAfter(2, ZeroDivisionError("mine"))
    with pytest.raises(ZeroDivisionError):
        trainer(folder=tmp_path, callbacks=[dying]).fit()
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["status"] == "failed"
    assert written["error"].startswith("rank 0: ZeroDivisionError: mine")


def test_a_mistake_made_before_the_folder_is_opened_leaves_the_earlier_run_alone(
    tmp_path: Path,
) -> None:
    trainer(folder=tmp_path, callbacks=[Log()]).fit()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for wrong in ({"resume": True, "seed": 5}, {"num_steps": None}):
        with pytest.raises(HvdkitError):
            trainer(folder=tmp_path, **wrong).fit()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


class Waiting(NumpyAdapter):
    """Waits for no other rank in a step, and long in each evaluation and checkpoint."""

    waited = 0.0

    def communication_seconds(self):
        return self.waited

    def average_statistics(self):
        self.waited += 1000.0
        super().average_statistics()


def test_the_waiting_of_evaluations_and_checkpoints_is_not_that_of_steps(tmp_path: Path) -> None:
    plain = adapter()
    made = Waiting(
        model=plain.model,
        task=plain.task,
        optimizer=plain.optimizer,
        strategy=plain.strategy,
        comm=SoloComm(),
    )
    recorder = Recorder()
    every = Every(log=1, evaluation=3, checkpoint=4)
    trainer(made=made, every=every, callbacks=[recorder], folder=tmp_path).fit()
    assert made.waited > 5000
    shares = [record["comm_fraction"] for record in recorder.logs if "comm_fraction" in record]
    assert shares == [0.0] * STEPS
