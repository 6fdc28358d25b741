"""The amount of work of fixed jobs, in function calls: a count that is the same on every machine, unlike times, but
depends on the version of Python.

It detects additional work per file, run or slide, and work that grows faster than the job.

`python -m tests.guards.test_work NAME FOLDER` prints a JSON list with the calls of a job of size N and of a job of size
2 N, each after a warm-up at a small size. It counts the calls of Python and C functions in all threads.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from tests.services.transfer.stores import MemoryStore
from tests.support.running import write_files

SMALL, BODY = 5, b"x" * 1000
POINTS, METRICS = 10, 10


@dataclass(frozen=True)
class Job:
    """`prepare` creates the input of a job of that size below a folder, and returns the job. `size` is N."""

    size: int
    prepare: Callable[[Path, int], Callable[[], object]]


def store_of(count: int) -> MemoryStore:
    """*count* blobs with the same bytes."""
    return MemoryStore({f"run/{number // 100:03d}/{number:06d}.bin": BODY for number in range(count)})


def plan(folder: Path, size: int) -> Callable[[], object]:
    """Decide on all blobs of a store."""
    from himl_cli.core.events import ignore
    from himl_cli.services.transfer.plan import DownloadPlan, DownloadRequest, TargetFolder, TransferStats
    from himl_cli.services.transfer.state import TransferState

    def run() -> int:
        request, store = DownloadRequest(folder / f"plan_{size}"), store_of(size)
        target = TargetFolder(request.folder)
        with TransferState(request.folder, lambda text: None) as state:
            found = DownloadPlan(store, request, target, state, TransferStats())
            return _expect(sum(1 for _ in found.files(request.filters.select(store), ignore)), size)

    return run


def download_small(folder: Path, size: int) -> Callable[[], object]:
    """Write and check small files."""
    from himl_cli.services.transfer.download import download
    from himl_cli.services.transfer.plan import DownloadRequest

    return lambda: _expect(download(store_of(size), DownloadRequest(folder / f"download_{size}")).files, size)


def runs_list(folder: Path, size: int) -> Callable[[], object]:
    """`himl runs list` with *size* local runs."""
    from tests.support.runs import RecordedRuns

    place = folder / f"runs_{size}"
    RecordedRuns(place).add_many(size)
    return lambda: _command(place, "runs", "list", "--num_runs", "all")


def aggregate(folder: Path, size: int) -> Callable[[], object]:
    """`himl runs aggregate` of *size* trials with METRICS metrics of POINTS points each."""
    from tests.support.runs import RecordedRuns

    place = folder / f"aggregate_{size}"
    recorded = RecordedRuns(place)
    recorded.add("sweep")
    for number in range(size):
        trial = recorded.add(f"sweep_{number}", parent="sweep")
        recorded.log(
            trial,
            [
                (f"metric_{metric}", float(number * step), step, step)
                for metric in range(METRICS)
                for step in range(POINTS)
            ],
        )
    return lambda: _command(place, "runs", "aggregate", "sweep", "--json")


def submit(folder: Path, size: int) -> Callable[[], object]:
    """List a project of *size* files, copy them for a run, look for the files that its script wrote, and move the
    copies to the store.
    """
    from himl_cli.core.jobs import Entry, EntryKind, JobSpec
    from himl_cli.services.submission.snapshot import take_snapshot
    from himl_cli.workspaces.local.code_store import CodeStore
    from himl_cli.workspaces.local.run_folder import RECORD, RunFolder
    from himl_cli.workspaces.local.staging import stage_files

    project, run = folder / f"project_{size}", RunFolder(folder / "runs" / f"run_{size}")
    write_files(project, {f"package_{number % 10}/module_{number}.py": BODY for number in range(size)})

    def work() -> int:
        run.code.mkdir(parents=True)
        snapshot = take_snapshot(project).snapshot
        stage_files(
            JobSpec("digits", Entry(EntryKind.script, "train.py"), snapshot), run.code, is_stopped=lambda: False
        )
        run.write(RECORD, {"in_place": False})
        _expect(len(snapshot.files) + len([*run.files_elsewhere()]), size)
        CodeStore(run.workspace).keep({run.code: str(project)}, run.lock, lambda: True)
        return _expect(len(os.listdir(run.code)), 0)

    return work


JOBS: Mapping[str, Job] = {
    "submit": Job(250, submit),
    "plan": Job(2500, plan),
    "download": Job(250, download_small),
    "runs list": Job(250, runs_list),
    "aggregate": Job(50, aggregate),
}


def calls_of(work: Callable[[], object]) -> int:
    """The number of functions that *work* calls, in this thread and in those that it starts."""
    numbers = itertools.count()

    def note(frame: FrameType, event: str, what: object) -> None:
        if event in ("call", "c_call"):
            next(numbers)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return next(numbers)


def _expect(found: int, wanted: int) -> int:
    assert found == wanted, f"{found} instead of {wanted}"
    return found


def _command(folder: Path, *arguments: str) -> None:
    """A command of himl, in this process. Raises AssertionError if its exit code is not 0."""
    from himl_cli.app import main

    os.chdir(folder)
    sys.argv = ["himl", *arguments]
    try:
        main()
    except SystemExit as end:
        _expect(int(end.code or 0), 0)


MEASURED = {
    (3, 11): {"submit": 103_878, "plan": 164_760, "download": 70_373, "runs list": 161_271, "aggregate": 123_187},
}
"""Calls of the larger job of each pair, by the version of Python. Lower them after a change that reduces the calls."""
SLACK, TWICE = 1.15, 2.1


@pytest.mark.parametrize("name", JOBS)
def test_calls_stay_as_measured_and_grow_with_the_size(name: str, tmp_path: Path) -> None:
    """On a Python without measured calls, only the growth is compared."""
    variables = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tests.guards.test_work", name, str(tmp_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=variables, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    calls, of_twice = json.loads(done.stdout)
    assert of_twice <= TWICE * calls, f"{JOBS[name].size} took {calls:,} calls, and twice as many {of_twice:,}"
    if (measured := MEASURED.get(sys.version_info[:2])) is not None:
        assert of_twice <= SLACK * measured[name], f"{of_twice:,} calls; it was {measured[name]:,}"


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    job = JOBS[name]
    silent, out = os.open(os.devnull, os.O_WRONLY), os.dup(1)
    works = [job.prepare(folder, size) for size in (SMALL, job.size, 2 * job.size)]
    os.dup2(silent, 1)
    # Exclude imports and caches.
    works[0]()
    counts = [calls_of(work) for work in works[1:]]
    os.write(out, json.dumps(counts).encode())


if __name__ == "__main__":
    main()
