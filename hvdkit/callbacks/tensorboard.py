"""TensorBoard events, in TensorBoard's own record format."""

from __future__ import annotations

import os
import socket
import time

from hvdkit.callbacks.base import Callback


class TensorBoard(Callback):
    """Every number of a log event becomes a scalar in the run folder's tensorboard/."""

    def __init__(self):
        self._file = None

    def on_start(self, trainer):
        if trainer.folder is None:
            return
        # Not EventFileWriter: it imports TensorFlow wherever that is installed, which takes
        # seconds in a torch run. The record writer below it does not.
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = trainer.folder.path / "tensorboard"
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = (folder / name).open("wb")
        self._writer = RecordWriter(self._file)
        self._write(file_version="brain.Event:2", wall_time=time.time())

    def on_log(self, trainer, record):
        if self._file is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if name not in ("step", "time")
        ]
        self._write(wall_time=record["time"], step=record["step"], summary=Summary(value=values))

    def close(self):
        if self._file:
            self._writer.close()
            self._file = None

    def _write(self, **event):
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(**event).SerializeToString())
        self._writer.flush()
