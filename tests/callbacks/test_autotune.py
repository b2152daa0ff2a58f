"""Autotune on NumPy ranks: what is tried, what all ranks agree on, and what later runs reuse."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from hvdkit.callbacks import Autotune, Tuning
from hvdkit.callbacks.autotune import Memory
from hvdkit.comm import Comm, SoloComm
from hvdkit.comm.threads import run_ranks
from hvdkit.errors import HvdkitError
from hvdkit.gradients.compression import Int8Compression, NoCompression, TopKCompression
from hvdkit.strategies import AllReduce
from hvdkit.trainer import Every, Trainer
from tests.numpy_adapter import NumpyAdapter, adapter, train_data

SMALL = 1e-6  # MB, so that each parameter has a bucket of its own


class Clock(threading.local):
    """A time of each rank's own, which only steps move on."""

    seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds


clock = Clock()


class Slow(NumpyAdapter):
    """Its steps take longer the fewer its buckets are, most of all on the last rank."""

    def run_step(self, *args: Any) -> Any:
        clock.seconds += 0.004 * (1 + self.comm.rank) / len(self.strategy.buckets)
        return super().run_step(*args)


def fit(comm: Comm, folder: Path, *, cache: Path, made: Any = Slow, **options: Any) -> Any:
    strategy = AllReduce(compression=NoCompression(), bucket_mb=options.pop("bucket_mb", 4.0))
    ours = adapter(comm, strategy=strategy)
    ours.__class__ = made
    memory = Memory({"model": "linear"}, cache=cache, folder=folder)
    found = memory.recall(resume=options.get("resume", False))
    tuning = Autotune(memory, found, steps=3, compressions=options.pop("compressions", ()))
    trainer = Trainer(
        ours, train_data(), folder=folder, callbacks=[tuning], **{"num_steps": 90, **options}
    )
    return trainer.fit(), ours


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvdkit.callbacks.autotune._BUCKETS_MB", (4.0, SMALL, 8.0))
    monkeypatch.setattr("hvdkit.callbacks.autotune.time", clock)


def test_all_ranks_go_on_with_what_is_fastest_on_the_slowest(tmp_path: Path, buckets: None) -> None:
    folder, cache = tmp_path / "run", tmp_path / "cache"
    results = run_ranks(2, lambda comm: fit(comm, folder, cache=cache))
    assert [len(ours.strategy.buckets) for _, ours in results] == [2, 2]
    assert results[0][0].weights_sha256 == results[1][0].weights_sha256
    found = json.loads((folder / "autotune.json").read_text())
    assert found["chosen"]["bucket_mb"] == SMALL
    tried = {trial["settings"]["bucket_mb"]: trial["step_ms"] for trial in found["trials"]}
    assert tried == pytest.approx({4.0: 8.0, SMALL: 4.0}), "the slowest's; 8 MB are one bucket too"
    assert {trial["settings"]["overlap"] for trial in found["trials"]} == {True, False}
    (kept,) = (cache / "autotune").iterdir()
    assert json.loads(kept.read_text()) == found


def test_trial_steps_are_real_steps(tmp_path: Path, buckets: None) -> None:
    """What a run comes to is what it comes to without: two ranks add up in one order."""
    tuned = run_ranks(2, lambda comm: fit(comm, tmp_path / "tuned", cache=tmp_path / "cache"))

    def plainly(comm: Comm) -> str | None:
        made = adapter(comm, strategy=AllReduce(compression=NoCompression(), bucket_mb=SMALL))
        return Trainer(made, train_data(), num_steps=90).fit().weights_sha256

    assert run_ranks(2, plainly) == [summary.weights_sha256 for summary, _ in tuned]


def test_a_later_run_of_the_kind_tries_nothing_again(tmp_path: Path, buckets: None) -> None:
    cache = tmp_path / "cache"
    run_ranks(2, lambda comm: fit(comm, tmp_path / "first", cache=cache))
    run_ranks(2, lambda comm: fit(comm, tmp_path / "second", cache=cache, bucket_mb=SMALL))
    first, second = (
        json.loads((tmp_path / name / "autotune.json").read_text()) for name in ("first", "second")
    )
    assert second["chosen"] == first["chosen"]
    assert len(second["trials"]) == len(first["trials"]) + 1, "the cycle time of this run"


def test_a_resumed_run_goes_on_with_its_own_choice(tmp_path: Path, buckets: None) -> None:
    def whole(comm: Comm, folder: Path, **options: Any) -> Any:
        every = Every(log=10, checkpoint=80)
        return fit(comm, folder, cache=tmp_path / "cache", every=every, **options)

    run_ranks(2, lambda comm: whole(comm, tmp_path / "run", num_steps=80))
    (kept,) = (tmp_path / "cache/autotune").iterdir()
    kept.unlink()
    resumed = run_ranks(2, lambda comm: whole(comm, tmp_path / "run", resume=True))
    for summary, ours in resumed:
        assert summary.status == "completed"
        assert len(ours.strategy.buckets) == 2


class Heavy(NumpyAdapter):
    """Its steps take longest where gradients are sent as they are."""

    def run_step(self, *args: Any) -> Any:
        plain = isinstance(cast("AllReduce", self.strategy).compression, NoCompression)
        clock.seconds += 0.004 if plain else 0.002
        return super().run_step(*args)


def test_a_compression_is_chosen_where_it_is_allowed(tmp_path: Path, buckets: None) -> None:
    def chosen(folder: Path, **options: Any) -> Any:
        results = run_ranks(
            2, lambda comm: fit(comm, folder / "run", cache=folder, made=Heavy, **options)
        )
        assert results[0][0].weights_sha256 == results[1][0].weights_sha256
        found = json.loads((folder / "run/autotune.json").read_text())
        return found, results[0][1].strategy.compression

    found, compression = chosen(tmp_path / "allowed", compressions=("int8", "fp16"))
    assert found["chosen"]["compression"] == "int8", "the first of two that are as fast"
    assert [t["settings"]["compression"] for t in found["trials"]][-2:] == ["int8", "fp16"]
    assert isinstance(compression, Int8Compression)
    found, compression = chosen(tmp_path / "not")
    assert {trial["settings"]["compression"] for trial in found["trials"]} == {None}
    assert isinstance(compression, NoCompression)


def test_a_run_too_short_chooses_nothing_and_says_so(
    tmp_path: Path, buckets: None, caplog: pytest.LogCaptureFixture
) -> None:
    run_ranks(2, lambda comm: fit(comm, tmp_path / "run", cache=tmp_path, num_steps=10))
    assert "nothing was chosen" in caplog.text
    assert not (tmp_path / "run/autotune.json").exists()


CONFIG: dict[str, Any] = {
    **{name: {"name": "torch"} for name in ("framework", "model", "optimizer", "compression")},
    "strategy": {"bucket_mb": 4.0, "chunk_mb": None, "learn_order": True},
    "data": {"batch_size": 32, "batch_size_per_worker": None},
    "trainer": {
        "resume": False,
        "precision": "fp32",
        "accumulate": 1,
        "clip_norm": None,
        "ema_decay": None,
    },
}


def tuning(folder: Path, **changes: Any) -> tuple[Tuning, Any]:
    """What a run with this config begins with, and the cycle time it has chosen."""
    knobs = {"cycle_time_ms": changes.pop("cycle_time_ms", None)}
    allowed = {"autotune_compressions": changes.pop("allowed", [])}
    config = OmegaConf.create({**CONFIG, "comm": {"autotune": True, **allowed, **knobs}, **changes})
    return Tuning.of(config, folder, knobs), knobs["cycle_time_ms"]


def ranks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK"):
        value = number if name.endswith("SIZE") else 0
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))


def test_each_of_the_first_runs_tries_another_cycle_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the rest take the best of them; another model or number of ranks has its own."""
    monkeypatch.setenv("HVDKIT_CACHE", str(tmp_path / "cache"))
    ranks(monkeypatch, 2)
    taken = []
    for milliseconds in (9.0, 7.0, 8.0, 1.0):
        made, cycle = tuning(tmp_path / "run")
        taken.append(cycle)
        found = made.found or {"chosen": {}, "trials": [], "cycles": []}
        if len(found["cycles"]) < 3:
            found["cycles"].append({"ms": cycle, "step_ms": milliseconds})
        assert made.memory
        made.memory.keep(found)
    assert taken == [None, 2.0, 5.0, 2.0]
    assert tuning(tmp_path / "x", model={"name": "other"})[0].found is None
    assert tuning(tmp_path / "x", cycle_time_ms=3.0)[1] == 3.0
    ranks(monkeypatch, 4)
    assert tuning(tmp_path / "x")[0].found is None


def test_a_later_run_starts_with_the_chosen_compression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HVDKIT_CACHE", str(tmp_path / "cache"))
    ranks(monkeypatch, 2)
    made, _ = tuning(tmp_path / "run", allowed=["topk"])
    chosen = {"bucket_mb": 2.0, "chunk_mb": None, "overlap": False, "compression": "topk"}
    assert made.memory
    made.memory.keep({"trials": [], "cycles": [], "chosen": chosen})
    again, _ = tuning(tmp_path / "x", allowed=["topk"])
    agreed = again.agreed(SoloComm())
    assert isinstance(agreed.pop("compression"), TopKCompression)
    assert agreed == {"bucket_mb": 2.0, "chunk_mb": None}
    assert tuning(tmp_path / "x")[0].found is None, "who does not allow it has not asked the same"


def test_one_worker_has_nothing_to_tune(tmp_path: Path) -> None:
    with pytest.raises(HvdkitError, match=r"comm\.autotune does nothing with one worker"):
        tuning(tmp_path)
