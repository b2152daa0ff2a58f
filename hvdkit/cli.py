"""The `hvdkit` command: its subcommands, their flags, and how every error reaches the user.

Each subcommand imports what it needs when it runs, so `hvdkit --help` answers at once. Only
the standard library and `hvdkit.errors` are imported here.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from hvdkit import __version__
from hvdkit.errors import HvdkitError

FRAMEWORKS = ("torch", "tensorflow")


class Stopped(BaseException):
    """A signal asked this process to end; children are ended on the way out."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; return the exit status."""
    parsed = parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        return int(parsed.run(parsed))
    except HvdkitError as error:
        print(f"hvdkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nhvdkit: interrupted; everything it had started was ended.", file=sys.stderr)
        return 130
    except Stopped as stopped:
        name = signal.Signals(stopped.number).name
        print(f"hvdkit: stopped by {name}; everything it had started was ended.", file=sys.stderr)
        return 128 + stopped.number
    except BrokenPipeError:
        # The reader of our output (head, less) has left. Python would complain once more when
        # it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def stop(number: int, _: FrameType | None) -> None:
    raise Stopped(number)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="hvdkit", description="Training over Horovod: set it up and judge it."
    )
    top.add_argument("--version", action="version", version=f"hvdkit {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_build_horovod(commands)
    add_doctor(commands)
    return top


def add_build_horovod(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "build-horovod",
        help="build, install and prove Horovod for the installed frameworks",
        description="Fetch the Horovod sources, adapt them to the installed torch, TensorFlow, "
        "MPI and CUDA, build a wheel, install it into this Python environment and prove it "
        "with a 2-rank allreduce in each framework. A wheel once built is kept and used again.",
    )
    command.add_argument(
        "--frameworks",
        type=framework_list,
        metavar="LIST",
        help="torch, tensorflow or torch,tensorflow (default: those installed)",
    )
    mpi = command.add_mutually_exclusive_group()
    mpi.add_argument("--mpi", action="store_true", default=None, help="insist on MPI")
    mpi.add_argument("--no-mpi", dest="mpi", action="store_false", help="build with Gloo alone")
    gpu = command.add_mutually_exclusive_group()
    gpu.add_argument("--gpu", action="store_true", default=None, help="insist on CUDA and NCCL")
    gpu.add_argument("--no-gpu", dest="gpu", action="store_false", help="CPU operations alone")
    command.add_argument(
        "--cuda-arch",
        type=architecture_list,
        default=(),
        metavar="LIST",
        help="GPU architectures to compile for, as in 80,90 (default: this machine's)",
    )
    command.add_argument(
        "--jobs", type=positive, metavar="N", help="compilers at a time (default: one a core)"
    )
    command.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where wheels and logs are kept (default: $HVDKIT_CACHE or ~/.cache/hvdkit)",
    )
    command.add_argument("--force", action="store_true", help="build even if a wheel is kept")
    command.add_argument(
        "--no-install", dest="install", action="store_false", help="only make the wheel"
    )
    command.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    command.set_defaults(run=run_build_horovod)


def add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "doctor",
        help="say what is installed, what is wrong, and what to do about it",
        description="Look at Python, the frameworks, MPI, Horovod, the build tools, cores and "
        "GPUs. Each line has a verdict and, where something is wrong, the remedy. The exit "
        "status is 1 if training would fail.",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument(
        "-np", type=positive, metavar="N", help="ranks that you mean to run on this machine"
    )
    command.set_defaults(run=run_doctor)


def run_build_horovod(parsed: argparse.Namespace) -> int:
    from rich.console import Console

    from hvdkit.install.build import Options, build_horovod
    from hvdkit.install.plan import Wishes
    from hvdkit.install.progress import Reporter

    wishes = Wishes(
        frameworks=parsed.frameworks,
        mpi=parsed.mpi,
        gpu=parsed.gpu,
        cuda_arch=parsed.cuda_arch,
    )
    options = Options(
        wishes=wishes,
        cache=parsed.cache_dir.expanduser().absolute() if parsed.cache_dir else None,
        jobs=parsed.jobs,
        force=parsed.force,
        install=parsed.install,
        dry_run=parsed.dry_run,
    )
    try:
        build_horovod(options, Reporter(Console()))
    except OSError as error:
        raise HvdkitError(
            f"The build could not go on: {error}\n"
            "It needs 1 GB in the temporary folder ($TMPDIR) and a cache folder that it may "
            "write (--cache-dir)."
        ) from error
    return 0


def run_doctor(parsed: argparse.Namespace) -> int:
    from hvdkit.install.doctor import run

    return run(as_json=parsed.json, ranks=parsed.np)


def framework_list(text: str) -> tuple[str, ...]:
    """`torch,tensorflow` or either, with or without blanks."""
    names = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if not names:
        raise argparse.ArgumentTypeError("name at least one of torch, tensorflow")
    for name in names:
        if name not in FRAMEWORKS:
            near = difflib.get_close_matches(name, FRAMEWORKS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise argparse.ArgumentTypeError(
                f"unknown framework {name!r} (choose from {', '.join(FRAMEWORKS)}){hint}"
            )
    return names


def architecture_list(text: str) -> tuple[str, ...]:
    """`80,90`, also written `8.0,9.0`."""
    names = tuple(text.replace(".", "").replace(",", " ").split())
    if not names or not all(name.isdigit() and 2 <= len(name) <= 3 for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list like 80,90")
    return names


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
