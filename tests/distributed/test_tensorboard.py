"""TensorBoard itself, started on a folder of runs, serves what metrics.jsonl holds."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.report.folders import trained

# As where there is no TensorFlow: else it is imported, for plugins that nobody asks here.
PROGRAM = """
import sys, types
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")
from tensorboard.main import run_main
run_main()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str, **query: str) -> Any:
    address = f"http://127.0.0.1:{port}/data/{path}?{urlencode(query)}"
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


def wait_for_runs(port: int, server: subprocess.Popen[bytes], names: set[str]) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and server.poll() is None:
        try:
            if names <= set(get(port, "runs")):
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"TensorBoard did not find {names} (exit status {server.poll()})")


def test_tensorboard_serves_the_scalars_of_metrics_jsonl(tmp_path: Path) -> None:
    for name, lr in (("one", 0.1), ("two", 0.2)):
        trained(tmp_path / name, lr=lr, num_steps=20)
    port = free_port()
    command = [sys.executable, "-c", PROGRAM, "--logdir", str(tmp_path)]
    with (tmp_path / "tensorboard.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--host", "127.0.0.1"], stdout=log, stderr=log
        )
    try:
        wait_for_runs(port, server, {"one/tensorboard", "two/tensorboard"})
        for name in ("one", "two"):
            lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            expected: dict[str, dict[int, Any]] = {}  # the epoch is logged twice at a step
            for record in map(json.loads, lines):
                for key, value in record.items():
                    if key not in ("step", "time"):
                        point = {record["step"]: pytest.approx(value, rel=1e-6)}
                        expected.setdefault(key, {}).update(point)
            run = f"{name}/tensorboard"
            tags = get(port, "plugin/scalars/tags")[run]
            assert set(tags) == set(expected)
            assert {"train/loss", "eval/accuracy"} <= set(tags)
            for tag in tags:
                served = get(port, "plugin/scalars/scalars", run=run, tag=tag)
                assert {step: value for _, step, value in served} == expected[tag]
                assert len(served) == len(expected[tag])
    finally:
        server.terminate()
        server.wait(20)
    assert not re.search("Traceback", (tmp_path / "tensorboard.log").read_text())
