"""What `hvdkit launch` adds to a job beyond mpirun itself.

    python benchmarks/launch_cost.py [--rounds 15] [--ranks 2]

Both start the same ranks of `true`, in turns; the difference of the medians is what looking at the
hosts, the heartbeat's server, taking the output apart and seeing that no process is left cost.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import describe

BIN = Path(sys.executable).parent


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    ranks = ["-np", str(options.ranks)]
    place = ["-H", f"localhost:{options.ranks}"]
    commands = {
        "mpirun": [str(BIN / "mpirun"), *root, *ranks, *place, "true"],
        "hvdkit launch": [str(BIN / "hvdkit"), "launch", *ranks, *place, "true"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            times[name].append(seconds(command))
    print(describe())
    for name, taken in times.items():
        print(
            f"{name:14} median {statistics.median(taken):.3f} s  "
            f"({min(taken):.3f} to {max(taken):.3f})"
        )
    difference = statistics.median(times["hvdkit launch"]) - statistics.median(times["mpirun"])
    print(f"difference     {difference:.3f} s")


if __name__ == "__main__":
    main()
