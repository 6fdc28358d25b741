"""Commands on recorded runs, for `kills`: deletion, several commands at once on the same run, `himl gc`, and `himl
runs attach`.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from himl_cli.core.errors import DiskFailed
from himl_cli.core.runs import ARCHIVED
from himl_cli.workspaces.local.code_store import CodeStore
from stress.killed import ALL, GROUP, HIML, NEXT_LIMIT, SHIM, SUPERVISOR, Killed
from stress.world import Ended, World, differences
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.folders import contents
from tests.support.processes import is_sound
from tests.support.running import PROGRAM, until, write_files
from tests.support.runs import RecordedRuns

DOOMED, KEPT, CHILDREN, FILES, VALUES = 8, 4, 2, 200, 50
STORED, LEFT = 3, 2  # runs with stored code, and how many of them have copies again
NOT_FOUND, IN_USE = 3, 2
ROWS = "SELECT run, count(*) FROM {} GROUP BY run"
TABLES = ("tags", "parameters", "metrics")
STARTS_WITHIN = 0.2  # seconds between the first and the last of the commands at once


class OnRuns(Killed):
    """Commands on DOOMED runs with child runs, files and values, beside KEPT other ones. Each run is whole or gone,
    in the record and on disk.
    """

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        self._template = world.lasting("recorded runs", _record)
        self._wanted = {path.name: contents(path) for path in (self._template / ".himl" / "runs").iterdir()}
        shutil.copytree(self._template, world.project)
        self._left: frozenset[str] = frozenset()

    def recorded(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        """The tags of each recorded run, and problems of the records and of the files of these runs."""
        with self.database() as database:
            runs = dict(database.execute("SELECT id, parent FROM runs"))
            counts = {table: Counter(dict(database.execute(ROWS.format(table)))) for table in TABLES}
            tags = {run: dict(database.execute("SELECT name, value FROM tags WHERE run = ?", (run,))) for run in runs}
        wrong = [] if is_sound(self.world.project) else ["the database is damaged"]
        for table, rows in counts.items():
            wrong += [f"{table} of '{run}', which is deleted" for run in rows.keys() - runs.keys()]
        for run in self._wanted.keys() & runs.keys():
            if counts["metrics"][run] != VALUES or counts["parameters"][run] != 1:
                wrong.append(
                    f"'{run}' has {counts['metrics'][run]} values of {VALUES} and "
                    f"{counts['parameters'][run]} parameters of 1"
                )
            if (found := contents(self._folder(run))) != self._wanted[run]:
                wrong.append(f"'{run}' is listed with {len(found)} files of {len(self._wanted[run])}, or others")
        wrong += [
            f"'{run}' is listed, and its parent is gone"
            for run, parent in runs.items()
            if parent is not None and parent not in runs
        ]
        wrong += [
            f"'{run}' is gone"
            for run in self._wanted
            if run.startswith("kept") and run not in runs and run.partition("_child")[0] not in self._left
        ]
        return tags, wrong

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.world.project / ".himl" / "workspace.db")) as database:
            yield database

    def folders(self, recorded: Collection[str]) -> list[str]:
        """Folders of runs that are not recorded."""
        return [path.name for path in (self.world.project / ".himl" / "runs").iterdir() if path.name not in recorded]

    def _folder(self, run: str) -> Path:
        return self.world.project / ".himl" / "runs" / run

    def next_deletion(self, remaining: Sequence[str]) -> None:
        """Let the next call delete the *remaining* runs, or else another one."""
        self._left = frozenset(remaining or ["kept_0"])
        self.arguments = ("runs", "delete", *self._left, "--yes")

    def then(self, ended: Ended) -> list[str]:
        tags, wrong = self.recorded()
        wrong += [f"'{run}' is still listed" for run in self._left & tags.keys()]
        return wrong + [f"the folder of '{name}' is left" for name in self.folders(tags)]

    def leftovers(self) -> int:
        return super().leftovers() + len(self.folders(self.recorded()[0]))


def _record(world: World) -> Path:
    folder = world.place / "recorded runs"
    runs = RecordedRuns(folder)
    for name in [*(f"doomed_{number}" for number in range(DOOMED)), *(f"kept_{number}" for number in range(KEPT))]:
        files = {f"outputs/part_{number:03d}.bin": f"{name} {number}\n" * 10 for number in range(FILES)}
        runs.add(name, experiment=name.partition("_")[0], tags={"team": "blue"}, files=files)
        children = [
            runs.add(f"{name}_child_{child}", parent=name, files={"outputs/a.txt": "a"}) for child in range(CHILDREN)
        ]
        for run in (name, *children):
            runs.log(run, [("loss", 1 / (step + 1), step, step) for step in range(VALUES)], {"lr": "0.1"})
    with closing(sqlite3.connect(folder / ".himl" / "workspace.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


class Deleted(OnRuns):
    """`himl runs delete` of several runs."""

    arguments = ("runs", "delete", "--experiment", "doomed", "--num_runs", "all", "--yes")

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        tags, wrong = self.recorded()
        remaining = [run for run in tags if run.startswith("doomed") and "child" not in run]
        if ended.code == 0:
            wrong += [f"'{run}' is still listed" for run in remaining] + [
                f"the folder of '{name}' is left" for name in self.folders(tags)
            ]
        self._remaining = len(remaining)
        self.next_deletion(remaining)
        return wrong

    def facts(self) -> Mapping[str, Any]:
        return {"deleted": DOOMED - self._remaining}


class Collected(Killed):
    """`himl gc` that stores the code of runs whose copies were left, and deletes code of a deleted run. No run may
    lose a file.
    """

    arguments: Sequence[str] = ("gc", "--yes")

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        shutil.copytree(world.lasting("stored code", _store), world.project)
        self._store = CodeStore(world.project / ".himl")
        self._codes = {path.parent.name: path for path in (world.project / ".himl" / "runs").glob("*/code")}
        self._wanted = {run: self._found(run) for run in self._codes}
        for run in dice.sample(sorted(self._codes), LEFT):
            self._store.restore(self._codes[run], None, run)

    def _found(self, run: str) -> dict[str, bytes]:
        return {name: path.read_bytes() for name, path in self._store.paths(self._codes[run], None, run).items()}

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        wrong = []
        for run, wanted in self._wanted.items():
            try:
                found = self._found(run)
            except DiskFailed as err:
                wrong.append(str(err))
            else:
                wrong += differences(wanted, found, is_done=True)
        if ended.code == 0:
            wrong += [f"'{run}' still has copies" for run, code in self._codes.items() if contents(code)]
            with self._store.locked() as is_held:
                wrong += (
                    [f"'{path.name}' is left" for path in self._store.unused()] if is_held else ["the store is locked"]
                )
        return wrong

    then = first


def _store(world: World) -> Path:
    """A project with STORED runs of other code each, whose code is stored, after another one was deleted."""
    folder = world.place / "stored code"
    for number in range(STORED + 1):
        write_files(
            folder,
            {
                f"part_{part:03d}.py": f"VALUE = {part * (number if part % 10 == 0 else 1)}\n" * 500
                for part in range(FILES)
            },
        )
        write_files(folder, {"train.py": f"print({number})\n"})
        done = world.himl("submit", "train.py", "-q", cwd=folder, env=world.environment(), limit=NEXT_LIMIT)
        assert done.code == 0, done.stderr
    until(lambda: not any(contents(path) for path in (folder / ".himl" / "runs").glob("*/code")))
    assert (
        world.himl(
            "runs",
            "delete",
            done.stdout.splitlines()[0],
            "--yes",
            cwd=folder,
            env=world.environment(),
            limit=NEXT_LIMIT,
        ).code
        == 0
    )
    return folder


class CollectedAtOnce(Collected):
    """Two `himl gc` at once, which may end with the word that another process uses the store."""

    codes = frozenset({IN_USE})

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        self._other = start_after(dice.uniform(0, STARTS_WITHIN), self.arguments, world, self.env)

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        _, stderr = self._other.communicate(timeout=NEXT_LIMIT)
        wrong = (
            []
            if self._other.returncode in (0, IN_USE)
            else [f"the other one ended with {self._other.returncode}: {stderr[-200:]}"]
        )
        return wrong + super().first(replace(ended, code=ended.code or self._other.returncode))

    def close(self) -> None:
        self._other.kill()
        self._other.communicate()


class Staged(Collected):
    """A submission of a project with stored code, or of a stored run again: it copies code for the job, and stores
    it at the end.
    """

    victims = (HIML, GROUP, SUPERVISOR, SHIM, ALL)
    overlaps = True

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        self._project = {path.name: path.read_bytes() for path in world.project.glob("*.py")}
        self._source = dice.choice(["", *sorted(self._wanted)])
        self.arguments = ("submit", "--from", self._source) if self._source else ("submit", "train.py")
        self._is_stored = 0

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        wrong = super().first(replace(ended, code=1))  # the copies of earlier runs stay
        listed = self.world.himl("runs", "list", "--num_runs", "all", "--json", cwd=self.world.project, env=self.env)
        if listed.code != 0:
            return [*wrong, f"'himl runs list' ends with {listed.code}: {listed.stderr[-200:]}"]
        new = [run for run in listed.json() if run["id"] not in self._wanted]
        wanted = self._wanted[self._source] if self._source else self._project
        for run in (run for run in new if run["status"] == "Completed"):
            code = self._store.folder.parent / "runs" / run["id"] / "code"
            try:
                found = {name: path.read_bytes() for name, path in self._store.paths(code, None, run["id"]).items()}
            except DiskFailed as err:
                wrong.append(str(err))
            else:
                wrong += differences(wanted, found, is_done=True)
                self._is_stored += not contents(code)
        return wrong

    then = first

    def facts(self) -> Mapping[str, Any]:
        return {"from": bool(self._source), "stored": self._is_stored}


def start_after(
    seconds: float, arguments: Sequence[str], world: World, env: Mapping[str, str]
) -> subprocess.Popen[str]:
    """`himl` with *arguments* in the project, in some *seconds*."""
    command = ["sh", "-c", f'sleep {seconds:.3f}; exec "$0" "$@"', str(PROGRAM), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=world.project, env=env, text=True, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )


class AtOnce(OnRuns):
    """Deletions, a tag, an archival and a submission at once. One of them, but not the submission, may be killed."""

    codes = frozenset({NOT_FOUND})  # another command has deleted the run

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        write_files(world.project, {"train.py": "print('trained')\n"})
        run = "doomed_0"
        commands = {
            "delete": ("runs", "delete", run, "--yes"),
            "delete again": ("runs", "delete", run, "doomed_1", "--yes"),
            "tag": ("runs", "tag", run, "colour=red"),
            "archive": ("runs", "archive", run),
        }
        self._one = dice.choice(sorted(commands))
        self.arguments = commands.pop(self._one)
        others = {**commands, "submit": ("submit", "train.py", "-w", "local")}
        self._others = {
            name: start_after(dice.uniform(0, STARTS_WITHIN), arguments, world, self.env)
            for name, arguments in others.items()
            if dice.random() < 0.8
        }

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        ends = {self._one: ended}
        for name, process in self._others.items():
            stdout, stderr = process.communicate(timeout=NEXT_LIMIT)
            ends[name] = Ended(process.returncode, stdout, stderr)
        tags, wrong = self.recorded()
        wrong += self._wrong_ends(ends, tags)
        new = {run for run in tags if run not in self._wanted}
        self.next_deletion([run for run in ("doomed_0", "doomed_1") if run in tags])
        listed = self.world.himl("runs", "list", "--num_runs", "all", "--json", cwd=self.world.project, env=self.env)
        shown = {run["id"]: run["status"] for run in listed.json()} if listed.code == 0 else {}
        wrong += (
            []
            if shown.keys() == {run for run in tags if ARCHIVED not in tags[run] and "child" not in run}
            else [f"{len(shown)} runs are listed"]
        )
        wrong += (
            []
            if [shown.get(run) for run in new] == ["Completed"] * ("submit" in ends)
            else [f"new runs: {[shown.get(run) for run in new]}"]
        )
        self._is_whole = "doomed_0" in tags
        return wrong

    def _wrong_ends(self, ends: Mapping[str, Ended], tags: Mapping[str, Mapping[str, str]]) -> list[str]:
        wrong = [
            f"'{name}' ended with {end.code}: {end.stderr[-200:]}"
            for name, end in ends.items()
            if name != self._one and end.code not in (0, NOT_FOUND)
        ]
        if "doomed_0" not in tags:
            may_delete = {
                name for name in ends if name.startswith("delete") and (name == self._one or ends[name].code == 0)
            }
            return wrong + ([] if may_delete else ["the run is gone, and no command has deleted it"])
        done = {name for name, end in ends.items() if end.code == 0}
        wrong += [f"'{name}' is done, and the run is there" for name in done if name.startswith("delete")]
        found = {"tag": tags["doomed_0"].get("colour") == "red", "archive": ARCHIVED in tags["doomed_0"]}
        return wrong + [
            f"'{name}' is done, and the run does not have it"
            for name, is_there in found.items()
            if name in done and not is_there
        ]

    def facts(self) -> Mapping[str, Any]:
        return {"killed": self._one, "beside": sorted(self._others), "is_whole": self._is_whole}

    def close(self) -> None:
        for process in self._others.values():
            process.kill()
            process.communicate()


SERVICES = {"vscode": {"jobServiceType": "VSCode"}, "jupyterlab": {"jobServiceType": "JupyterLab"}}
READY_WITHIN = 1.5  # seconds


class Attached(Killed):
    """`himl runs attach` of a job whose services become ready after a moment. The job and its services stay as they
    are.
    """

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        self._staged = world.lasting("attach", lambda world: world.stage.workspace())
        self.env = world.environment(self._staged)
        world.project.mkdir()
        self._staged.write_config(world.folder)
        self._run = self._staged.add_run(
            "", "served", status="Running", job={"jobType": "Command", "services": SERVICES}
        )
        self._staged.start_services(self._run, "Starting")
        self.arguments = ("runs", "attach", self._run.run_id, "--json")
        self._timer = threading.Timer(dice.uniform(0, READY_WITHIN), _be_ready, (self._staged, self._run))
        self._timer.start()

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        self._timer.join()
        wrong = [f"the run is {self._run.status}"] if self._run.status != "Running" else []
        wrong += (
            [f"himl sent {len(sent)} requests that change the run"]
            if (sent := self.world.stage.log.find(r"^(PUT|PATCH|DELETE) "))
            else []
        )
        return wrong + ([] if ended.code != 0 and not ended.stdout else self.then(ended))

    def then(self, ended: Ended) -> list[str]:
        try:
            shown = {each["name"]: each["status"] for each in json.loads(ended.stdout)}
        except ValueError:
            return [f"stdout has {len(ended.stdout)} characters that are no document"]
        return [] if shown == dict.fromkeys(SERVICES, "Running") else [f"the services are {shown}"]

    def close(self) -> None:
        self._timer.cancel()
        self._timer.join()


def _be_ready(staged: StagedWorkspace, run: Any) -> None:
    staged.start_services(run, "Running")
