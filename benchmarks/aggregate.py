"""What `himl runs aggregate` costs.

`there`: a sweep of 200 trials with 10 metrics on the double, each request 100 ms late, next to azureml-core, which is asked child by child.
Aim: at least 10 times faster. `here`: 1,000 trials with 20 metrics of 100 steps in a local workspace. Aim: under 3 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.aggregating.local_sweep import PARENT, record_sweep
from benchmarks.blobs.himl_workspace import HimlWorkspace, himl_workspace
from benchmarks.measure import HIML, clean_environment
from benchmarks.spent import spend
from tests.clients import AZUREML_CORE, client_python
from tests.servers.azureml.faults import Latency
from tests.servers.azureml.sweep_seeding import add_sweep

CHILD_BY_CHILD = str(Path(__file__).with_name("aggregating") / "child_by_child.py")
SWEEP = "sweep_1750000000_0a1b2c3d"
TRIALS, METRICS, STEPS = 200, 10, 20
LATENCY = 0.1
TIMES_FASTER, SECONDS_HERE = 10.0, 3.0


def measure_there(himl: HimlWorkspace, folder: Path, rounds: int) -> None:
    """Print seconds and requests of each, and how many times faster himl is."""
    values = [{"lr": 0.001 * (number + 1)} for number in range(TRIALS)]
    add_sweep(himl.staged, SWEEP, values, lambda index, _: {f"metric {metric}": [float(index + step) for step in range(STEPS)] for metric in range(METRICS)})
    environment = {**clean_environment(), **himl.staged.environment(), **himl.environment(), "HOME": str(folder), "AZUREML_DEFAULT_RETRIES": "0"}
    spent_on([HIML, "runs", "list"], environment, himl)  # modules are compiled, the sign-in is remembered as on a working day
    himl.staged.stage.faults.add(Latency(LATENCY), times=None)
    ours = [spent_on([HIML, "runs", "aggregate", SWEEP], environment, himl) for _ in range(rounds)]
    series = spent_on([HIML, "runs", "aggregate", SWEEP, "--json"], environment, himl)
    himl.staged.state.bulk_history = True
    bulk = spent_on([HIML, "runs", "aggregate", SWEEP, "--json"], environment, himl)
    theirs = spent_on([str(client_python(AZUREML_CORE)), CHILD_BY_CHILD, SWEEP], environment, himl)
    table = (statistics.median(seconds for seconds, _ in ours), ours[0][1])
    print(f"{TRIALS} trials x {METRICS} metrics, {LATENCY * 1000:.0f} ms a request    {'wall s':>8} {'requests':>9} {'times faster':>13}")
    for name, (seconds, requests) in {
        "azureml-core, child by child": theirs,
        "himl runs aggregate": table,
        "himl ... --json, all points": series,
        "himl ... --json, bulk histories": bulk,
    }.items():
        print(f"{name:43} {seconds:8.2f} {requests:9} {theirs[0] / seconds:13.1f}")
    kept = theirs[0] / table[0] >= TIMES_FASTER
    print(f"aim {TIMES_FASTER:.0f} times: {'kept' if kept else 'MISSED'}\n")


def spent_on(command: Sequence[str], environment: Mapping[str, str], himl: HimlWorkspace) -> tuple[float, int]:
    """Seconds of wall clock, and requests."""
    himl.staged.stage.log.clear()
    return spend(command, environment).wall, len(himl.staged.stage.log.all())


def measure_here(folder: Path, rounds: int, *, children: int, metrics: int, steps: int) -> None:
    """Print what each way to read the sweep takes."""
    start = time.perf_counter()
    record_sweep(folder, children=children, metrics=metrics, steps=steps)
    size = (folder / ".himl" / "workspace.db").stat().st_size / 1e6
    print(f"{children:,} trials x {metrics} metrics x {steps} steps here: recorded in {time.perf_counter() - start:.1f} s, {size:.0f} MB   {'wall s':>8}")
    os.chdir(folder)
    medians = {}
    for name, options in {
        "table": [],
        "--output_csv": ["--output_csv", "m.csv"],
        "--output_parquet": ["--output_parquet", "m.parquet"],
        "--json": ["--json"],
    }.items():
        seconds = [spend([HIML, "runs", "aggregate", PARENT, *options], clean_environment()).wall for _ in range(rounds)]
        medians[name] = statistics.median(seconds)
        print(f"{name:60} {medians[name]:8.2f}")
    print(f"aim {SECONDS_HERE:.0f} s for the table: {'kept' if medians['table'] < SECONDS_HERE else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["here", "there"])
    parser.add_argument("--children", type=int, default=1000)
    parser.add_argument("--metrics", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.only != "here":
            with himl_workspace(folder / "there") as himl:
                measure_there(himl, folder, args.rounds)
        if args.only != "there":
            (folder / "here").mkdir()
            measure_here(folder / "here", args.rounds, children=args.children, metrics=args.metrics, steps=args.steps)
        os.chdir(before)  # the folder is about to go
    sys.stdout.flush()


if __name__ == "__main__":
    main()
