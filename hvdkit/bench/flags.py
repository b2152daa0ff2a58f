"""The command line of `hvdkit bench`. Imports the standard library, units and errors; each
subcommand imports the rest when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hvdkit.bench.units import bandwidth, latency, size, worker_counts

_STEP_EXAMPLES = """examples:
  hvdkit bench step -np 2 recipes/vision.py model=resnet18 data.batch_size=16
  hvdkit bench step nlp framework=tensorflow --json nlp.json
"""
_PREDICT_EXAMPLES = """examples:
  hvdkit bench step -np 2 vision model=resnet18 --json measured.json
  hvdkit bench predict --measured measured.json --workers 8,64,512 --local-workers 8 \\
      --bandwidth 25Gbit --latency 20us
"""


def add_bench(commands: Any) -> None:
    """Add `bench` and its subcommands to the parser's."""
    bench = commands.add_parser(
        "bench",
        help="measure collectives and steps here, predict steps on a cluster",
        description="Measure collectives and training steps on this machine or these hosts, and "
        "predict a step on a cluster before renting it.",
    )
    kinds = bench.add_subparsers(dest="bench", metavar="WHAT", required=True)
    _add_allreduce(kinds)
    _add_step(kinds)
    _add_predict(kinds)


def _add_allreduce(kinds: Any) -> None:
    command = kinds.add_parser(
        "allreduce",
        help="time an allreduce of many sizes, beside raw MPI",
        description="Time Horovod's allreduce of float32 buffers, as hvdkit calls it, and MPI's "
        "own beside it. It starts its ranks itself (-np), or is a rank where a launcher has "
        "started it: horovodrun -np 2 hvdkit bench allreduce. Algorithm bandwidth is size over "
        "time; bus bandwidth is that times 2 (n - 1) / n, what each link carries, whatever the "
        "number n of ranks (the definitions of NVIDIA's nccl-tests).",
    )
    _add_ranks(command)
    command.add_argument(
        "--framework", choices=("torch", "tensorflow"), help="whose Horovod (default: an installed)"
    )
    command.add_argument(
        "--only", choices=("horovod", "mpi"), help="one of the two (default, in a job: horovod)"
    )
    command.add_argument(
        "--smallest", type=size, default=1024, metavar="SIZE", help="as in 4096 or 64KiB (1KiB)"
    )
    command.add_argument("--largest", type=size, default=2**26, metavar="SIZE", help="(64MiB)")
    command.add_argument(
        "--factor", type=_factor, default=4, metavar="N", help="from one size to the next (4)"
    )
    command.add_argument(
        "--seconds", type=_seconds, default=0.3, help="time to spend on each size (0.3)"
    )
    _add_json(command)
    command.add_argument(
        "--plot", type=_plot, metavar="FILE", help="a plot: .png, .svg or .pdf (needs hvdkit[plot])"
    )
    command.set_defaults(run=_run("allreduce"))


def _add_step(kinds: Any) -> None:
    command = kinds.add_parser(
        "step",
        help="say where a recipe's step time goes, beside one process alone",
        description="Train a recipe for some steps on -np ranks and say where the time goes: "
        "input, compute, communication that nothing hides, update. The same ranks also take "
        "steps without communication, and one process alone trains a rank's share of the batch. "
        "Nothing is kept of the runs.",
        epilog=_STEP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_ranks(command)
    _add_measuring(command)
    _add_compressions(command)
    _add_program(command, required=True)
    _add_json(command)
    command.set_defaults(run=_run("step"))


def _add_predict(kinds: Any) -> None:
    command = kinds.add_parser(
        "predict",
        help="predict step time and scaling on a cluster, for each compression",
        description="From what `hvdkit bench step` measured (a file, or a recipe that is measured "
        "now), predict the step on more workers: messages leave as they become ready in the "
        "backward pass and are carried by a ring or a hierarchical allreduce at the latency and "
        "bandwidth given (docs/performance.md has the model and how far it was off).",
        epilog=_PREDICT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--workers", type=worker_counts, required=True, metavar="LIST", help="as in 8,64,512"
    )
    command.add_argument(
        "--bandwidth", type=bandwidth, required=True, help="of a host's link, as in 25Gbit or 3GB"
    )
    command.add_argument(
        "--latency", type=latency, required=True, help="from host to host, as in 20us"
    )
    command.add_argument(
        "--local-workers", type=positive, default=1, metavar="N", help="workers a host (1)"
    )
    command.add_argument(
        "--local-bandwidth",
        type=bandwidth,
        default=10e9,
        metavar="BANDWIDTH",
        help="between workers of a host (default: 10GB)",
    )
    command.add_argument(
        "--local-latency",
        type=latency,
        default=1e-6,
        metavar="LATENCY",
        help="between workers of a host (default: 1us)",
    )
    command.add_argument(
        "--measured", type=Path, metavar="FILE", help="what `hvdkit bench step --json` wrote"
    )
    _add_ranks(command)
    _add_measuring(command)
    _add_compressions(command)
    _add_program(command, required=False)
    _add_json(command)
    command.set_defaults(run=_run("predict"))


def _add_ranks(command: argparse.ArgumentParser) -> None:
    command.add_argument("-np", type=positive, default=2, metavar="N", help="ranks (2)")
    command.add_argument("-H", dest="hosts", metavar="HOSTS", help="as in node1:4,node2:4")


def _add_measuring(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--steps", type=positive, default=20, metavar="N", help="timed steps a round (20)"
    )
    command.add_argument("--rounds", type=positive, default=2, metavar="N", help="rounds (2)")
    command.add_argument(
        "--timeout",
        type=_seconds,
        default=600.0,
        metavar="SECONDS",
        help="for each of its jobs (600)",
    )


def _add_compressions(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--compressions",
        type=lambda text: tuple(text.replace(",", " ").split()),
        metavar="LIST",
        help="as in none,fp16 (default: all)",
    )


def _add_program(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument(
        "program",
        nargs=None if required else "?",
        metavar="RECIPE",
        help="a program with hvdkit's @recipe, or the name of one in recipes/",
    )
    command.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="config overrides, as in model=resnet18"
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")


def _run(name: str) -> Any:
    def run(parsed: argparse.Namespace) -> int:
        import importlib

        return int(importlib.import_module(f"hvdkit.bench.{name}").run(parsed))

    return run


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _factor(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds")
    return value


def _plot(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"{text!r} ends in neither .png, .svg nor .pdf")
    return path
