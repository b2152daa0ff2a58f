"""`hvdkit bench` on real ranks: what it says of a step adds up, and feeds the prediction."""

from __future__ import annotations

import json
import sys

import pytest

ENV = {"OMP_NUM_THREADS": "1"}
BENCH = [sys.executable, "-m", "hvdkit", "bench"]


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_a_steps_parts_add_up(start, tmp_path, framework):
    path = tmp_path / "measured.json"
    program = ["step", "-np", "2", "vision", f"framework={framework}", "data.batch_size=64"]
    program += ["model.hidden=[512,256]", "comm.bucket_mb=0.5"]
    flags = ["--steps", "6", "--rounds", "1", "--json", str(path), "--compressions", "none,fp16"]
    job = start([*BENCH, *program, *flags], env=ENV, timeout=200)
    assert job.wait() == 0, job.output
    measured = json.loads(path.read_text())
    assert (measured["framework"], measured["workers"]) == (framework, 2)
    assert (measured["batch_size"], measured["alone_batch_size"]) == (64, 32)
    assert len(measured["messages"]) > 1
    for kind in ("step", "silent", "alone"):
        parts = measured[kind]
        whole = sum(parts[name] for name in ("input", "compute", "exposed", "update"))
        # Medians of parts against the median of wholes.
        assert whole == pytest.approx(parts["seconds"], rel=0.5)
        assert all(0 < at <= 1.5 * parts["compute"] + 0.01 for at in parts["ready"])
    assert measured["silent"]["exposed"] < 0.002 + 0.2 * measured["silent"]["seconds"]
    assert measured["communication"] > 0
    assert "communication that nothing hides" in job.output
    # Uncompressed, every bucket is allreduced whole; half precision sends half of that.
    sizes = [nbytes for _, nbytes in measured["messages"]]
    for encoded in measured["encodings"]["none"]:
        assert encoded["wires"] == [[["allreduce", nbytes]] for nbytes in sizes]
    half = measured["encodings"]["fp16"][0]["wires"]
    assert sum(n for wires in half for _, n in wires) <= 1.01 * sum(sizes)

    flags = ["--workers", "2,16", "--bandwidth", "1Gbit", "--latency", "50us"]
    job = start([*BENCH, "predict", "--measured", str(path), *flags], timeout=60)
    assert job.wait() == 0, job.output
    assert "none" in job.output


def test_a_sweep_is_measured_beside_raw_mpi_and_drawn(start, tmp_path):
    out, plot = tmp_path / "sweep.json", tmp_path / "sweep.svg"
    flags = ["-np", "2", "--largest", "256KiB", "--factor", "16", "--seconds", "0.05"]
    job = start(
        [*BENCH, "allreduce", *flags, "--json", str(out), "--plot", str(plot)], env=ENV, timeout=120
    )
    assert job.wait() == 0, job.output
    sweep = json.loads(out.read_text())
    assert [row["bytes"] for row in sweep["rows"]] == [1024, 16384, 262144]
    for row in sweep["rows"]:
        for way in ("horovod", "mpi"):
            found = row[way]
            assert found["algorithm_bandwidth"] == pytest.approx(row["bytes"] / found["seconds"])
            # On two ranks a link carries what the algorithm reduces.
            assert found["bus_bandwidth"] == pytest.approx(found["algorithm_bandwidth"])
    assert plot.read_text().startswith("<?xml")
    assert "raw MPI" in job.output


def test_a_wrong_override_is_the_recipes_own_message(start):
    job = start([*BENCH, "step", "-np", "2", "vision", "model=resnett"], env=ENV, timeout=100)
    assert job.wait() == 1
    assert job.output.count("did you mean resnet") == 1
    assert "Traceback" not in job.output
