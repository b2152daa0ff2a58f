"""Folders to report on: runs that were really trained, on NumPy, and files that went bad."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hvdkit.callbacks import Log, TensorBoard
from hvdkit.errors import HvdkitError
from hvdkit.optimizers import SGD
from hvdkit.run_folder import Summary
from hvdkit.trainer import Every, Trainer
from tests.numpy_adapter import adapter, eval_data, train_data


def trained(path: Path, *, num_steps: int = 40, lr: float = 0.1, **options: Any) -> Summary | None:
    """Train on NumPy for some steps in the folder; None if the run failed."""
    trainer = Trainer(
        adapter(optimizer=SGD(lr=lr)),
        train_data(),
        num_steps=num_steps,
        eval_data=eval_data(),
        folder=path,
        every=Every(log=2, evaluation=10, checkpoint=10),
        callbacks=[Log(), TensorBoard()],
        **options,
    )
    try:
        return trainer.fit()
    except HvdkitError:
        return None
    finally:
        configured(path, {"optimizer": {"lr": lr}, "trainer": {"num_steps": num_steps}})


def configured(path: Path, config: Mapping[str, Any], overrides: Sequence[str] = ()) -> None:
    """Write the config that a recipe would."""
    (path / ".hydra").mkdir(parents=True, exist_ok=True)
    (path / ".hydra/config.yaml").write_text(yaml.safe_dump(dict(config)))
    (path / ".hydra/overrides.yaml").write_text(yaml.safe_dump(list(overrides)))


def written(
    path: Path, records: Sequence[Any] = (), summary: Mapping[str, Any] | None = None
) -> Path:
    """A folder with these records, as lines, and this summary, if any."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.jsonl").write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
    )
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def curve(length: int, *, scale: float = 1.0) -> list[dict[str, Any]]:
    """Records of a run whose loss falls."""
    return [
        {
            "step": step,
            "epoch": step / 10,
            "time": 1e9 + step,
            "train/loss": scale * math.exp(-3 * step / length) + 0.01 * (step % 7),
            "train/lr": 0.1,
            "samples_per_second": 100.0 + step % 5,
            "comm_fraction": 0.25,
        }
        for step in range(1, length + 1)
    ]


def job(path: Path, accuracy: float | None, **values: Any) -> Path:
    """A job of a sweep that had these values, and came to this accuracy (None: failed)."""
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
    configured(path, {}, overrides)
    summary: dict[str, Any] = {"status": "failed", "error": "rank 1: RuntimeError: no"}
    if accuracy is not None:
        summary = {"status": "completed", "eval": {"accuracy": accuracy}}
    return written(path, curve(4), {**summary, "framework": "torch", "world_size": 2, "steps": 4})
