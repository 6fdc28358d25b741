"""The world of a case, and the verdict on its effects on the disk and in a storage account, its exit code and its
messages.

A world has a double of Azure ML with its Azurite, a himl process that has its imports loaded, and a folder, home and
cache per case."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from stress.records import Outcome, Result
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage, running_stage
from tests.azureml_double.storage import Storage
from tests.support import running

PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TMPDIR",
    "COMSPEC",
    "PATHEXT",
)  # the variables of this machine that a case may see
FIXED = {
    "COLUMNS": "80",
    "LINES": "24",
    "NO_COLOR": "1",
    "TZ": "UTC",
    "GIT_CONFIG_NOSYSTEM": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
CACHES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "APPDATA", "LOCALAPPDATA")
DRAWS = 4  # at most, including the first one, until a fault occurs
LIMIT = 400.0  # seconds after which a command counts as hanging, twice the longest series of retries
NAMED, SAID = 5, 160
SPAWN = multiprocessing.get_context("spawn")
_IDS = re.compile(
    r"(…/)?case_[0-9a-f]{8}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|himl[0-9a-f]{8}\d{3}|(group|ws)-[0-9a-f]{6,8}"
)
_RUN_ID = re.compile(r"\b\w+_\d{10}_[0-9a-f]{8}\b")
_ESCAPED = re.compile(r"Traceback \(most recent call last\)|Exception ignored|this is a bug in himl", re.IGNORECASE)
Kept = TypeVar("Kept")
LOG_METRIC = """
import json, os, time, urllib.request
from contextlib import suppress
from pathlib import Path

def log_metric(key, value, step):
    facts = {"run_id": os.environ["AZUREML_RUN_ID"], "key": key, "value": value,
        "timestamp": int(time.time() * 1000), "step": step}
    url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
    token = os.environ["MLFLOW_TRACKING_TOKEN"]
    request = urllib.request.Request(url, json.dumps(facts).encode(), {"Authorization": "Bearer " + token})
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).read()
"""
"""The beginning of a job's script that logs by MLflow's protocol."""


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str


class World:
    """The result of `running_world`. `folder` belongs to the current case and is empty at its start. All cases share
    `stage`, one at a time.
    """

    def __init__(self, stage: Stage, place: Path) -> None:
        self.stage, self.place, self.folder = stage, place, place
        self._kept: dict[str, Any] = {}

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Prepare one case: no faults, no recorded requests, and a separate folder that is deleted afterwards."""
        self.folder = self.place / f"case_{uuid.uuid4().hex[:8]}"
        self.stage.clear()
        for folder in (self.home, self.folder / "tmp"):
            folder.mkdir(parents=True)
        try:
            yield
        finally:
            self.stage.clear()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = self.place

    def lasting(self, name: str, make: Callable[[World], Kept]) -> Kept:
        """The result of *make* for *name*, which is called once and shared by all cases of this world."""
        if name not in self._kept:
            self._kept[name] = make(self)
        return cast("Kept", self._kept[name])

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def begin_with(self, memory: Path | None) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        if memory is None:
            self.home.mkdir()
        else:
            shutil.copytree(memory, self.home)

    def environment(self, staged: StagedWorkspace | None = None) -> dict[str, str]:
        homes = {name: str(self.home) for name in ("HOME", "USERPROFILE")} | {
            name: str(self.home / name.lower()) for name in CACHES
        }
        temporary = {name: str(self.folder / "tmp") for name in ("TMPDIR", "TEMP", "TMP")}
        return {**FIXED, **homes, **temporary, **(staged.environment() if staged else self.stage.environment())}

    def himl(self, *arguments: str | Path, cwd: Path, env: Mapping[str, str], limit: float = LIMIT) -> running.Outcome:
        return running.Himl(running.PROGRAM, cwd)(*arguments, env=env, timeout=limit)

    def call(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], limit: float = LIMIT) -> Ended | None:
        with suppress(subprocess.TimeoutExpired):
            done = self.himl(*arguments, cwd=cwd, env=env, limit=limit)
            return Ended(done.code, done.stdout, done.stderr)
        return None

    def hits(self) -> int:
        return sum(len(seen.faults) for seen in self.stage.log.all())

    def check_requests(self) -> None:
        unknown = self.stage.log.unknown()
        assert not unknown, f"the double was asked what it does not play: {unknown}"

    def result(
        self, problems: Sequence[str], code: int | None, seconds: float, hits: int, facts: Mapping[str, Any]
    ) -> Result:
        """The result of a case that is lost if there are *problems*, and has survived otherwise."""
        why = "; ".join(problems[:NAMED]) + (f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else "")
        return Result(
            Outcome.lost if problems else Outcome.survived, code, seconds, hits, why=self.tidy(why), facts=facts
        )

    def told(
        self,
        verdict: Verdict,
        ended: Ended | None,
        seconds: float,
        hits: int,
        again: Ended | None = None,
        /,
        **facts: Any,
    ) -> Result:
        """The result of a case with the first call *ended*. Unless it is lost, a case without *hits* was not met."""
        said, why = (
            self.tidy(_RUN_ID.sub("…", text)) for text in (last_line(ended.stderr) if ended else "", verdict.why)
        )
        if ended is not None and ended.code > 0:
            facts["said"] = said[:SAID]
        outcome = verdict.outcome if hits or verdict.is_lost else Outcome.not_met
        return Result(outcome, ended.code if ended else None, seconds, hits, again.code if again else None, why, facts)

    def tidy(self, text: str) -> str:
        for path, short in ((self.place, "…"), (Path(__file__).parent.parent, "himl")):
            text = text.replace(str(path), short)
        return plain(_IDS.sub("…", text))


def drawn_until_met(attempt: Callable[[float | None], Result]) -> Result:
    """The first result of *attempt* with a fault. Each call gets the duration of the previous one."""
    draws, result = 1, attempt(None)
    while result.outcome is Outcome.not_met and draws < DRAWS:
        draws, result = draws + 1, attempt(result.seconds)
    return replace(result, facts={**result.facts, "draws": draws})


def leave_only_ours() -> None:
    for name in set(os.environ) - set(PASSED_ON):
        del os.environ[name]
    os.environ.update({name: value for name, value in FIXED.items() if name.startswith("PYTHON")})


@contextmanager
def running_world(place: Path) -> Iterator[World]:
    (place / "stage").mkdir(parents=True)
    with running_stage(place / "stage") as stage:
        yield World(stage, place)


@dataclass(frozen=True)
class Gauge:
    """The memory of the process *pid* in MiB, by /proc (Linux). All methods raise OSError once it has ended."""

    pid: int

    @property
    def resident(self) -> float:
        return self._figure("VmRSS") / 1024

    @property
    def peak(self) -> float:
        return self._figure("VmHWM") / 1024

    @property
    def threads(self) -> int:
        return self._figure("Threads")

    @property
    def handles(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _figure(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        if found is None:  # a zombie has no memory
            raise ProcessLookupError(f"process {self.pid} has ended")
        return int(found[1])


@dataclass(frozen=True)
class Measured:
    """The exit code of a program (None: it was killed), its processor seconds, its duration, and its peak memory in
    MiB.
    """

    ended: Ended | None
    cpu: float
    wall: float
    peak: float


def measured(command: Sequence[str], out: Path, cwd: Path, env: Mapping[str, str], limit: float) -> Measured:
    begun, peak, is_late = time.monotonic(), 0.0, False
    errors = out.with_suffix(".err")
    with out.open("wb") as printed, errors.open("wb") as said:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=said,
            start_new_session=True,
        )
        try:
            while True:
                with suppress(OSError):  # it may have ended
                    peak = max(peak, Gauge(process.pid).peak)
                pid, status, spent = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() - begun > limit:
                    is_late = True
                    process.kill()
                time.sleep(0.01)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
    ended = (
        None
        if is_late
        else Ended(process.returncode, *(path.read_text("utf-8", "backslashreplace") for path in (out, errors)))
    )
    return Measured(ended, spent.ru_utime + spent.ru_stime, time.monotonic() - begun, peak)


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    why: str = ""

    @property
    def is_lost(self) -> bool:
        return self.outcome is Outcome.lost


def lost(why: str) -> Verdict:
    return Verdict(Outcome.lost, why)


def differences(
    wanted: Mapping[str, bytes], found: Mapping[str, bytes], *, is_done: bool, grows: bool = False
) -> list[str]:
    """Problems of files with final names: other bytes than *wanted*, unexpected names, and with *is_done* missing
    names.

    With *grows*, a file may end early until it is done.
    """
    wrong = [f"{name!r} is lacking" for name in sorted(wanted.keys() - found.keys())] if is_done else []
    for name, content in sorted(found.items()):
        if name not in wanted:
            wrong.append(f"{name!r} should not be there")
        elif content != wanted[name] and not (grows and not is_done and wanted[name].startswith(content)):
            pairs = enumerate(zip(wanted[name], content, strict=False))
            same = next((at for at, (one, other) in pairs if one != other), min(len(wanted[name]), len(content)))
            wrong.append(
                f"{name!r} has {len(content):,} bytes of {len(wanted[name]):,}, other ones from byte {same:,} on"
            )
    return wrong


def file_differences(wanted: Mapping[str, bytes], folder: Path, *, is_done: bool) -> list[str]:
    """As `differences` for the files below *folder*. A call that is done must not leave temporary files."""
    parts = {path for path in folder.rglob("*.himl-part") if path.name.startswith(".")}
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path not in parts
    }
    return differences(wanted, found, is_done=is_done) + (
        [f"{path.name!r} is left" for path in parts] if is_done else []
    )


def wrong_blobs(
    storage: Storage, container: str, prefix: str, wanted: Mapping[str, bytes], *, is_done: bool
) -> list[str]:
    """Problems of the blobs below *prefix* and of their stored MD5s, as `differences`."""
    blobs = list(storage.list(container, prefix))
    found = {blob.name.removeprefix(prefix): storage.get(container, blob.name) for blob in blobs}
    wrong = differences(wanted, found, is_done=is_done)
    for blob in blobs:
        name, md5 = blob.name.removeprefix(prefix), blob.content_settings.content_md5
        if bytes(md5 or b"") != hashlib.md5(found[name]).digest():
            wrong.append(f"{name!r} is stored with another MD5 than that of its bytes, or with none")
    return wrong


def judge(
    ended: Ended | None,
    documented: Set[int],
    problems: Sequence[str],
    *,
    prints: bool = False,
    orphans: Sequence[str] = (),
    is_before_himl: bool = False,
) -> Verdict:
    """The verdict on one call (None: it did not end) that left *problems*, and processes that should have ended
    (*orphans*).

    A failure leaves stdout empty, unless the command *prints* its results. A call that ends *is_before_himl* ends like
    the interpreter."""
    if ended is None:
        return lost("hangs")
    if _ESCAPED.search(ended.stderr) and not is_before_himl:
        return lost(f"exit code {ended.code}, a failure that himl does not know: {last_line(ended.stderr)}")
    if ended.code not in documented and not is_before_himl:
        return lost(
            f"exit code {ended.code}, documented: {', '.join(map(str, sorted(documented)))}: {last_line(ended.stderr)}"
        )
    if orphans:
        return lost(f"exit code {ended.code}, but {len(orphans)} processes go on: {orphans[0][:300]}")
    if problems:
        return lost(f"exit code {ended.code}, but {'; '.join(problems[:NAMED])}")
    if ended.code == 0:
        return Verdict(Outcome.survived)
    if ended.code > 0 and not ended.stderr.strip():
        return lost(f"exit code {ended.code} without a word")
    if ended.stdout and not prints:
        return lost(f"exit code {ended.code}, and yet on stdout: {ended.stdout[:200]!r}")
    return Verdict(Outcome.reported)


def judge_again(first: Verdict, ended: Ended | None, problems: Sequence[str], orphans: Sequence[str] = ()) -> Verdict:
    """*first*, unless the same command without a fault fails, or has to wait."""
    if ended is None:
        return lost("the next call hangs")
    if ended.code != 0:
        return lost(f"the next call: exit code {ended.code}: {last_line(ended.stderr)}")
    if "Waiting for it" in ended.stderr:
        return lost(f"the next call waits: {ended.stderr.strip()[:300]}")
    if problems:
        return lost(f"the next call: {'; '.join(problems[:NAMED])}")
    if orphans:
        return lost(f"after the next call {len(orphans)} processes go on: {orphans[0][:300]}")
    return first


def plain(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)


def last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if not line.startswith("hint:")]
    return lines[-1][:300] if lines else "(nothing on stderr)"
