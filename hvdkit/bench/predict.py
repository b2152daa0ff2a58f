"""`hvdkit bench predict`: a measured step on a cluster that is described."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from hvdkit.bench import step
from hvdkit.bench.measured import load, work
from hvdkit.bench.tables import predict_table, print_table
from hvdkit.errors import HvdkitError
from hvdkit.gradients.cost import Algorithm, Cluster, Link, predict

ALGORITHMS: tuple[Algorithm, ...] = ("ring", "hierarchical")


def run(parsed: argparse.Namespace) -> int:
    """Take or make a measurement, and print what it comes to on every number of workers."""
    if (parsed.measured is None) == (parsed.program is None):
        raise HvdkitError("give either a recipe to measure now, or --measured FILE")
    clusters = [_cluster(parsed, workers) for workers in parsed.workers]
    encodings = step.chosen(parsed)
    if parsed.measured:
        measured = load(parsed.measured)
        absent = [n for n in parsed.compressions or () if n not in measured["encodings"]]
        if absent or not measured["encodings"]:
            raise HvdkitError(
                f"{parsed.measured} does not say what {' and '.join(absent) or 'compressions'} "
                "cost: measure again, with --compressions"
            )
        encodings = parsed.compressions or tuple(measured["encodings"])
    else:
        measured = step.measure(parsed, encodings=encodings)
    measured["encodings"] = {name: measured["encodings"][name] for name in encodings}
    rows = predictions(measured, clusters)
    print_table(predict_table(rows, measured, clusters[0]))
    if parsed.json:
        parsed.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _cluster(parsed: argparse.Namespace, workers: int) -> Cluster:
    try:
        return Cluster(
            workers=workers,
            local_workers=parsed.local_workers,
            network=Link(parsed.latency, parsed.bandwidth),
            local=Link(parsed.local_latency, parsed.local_bandwidth),
        )
    except ValueError as error:
        raise HvdkitError(
            f"--workers {workers} --local-workers {parsed.local_workers}: {error}"
        ) from None


def predictions(measured: Mapping[str, Any], clusters: list[Cluster]) -> list[dict[str, Any]]:
    """One row a number of workers, compression and algorithm; times in seconds."""
    rows = []
    for cluster in clusters:
        cluster = _adds_up(cluster, measured)
        for encoding in measured["encodings"]:
            for algorithm in ALGORITHMS[: 1 if cluster.per_host == 1 else 2]:
                found = predict(work(measured, encoding, cluster.workers), cluster, algorithm)
                rows.append(
                    {
                        "workers": cluster.workers,
                        "compression": encoding,
                        "algorithm": algorithm,
                        **found.__dict__,
                    }
                )
    return rows


def _adds_up(cluster: Cluster, measured: Mapping[str, Any]) -> Cluster:
    """The cluster with the speed at which the measured machine adds gradients up."""
    values = {name: getattr(cluster, name) for name in cluster.__dataclass_fields__}
    return Cluster(**{**values, "sum_rate": measured["sum_rate"]})
