"""From what ranks measured to what the cost model predicts of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hvdkit.bench.measure import ENCODED_FOR, PARTS
from hvdkit.bench.measured import load, summarize, work
from hvdkit.bench.predict import predictions
from hvdkit.bench.tables import predict_table, step_notes, step_table
from hvdkit.cli import main
from hvdkit.errors import HvdkitError
from hvdkit.gradients.cost import Cluster, Link

MB = 2**20
SIZES = [4 * MB, 2 * MB]


def step(scale: float, exposed: float = 0.02) -> dict:
    parts = dict(zip(PARTS, (0.2 + exposed, 0.01, 0.15, exposed, 0.04), strict=True))
    return {**{k: scale * v for k, v in parts.items()}, "ready": [0.05 * scale, 0.15 * scale]}


def encoded(kind: str, share: float, seconds: float) -> list[dict]:
    """A compression whose bytes are a share of the bucket's, or of a rank's part of it."""
    found = []
    for ranks in ENCODED_FOR:
        part = 1 / ranks if kind == "all_gather" else 1
        wires = [[[kind, share * part * nbytes]] for nbytes in SIZES]
        times = [seconds * ranks] * len(SIZES)
        shared = {"wires": wires, "needs": [[0], [0, 1]]}
        found.append({"ranks": ranks, "encode": times, "decode": times, **shared})
    return found


def run(workers: int, scale: float = 1.0) -> dict:
    steps = {"travelling": [step(scale)] * 3, "silent": [step(scale, 0.0)] * 3}
    rank = {"steps": steps, "alone_on_the_wire": 0.05, "sum_rate": 4e9}
    return {
        "framework": "torch",
        "workers": workers,
        "local_workers": workers,
        "threads": 1,
        "batch_size": 8 * workers,
        "host": "here",
        "versions": {},
        "messages": [["bucket 0", SIZES[0]], ["bucket 1", SIZES[1]]],
        "ranks": [rank] * workers,
        "encodings": {
            "none": encoded("allreduce", 1.0, 0.0),
            "half": encoded("all_gather", 0.5, 1e-3),
        },
    }


@pytest.fixture
def measured() -> dict:
    return summarize([run(2)], [run(1)])


def test_ranks_are_averaged_and_steps_have_a_median() -> None:
    slow = run(2)
    slow["ranks"] = [slow["ranks"][0], run(2, scale=3.0)["ranks"][0]]
    found = summarize([run(2), slow, slow], [])
    # Six steps of the mean of 1 and 3 among nine.
    assert found["step"]["compute"] == pytest.approx(2 * 0.15)
    assert found["silent"]["ready"] == pytest.approx([0.1, 0.3])
    assert "alone" not in found


def test_work_is_the_silent_step(measured: dict) -> None:
    taken = work(measured, "none", 8)
    assert taken.seconds == pytest.approx(0.2)
    assert [m.ready for m in taken.messages] == pytest.approx([0.06, 0.16])
    assert max(m.ready for m in taken.messages) == pytest.approx(taken.compute)
    assert [m.wires for m in taken.messages] == [(("allreduce", float(n)),) for n in SIZES]


@pytest.mark.parametrize("workers", [2, 3, 8, 512])
def test_encodings_are_carried_on_to_other_numbers_of_workers(measured: dict, workers: int) -> None:
    """Bytes of a rank's share, and seconds that grow with the ranks, as they were made above."""
    for message, nbytes in zip(work(measured, "half", workers).messages, SIZES, strict=True):
        ((kind, brought),) = message.wires
        assert kind == "all_gather"
        assert brought == pytest.approx(0.5 * nbytes / workers)
        assert message.encode == pytest.approx(1e-3 * workers)


def test_every_worker_count_compression_and_algorithm_has_a_row(measured: dict) -> None:
    clusters = [Cluster(workers=n, local_workers=4, network=Link(2e-5, 3e9)) for n in (4, 8, 64)]
    rows = predictions(measured, clusters)
    assert len(rows) == 3 * 2 * 2
    for row in rows:
        assert row["seconds"] >= 0.2
    by_workers = [
        r["seconds"] for r in rows if (r["compression"], r["algorithm"]) == ("none", "ring")
    ]
    assert by_workers == sorted(by_workers)
    predict_table(rows, measured, clusters[0])
    step_table(measured)
    assert any("hidden" in note for note in step_notes(measured))


def test_a_file_is_predicted_from(measured: dict, tmp_path: Path, capsys: Any) -> None:
    path, out = tmp_path / "measured.json", tmp_path / "rows.json"
    path.write_text(json.dumps(measured))
    flags = ["--workers", "1,8,64", "--bandwidth", "25Gbit", "--latency", "20us"]
    status = main(["bench", "predict", "--measured", str(path), *flags, "--json", str(out)])
    assert status == 0
    printed = capsys.readouterr().out
    assert "25 Gbit/s, 20 us" in printed
    rows = json.loads(out.read_text())
    assert {row["workers"] for row in rows} == {1, 8, 64}
    assert all(row["efficiency"] == 1 for row in rows if row["workers"] == 1)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(HvdkitError, match="bench step --json"):
        load(path)


WRONG = {
    "--bandwidth 25Gbitt --latency 20us --workers 8": "25Gbit",
    "--bandwidth 25Gbit --latency 20 --workers 8": "20us",
    "--bandwidth 25Gbit --latency 20us --workers 8,none": "8,64,512",
    "--bandwidth 25Gbit --latency 20us --workers 8 --measured no.json": "no.json cannot be read",
    "--bandwidth 25Gbit --latency 20us --workers 8": "--measured FILE",
    "--bandwidth 25Gbit --latency 20us --workers 10 --local-workers 4 --measured x": "whole hosts",
    "--bandwidth 25Gbit --latency 20us --workers 8 vission": "did you mean vision",
    "--bandwidth 25Gbit --latency 20us --workers 8 vision --compressions itn8": "did you mean int8",
}


@pytest.mark.parametrize("flags", WRONG)
def test_wrong_input_is_one_message(flags: str, capsys: Any) -> None:
    try:
        status: object = main(["bench", "predict", *flags.split()])
    except SystemExit as stopped:  # argparse's own
        status = stopped.code
    assert status not in (0, None)
    error = capsys.readouterr().err
    assert WRONG[flags] in error
    assert "Traceback" not in error


def test_an_allreduce_needs_two(capsys: Any) -> None:
    assert main(["bench", "allreduce", "-np", "1"]) == 1
    assert "two ranks or more" in capsys.readouterr().err
    assert main(["bench", "allreduce", "--smallest", "1M", "--largest", "1K"]) == 1
    assert "above --largest" in capsys.readouterr().err
