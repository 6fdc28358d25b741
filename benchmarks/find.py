"""Time lists of 1,000 runs by a metric, with their parameters, of himl, MLflow, DVC and Guild, and of 10,000 runs of
himl and MLflow, and of 100,000 runs of himl.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import HIML, PROGRAMS, clean_environment, new_parser, peer_python, recording, spend, turns
from benchmarks.raw import Raw
from benchmarks.runs_list import record_runs
from benchmarks.scale import record_mlflow
from himl_cli.workspaces.local.run_store import now_ms
from tests.support.clients import DVC, GUILD

FEW, MANY, MOST = 1_000, 10_000, 100_000
METRIC, PARAMETER = "loss", "lr"
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1", "NO_COLOR": "1"}
SCRIPT = "lr = 0.1\nprint('loss:', lr / 7)\n"
PROJECT = {
    "dvc.yaml": "params: [params.yaml]\nmetrics: [metrics.yaml]\n"
    "stages: {train: {cmd: python train.py, deps: [train.py], params: [lr]}}\n",
    "train.py": SCRIPT,
    ".gitignore": ".dvc/tmp\n",
}


def values(count: int) -> Iterator[tuple[float, float]]:
    """The metric and the parameter of each run, in no order."""
    return ((number * 7919 % count / count, (number + 1) / 1000) for number in range(count))


def record_himl(folder: Path, count: int) -> None:
    record_runs(folder, count, "digits")
    with closing(sqlite3.connect(folder / ".himl" / "workspace.db")) as database, database:
        ids = [run for (run,) in database.execute("SELECT id FROM runs ORDER BY id")]
        rows = [*zip(ids, values(count), strict=True)]
        database.executemany(
            "INSERT INTO metrics (run, name, step, time, value) VALUES (?, ?, 0, ?, ?)",
            [(run, METRIC, now_ms(), metric) for run, (metric, _) in rows],
        )
        database.executemany(
            "INSERT INTO parameters VALUES (?, ?, ?)",
            [(run, PARAMETER, str(parameter)) for run, (_, parameter) in rows],
        )


def record_search(folder: Path, count: int) -> None:
    record_mlflow(folder, count)
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        rows = [(f"{number:032x}", *pair) for number, pair in enumerate(values(count))]
        metrics = [(METRIC, metric, now_ms(), 0, False, run) for run, metric, _ in rows]
        database.executemany(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?,?,?,?,?,?)", metrics
        )
        database.executemany(
            "INSERT INTO params (key, value, run_uuid) VALUES (?,?,?)",
            [(PARAMETER, str(parameter), run) for run, _, parameter in rows],
        )


def record_dvc(python: str, folder: Path, count: int) -> None:
    """A repository with *count* experiments of DVC: commits on its commit, with the names that DVC gives them."""
    folder.mkdir()
    environment = {**clean_environment(), **QUIET}

    def call(command: Sequence[str], content: bytes = b"") -> str:
        done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, env=environment, input=content)
        return done.stdout.decode()

    identity = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
    call(["git", "init", "-q", "-b", "main"])
    for name, text in {**PROJECT, "params.yaml": "lr: 0.1\n", "metrics.yaml": "loss: 1.0\n"}.items():
        (folder / name).write_text(text)
    call([python, "-m", "dvc", "init", "-q"])
    call(["git", "add", "."])
    call(["git", *identity, "commit", "-qm", "First"])
    base = call(["git", "rev-parse", "HEAD"]).strip()
    parts = []
    for number, (metric, parameter) in enumerate(values(count)):
        parts += [
            f"commit refs/exps/{base[:2]}/{base[2:]}/exp-{number:05d}\n"
            f"committer ada <ada@example.org> {1_750_000_000 + number} +0000\ndata 3\nexp\nfrom {base}"
        ]
        for name, text in {"params.yaml": f"lr: {parameter}\n", "metrics.yaml": f"loss: {metric}\n"}.items():
            parts += [f"M 644 inline {name}\ndata {len(text)}\n{text}"]
    call(["git", "fast-import", "--quiet"], ("\n".join(parts) + "\n").encode())


def record_guild(python: str, folder: Path, count: int) -> None:
    """One run of Guild, and copies of it with other ids and parameters. All have the metric of the first."""
    for name in ("home", "project"):
        (folder / name).mkdir(parents=True)
    (folder / "project" / "train.py").write_text(SCRIPT)
    command = [*_guild(python), "run", "train.py", "--yes", "--quiet"]
    environment = {**clean_environment(), "GUILD_HOME": str(folder / "home")}
    subprocess.run(command, cwd=folder / "project", check=True, env=environment, stdout=subprocess.DEVNULL)
    (first,) = (folder / "home" / "runs").iterdir()
    for _, parameter in [*values(count)][1:]:
        run = first.with_name(uuid.uuid4().hex)
        shutil.copytree(first, run, symlinks=True)
        (run / ".guild" / "attrs" / "id").write_text(run.name)
        (run / ".guild" / "attrs" / "flags").write_text(f"lr: {parameter}\n")


def _guild(python: str) -> list[str]:
    return [python, str(Path(python).with_name("guild"))]


def commands(record: Raw, folder: Path) -> Mapping[str, Sequence[str]]:
    """The lists of 1,000 runs, which all print every run with the metric and the parameter."""
    found: dict[str, Sequence[str]] = {
        "himl runs list": [HIML, "runs", "list", "--num_runs", "all", "--sort", METRIC, "--params"],
        "MLflow's search_runs": [
            sys.executable,
            PROGRAMS,
            "search_runs",
            f"sqlite:///{folder}/mlflow.db",
            "all",
            f"metrics.{METRIC} ASC",
        ],
    }
    if python := peer_python(record, DVC, "dvc exp show", "dvc"):
        record_dvc(python, folder / "dvc", FEW)
        found["dvc exp show"] = [
            python,
            "-m",
            "dvc",
            "--cd",
            str(folder / "dvc"),
            "exp",
            "show",
            "--csv",
            "--sort-by",
            METRIC,
        ]
    if python := peer_python(record, GUILD, "guild compare", "guildai"):
        record_guild(python, folder / "guild", FEW)
        found["guild compare"] = [
            *_guild(python),
            "-H",
            str(folder / "guild" / "home"),
            "compare",
            "--csv",
            "-",
            "--min",
            METRIC,
        ]
    return found


if __name__ == "__main__":
    args = new_parser(__doc__, 5).parse_args()
    os.environ.update(QUIET)
    with tempfile.TemporaryDirectory() as name, recording("find", args.raw) as record:
        record.name_peers(mlflow=version("mlflow"))
        for count in (FEW, MANY, MOST):
            folder = Path(name, str(count))
            record_himl(folder, count)
            calls: Mapping[str, Sequence[str]] = {
                "himl runs list, the best 20": [HIML, "runs", "list", "--sort", METRIC]
            }
            if count != MOST:
                record_search(folder, count)
            if count == FEW:
                calls = commands(record, folder)
            elif count == MANY:
                best = [PROGRAMS, "search_runs", f"sqlite:///{folder}/mlflow.db", "20", f"metrics.{METRIC} ASC"]
                calls = {**calls, "MLflow's search_runs, the best 20": [sys.executable, *best]}
            for command in calls.values():
                spend(command, clean_environment(), folder)
            for number, candidate in turns(calls, args.rounds):
                record.add(
                    f"{count:,} runs by a metric",
                    candidate,
                    number,
                    **spend(calls[candidate], clean_environment(), folder),
                )
