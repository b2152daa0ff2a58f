"""Step time between hosts with a slow link, printed as ratios to torch's DDP over gloo.

    python benchmarks/links.py [--rate 1gbit] [--hosts 2] [--ranks-per-host 1]

The hosts are network namespaces (`namespaces.py`; root). Contenders take turns, as in step.py;
the bytes that hvdkit says it sent are printed beside those that left through the host's card.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
from namespaces import Host, hosts
from rich import box
from rich.console import Console
from rich.table import Table
from workload import MODELS

HERE = Path(__file__).parent
ALONE = [
    "ddp",
    "ddp_fp16",
    "hvdkit",
    "hvdkit_fp16",
    "hvdkit_bf16",
    "hvdkit_int8",
    "hvdkit_topk",
    "hvdkit_powersgd",
]
TOGETHER = ["ddp", "hvdkit", "hierarchical"]


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console = Console(width=100, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    rounds = []
    with hosts(options.hosts, rate=options.rate) as made:
        for number in range(options.rounds):
            found = {"load": machine.load(), "contenders": {}}
            for name in options.contenders:
                print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
                found["contenders"][name] = _run(made, name, options)
            rounds.append(found)
    console.print(_table(options, rounds))
    if options.json:
        report = {"machine": machine.describe(), "options": vars(options), "rounds": rounds}
        options.json.write_text(json.dumps(report, indent=1, default=str) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", default="1gbit", help="of each host's link (default: 1gbit)")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--ranks-per-host", type=int, default=1)
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--contenders", nargs="+", help="default: all that suit the hosts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="timed steps a round (default: 8)")
    parser.add_argument("--timeout", type=float, default=180, help="seconds a contender may take")
    parser.add_argument("--json", type=Path, help="write every step time here")
    options = parser.parse_args()
    options.contenders = options.contenders or (TOGETHER if options.ranks_per_host > 1 else ALONE)
    return options


def _run(made: list[Host], name: str, options: argparse.Namespace) -> list[dict]:
    """Run one contender once; what each rank measured, in rank order."""
    ranks = options.ranks_per_host * len(made)
    with tempfile.TemporaryDirectory(dir=HERE.parent) as out, Path(out, "log").open("w") as log:
        worker = [sys.executable, str(HERE / "worker_torch.py")]
        worker += [name, options.model, str(options.steps), out]
        processes = []
        try:
            for host, variables, command in _commands(made, name, worker, options.ranks_per_host):
                environ = [f"{key}={value}" for key, value in variables.items()]
                # In a terminal of its own: whatever it starts ends with its host at the latest.
                argv = ["env", *environ, *command]
                processes.append(host.popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            _wait(processes, options.timeout)
        finally:
            for host in made:
                for process in host.processes():
                    process.kill()
        found = [Path(out, f"rank-{rank}.json") for rank in range(ranks)]
        if not all(path.exists() for path in found):
            tail = "\n".join(Path(out, "log").read_text().splitlines()[-15:])
            raise SystemExit(f"{name} did not finish:\n{tail}")
        return [json.loads(path.read_text()) for path in found]


def _commands(made, name, worker, per_host):
    """(host, environment, command) of each process to start by hand."""
    common = {
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(HERE.parent),
    }
    if not name.startswith("ddp"):
        slots = ",".join(f"{host.name}:{per_host}" for host in made)
        launch = [sys.executable, "-m", "hvdkit", "launch", "-H", slots]
        yield made[0], common, [*launch, "--network-interfaces", "eth0", *worker[1:]]
        return
    for rank in range(per_host * len(made)):
        place = {
            "RANK": rank,
            "WORLD_SIZE": per_host * len(made),
            "MASTER_ADDR": made[0].address,
            "MASTER_PORT": 29500,
            "GLOO_SOCKET_IFNAME": "eth0",
        }
        yield made[rank // per_host], {**common, **place}, worker


def _wait(processes, timeout: float) -> None:
    """Until all have ended, one has failed, or time is up."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if any(codes) or all(code == 0 for code in codes):
            return
        time.sleep(0.05)


def _step_ms(ranks: list[dict]) -> float:
    return 1000 * statistics.median(
        statistics.mean(times) for times in zip(*(r["seconds"] for r in ranks), strict=True)
    )


def _table(options: argparse.Namespace, rounds: list[dict]) -> Table:
    per_host, names = options.ranks_per_host, options.contenders
    times = {name: [_step_ms(each["contenders"][name]) for each in rounds] for name in names}
    loads = ", ".join(each["load"] for each in rounds)
    table = Table(
        title=f"{MODELS[options.model].title}\n{options.hosts} hosts x {per_host} ranks, "
        f"links of {options.rate}",
        caption=f"{options.rounds} rounds of {options.steps} steps; load average {loads}",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("contender")
    peers = [peer for peer in ("ddp", "ddp_fp16") if peer in names]
    for heading in ("ms", "range", *(f"/ {peer}" for peer in peers), "MB sent", "MB counted"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in times.items():
        ratios = [
            f"{statistics.median(a / b for a, b in zip(values, times[peer], strict=True)):.2f}"
            for peer in peers
        ]
        last = rounds[-1]["contenders"][name]
        sent = [rank["sent"] for rank in last[:per_host] if rank["sent"] is not None]
        table.add_row(
            name,
            f"{statistics.median(values):.0f}",
            f"{min(values):.0f} to {max(values):.0f}",
            *ratios,
            f"{last[0]['link'] / 1e6:.2f}",
            f"{sum(sent) / 1e6:.2f}" if sent else "",
        )
    return table


if __name__ == "__main__":
    main()
