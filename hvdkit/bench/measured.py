"""What `hvdkit bench step` found, as a file's content and as the cost model's input."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hvdkit.bench.measure import ENCODED_FOR, FORMAT, PARTS
from hvdkit.errors import HvdkitError
from hvdkit.gradients.cost import Collective, Message, Work

_TIMES = ("encode", "decode")


def summarize(runs: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]]) -> dict:
    """One result of several equal runs, and of several of one process alone.

    Every part is the median over all steps of the mean over the ranks, in seconds.
    """
    first = runs[0]
    keep = ("framework", "workers", "local_workers", "threads", "batch_size", "host", "versions")
    together = [_over_ranks(run) for run in runs]
    result: dict[str, Any] = {
        "format": FORMAT,
        **{name: first[name] for name in keep},
        "messages": first["messages"],
        "step": _medians([step for run in together for step in run["travelling"]]),
        "silent": _medians([step for run in together for step in run["silent"]]),
        "communication": _mean_median(runs, "alone_on_the_wire"),
        "sum_rate": _mean_median(runs, "sum_rate"),
        "spread": _spread([step for run in together for step in run["travelling"]]),
        "encodings": first["encodings"],
    }
    if alone:
        steps = [step for run in alone for step in _over_ranks(run)["travelling"]]
        result["alone"] = _medians(steps)
        result["alone_batch_size"] = alone[0]["batch_size"]
    return result


def _over_ranks(run: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Each step's parts, as the mean over the ranks."""
    kinds = {}
    for kind in ("travelling", "silent"):
        steps = zip(*(rank["steps"][kind] for rank in run["ranks"]), strict=True)
        kinds[kind] = [_mean(of_ranks) for of_ranks in steps]
    return kinds


def _mean(of_ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {n: statistics.mean(r[n] for r in of_ranks) for n in PARTS}
    found["ready"] = _columns(statistics.mean, [r["ready"] for r in of_ranks])
    return found


def _medians(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not steps:
        return {}
    found: dict[str, Any] = {name: statistics.median(s[name] for s in steps) for name in PARTS}
    found["ready"] = _columns(statistics.median, [step["ready"] for step in steps])
    return found


def _columns(combine: Any, rows: Sequence[Sequence[float]]) -> list[float]:
    return [combine(column) for column in zip(*rows, strict=True)]


def _mean_median(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median(statistics.mean(r[name] for r in run["ranks"]) for run in runs)


def _spread(steps: Sequence[Mapping[str, Any]]) -> list[float]:
    """The quartiles of a step."""
    low, _, high = statistics.quantiles([step["seconds"] for step in steps], n=4)
    return [low, high]


def load(path: Path) -> dict[str, Any]:
    """Read a file that `hvdkit bench step --json` wrote. Raises `HvdkitError`."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise HvdkitError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise HvdkitError(f"{path} is not JSON: give a file of hvdkit bench step --json") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or "step" not in content:
        raise HvdkitError(
            f"{path} is not a file that this version's hvdkit bench step --json wrote"
        )
    return content


def work(measured: Mapping[str, Any], encoding: str, workers: int) -> Work:
    """The measured step as the cost model takes it, with a compression, on so many workers."""
    silent = measured["silent"] or measured["step"]
    few = measured["encodings"][encoding][0]
    costs = _costs(measured["encodings"][encoding], workers)
    messages = [
        # They were stamped from the moment that the batch was there.
        Message(ready=silent["input"] + max(silent["ready"][i] for i in needs), **cost)
        for needs, cost in zip(few["needs"], costs, strict=True)
    ]
    return Work(
        compute=silent["input"] + silent["compute"],
        update=silent["update"],
        messages=tuple(messages),
    )


def _costs(measured: Sequence[Mapping[str, Any]], workers: int) -> list[dict[str, Any]]:
    """Each message's encoding on `workers`, from what it was on `ENCODED_FOR` ranks.

    Seconds lie on a line in the number of ranks (a rank decodes what each other sent, or a
    share of what all sent), bytes on one in its inverse (a rank's share, or the same for all).
    """
    by_ranks = {each["ranks"]: each for each in measured}
    few, many = ENCODED_FOR[-2:]
    if workers in by_ranks:
        few = many = workers
    low, high = by_ranks[few], by_ranks[many]
    found = []
    for i, wires in enumerate(low["wires"]):
        carried = tuple(
            (cast("Collective", kind), _inverse(few, a, many, b, workers))
            for (kind, a), (_, b) in zip(wires, high["wires"][i], strict=True)
        )
        seconds = {n: _line(few, low[n][i], many, high[n][i], workers) for n in _TIMES}
        found.append({"wires": carried, **seconds})
    return found


def _line(few: int, a: float, many: int, b: float, workers: int) -> float:
    """Through (few, a) and (many, b); level where the second is no longer, which is noise."""
    return a + max(0.0, b - a) * (workers - few) / max(1, many - few)


def _inverse(few: int, a: float, many: int, b: float, workers: int) -> float:
    """fixed + share / workers, through both."""
    share = (a - b) / (1 / few - 1 / many) if few != many else 0.0
    return max(0.0, a + share * (1 / workers - 1 / few))
