"""The matrix of faults of the network and the services, and of commands that transfer data. The seed determines all
random choices.
"""

from __future__ import annotations

import email.utils
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path

from stress.records import Case, Outcome, Result
from stress.world import (
    Ended,
    Verdict,
    World,
    differences,
    drawn_until_met,
    file_differences,
    judge,
    judge_again,
    wrong_blobs,
)
from tests.azureml_double import faults as double
from tests.azureml_double.jobs.data import code_place
from tests.azureml_double.seeding import DEFAULT, StagedWorkspace
from tests.support import azure, running, tensorboard


@dataclass(frozen=True)
class Place:
    """A kind of request with a body of at least `body` bytes, in the request (`sends`) or in the reply.

    `is_first_only`: himl caches the reply, and later calls do not send it. A fault skips up to `among` - 1 requests.
    """

    name: str
    match: str
    host: str
    body: int = 100
    sends: bool = False
    is_file: bool = False
    is_first_only: bool = False
    among: int = 1


ANY = "[^?]*"
LEAST_RANGE = 1 << 20  # minimal bytes of a part of a large file, except the last
SMALL = 20_000  # bytes that most files have at least
LOGIN, ARM, PLANE, BLOBS = (
    r"login\.microsoftonline\.com",
    r"management\.azure\.com",
    r"[^/]*\.api\.azureml\.ms",
    r"[^/]*\.blob\.core\.windows\.net",
)
SIGN_IN = Place("sign_in", rf"^POST {LOGIN}/", LOGIN, is_first_only=True)
RESOURCE = Place("resource", rf"^GET {ARM}/", ARM, is_first_only=True)
KEYS = Place("keys", rf"^POST {ARM}/", ARM, is_first_only=True)
CONTROL = Place("control", rf"^\w+ {ARM}/", ARM, among=3)
JOB = Place("job", rf"^PUT {ARM}/.*/jobs/", ARM, sends=True)
SERVICE = Place("service", rf"^\w+ {PLANE}/", PLANE)
PAGES = Place("pages", rf"^\w+ {PLANE}/", PLANE, among=10)
LISTING = Place("listing", rf"^GET {BLOBS}/[^?]*\?.*comp=list", BLOBS)
FETCH = Place("fetch", rf"^GET {BLOBS}/{ANY}(\?(?!.*comp=list)|$)", BLOBS, body=SMALL, is_file=True, among=10)
PUT = Place(
    "put", rf"^PUT {BLOBS}/{ANY}(\?(?!.*comp=blocklist)|$)", BLOBS, body=SMALL, sends=True, is_file=True, among=10
)
COMMIT = Place("commit", rf"^PUT {BLOBS}/[^?]*\?.*comp=blocklist", BLOBS, sends=True)
EVERYWHERE = frozenset(
    one.name for one in (SIGN_IN, RESOURCE, KEYS, CONTROL, JOB, SERVICE, PAGES, LISTING, FETCH, PUT, COMMIT)
)
BYTES = frozenset({FETCH.name})
SENT = frozenset({PUT.name, COMMIT.name})
STORAGE = BYTES | SENT | {LISTING.name}
DOCUMENTS = frozenset(one.name for one in (RESOURCE, KEYS, CONTROL, JOB, SERVICE, PAGES))  # with a token
ANSWERS = BYTES | DOCUMENTS | {LISTING.name, SIGN_IN.name}  # that have a body worth breaking
FILES, CHECKPOINT = "files_1_aa", "trained_1_bb"
CURVES = ("curves_1_cc", "curves_2_dd", "curves_3_ee")
LISTED, ON_A_PAGE = 700, 50
MANY, MOST = 40, 300_000
EDGES = (0, 1, 2, (16 << 10) - 1, 16 << 10, (16 << 10) + 1)


class Stock:
    """Workspaces with runs and files that the cases of one world share. They are created in the double of *world* on
    first use.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.files, short = moved_files(), tensorboard.event_bytes([1.0 / (step + 1) for step in range(500)])
        self.events = {
            tensorboard.NAME.replace(".7.", f".{number}."): short * times for number, times in enumerate((1, 50, 500))
        }  # of 20 KB, 1 MB, 10 MB
        self.checkpoint = random.Random("checkpoint").randbytes(34 << 20)

    @cached_property
    def source(self) -> Path:
        folder = self._world.place / "source"
        running.write_files(folder, dict(self.files))
        return folder

    @cached_property
    def staged(self) -> StagedWorkspace:
        """A workspace with runs and files. The checkpoint has no stored MD5, like files above 64 MiB from Azure's
        clients.
        """
        staged = self._world.stage.workspace()
        staged.put_artifacts(staged.add_run(FILES, "train"), self.files)
        staged.put_artifact(
            staged.add_run(CHECKPOINT, "train"), "outputs/checkpoints/last.ckpt", self.checkpoint, md5=False
        )
        for number, (run_id, (name, content)) in enumerate(zip(CURVES, self.events.items(), strict=True)):
            if number == 1:  # a run in progress with a file that grows
                run = staged.add_run(run_id, "curves", status="Running")
                for start in range(0, len(content), 1 << 20):
                    staged.state.storage.append(
                        "azureml", f"{run.artifact_prefix}logs/{name}", content[start : start + (1 << 20)]
                    )
            else:
                staged.put_artifact(staged.add_run(run_id, "curves"), f"logs/{name}", content)
        return staged

    @cached_property
    def listed(self) -> StagedWorkspace:
        listed = self._world.stage.workspace(page_size=ON_A_PAGE)
        azure.add_many(listed, LISTED)
        return listed


def moved_files() -> dict[str, bytes]:
    dice = random.Random("files")
    sizes = [*EDGES, *(round(MOST ** dice.random()) for _ in range(MANY - len(EDGES)))]
    files = {f"part_{number:02d}.bin": dice.randbytes(size) for number, size in enumerate(sizes)}
    return {**files, "middle.bin": dice.randbytes(6 << 20), "large.bin": dice.randbytes(34 << 20)}


def project_files(dice: random.Random) -> dict[str, bytes]:
    token = dice.randbytes(8).hex()
    modules = {
        f"lab/module_{number:02d}.py": f"NAME = '{token}-{number}'\n".encode() * dice.randint(1, 400)
        for number in range(30)
    }
    environment = b"name: lab\ndependencies:\n- python=3.11\n- pip\n- pip:\n  - mlflow-skinny\n"
    weights = token.encode() + random.Random("weights").randbytes(9 << 20)
    return {"train.py": b"print('trained')\n", "environment.yml": environment, "data/weights.bin": weights, **modules}


Weighted = Sequence[tuple[Place, int]]
FIRST: Weighted = ((SIGN_IN, 1), (RESOURCE, 1), (KEYS, 1))
FETCHES: Weighted = (*FIRST, (SERVICE, 2), (LISTING, 2), (FETCH, 6))


class Attempt:
    """One command in the folder of one case. `files` are the transferred files, by suffixes of names in requests.

    `problems` returns the problems after each call. With *is_done*, all files must be complete.
    """

    arguments: Sequence[str]
    files: Mapping[str, bytes] = {}
    places: Weighted = FETCHES
    prints = True

    def __init__(self, world: World, stock: Stock, dice: random.Random) -> None:
        self.world, self.stock, self.cwd = world, stock, world.project
        self.cwd.mkdir()
        self.workspace.write_config(world.folder)
        self.set_up(dice)

    @property
    def workspace(self) -> StagedWorkspace:
        return self.stock.staged

    def set_up(self, dice: random.Random) -> None:
        raise NotImplementedError

    def call(self) -> Ended | None:
        return self.world.call(self.arguments, self.cwd, self.world.environment(self.workspace))

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        raise NotImplementedError

    def close(self) -> None:
        """Delete data that would affect the next case."""


class Download(Attempt):
    def set_up(self, dice: random.Random) -> None:
        self.arguments, self.files = ("download", FILES), self.stock.files

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        return file_differences(self.stock.files, self.cwd / "outputs" / FILES, is_done=is_done)


class Upload(Attempt):
    places = (*FIRST, (LISTING, 2), (PUT, 6), (COMMIT, 3))

    def set_up(self, dice: random.Random) -> None:
        self.prefix, self.files = self.world.folder.name, self.stock.files
        self.arguments = ("datastore", "upload", str(self.stock.source), self.prefix)
        self.datastore = self.workspace.state.datastores[DEFAULT]

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        return wrong_blobs(
            self.datastore.storage, self.datastore.container, f"{self.prefix}/", self.stock.files, is_done=is_done
        )

    def close(self) -> None:
        container = self.datastore.storage.client.get_container_client(self.datastore.container)
        for name in self.workspace.blob_names(DEFAULT, f"{self.prefix}/"):
            container.delete_blob(name)


class Sync(Attempt):
    """`himl tb --sync_only`, whose copies grow, so that those of a failed call may end early."""

    def set_up(self, dice: random.Random) -> None:
        self.arguments, self.files = ("tb", *CURVES, "--sync_only", "--run_logs_dir", "copies"), self.stock.events

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        copies = {path.name: path.read_bytes() for path in (self.cwd / "copies").rglob("*tfevents*") if path.is_file()}
        return differences(self.stock.events, copies, is_done=is_done, grows=True)


class Fetch(Attempt):
    prints = False

    def set_up(self, dice: random.Random) -> None:
        self.arguments, self.files = ("checkpoint", "fetch", CHECKPOINT), {"last.ckpt": self.stock.checkpoint}

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        wrong = file_differences(self.files, self.cwd / "checkpoints" / CHECKPOINT, is_done=is_done)
        if is_done and ended is not None and ended.stdout != f"{Path('checkpoints', CHECKPOINT, 'last.ckpt')}\n":
            wrong.append(f"stdout is {ended.stdout[:200]!r}")
        return wrong


class Submit(Attempt):
    places = ((SIGN_IN, 1), (CONTROL, 3), (PUT, 5), (COMMIT, 2), (JOB, 3))
    prints = False

    def set_up(self, dice: random.Random) -> None:
        self.arguments = ("submit", "train.py", "--cluster", "cpu-cluster", "--experiment", "stress", "-q")
        self.files = project_files(dice)
        running.write_files(self.cwd, dict(self.files))
        self._jobs, self._codes = set(self.workspace.state.runs), self._code_ids()

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        state = self.workspace.state
        new = sorted(state.runs.keys() - self._jobs)
        self._jobs |= set(new)
        wrong = [f"one call made {len(new)} jobs"] if len(new) > 1 or (is_done and not new) else []
        sent = [state.runs[job].job or {} for job in new]
        codes = {f"/codes/{str(job['codeId']).rpartition('/codes/')[2]}" for job in sent} | (
            self._code_ids() - self._codes
        )
        for code in codes:
            place = code_place(state, code)
            wrong += wrong_blobs(place.storage, place.container, place.prefix, self.files, is_done=True)
        note = self.cwd / "most_recent_run.txt"
        if note.exists() and note.read_text() not in {f"stress:{job}\n" for job in self._jobs}:
            wrong.append(f"'{note.name}' says {note.read_text()[:200]!r}")
        if is_done and ended is not None and new and ended.stdout != f"{new[0]}\n":
            wrong.append(f"stdout is {ended.stdout[:200]!r}, the job is {new[0]!r}")
        return wrong

    def _code_ids(self) -> set[str]:
        return {
            f"/codes/{name}/versions/{version}"
            for name, versions in self.workspace.state.assets["codes"].items()
            for version in versions
        }


class RunsList(Attempt):
    places = ((SIGN_IN, 1), (RESOURCE, 1), (PAGES, 6))
    prints = False

    @property
    def workspace(self) -> StagedWorkspace:
        return self.stock.listed

    def set_up(self, dice: random.Random) -> None:
        self.arguments = ("runs", "list", "--num_runs", "all", "--json")

    def problems(self, ended: Ended | None, *, is_done: bool) -> list[str]:
        """Problems of stdout, which must have all runs, newest first, and equal the output without a fault."""
        if not is_done or ended is None:
            return []
        whole = self.world.lasting("the whole list", lambda _: ended.stdout)
        names = [run["id"] for run in json.loads(ended.stdout)]
        if names != [str(number) for number in reversed(range(LISTED))]:
            return [f"{len(names)} runs are listed, or in another order"]
        return [] if ended.stdout == whole else ["the runs are listed with other values"]


COMMANDS: dict[str, type[Attempt]] = {
    "download": Download,
    "upload": Upload,
    "tb": Sync,
    "checkpoint": Fetch,
    "submit": Submit,
    "list": RunsList,
}


FAILED, FLIPS, NO_LIST = frozenset({0, 5}), frozenset({0, 5, 6}), frozenset({"list"})
UNDER_A_SECOND, OVER_ALL = (
    0.5,
    100.0,
)  # seconds of a stall that nobody need notice, and that are longer than any time without progress that himl allows
FAST, SLOW, FLOOR = (
    4 << 20,
    2_000,
    60,
)  # bytes a second of a drip: of files, of documents, and of what counts as standing still
CHUNK = 16 << 10


@dataclass(frozen=True)
class Fault:
    """A fault. `make` draws the action for a request at a place. `at` are the places to which it applies.

    `codes` are the documented exit codes (`of_upload`: those of that command, if they differ). `lacks` are commands to
    which it does not apply. `on_connect`: it occurs before the request."""

    name: str
    make: Callable[[random.Random, Place], double.Action]
    at: frozenset[str] = EVERYWHERE
    codes: frozenset[int] = FAILED
    of_upload: frozenset[int] | None = None
    lacks: frozenset[str] = frozenset()
    on_connect: bool = False


def at_byte(dice: random.Random, place: Place) -> int:
    """A byte of the body at *place*. Prefers the first, the last, and those around the end of a chunk."""
    last = max(0, place.body - 1)
    favoured = [at for at in (0, 1, last, CHUNK - 1, CHUNK, CHUNK + 1) if at <= last]
    return dice.choice(favoured) if dice.random() < 0.5 else dice.randint(0, last)


def _reset(dice: random.Random, place: Place) -> double.Action:
    if place.sends:
        return double.ResetUpload(at_byte(dice, place)) if dice.random() < 0.5 else double.Reset()
    return double.Reset(dice.choice([None, at_byte(dice, place)]))


def _stall(dice: random.Random, place: Place) -> double.Action:
    seconds = dice.choice([UNDER_A_SECOND, OVER_ALL, OVER_ALL, OVER_ALL])
    return double.Stall(seconds, None if place.sends else dice.choice([None, at_byte(dice, place)]))


def _drip(dice: random.Random, place: Place) -> double.Action:
    if place.is_file and place.body > CHUNK and dice.random() < 0.2:
        return double.Drip(FLOOR)
    return double.Drip(FAST if place.is_file else SLOW)


def _later(dice: random.Random, place: Place) -> double.Action:
    seconds = dice.choice([0, 1, 3, 61])
    return double.Status(
        429, retry_after=seconds if dice.random() < 0.8 else email.utils.formatdate(time.time() + 3, usegmt=True)
    )


def _tls(dice: random.Random, place: Place) -> double.Action:
    if dice.random() < 0.5:
        return double.BadCertificate(dice.choice(["untrusted", "expired", "early", "other"]))
    return double.BreakHandshake(dice.choice(["reset", "close", "plain"]))


FAULTS = (  # slowest first
    Fault("stall", _stall),
    Fault("drip", _drip, ANSWERS),
    Fault("reset", _reset),
    Fault("429-later", _later),
    Fault("429", lambda dice, place: double.Status(429)),
    Fault(
        "500",
        lambda dice, place: double.Status(
            500, code="InternalError", message="The server met a condition that it did not expect."
        ),
    ),
    Fault("503", lambda dice, place: double.Status(503)),
    Fault("truncate", lambda dice, place: double.Truncate(at_byte(dice, place)), ANSWERS),
    Fault("dns", lambda dice, place: double.Refuse(dice.choice([502, 504])), on_connect=True),
    Fault("tls", _tls, on_connect=True),
    Fault(
        "flip",
        lambda dice, place: (double.FlipUpload if place.sends else double.FlipByte)(at_byte(dice, place)),
        BYTES | {PUT.name},
        FLIPS,
        lacks=NO_LIST,
    ),
    Fault("md5", lambda dice, place: double.WrongMd5(), BYTES | SENT, frozenset({0, 6}), lacks=NO_LIST),
    Fault(
        "etag",
        lambda dice, place: double.ChangeEtag(),
        BYTES | SENT,
        of_upload=frozenset({0, 1}),
        lacks=frozenset({"submit", "list"}),
    ),
    Fault("sas", lambda dice, place: double.ExpireSas(), STORAGE, frozenset({0, 4}), lacks=NO_LIST),
    Fault("token", lambda dice, place: double.ExpireToken(), DOCUMENTS, frozenset({0, 4})),
)
A_CELL = 20
WARM, PASSING, OF_ONE_FILE = (
    0.7,
    0.6,
    0.5,
)  # shares of cases: himl remembers an earlier call, the fault passes, it meets one file rather than any
CONNECTIONS = 3  # at least to a storage account, and one to other hosts


def fault_cases() -> list[Case]:
    cells = [(fault, command) for fault in FAULTS for command in COMMANDS if command not in fault.lacks]
    return [
        Case(f"faults/{command}/{fault.name}/{number:02d}", partial(_run, fault, command))
        for fault, command in cells
        for number in range(A_CELL)
    ]


def draw(fault: Fault, attempt: Attempt, dice: random.Random) -> tuple[str, bool]:
    """Draw a fault for some or all requests of a kind, after skipping some. Returns its description, and whether
    himl has the cache of an earlier call.
    """
    places, files, is_warm = attempt.places, attempt.files, dice.random() < WARM
    fitting = [
        (place, weight) for place, weight in places if place.name in fault.at and not (is_warm and place.is_first_only)
    ]
    if not fitting:  # only a first call sends such requests
        is_warm, fitting = False, [(place, weight) for place, weight in places if place.name in fault.at]
    (place,) = dice.choices([one for one, _ in fitting], [weight for _, weight in fitting])
    which = ""
    if place.is_file and not fault.on_connect and dice.random() < OF_ONE_FILE:
        which = dice.choice(sorted(files))
        place = replace(
            place, match=place.match.replace(ANY, ANY + re.escape(which)), body=min(len(files[which]), LEAST_RANGE)
        )
    action = fault.make(dice, place)
    times = dice.randint(1, 3) if dice.random() < PASSING else None
    among = place.among if not fault.on_connect else CONNECTIONS if place.is_file else 1
    skip = 0 if which else dice.randrange(among)
    where = f"{'connections for ' if fault.on_connect else ''}{place.name}{' of ' if which else ''}{which}"
    values = [
        getattr(action, one.name)
        for one in fields(action)
        if getattr(action, one.name) != one.default and one.name != "message"
    ]
    text = f"{type(action).__name__}({', '.join(map(str, values))}) at {where}, {times or 'all'} after {skip}"
    attempt.world.stage.faults.add(
        action, f"^CONNECT {place.host}" if fault.on_connect else place.match, times=times, skip=skip
    )
    return text, is_warm


def _run(fault: Fault, command: str, world: World, dice: random.Random) -> Result:
    stock = world.lasting("stock", Stock)
    memory = world.lasting(f"memory of {command}", lambda world: _first_call(world, stock, command))
    return drawn_until_met(lambda _: _tried(world, stock, memory, fault, command, dice))


def _tried(world: World, stock: Stock, memory: Path, fault: Fault, command: str, dice: random.Random) -> Result:
    attempt = COMMANDS[command](world, stock, dice)
    world.stage.clear()
    met, is_warm = draw(fault, attempt, dice)
    world.begin_with(memory if is_warm else None)
    try:
        begun = time.monotonic()
        ended = attempt.call()
        seconds = time.monotonic() - begun
        world.stage.faults.clear()
        hits = world.hits()
        codes = fault.of_upload or fault.codes if command == "upload" else fault.codes
        verdict = _judged(attempt, ended, codes if hits else frozenset({0}))
        again = None
        if not verdict.is_lost:
            again = attempt.call()
            verdict = judge_again(verdict, again, attempt.problems(again, is_done=True))
        world.check_requests()
    finally:
        attempt.close()
        shutil.rmtree(world.project)
    return world.told(verdict, ended, seconds, hits, again, met=met, cache="warm" if is_warm else "cold")


def _judged(attempt: Attempt, ended: Ended | None, documented: frozenset[int]) -> Verdict:
    problems = attempt.problems(ended, is_done=ended is not None and ended.code == 0)
    return judge(ended, documented, problems, prints=attempt.prints)


def _first_call(world: World, stock: Stock, command: str) -> Path:
    """A home folder with the cache of one call without a fault."""
    attempt = COMMANDS[command](world, stock, random.Random(command))
    verdict = _judged(attempt, attempt.call(), frozenset({0}))
    attempt.close()
    assert verdict.outcome is Outcome.survived, f"without any fault: {verdict.why}"
    kept = world.place / "memory" / command
    shutil.copytree(world.home, kept)
    shutil.rmtree(attempt.cwd)
    return kept
