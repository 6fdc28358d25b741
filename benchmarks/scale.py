"""Measure wall time and peak memory by size, with himl and its peers: each size is ten times as large as the one
before.

A peer stops before the size at which its time or its memory would exceed `MOST`, if it continues to grow as between its
last two sizes."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import tifffile
from PIL import Image

from benchmarks import aggregate, montage, slurm, transfer
from benchmarks.blob_services import SMALL_SIZE, Sample, serving
from benchmarks.blob_services import version as nginx_version
from benchmarks.measure import (
    HIML,
    KEY,
    PROGRAMS,
    HimlWorkspace,
    clean_environment,
    himl_workspace,
    new_parser,
    peer_python,
    recording,
    spend,
    turns,
)
from benchmarks.raw import Raw
from benchmarks.runs_list import record_runs
from himl_cli.workspaces.local.run_store import now_ms
from tests.azureml_double.faults import Latency
from tests.azureml_double.seeding import add_sweep
from tests.support.clients import AZUREML_CORE, HI_ML_CPATH
from tests.support.slurm import running_cluster

SIZES: Mapping[str, Sequence[int]] = {
    "blobs": (1_000, 10_000, 100_000, 1_000_000),
    "runs": (100, 1_000, 10_000, 100_000),
    "points": (1_000, 10_000, 100_000, 1_000_000),
    "trials": (10, 100, 1_000, 10_000),
    "Slurm runs": (5, 50, 500),
    "slides": (50, 500, 5_000),
}
MOST = {"wall": 60.0, "memory": 2e9}
SLOW = 10.0
"""A candidate runs only once at a size at which it takes more seconds."""
THEIRS = "azureml-core, Azure ML"
METRICS, STEPS = 4, 10
SLIDES, SHRUNK, WIDTH = 20, 4, 5_000
"""Different slides, the factor by which they are smaller than those of `montage`, and the width of the picture in
pixels.
"""
Calls = Mapping[str, Callable[[], dict[str, float]]]


@dataclass(frozen=True)
class Course:
    """Measures candidates at one size after the other."""

    record: Raw
    rounds: int
    folder: Path
    largest: int

    def sizes(self, subject: str) -> Sequence[int]:
        """The first and, at most `largest` times as large, the other sizes of *subject*."""
        first = SIZES[subject][0]
        return [size for size in SIZES[subject] if size <= first * self.largest]

    def measure(self, subject: str, size: int, calls: Calls) -> None:
        """Run *calls* in turns. At the smallest size, each runs once before, unmeasured."""
        scenario, before = (
            scenario_of(subject, size),
            [scenario_of(subject, each) for each in SIZES[subject] if each < size],
        )
        able = {name: call for name, call in calls.items() if name.startswith("himl") or not self.is_over(name, before)}
        for call in able.values() if not before else ():
            call()
        for number, name in turns(able, self.rounds):
            if number == 1 or max(self.record.values(scenario, name, "wall")) <= SLOW:
                self.record.add(scenario, name, number, **able[name]())

    def is_over(self, name: str, before: Sequence[str]) -> bool:
        """Whether *name* was omitted at the last of the smaller sizes *before*, or would exceed a limit at the next
        one.
        """
        for figure, most in MOST.items():
            values = [self.record.median(scenario, name, figure) for scenario in before[-2:]]
            if not values or None in values:
                return bool(values)
            first, last = values[0] or 0.0, values[-1] or 0.0
            # A linear candidate grows by ten times as much as between the last two sizes
            if last + 10 * (last - first) > most:
                return True
        return False


def scenario_of(subject: str, size: int) -> str:
    return f"{size:,} {subject}"


def measure_blobs(course: Course) -> None:
    """Download one of many blobs, the last in the list, by a glob."""
    subject, record = "blobs", course.record
    tools = transfer.fetch_tools(transfer.CACHE, record)
    record.name_peers(**{"nginx": nginx_version(), "azure-storage-blob": version("azure-storage-blob")})
    content, folder = bytes(SMALL_SIZE), course.folder / "sample"
    sizes = {f"blobs_{size}": size for size in course.sizes(subject)}
    for part in sizes:
        (folder / part).mkdir(parents=True)
        (folder / part / "f0").write_bytes(content)
    md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    sample = Sample(folder, {f"{part}/f0": md5 for part in sizes})
    with (
        himl_workspace(course.folder / "blobs") as himl,
        serving(sample, course.folder / "nginx", {part: size - 1 for part, size in sizes.items()}) as (port, _),
    ):
        environment = himl.environment(
            AZCOPY_LOG_LOCATION=str(course.folder / "log"), AZCOPY_JOB_PLAN_LOCATION=str(course.folder / "plan")
        )
        target = course.folder / "target"

        def download(command: Sequence[str], part: str) -> dict[str, float]:
            target.mkdir()
            spent = spend(command, environment)
            if [path.read_bytes() for path in target.rglob("f0")] != [content]:
                sys.exit(f"{' '.join(command)}: did not download 'f0' of {part}.")
            shutil.rmtree(target)
            return spent

        for part, size in sizes.items():
            task = transfer.Task(tools, himl, "down", part, port, target)
            commands = {
                "himl": [*transfer.himl_command(task), "--include", "f*"],
                **({"rclone": [*transfer.rclone(task), "--include", "f*"]} if tools["rclone"] else {}),
                **({"azcopy": [*transfer.azcopy(task), "--include-pattern", "f*"]} if tools["azcopy"] else {}),
                "azure-storage-blob": [
                    sys.executable,
                    PROGRAMS,
                    "matching_blobs",
                    task.account_url,
                    KEY,
                    part,
                    "f*",
                    str(target),
                ],
            }
            course.measure(
                subject, size, {name: partial(download, command, part) for name, command in commands.items()}
            )


def measure_runs(course: Course) -> None:
    """List runs of one experiment, the newest 100 and all of them, and look for a run by a wrong id."""
    subject = "runs"
    course.record.name_peers(mlflow=version("mlflow"))
    for size in course.sizes(subject):
        folder = course.folder / f"runs_{size}"
        record_runs(folder, size, "digits")
        record_mlflow(folder, size)
        commands = {
            "himl, newest 100": [HIML, "runs", "list", "--num_runs", "100"],
            "himl, all as JSON": [HIML, "runs", "list", "--num_runs", "all", "--json"],
            "himl, a wrong id": ["sh", "-c", '"$0" runs show digits_1750000000_x; test $? -eq 3', HIML],
            "MLflow, newest 100": [sys.executable, PROGRAMS, "search_runs", f"sqlite:///{folder}/mlflow.db", "100"],
            "MLflow, all as JSON": [sys.executable, PROGRAMS, "search_runs", f"sqlite:///{folder}/mlflow.db", "all"],
        }
        environment = {**clean_environment(), "MLFLOW_DISABLE_TELEMETRY": "true"}
        course.measure(
            subject, size, {name: partial(spend, command, environment, folder) for name, command in commands.items()}
        )


def measure_points(course: Course) -> None:
    """Show a run with ten metrics."""
    for size in course.sizes("points"):
        folder = course.folder / f"points_{size}"
        aggregate.record_sweep(folder, 1, 10, size // 10)
        command = [HIML, "runs", "show", f"{aggregate.SWEEP}_0"]
        course.measure("points", size, {"himl": partial(spend, command, clean_environment(), folder)})


def record_mlflow(folder: Path, count: int) -> None:
    """Make MLflow's SQLite store `mlflow.db` in *folder*, with the same runs as `record_runs`, of MLflow's default
    experiment.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))
    store.engine.dispose()
    runs, tags = [], list[tuple[str, str, str]]()
    for number in range(count):
        run_id, start = f"{number:032x}", now_ms()
        runs.append(
            (
                run_id,
                f"trial {number}",
                "LOCAL",
                "",
                "",
                "ada",
                "FINISHED",
                start,
                start + 60_000,
                "",
                "active",
                str(folder / run_id),
                0,
            )
        )
        own = {
            "mlflow.runName": f"trial {number}",
            "mlflow.user": "ada",
            "git_branch": "main",
            "git_commit": f"{number:040x}",
            "fold": str(number % 5),
        }
        tags += [(name, value, run_id) for name, value in own.items()]
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        columns = (
            "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, "
            "end_time, source_version, lifecycle_stage"
        )
        database.executemany(
            f"INSERT INTO runs ({columns}, artifact_uri, experiment_id) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", runs
        )
        database.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?,?,?)", tags)


def measure_trials(course: Course) -> None:
    """Aggregate the trials of a sweep: local ones, and those on the double, which delays each request as in the
    benchmark `aggregate`.
    """
    subject = "trials"
    with himl_workspace(course.folder / "trials") as himl:
        environment = himl.environment(HOME=str(course.folder), AZUREML_DEFAULT_RETRIES="0")
        python = peer_python(course.record, AZUREML_CORE, THEIRS, "azureml-core")
        spend([HIML, "runs", "list"], environment)
        himl.staged.stage.faults.add(Latency(aggregate.LATENCY), times=None)
        for size in course.sizes(subject):
            folder, sweep = course.folder / f"trials_{size}", f"sweep_{1_750_000_000 + size}_0a1b2c3d"
            aggregate.record_sweep(folder, size, METRICS, STEPS)
            add_azure_sweep(himl, sweep, size)
            calls = {
                "himl, local": partial(spend, aggregate.AGGREGATE, clean_environment(), folder),
                "himl, Azure ML": partial(himl.spend, [HIML, "runs", "aggregate", sweep], environment),
                **(
                    {THEIRS: partial(himl.spend, [python, PROGRAMS, "child_by_child", sweep], environment)}
                    if python
                    else {}
                ),
            }
            course.measure(subject, size, calls)


def add_azure_sweep(himl: HimlWorkspace, name: str, trials: int) -> None:
    values = [{"lr": 0.001 * (number + 1)} for number in range(trials)]
    add_sweep(
        himl.staged,
        name,
        values,
        lambda index, _: {
            f"metric {metric}": [float(index + step) for step in range(STEPS)] for metric in range(METRICS)
        },
    )


def measure_slurm(course: Course) -> None:
    """List open runs on a real Slurm, with jobs that are held."""
    subject, project, state = "Slurm runs", course.folder / "project", course.folder / "slurm"
    for folder in (project, state):
        folder.mkdir()
    (project / "job.py").write_text("print('done')\n")
    with running_cluster(state) as cluster:
        course.record.name_peers(slurm=cluster("sbatch", "--version").split()[-1])
        bench, submitted = slurm.Bench(course.record, cluster, project), 0
        for size in course.sizes(subject):
            spend(
                [sys.executable, PROGRAMS, "slurm_jobs", str(size - submitted), slurm.HELD],
                bench.environment(),
                project,
            )
            submitted = size
            bench.wait_for(size)
            commands = {"himl": [HIML, "runs", "list", "--num_runs", "all"], "squeue": ["squeue", "--me"]}
            course.measure(
                subject,
                size,
                {name: partial(spend, command, bench.environment(), project) for name, command in commands.items()},
            )


def measure_slides(course: Course) -> None:
    """Make a montage of a fixed width."""
    subject, result, workers = "slides", course.folder / "result", str(os.cpu_count() or 1)
    python = peer_python(course.record, HI_ML_CPATH, montage.THEIRS, "hi-ml-cpath", "pillow")
    originals = course.folder / "originals"
    make_slides(originals)

    def make(command: Sequence[str]) -> dict[str, float]:
        spent = spend(command, {**clean_environment(), "TMPDIR": str(course.folder)})
        if not (result / "montage.png").exists():
            sys.exit(f"{' '.join(command)}: made no picture.")
        shutil.rmtree(result)
        return spent

    for size in course.sizes(subject):
        slides = course.folder / f"slides_{size}"
        slides.mkdir()
        for number in range(size):
            (slides / f"slide_{number:04}.tiff").hardlink_to(originals / f"{number % SLIDES}.tiff")
        ours = [
            HIML,
            "montage",
            str(slides),
            "--width",
            str(WIDTH),
            "--workers",
            workers,
            "--output_path",
            str(result),
            "-q",
        ]
        theirs = [python, PROGRAMS, "montage", str(slides), montage.PATTERN, str(WIDTH), workers, str(result)]
        commands = {"himl": ours, **({montage.THEIRS: theirs} if python else {})}
        course.measure(subject, size, {name: partial(make, command) for name, command in commands.items()})


def make_slides(folder: Path) -> None:
    """Write slides of two levels, the second of 500 x 375 pixels."""
    folder.mkdir()
    base = montage.textures()
    for number in range(SLIDES):
        picture = Image.fromarray(montage.tissue(base, number)).reduce(SHRUNK)
        with tifffile.TiffWriter(folder / f"{number}.tiff") as file:
            for level in range(2):
                montage.write_level(file, picture, level)


SUBJECTS: Mapping[str, Callable[[Course], None]] = {
    "blobs": measure_blobs,
    "runs": measure_runs,
    "points": measure_points,
    "trials": measure_trials,
    "Slurm runs": measure_slurm,
    "slides": measure_slides,
}


def main() -> None:
    parser = new_parser(__doc__, 3)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SUBJECTS,
        default=SUBJECTS,
        metavar="SUBJECT",
        help=f"only these ({', '.join(SUBJECTS)})",
    )
    parser.add_argument(
        "--largest",
        type=int,
        default=1000,
        metavar="FACTOR",
        help="largest size, relative to the smallest one (default: 1000)",
    )
    args = parser.parse_args()
    with recording("scale", args.raw) as record:
        for subject in args.only:
            with tempfile.TemporaryDirectory(prefix="himl-scale-", ignore_cleanup_errors=True) as name:
                SUBJECTS[subject](Course(record, args.rounds, Path(name), args.largest))


if __name__ == "__main__":
    main()
