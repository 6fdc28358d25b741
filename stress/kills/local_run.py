"""A job on this machine that is killed, and what its record and its files have to say afterwards."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from stress.faults.judge import Ended, differences
from stress.kills.commands import Killed, count_temporary
from stress.kills.victims import ALL, GROUP, HIML, SHIM, SUPERVISOR
from stress.world import World
from tests.support.processes import is_sound
from tests.support.running import write_files

STEPS = 20
SCRIPT = f"""
import fcntl
import json
import os
import time
import urllib.request
from pathlib import Path

from himl_cli import Run

STEPS = {STEPS}
run = Run.get_context()
Path("outputs/checkpoints").mkdir(parents=True)


def put(name, content):
    Path(name + ".new").write_bytes(content)
    os.replace(name + ".new", name)


def log_by_mlflow(step):
    facts = {{"run_id": os.environ["MLFLOW_RUN_ID"], "key": "accuracy", "value": step / STEPS, "timestamp": int(time.time() * 1000), "step": step}}
    headers = {{"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"]}}
    url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
    try:
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(facts).encode(), headers)).close()
    except OSError:
        pass


for step in range(STEPS):
    run.log("loss", 1 / (step + 1), step=step)
    log_by_mlflow(step)
    put(f"outputs/part_{{step:02d}}.bin", bytes([step]) * 10_000)
    print("step", step, flush=True)
    time.sleep(0.04)
with open(os.environ["HIML_RUN_FOLDER"] + "/lock") as lock:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        time.sleep(60)
put("outputs/checkpoints/last.ckpt", bytes(range(256)) * 4096)
print("trained", flush=True)
"""
"""It takes a second, and a minute more where nobody looks after it: himl has to end it then."""
OUTPUTS = {f"part_{step:02d}.bin": bytes([step]) * 10_000 for step in range(STEPS)} | {"checkpoints/last.ckpt": bytes(range(256)) * 4096}
LOG = "".join(f"step {step}\n" for step in range(STEPS)) + "trained\n"
METRICS = {"loss": [1 / (step + 1) for step in range(STEPS)], "accuracy": [step / STEPS for step in range(STEPS)]}
ENDED = ("Completed", "Failed", "Canceled")
FIELDS = frozenset({"id", "experiment", "status", "created", "started", "ended", "tags", "command", "folder", "recovery_id", "exit_code", "reason"})
LIMIT = 60.0
_RUN = re.compile(r"^Run (\S+) \(experiment", re.MULTILINE)


class Here(Killed):
    """`himl submit train.py`."""

    victims = (HIML, GROUP, SUPERVISOR, SHIM, ALL)
    remembers = False
    overlaps = True
    arguments = ("submit", "train.py")

    def __init__(self, world: World) -> None:
        self.world = world
        write_files(self.cwd, {"train.py": SCRIPT})
        self._first: list[dict[str, Any]] = []

    @property
    def cwd(self) -> Path:
        return self.world.folder / "project"

    def environment(self) -> dict[str, str]:
        return self.world.environment()

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        """Looked at when all has ended: the run, if there is one, has to. That of the call *beside* is none of it."""
        wrong, runs = self._runs()
        other = _RUN.search(beside.stderr) if beside else None
        self._first = [run for run in runs if other is None or run["id"] != other[1]]
        if len(self._first) > 1:
            wrong.append(f"one call made {len(self._first)} runs")
        if ended.code == 0 and (self._statuses() != ["Completed"] or ended.stdout != LOG):
            wrong.append(f"the runs are {self._statuses()}, stdout has {len(ended.stdout)} characters of {len(LOG)}")
        if ended.code == 1 and "Completed" in self._statuses():
            wrong.append("the run is completed")
        return wrong + self._state()

    def then(self, ended: Ended) -> list[str]:
        wrong, runs = self._runs()
        known = {run["id"]: run for run in self._first}
        new = [run for run in runs if run["id"] not in known]
        if [run["status"] for run in new] != ["Completed"] or ended.stdout != LOG:
            wrong.append(f"new runs: {[run['status'] for run in new]}, stdout has {len(ended.stdout)} characters of {len(LOG)}")
        wrong += [f"a run that was {known[run['id']]['status']} is another one" for run in runs if run["id"] in known and run != known[run["id"]]]
        return wrong + self._state()

    def leftovers(self) -> int:
        """Temporary files, what is set aside for recording an end, and folders of runs that were never recorded."""
        recorded = {run["id"] for run in self._runs()[1]}
        folders = [path for path in (self.cwd / ".himl" / "runs").glob("*") if path.name not in recorded]
        reserves = list((self.cwd / ".himl" / "runs").glob("*/reserve"))
        return len(folders) + len(reserves) + sum(map(count_temporary, (self.cwd / ".himl", self.world.home, self.world.folder / "tmp")))

    def facts(self) -> Mapping[str, Any]:
        return {"ended": ", ".join(self._statuses()) or "no run"}

    def _statuses(self) -> list[str]:
        return [run["status"] for run in self._first]

    def _state(self) -> list[str]:
        """What is wrong with the database, and with the note of the latest run."""
        wrong = [] if not (self.cwd / ".himl" / "workspace.db").exists() or is_sound(self.cwd) else ["'workspace.db' is damaged"]
        note = self.cwd / "most_recent_run.txt"
        if note.exists() and note.read_text() not in {f"train:{path.name}\n" for path in (self.cwd / ".himl" / "runs").iterdir()}:
            wrong.append(f"'{note.name}' says {note.read_text()[:200]!r}")
        return wrong

    def _runs(self) -> tuple[list[str], list[dict[str, Any]]]:
        """What is wrong with the runs that himl lists, and the runs. A folder without a workspace has none."""
        if not (self.cwd / ".himl").is_dir():
            return [], []
        listed = self.world.himl("runs", "list", "--num_runs", "all", "--json", cwd=self.cwd, env=self.environment(), limit=LIMIT)
        if listed.code != 0:
            return [f"'himl runs list' ends with {listed.code}: {listed.stderr[-200:]}"], []
        runs: list[dict[str, Any]] = listed.json()
        return [text for run in runs for text in wrong_run(self.cwd / ".himl", run)], runs


def wrong_run(workspace: Path, run: Mapping[str, Any]) -> list[str]:
    """What is wrong with one run that has ended, by its record, its files and its metrics."""
    wrong = [f"the record of a run lacks {sorted(FIELDS - run.keys())}"] if not run.keys() >= FIELDS else []
    if run["status"] not in ENDED:
        return [*wrong, f"a run that nothing works at is {run['status']}"]
    is_whole, folder = run["status"] == "Completed", workspace / "runs" / run["id"]
    if run["status"] == "Failed" and not run["reason"]:
        wrong.append("a run failed, and its record does not say why")
    if is_whole and (run["exit_code"], run["ended"] is None) != (0, False):
        wrong.append("a run is completed without an end or with an exit code")
    outputs = {
        path.relative_to(folder / "code" / "outputs").as_posix(): path.read_bytes() for path in (folder / "code" / "outputs").rglob("*") if path.is_file()
    }
    wrong += differences(OUTPUTS, {name: content for name, content in outputs.items() if is_whole or not name.endswith(".new")}, is_done=is_whole)
    log = folder / "user_logs" / "std_log.txt"
    if is_whole and log.read_text() != LOG:
        wrong.append(f"the log of a completed run has {log.stat().st_size} bytes of {len(LOG)}")
    wrong += [text for name in ("job.json", "plan.json") if (folder / name).exists() for text in _unread(folder / name)]
    return wrong + wrong_metrics(logged(workspace / "workspace.db", run["id"]), is_whole=is_whole)


def wrong_metrics(found: Sequence[tuple[str, int, float]], *, is_whole: bool) -> list[str]:
    """What is wrong with a run's metrics, rows of name, step and value: they may end early, but have no gap and no other value."""
    wrong = []
    for name, values in METRICS.items():
        rows = [(step, value) for key, step, value in found if key == name]
        wanted = list(enumerate(values))
        if rows != wanted[: len(rows)] or (is_whole and len(rows) != len(wanted)):
            wrong.append(f"metric '{name}' has {len(rows)} rows of {len(wanted)}" + ("" if is_whole else ", other ones than were logged"))
    return wrong


def logged(database: Path, run_id: str) -> list[tuple[str, int, float]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT name, step, value FROM metrics WHERE run = ? ORDER BY name, step", (run_id,)).fetchall()


def _unread(path: Path) -> list[str]:
    try:
        json.loads(path.read_text())
    except ValueError:
        return [f"'{path.name}' of a run is no JSON"]
    return []
