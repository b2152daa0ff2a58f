"""metrics.jsonl, train.log, and a plain line a log event."""

from __future__ import annotations

import logging

from hvdkit.callbacks.base import Callback
from hvdkit.run_folder import append_json

_log = logging.getLogger("hvdkit.run")
_FORMATS = {
    "train/loss": "loss {:.4f}",
    "train/lr": "lr {:.3g}",
    "samples_per_second": "{:,.0f} samples/s",
    "comm_fraction": "waiting {:.0%}",
}


class Log(Callback):
    """Each log event becomes an object in the run folder's metrics.jsonl, and a line.

    Lines go where logging sends them, and to the folder's train.log.
    """

    def __init__(self):
        self._file = None

    def on_open(self, trainer):
        self._file = logging.FileHandler(trainer.folder.path / "train.log")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("hvdkit").addHandler(self._file)

    def on_start(self, trainer):
        workers = f"{trainer.comm.size} worker{'s' if trainer.comm.size > 1 else ''}"
        _log.info(
            "%s on %s: steps %d to %d, batch %d",
            trainer.adapter.framework,
            workers,
            trainer.step,
            trainer.num_steps,
            trainer.train_data.batch_size,
        )

    def on_log(self, trainer, record):
        if trainer.folder:
            append_json(trainer.folder.metrics, record)
        _log.info("%s", line(record, trainer.num_steps))

    def on_end(self, trainer, summary):
        if summary.skipped_steps:
            _log.info("updates skipped for a bad gradient: %d", summary.skipped_steps)
        if summary.bad_records:
            _log.info("bad records left out: %d", summary.bad_records)
        for name, value in summary.eval.items():
            _log.info("test %s %.4f", name, value)
        where = f", in {trainer.folder.path}" if trainer.folder else ""
        _log.info("%s at step %d%s", summary.status, summary.steps, where)

    def close(self):
        if self._file:
            logging.getLogger("hvdkit").removeHandler(self._file)
            self._file.close()
            self._file = None


def line(record: dict, num_steps: int) -> str:
    """A log event in words."""
    parts = [f"step {record['step']}/{num_steps}", f"epoch {record['epoch']:.2f}"]
    for name, value in record.items():
        if name in _FORMATS:
            parts.append(_FORMATS[name].format(value))
        elif name.startswith("eval/"):
            parts.append(f"{name.replace('/', ' ')} {value:.4f}")
    return "  ".join(parts)
