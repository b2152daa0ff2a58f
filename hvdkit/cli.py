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
from hvdkit.bench.flags import add_bench
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
    add_launch(commands)
    add_report(commands)
    add_bench(commands)
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


def add_launch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "launch",
        help="start a job's ranks on one host or many, and see it to its end",
        usage="hvdkit launch [-np N] [-H HOST:SLOTS,...] [flags] PROGRAM.py [ARGUMENT...]",
        description="Start a program on N ranks: through mpirun, Horovod's Gloo launcher, or srun "
        "inside a Slurm allocation. Ctrl-C or SIGTERM lets the ranks finish their step and write a "
        "checkpoint, and ends with status 130 or 143; a second Ctrl-C kills. A rank that stands "
        "still ends the job (status 124), with the stacks of all ranks. No process is left.",
    )
    command.add_argument(
        "-np", type=positive, metavar="N", help="ranks (default: one a slot of the given hosts)"
    )
    hosts = command.add_mutually_exclusive_group()
    hosts.add_argument("-H", dest="hosts", metavar="LIST", help="hosts and slots, as in a:4,b:4")
    hosts.add_argument(
        "--hostfile",
        type=Path,
        metavar="FILE",
        help="a line NAME slots=N a host (default: Slurm's nodes, the MPI operator's "
        "/etc/mpi/hostfile, or this machine)",
    )
    how = command.add_mutually_exclusive_group()
    for name, words in (
        ("mpi", "through mpirun (the default outside of Slurm)"),
        ("gloo", "through horovodrun's Gloo launcher, without MPI"),
        ("srun", "through srun (the default inside a Slurm allocation)"),
    ):
        how.add_argument(f"--{name}", dest="launcher", action="store_const", const=name, help=words)
    command.add_argument("--ssh-port", type=positive, metavar="PORT", help="of the other hosts")
    command.add_argument(
        "--network-interfaces", metavar="LIST", help="for the ranks' traffic, as in eth0,ib0"
    )
    command.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a variable for every rank (the environment itself is passed on)",
    )
    command.add_argument(
        "--stall-timeout",
        type=seconds,
        metavar="S",
        help="seconds without progress after which the job is ended (default: the config's "
        "launch.stall_timeout)",
    )
    command.add_argument(
        "--grace",
        type=seconds,
        default=8.0,
        metavar="S",
        help="seconds after which a job that was asked to stop and does not come on is killed; "
        "one that does, or writes a checkpoint, has 120 (default: 8)",
    )
    command.add_argument(
        "--wait-for-hosts",
        type=seconds,
        default=0.0,
        metavar="S",
        help="seconds in which hosts that are still starting are tried again (default: none)",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="print the command and its environment, start nothing",
    )
    command.add_argument(
        "-m", dest="module", nargs=argparse.REMAINDER, default=[], help="launch a Python module"
    )
    command.add_argument("program", nargs=argparse.REMAINDER, help="PROGRAM.py or a command")
    command.set_defaults(run=run_launch)


def run_launch(parsed: argparse.Namespace) -> int:
    from hvdkit.launch.launch import launch

    return launch(parsed)


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "report",
        help="show runs and sweeps: curves, results, differences, step time",
        description="Read the folders of runs, or of sweeps (folders of runs), and write one "
        "HTML file that needs nothing else, no network either. Runs that failed or still go on "
        "are shown as far as they came.",
    )
    command.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="RUN_OR_SWEEP",
        help="a run's folder, or a folder with runs directly below it",
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="where to write it (default: report.html)",
    )
    form.add_argument("--text", action="store_true", help="print it to the terminal instead")
    command.set_defaults(run=run_report)


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


def run_report(parsed: argparse.Namespace) -> int:
    from hvdkit.report import run

    return run(parsed.paths, output=parsed.output, as_text=parsed.text)


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


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


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
