"""What callbacks write: lines, a log file, and events that TensorBoard's own reader reads."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from hvdkit.callbacks import Callback, Log, Progress, TensorBoard
from hvdkit.comm import Comm
from hvdkit.comm.threads import run_ranks
from hvdkit.trainer import Every, Trainer
from tests.numpy_adapter import adapter, eval_data, train_data


def fit(
    folder: Path, callbacks: list[Callback], comm: Comm | None = None, **options: Any
) -> Trainer:
    trainer = Trainer(
        adapter(comm),
        train_data(),
        num_steps=options.pop("num_steps", 10),
        eval_data=eval_data(),
        folder=folder,
        every=Every(log=2, evaluation=4, checkpoint=4),
        callbacks=callbacks,
        **options,
    )
    trainer.fit()
    return trainer


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    # TensorBoard's reader for places without TensorFlow.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.errors import OutOfRangeError
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        reader = PyRecordReader_New(str(path))
        events = []
        while True:
            try:
                reader.GetNext()
            except OutOfRangeError:
                break
            events.append(Event.FromString(reader.record()))
        assert events[0].file_version == "brain.Event:2"
        for event in events[1:]:
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_every_number_logged_is_a_scalar_in_tensorboard(tmp_path: Path) -> None:
    fit(tmp_path, [Log(), TensorBoard()])
    expected: dict[str, list[tuple[int, Any]]] = {}
    for record in logged(tmp_path):
        for name, value in record.items():
            if name not in ("step", "time"):
                expected.setdefault(name, []).append((record["step"], pytest.approx(value)))
    assert {"train/loss", "train/lr", "eval/loss", "eval/accuracy"} <= set(expected)
    assert scalars(tmp_path) == expected


def test_only_rank_0_writes(tmp_path: Path) -> None:
    run_ranks(3, lambda comm: fit(tmp_path, [Log(), TensorBoard(), Progress()], comm))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    steps = [record["step"] for record in logged(tmp_path) if "train/loss" in record]
    assert steps == [2, 4, 6, 8, 10]


def test_a_line_says_the_step_the_loss_and_the_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "hvdkit"):
        fit(tmp_path, [Log()])
    assert "numpy on 1 worker: steps 0 to 10, batch 8" in caplog.text
    for record in logged(tmp_path):
        (line,) = [
            message
            for message in caplog.messages
            if message.startswith(f"step {record['step']}/10 ")
            and (("eval" in message) == ("eval/loss" in record))
        ]
        for name in record.keys() & {"train/loss", "eval/loss"}:
            assert f"{name.split('/')[1]} {record[name]:.4f}" in line
    assert f"completed at step 10, in {tmp_path}" in caplog.text
    written = (tmp_path / "train.log").read_text()
    assert all(message in written for message in caplog.messages if message.startswith("step"))


def test_the_log_file_is_let_go(tmp_path: Path) -> None:
    before = list(logging.getLogger("hvdkit").handlers)
    fit(tmp_path, [Log()])
    assert logging.getLogger("hvdkit").handlers == before
