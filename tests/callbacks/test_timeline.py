"""One trace holds every rank's steps and messages, on one clock, and only a window of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hvdkit.callbacks import Timeline
from hvdkit.callbacks.trace import TracedRank, TracedStep, events, horovod_events
from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks
from hvdkit.errors import HvdkitError
from hvdkit.trainer import Trainer
from tests.numpy_adapter import adapter, train_data


def train(folder: Path, timeline: Timeline, comm: Comm | None = None, steps: int = 20) -> Trainer:
    trainer = Trainer(
        adapter(comm), train_data(), num_steps=steps, folder=folder, callbacks=[timeline]
    )
    trainer.fit()
    return trainer


def test_the_file_holds_the_window_of_every_rank(tmp_path: Path) -> None:
    run_ranks(3, lambda comm: train(tmp_path, Timeline(start=4, steps=3), comm))
    trace = json.loads((tmp_path / "timeline.json").read_text())
    assert trace["otherData"]["first_step"] == 4
    # No Horovod carries messages between threads, and the file says so.
    assert "ThreadComm" in trace["otherData"]["without_horovod"]
    for rank in range(3):
        mine = [e for e in trace["traceEvents"] if e["pid"] == rank]
        steps = [e for e in mine if e["ph"] == "X" and re.fullmatch(r"step \d+", e["name"])]
        assert [e["name"] for e in steps] == ["step 4", "step 5", "step 6"]
        for kind in "be":  # each message of each step begins and ends
            ids = [e["id"] for e in mine if e["ph"] == kind]
            assert len(ids) == len(set(ids)) == 3 * len({e["name"] for e in mine if "id" in e})
        for slice_ in (e for e in mine if e["ph"] == "X"):
            # Everything lies within a step: parts are drawn inside of it.
            assert any(
                s["ts"] <= slice_["ts"] + 1
                and slice_["ts"] + slice_["dur"] <= s["ts"] + s["dur"] + 1
                for s in steps
            ), slice_


def test_recording_changes_no_bit(tmp_path: Path) -> None:
    plain = Trainer(adapter(), train_data(), num_steps=20)
    plain.fit()
    recorded = train(tmp_path, Timeline(start=2, steps=3))
    assert recorded.adapter.weights_sha256() == plain.adapter.weights_sha256()


def test_a_window_behind_the_end_is_refused_and_one_across_it_is_cut(tmp_path: Path) -> None:
    with pytest.raises(HvdkitError, match=r"timeline\.start"):
        train(tmp_path, Timeline(start=5), steps=5)
    train(tmp_path, Timeline(start=3, steps=9), steps=5)
    trace = json.loads((tmp_path / "timeline.json").read_text())
    names = {e["name"] for e in trace["traceEvents"] if e["pid"] == 0 and e["ph"] == "X"}
    assert {"step 3", "step 4"} <= names
    assert "step 5" not in names


def step(at: float) -> TracedStep:
    """A step of 10 seconds: 1 of input, 4 of computing, 2 and 1 of waiting, the rest updates."""
    return TracedStep(
        7, at, at + 1, at + 10, [at + 3, at + 5], [at + 5, at + 7.5], [at + 7, at + 8.5]
    )


def test_a_steps_parts_are_what_its_stamps_say() -> None:
    found = events([TracedRank(0, "a", [step(100.0)])], ["bucket 0", "bucket 1"], 100.0)
    parts = {e["name"]: (e["ts"] / 1e6, e["dur"] / 1e6) for e in found if e["ph"] == "X"}
    assert parts["step 7"] == pytest.approx((0, 10))
    assert parts["input"] == pytest.approx((0, 1))
    assert parts["forward and backward"] == pytest.approx((1, 4))
    assert parts["wait for bucket 0"] == pytest.approx((5, 2))
    assert parts["wait for bucket 1"] == pytest.approx((7.5, 1))
    updates = [(e["ts"] / 1e6, e["dur"] / 1e6) for e in found if e["name"] == "update"]
    assert updates == [pytest.approx((7, 0.5)), pytest.approx((8.5, 1.5))]


def test_a_fast_clock_is_set_back() -> None:
    ranks = [TracedRank(0, "a", [step(100.0)]), TracedRank(1, "b", [step(107.5)], offset=7.5)]
    found = events(ranks, ["bucket 0", "bucket 1"], 100.0)
    times = [[e["ts"] for e in found if e["ph"] != "M" and e["pid"] == rank] for rank in (0, 1)]
    assert times[0] == pytest.approx(times[1])


def test_horovods_tensors_become_threads_on_our_time(tmp_path: Path) -> None:
    path = tmp_path / "horovod.json"
    path.write_text(
        json.dumps(
            [
                {
                    "name": "process_name",
                    "ph": "M",
                    "pid": 0,
                    "args": {"start_time_since_epoch_in_micros": 90_000_000},
                },
                {"name": "process_name", "ph": "M", "pid": 3, "args": {"name": "allreduce.x"}},
                {"ph": "B", "name": "ALLREDUCE", "ts": 12_000_000, "pid": 3},
                {"ph": "E", "ts": 13_000_000, "pid": 3},
            ]
        )
    )
    found = horovod_events(path, origin=100.0)
    assert [e["ts"] for e in found if e["ph"] in "BE"] == [2_000_000, 3_000_000]
    (thread,) = (e for e in found if e.get("name") == "thread_name")
    assert thread["args"]["name"] == "allreduce.x"
    assert {e["tid"] for e in found if e["ph"] in "BE"} == {thread["tid"]}
    assert horovod_events(tmp_path / "none.json", origin=0.0) == []
