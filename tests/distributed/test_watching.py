"""A job with one slow rank: it is named, and the timeline shows who waits for it."""

from __future__ import annotations

import json
import re

import pytest

SLOW = 1


@pytest.fixture(scope="module", params=["torch", "tensorflow"])
def run(request, recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    job = recipe(
        folder,
        f"framework={request.param}",
        "callbacks=stragglers",
        "+callbacks.timeline._target_=hvdkit.callbacks.Timeline",
        "+callbacks.timeline.start=12",
        "+callbacks.timeline.steps=4",
        "comm.timeline=DYNAMIC",
        "comm.bucket_mb=0.1",
        "~data.source",
        "+data.source._target_=tests.distributed.slow.digits_slow_on",
        f"+data.source.rank={SLOW}",
        "+data.source.seconds=0.001",  # 32 records a step
        "data.prefetch=0",
        "trainer.num_steps=30",
        "trainer.log_every=10",
        np=2,
        env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
    )
    code = job.wait()
    assert code == 0, job.output
    return job, folder


def test_the_slow_rank_is_named(run):
    job, folder = run
    records = list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
    records = [record for record in records if "train/lr" in record][1:]  # it compiles at first
    assert [record["straggler/rank"] for record in records] == [SLOW] * 2
    for record in records:
        assert record["straggler/cost_ms"] > 10
        assert record[f"straggler/busy_ms_rank_{SLOW}"] > 30
    lines = re.findall(r"stragglers: rank (\d) is slowest.* last in (\d+) of", job.output)
    assert len(lines) >= 2
    assert all(int(rank) == SLOW for rank, _ in lines[-2:])
    assert all(int(times) >= 8 for _, times in lines[-2:])


def test_the_timeline_shows_the_other_waiting(run):
    _, folder = run
    trace = json.loads((folder / "timeline.json").read_text())
    about = trace["otherData"]
    assert about["first_step"] == 12
    # One machine, one clock: the estimate must find 0 within its bound.
    assert abs(about["clock_offset_seconds"]["1"]) <= about["clock_bound_seconds"]["1"] < 0.05
    slices = {
        rank: [e for e in trace["traceEvents"] if e["pid"] == rank and e["ph"] == "X"]
        for rank in (0, 1)
    }
    for rank, found in slices.items():
        steps = [e for e in found if e["name"].startswith("step ")]
        assert [e["name"] for e in steps] == [f"step {n}" for n in range(12, 16)], rank

    def total(rank, name):
        return sum(e["dur"] for e in slices[rank] if e["name"].startswith(name)) / 1000

    # The slow rank has its data to wait for, the other its gradients.
    assert total(SLOW, "input") > 4 * 15
    assert total(1 - SLOW, "wait for") > 4 * 10
    assert total(1 - SLOW, "wait for") > total(SLOW, "wait for")


def test_horovods_own_timeline_is_in_it_on_the_same_clock(run):
    _, folder = run
    trace = json.loads((folder / "timeline.json").read_text())
    own = [e for e in trace["traceEvents"] if e["pid"] == 1_000_000]
    tensors = {e["args"]["name"] for e in own if e.get("name") == "thread_name"}
    assert any("bucket.0" in name for name in tensors), tensors
    reduces = [e["ts"] for e in own if e["ph"] == "B" and e["name"] == "ALLREDUCE"]
    steps = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["name"].startswith("step ")]
    begin, end = min(e["ts"] for e in steps), max(e["ts"] + e["dur"] for e in steps)
    inside = [ts for ts in reduces if begin <= ts <= end]
    assert len(inside) >= 4 * 3  # some buckets a step
    assert len(inside) >= 0.9 * len(reduces)
