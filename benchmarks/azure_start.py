"""What `himl` itself spends on commands for Azure ML, on the double, and how many requests it makes.

`first` is a call that remembers nothing, `again` the median of those after it. The double answers from another process's time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks import raw
from benchmarks.blobs.himl_workspace import HimlWorkspace, himl_workspace
from benchmarks.measure import HIML
from benchmarks.spent import Spent, median, spend

FIRST, AGAIN = "first", "again"
RUNS = 300
FILES = 50
RUN = "train_1"


def fill(himl: HimlWorkspace) -> None:
    """Runs to list, and one with artifacts."""
    staged = himl.staged
    for number in range(RUNS):
        staged.add_run(f"many_{number:06d}", "many", tags={"batch": str(number % 8)})
    run = staged.add_run(RUN, "train")
    staged.put_artifacts(run, {f"outputs/file_{number:03d}.bin": b"x" * 1000 for number in range(FILES)})


def commands(folder: Path) -> dict[str, list[str]]:
    """What is called, by the name to show."""
    return {
        "himl --help": [HIML, "--help"],
        "himl runs list": [HIML, "runs", "list", "--json"],
        "himl runs show": [HIML, "runs", "show", RUN, "--json"],
        "himl download": [HIML, "download", RUN, "--output_dir", str(folder), "--quiet"],
        "himl datastore list": [HIML, "datastore", "list", "--quiet"],
    }


def time_command(himl: HimlWorkspace, command: list[str], environment: dict[str, str], folder: Path) -> tuple[Spent, int]:
    """What one call spent, and its requests."""
    shutil.rmtree(folder, ignore_errors=True)
    himl.staged.stage.log.clear()
    spent = spend(command, environment)
    return spent, len(himl.staged.stage.log.all())


def print_row(name: str, spent: Spent, requests: int) -> None:
    print(f"{name:30} {spent.cpu:7.2f} {spent.wall:7.2f} {spent.memory / 1e6:8.0f} {requests:9}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    raw.add_option(parser)
    args = parser.parse_args()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name, himl_workspace(Path(name)) as himl, raw.recording("azure_start", args.raw) as record:
        folder = Path(name) / "out"
        fill(himl)
        os.chdir(name)  # no settings of a project
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HIML_", "AZURE_"))}
        environment = {**clean, **himl.environment()}
        print(f"{sys.version.split()[0]:30} {'CPU s':>7} {'wall s':>7} {'peak MB':>8} {'requests':>9}")
        for label, command in commands(folder).items():
            shutil.rmtree(himl.home, ignore_errors=True)
            first, requests = time_command(himl, command, environment, folder)
            print_row(f"{label}, first", first, requests)
            record.add(FIRST, label, 1, **asdict(first), requests=requests)
            again = [time_command(himl, command, environment, folder) for _ in range(args.rounds)]
            print_row(f"{label}, again", median([spent for spent, _ in again]), max(requests for _, requests in again))
            for number, (spent, requests) in enumerate(again, start=1):
                record.add(AGAIN, label, number, **asdict(spent), requests=requests)
        os.chdir(here)  # the folder is about to go


if __name__ == "__main__":
    main()
