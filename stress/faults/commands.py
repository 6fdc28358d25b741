"""The commands that meet faults: what each is given, and what it has to leave."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from stress.faults.files import project_files
from stress.faults.found import final_files, left_parts, wrong_blobs
from stress.faults.judge import Ended, differences
from stress.faults.places import COMMIT, CONTROL, FETCH, JOB, KEYS, LISTING, PAGES, PUT, RESOURCE, SERVICE, SIGN_IN, Place
from stress.faults.stock import CHECKPOINT, CURVES, FILES, LISTED, Stock
from stress.world import World
from tests.servers.azureml.jobs.code import code_place
from tests.servers.azureml.seeding import DEFAULT, StagedWorkspace
from tests.servers.azureml.state import Run
from tests.support.running import write_files

Weighted = Sequence[tuple[Place, int]]
FIRST: Weighted = ((SIGN_IN, 1), (RESOURCE, 1), (KEYS, 1))


class Attempt(ABC):
    """One command in the folder of one case. `problems` is asked after each call, with what became of it."""

    places: Weighted
    prints_on_failure = False

    def __init__(self, world: World, stock: Stock, dice: random.Random) -> None:
        self.world, self.stock = world, stock
        self.cwd = world.folder / "project"
        self.cwd.mkdir()
        self.workspace.write_config(world.folder)

    @property
    def workspace(self) -> StagedWorkspace:
        return self.stock.staged

    @property
    @abstractmethod
    def arguments(self) -> Sequence[str]: ...

    @property
    def files(self) -> Mapping[str, bytes]:
        """What is moved, by the ends of names in requests."""
        return {}

    @abstractmethod
    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        """What is wrong with what is there now; *is_done*: all has to be there."""

    def close(self) -> None:  # noqa: B027 - most leave nothing
        """Take away what would hinder the next case."""


class Download(Attempt):
    places = (*FIRST, (SERVICE, 2), (LISTING, 2), (FETCH, 6))
    prints_on_failure = True

    @property
    def arguments(self) -> Sequence[str]:
        return ("download", FILES)

    @property
    def files(self) -> Mapping[str, bytes]:
        return self.stock.files

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        folder = self.cwd / "outputs" / FILES
        return differences(self.stock.files, final_files(folder), is_done=is_done) + (left_parts(folder) if is_done else [])


class Upload(Attempt):
    places = (*FIRST, (LISTING, 2), (PUT, 6), (COMMIT, 3))
    prints_on_failure = True

    def __init__(self, world: World, stock: Stock, dice: random.Random) -> None:
        super().__init__(world, stock, dice)
        self._prefix = world.folder.name

    @property
    def arguments(self) -> Sequence[str]:
        return ("datastore", "upload", str(self.stock.source), self._prefix)

    @property
    def files(self) -> Mapping[str, bytes]:
        return self.stock.files

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        datastore = self.workspace.state.datastores[DEFAULT]
        return wrong_blobs(datastore.storage, datastore.container, f"{self._prefix}/", self.stock.files, is_done=is_done)

    def close(self) -> None:
        datastore = self.workspace.state.datastores[DEFAULT]
        container = datastore.storage.client.get_container_client(datastore.container)
        for name in self.workspace.blob_names(DEFAULT, f"{self._prefix}/"):
            container.delete_blob(name)


class Sync(Attempt):
    """`himl tb --sync_only`: copies grow, so that those of a call that failed may end early."""

    places = (*FIRST, (SERVICE, 2), (LISTING, 2), (FETCH, 6))
    prints_on_failure = True

    @property
    def arguments(self) -> Sequence[str]:
        return ("tb", *CURVES, "--sync_only", "--run_logs_dir", "copies")

    @property
    def files(self) -> Mapping[str, bytes]:
        return self.stock.events

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        copies = {path.name: path.read_bytes() for path in (self.cwd / "copies").rglob("*tfevents*") if path.is_file()}
        return differences(self.stock.events, copies, is_done=is_done, grows=True)


class Fetch(Attempt):
    places = (*FIRST, (SERVICE, 2), (LISTING, 2), (FETCH, 6))

    @property
    def arguments(self) -> Sequence[str]:
        return ("checkpoint", "fetch", CHECKPOINT)

    @property
    def files(self) -> Mapping[str, bytes]:
        return {"last.ckpt": self.stock.checkpoint}

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        folder = self.cwd / "checkpoints" / CHECKPOINT
        wrong = differences(self.files, final_files(folder), is_done=is_done) + (left_parts(folder) if is_done else [])
        path = Path("checkpoints", CHECKPOINT, "last.ckpt")
        if is_done and ended is not None and ended.stdout != f"{path}\n":
            wrong.append(f"stdout is {ended.stdout[:200]!r}")
        return wrong


class Submit(Attempt):
    places = ((SIGN_IN, 1), (CONTROL, 3), (PUT, 5), (COMMIT, 2), (JOB, 3))

    def __init__(self, world: World, stock: Stock, dice: random.Random) -> None:
        super().__init__(world, stock, dice)
        self._project = project_files(dice)
        write_files(self.cwd, self._project)
        self._jobs, self._codes = set(self.workspace.state.runs), self._code_ids()

    @property
    def arguments(self) -> Sequence[str]:
        return ("submit", "train.py", "--cluster", "cpu-cluster", "--experiment", "stress", "-q")

    @property
    def files(self) -> Mapping[str, bytes]:
        return self._project

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        state = self.workspace.state
        new = sorted(state.runs.keys() - self._jobs)
        self._jobs |= set(new)
        wrong = [f"one call made {len(new)} jobs"] if len(new) > 1 or (is_done and not new) else []
        codes = {_code_id_of(state.runs[job]) for job in new} | (self._code_ids() - self._codes)
        for code in codes:
            place = code_place(state, code)
            wrong += wrong_blobs(place.storage, place.container, place.prefix, self._project, is_done=True)
        note = self.cwd / "most_recent_run.txt"
        if note.exists() and note.read_text() not in {f"stress:{job}\n" for job in self._jobs}:
            wrong.append(f"'{note.name}' says {note.read_text()[:200]!r}")
        if is_done and ended is not None and new and ended.stdout != f"{new[0]}\n":
            wrong.append(f"stdout is {ended.stdout[:200]!r}, the job is {new[0]!r}")
        return wrong

    def _code_ids(self) -> set[str]:
        """Those of the code versions that are registered."""
        return {f"/codes/{name}/versions/{version}" for name, versions in self.workspace.state.assets["codes"].items() for version in versions}


def _code_id_of(run: Run) -> str:
    """That of the code that the job *run* was sent with, without its workspace. Raises AssertionError for a run that is no job."""
    assert run.job is not None, run
    return f"/codes/{str(run.job['codeId']).rpartition('/codes/')[2]}"


class RunsList(Attempt):
    places = ((SIGN_IN, 1), (RESOURCE, 1), (PAGES, 6))

    @property
    def workspace(self) -> StagedWorkspace:
        return self.stock.listed

    @property
    def arguments(self) -> Sequence[str]:
        return ("runs", "list", "--num_runs", "all", "--json")

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        """stdout holds all runs, newest first; what it has to be to the byte is what it was without a fault."""
        if not is_done or ended is None:
            return []
        whole = self.world.lasting("the whole list", lambda _: ended.stdout)
        names = [run["id"] for run in json.loads(ended.stdout)]
        if names != [str(number) for number in reversed(range(LISTED))]:
            return [f"{len(names)} runs are listed, or in another order"]
        return [] if ended.stdout == whole else ["the runs are listed with other values"]


COMMANDS: dict[str, type[Attempt]] = {"download": Download, "upload": Upload, "tb": Sync, "checkpoint": Fetch, "submit": Submit, "list": RunsList}
NAMES = {"download": "himl download", "upload": "himl datastore upload", "tb": "himl tb --sync_only"} | {
    "checkpoint": "himl checkpoint fetch",
    "submit": "himl submit --cluster",
    "list": "himl runs list",
}
