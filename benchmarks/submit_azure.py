"""What `himl submit --cluster` costs for a snapshot of 200 files, next to azure-ai-ml's `load_job` and `create_or_update`, on the double.

`first`: files and packages that the workspace has never seen, and nothing remembered; `again`: the same submitted once more.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import raw
from benchmarks.blobs.himl_workspace import HimlWorkspace, himl_workspace
from benchmarks.measure import HIML
from benchmarks.spent import spend
from benchmarks.submitting import sdk_submit
from benchmarks.submitting.project import FILES, job_of, make_project

OURS, THEIRS = "himl submit", "azure-ai-ml"
TIMES = ("first", "again")
LONG_PARTS = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.MachineLearningServices/workspaces/[^/?]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)


@dataclass(frozen=True)
class Submit:
    """One submit: seconds of wall clock and of processors, requests in all and without those that put a file."""

    wall: float
    cpu: float
    requests: int
    without_files: int


class Contest:
    """Both candidates on one workspace; each round's project is new to it."""

    def __init__(self, himl: HimlWorkspace, folder: Path) -> None:
        self._himl, self._folder = himl, folder
        self.found: dict[tuple[str, str], list[Submit]] = {(name, time): [] for name in (OURS, THEIRS) for time in TIMES}
        self.lists: dict[tuple[str, str], Sequence[str]] = {}

    def round(self, number: int, *, counts: bool) -> None:
        """Both candidates, each first and again; every other round begins with the other one."""
        for name in (OURS, THEIRS)[:: -1 if number % 2 else 1]:
            shutil.rmtree(self._himl.home, ignore_errors=True)
            project = self._folder / f"{'himl' if name == OURS else 'sdk'}_{number}"
            make_project(project, project.name)
            for time in TIMES:
                submit = self._submit(name, time, project)
                if counts:
                    self.found[name, time].append(submit)

    def _submit(self, name: str, time: str, project: Path) -> Submit:
        state, log = self._himl.staged.state, self._himl.staged.stage.log
        before = len(state.runs)
        log.clear()
        os.chdir(project)
        spent = spend(command_of(name, project), self._environment())
        if len(state.runs) != before + 1:
            sys.exit(f"{name}: {len(state.runs) - before} runs were made by one submit")
        lines = [f"{seen.method} {seen.host}{seen.path}" for seen in log.all()]
        self.lists[name, time] = [LONG_PARTS.sub("…", line) for line in lines]
        files = sum(line.startswith("PUT") and ".blob." in line for line in lines)
        if time == "first" and files < FILES:
            sys.exit(f"{name}: {files} files were uploaded, not {FILES}")
        return Submit(spent.wall, spent.cpu, len(lines), len(lines) - files)

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HIML_", "AZURE_"))}
        return {**clean, **self._himl.staged.environment(), **self._himl.environment(), "HOME": str(self._folder / "home"), "AZURE_CORE_COLLECT_TELEMETRY": "0"}


def command_of(name: str, project: Path) -> list[str]:
    if name == OURS:
        return [HIML, "submit", "--cluster", "cpu-cluster", "-q", "train.py"]
    return [sys.executable, sdk_submit.__file__, str(job_of(project))]


def median(submits: Sequence[Submit]) -> Submit:
    """Of each figure its own median; of requests the most."""
    wall, cpu = statistics.median(one.wall for one in submits), statistics.median(one.cpu for one in submits)
    return Submit(wall, cpu, max(one.requests for one in submits), max(one.without_files for one in submits))


def print_figures(found: Mapping[tuple[str, str], Submit]) -> None:
    """A row a candidate and time, then the ratios."""
    print(f"{sys.version.split()[0]:22} {'wall s':>7} {'CPU s':>7} {'requests':>9} {'without files':>14}")
    for (name, time), one in found.items():
        print(f"{name + ', ' + time:22} {one.wall:7.2f} {one.cpu:7.2f} {one.requests:9} {one.without_files:14}")
    for time in TIMES:
        ours, theirs = found[OURS, time], found[THEIRS, time]
        for what, ratio in (("wall", ours.wall / theirs.wall), ("CPU", ours.cpu / theirs.cpu), ("requests", ours.requests / theirs.requests)):
            print(f"{time} {what:9} ratio {ratio:5.2f}")


def print_requests(lists: Mapping[tuple[str, str], Sequence[str]]) -> None:
    """The requests of the last submit of each kind; files that are put one after another are one line."""
    for (name, time), lines in lists.items():
        print(f"\n{name}, {time}")
        files = [line for line in lines if line.startswith("PUT") and ".blob." in line]
        shown = list(dict.fromkeys(line if line not in files else f"PUT a file ({len(files)} times)" for line in lines))
        print("".join(f"  {line}\n" for line in shown), end="")


def keep(found: Mapping[tuple[str, str], Sequence[Submit]], record: raw.Raw) -> None:
    for (name, time), submits in found.items():
        for number, one in enumerate(submits, start=1):
            record.add(time, name, number, wall=one.wall, cpu=one.cpu, requests=one.requests)
            record.add(f"{time}, beside the files", name, number, requests=one.without_files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    raw.add_option(parser)
    args = parser.parse_args()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name, himl_workspace(Path(name)) as himl, raw.recording("submit_azure", args.raw) as record:
        (Path(name) / "home").mkdir()
        contest = Contest(himl, Path(name) / "projects")
        for number in range(args.rounds + 1):  # the first one is not measured: Python compiles modules then
            contest.round(number, counts=number > 0)
        os.chdir(here)  # the folder is about to go
        keep(contest.found, record)
    found = {key: median(submits) for key, submits in contest.found.items()}
    print_figures(found)
    print_requests(contest.lists)


if __name__ == "__main__":
    main()
