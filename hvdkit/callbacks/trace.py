"""A Chrome trace of all ranks' steps, which Perfetto and chrome://tracing open: pure.

The format: "Trace Event Format" (Google, 2016). Times in it are microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STEPS, _HOROVOD = 0, 1_000_000  # a thread of each rank; the process of Horovod's own events
_SHORT = 20e-6  # seconds: what is shorter than this is no slice of its own


@dataclass
class TracedStep:
    """One rank's step, in seconds of its own clock; one entry a message in each list."""

    step: int
    asked_input: float
    began: float
    ended: float
    ready: list[float]
    asked: list[float]
    agreed: list[float]


@dataclass
class TracedRank:
    """What one rank saw; its clock is `offset` (known to `bound`) ahead of rank 0's."""

    rank: int
    host: str
    steps: list[TracedStep] = field(default_factory=list)
    offset: float = 0.0
    bound: float = 0.0


def events(ranks: Sequence[TracedRank], messages: Sequence[str], origin: float) -> list[dict]:
    """Slices of each rank's steps, and an arrow's length of each message from ready to agreed.

    `origin` is the time, on rank 0's clock, that the trace counts from.
    """
    found: list[dict] = []
    for seen in ranks:
        found += _named(seen.rank, f"rank {seen.rank} on {seen.host}", "steps")
        shift = origin + seen.offset
        for step in seen.steps:
            found += [_slice(seen.rank, *part, shift) for part in _parts(step, messages)]
            for i, name in enumerate(messages):
                place = {"cat": "message", "pid": seen.rank, "tid": _STEPS, "name": name}
                place["id"] = f"{seen.rank}.{step.step}.{i}"
                ends = (("b", step.ready[i]), ("e", step.agreed[i]))
                found += [{**place, "ph": ph, "ts": _micros(at, shift)} for ph, at in ends]
    return found


def _parts(step: TracedStep, messages: Sequence[str]) -> list[tuple[str, float, float]]:
    """(name, begin, end) of a step and of what it is made of."""
    computed = max(step.ready, default=step.began)
    parts = [
        (f"step {step.step}", step.asked_input, step.ended),
        ("input", step.asked_input, step.began),
        ("forward and backward", step.began, computed),
    ]
    at = computed
    waits = sorted(zip(step.asked, step.agreed, messages, strict=True))
    for asked, agreed, name in [*waits, (step.ended, step.ended, "")]:
        asked = max(asked, at)  # what is asked for before the backward pass ends hides there
        if asked - at > _SHORT:
            parts.append(("update", at, asked))
        if agreed - asked > _SHORT:
            parts.append((f"wait for {name}", asked, agreed))
        at = max(at, agreed)
    return parts


def horovod_events(path: Path, origin: float) -> list[dict]:
    """Horovod's own trace, its tensors the threads of one process, on our time.

    Empty where Horovod has written nothing.
    """
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    start = next(
        (e["args"]["start_time_since_epoch_in_micros"] for e in given if _says_start(e)), None
    )
    if start is None:
        return []
    found = _named(_HOROVOD, "Horovod on rank 0")
    for event in given:
        args = event.get("args", {})
        if event["ph"] == "M":
            if event["name"] == "process_name" and "name" in args:
                found.append(_thread(_HOROVOD, event["pid"], args["name"]))
        else:
            place = {"pid": _HOROVOD, "tid": event.get("pid", 0)}
            found.append({**event, **place, "ts": event["ts"] + start - origin * 1e6})
    return found


def _says_start(event: dict) -> bool:
    return "start_time_since_epoch_in_micros" in event.get("args", {})


def document(events: list[dict], **about: Any) -> dict[str, Any]:
    """The whole file's content; `about` is what a reader should know of it."""
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _named(pid: int, process: str, thread: str | None = None) -> list[dict]:
    named = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": process}},
        {
            "ph": "M",
            "name": "process_sort_index",
            "pid": pid,
            "tid": 0,
            "args": {"sort_index": pid},
        },
    ]
    return [*named, _thread(pid, _STEPS, thread)] if thread else named


def _thread(pid: int, tid: int, name: str) -> dict:
    return {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}


def _slice(pid: int, name: str, begin: float, end: float, shift: float) -> dict:
    lasting = {"ts": _micros(begin, shift), "dur": max(0.0, 1e6 * (end - begin))}
    return {"ph": "X", "name": name, "pid": pid, "tid": _STEPS, **lasting}


def _micros(at: float, shift: float) -> float:
    return 1e6 * (at - shift)
