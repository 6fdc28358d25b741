"""What `himl runs aggregate` costs.

`there`: a sweep of 200 trials with 10 metrics on the double, each request 100 ms late, next to azureml-core, which is asked child by child.
`here`: 1,000 trials with 20 metrics of 100 steps in a local workspace.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import raw
from benchmarks.aggregating.local_sweep import PARENT, record_sweep
from benchmarks.blobs.himl_workspace import HimlWorkspace, himl_workspace
from benchmarks.measure import HIML, clean_environment
from benchmarks.peers import peer_python
from benchmarks.spent import Spent, spend
from tests.servers.azureml.faults import Latency
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.clients import AZUREML_CORE

CHILD_BY_CHILD = str(Path(__file__).with_name("aggregating") / "child_by_child.py")
SWEEP = "sweep_1750000000_0a1b2c3d"
TRIALS, METRICS, STEPS = 200, 10, 20
LATENCY = 0.1
THERE, HERE = "200 trials x 10 metrics there", "1,000 trials x 20 metrics x 100 steps here"
THEIRS, TABLE = "azureml-core, child by child", "himl runs aggregate"
ALL_POINTS, IN_BULK = "himl runs aggregate --json", "himl runs aggregate --json, histories in bulk"
WAYS_HERE = {
    TABLE: [],
    f"{TABLE} --output_csv": ["--output_csv", "m.csv"],
    f"{TABLE} --output_parquet": ["--output_parquet", "m.parquet"],
    ALL_POINTS: ["--json"],
}


Found = dict[str, list[tuple[Spent, int]]]


def measure_there(himl: HimlWorkspace, folder: Path, rounds: int, record: raw.Raw) -> None:
    """What each took, and its requests; azureml-core, which takes minutes, is asked once."""
    values = [{"lr": 0.001 * (number + 1)} for number in range(TRIALS)]
    add_sweep(himl.staged, SWEEP, values, lambda index, _: {f"metric {metric}": [float(index + step) for step in range(STEPS)] for metric in range(METRICS)})
    environment = {**clean_environment(), **himl.staged.environment(), **himl.environment(), "HOME": str(folder), "AZUREML_DEFAULT_RETRIES": "0"}
    python = peer_python(record, AZUREML_CORE, THEIRS, "azureml-core")
    spent_on([HIML, "runs", "list"], environment, himl)  # modules are compiled, the sign-in is remembered as on a working day
    himl.staged.stage.faults.add(Latency(LATENCY), times=None)
    found: Found = {TABLE: [spent_on([HIML, "runs", "aggregate", SWEEP], environment, himl) for _ in range(rounds)]}
    found[ALL_POINTS] = [spent_on([HIML, "runs", "aggregate", SWEEP, "--json"], environment, himl)]
    himl.staged.state.bulk_history = True
    found[IN_BULK] = [spent_on([HIML, "runs", "aggregate", SWEEP, "--json"], environment, himl)]
    if python is not None:
        found[THEIRS] = [spent_on([str(python), CHILD_BY_CHILD, SWEEP], environment, himl)]
    show_there(found)
    for name, rounds_of_it in found.items():
        for number, (spent, requests) in enumerate(rounds_of_it, start=1):
            record.add(THERE, name, number, **asdict(spent), requests=requests)


def show_there(found: Found) -> None:
    walls = {name: statistics.median(spent.wall for spent, _ in rounds) for name, rounds in found.items()}
    print(f"{TRIALS} trials x {METRICS} metrics, {LATENCY * 1000:.0f} ms a request      {'wall s':>8} {'requests':>9} {'times faster':>13}")
    for name, rounds in found.items():
        faster = f"{walls[THEIRS] / walls[name]:13.1f}" if THEIRS in walls else ""
        print(f"{name:45} {walls[name]:8.2f} {rounds[0][1]:9} {faster}")


def spent_on(command: Sequence[str], environment: Mapping[str, str], himl: HimlWorkspace) -> tuple[Spent, int]:
    """What it took, and requests."""
    himl.staged.stage.log.clear()
    return spend(command, environment), len(himl.staged.stage.log.all())


def measure_here(folder: Path, args: argparse.Namespace, record: raw.Raw) -> None:
    """What each way to read the sweep takes."""
    start = time.perf_counter()
    record_sweep(folder, children=args.children, metrics=args.metrics, steps=args.steps)
    size = (folder / ".himl" / "workspace.db").stat().st_size / 1e6
    what = f"{args.children:,} trials x {args.metrics} metrics x {args.steps} steps here"
    print(f"\n{what}: recorded in {time.perf_counter() - start:.1f} s, {size:.0f} MB   {'wall s':>8}")
    os.chdir(folder)
    for name, options in WAYS_HERE.items():
        spent = [spend([HIML, "runs", "aggregate", PARENT, *options], clean_environment()) for _ in range(args.rounds)]
        record.add_spent(HERE, name, spent)
        print(f"{name:60} {statistics.median(one.wall for one in spent):8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["here", "there"])
    parser.add_argument("--children", type=int, default=1000)
    parser.add_argument("--metrics", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    raw.add_option(parser)
    args = parser.parse_args()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name, raw.recording("aggregate", args.raw) as record:
        folder = Path(name)
        if args.only != "here":
            with himl_workspace(folder / "there") as himl:
                measure_there(himl, folder, args.rounds, record)
        if args.only != "there":
            (folder / "here").mkdir()
            measure_here(folder / "here", args, record)
        os.chdir(before)  # the folder is about to go
    sys.stdout.flush()


if __name__ == "__main__":
    main()
