"""Records of runs: ids, tags, statuses, selections of runs, and checkpoints."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from himl_cli.core.errors import BadUsage, RunNotFound
from himl_cli.core.json_text import read_json
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.records import dataclass
from himl_cli.core.sweeps import HYPERPARAMETERS, PLACEHOLDER, Scalar
from himl_cli.core.text import near_matches, utc_text

# The beginning of the reason of an open run if it is unknown whether the run is in progress
DOUBT = "unknown: "
# The beginning of a local run's reason if one of several ranks failed
FAILED_RANK = lazy_pattern(r"rank (\d+): ")

# Prefixes of tags that himl and services set, which lists of the user's tags omit
SUBMITTED_TAGS = ("build_", "command_line", "commandline_args", "run_recovery_id")
AUTOMATIC_TAGS = (*SUBMITTED_TAGS, "mlflow.", "himl.")

REPEATS = "himl.repeats"  # the tag of a run with the id of the run that it repeats
CHANGES = "himl/changes.diff"  # the file of a run with the diff of its code against its commit
NOTE = "mlflow.note.content"  # the tag with a description from MLflow: start_run(description=), a page's editor
# The tag of a local run that was started again: a JSON list with the number of the last row of metrics before each
# further attempt
ATTEMPT_ENDS = "himl.tries"
LAST_ATTEMPT = "himl.try"  # the number of the last attempt of such a run
# The tag of a nested run of an earlier attempt that a later one repeated: the number of that attempt. Its values do not
# count. A nested run of a later attempt has the tag LAST_ATTEMPT
REPEATED_BY = "himl.repeated_by"
# The tag of a run that a script started after the job's run, not nested in it: the id of the job's run
BESIDE = "himl.beside"
# The tag of a run that was started again: a JSON list of its attempts as lists of start, end (both in milliseconds
# since 1970 UTC, null if unknown) and outcome
ATTEMPTS = "himl.attempts"
# The tag of a run that was resumed with new code: which attempt began with it, and the changed files
NEW_CODE = "himl.new_code"
# The tag of a local run in the queue of an engine: the handle of its job, empty until it is known
JOB_TAG = "himl.{}_job"
RECORDED_IN = "himl.recorded_in"  # the workspace to which a local run is mirrored
STUDIO = "himl.studio"  # the page of a local run in that workspace
ARCHIVED = "himl.archived"  # marks an archived run in local records
GPUS = "himl.gpus"  # the GPUs of this machine that a local run got
STOPPED = "himl.recording_stopped"  # the reason why a local run was not mirrored completely
RECORDED_FROM = "himl.recorded_from"  # the machine of the local run, on its mirror
MLFLOW_ADDRESS = "himl.mlflow_address"  # where the script of a local job started MLflow's runs, if not in himl
# The tag of a run that started from a checkpoint of another one, or that stores changed ones: the other run's id, with
# `:` and the path for one file or `FOLDER/`. Without a run, it is `./NAME` for a path, or the address without its query
FROM_RUN = "himl.checkpoint_from"

# The tag of a run with the contents of the checkpoints that it started with, one word for each: its size in bytes and
# the first digits of its MD5
BROUGHT = "himl.checkpoint_md5"

# The tag of a run that only stores checkpoints that a user changed, which are not a sequence from a training
PUSHED = "himl.pushed"


class RunStatus(str, Enum):
    """The five statuses of a run, to which both workspaces map their own."""

    queued = "Queued"
    running = "Running"
    completed = "Completed"
    failed = "Failed"
    canceled = "Canceled"

    @property
    def is_final(self) -> bool:
        return self in (RunStatus.completed, RunStatus.failed, RunStatus.canceled)


# MLflow's words for the statuses
MLFLOW_STATUSES = {
    RunStatus.queued: "SCHEDULED",
    RunStatus.running: "RUNNING",
    RunStatus.completed: "FINISHED",
    RunStatus.failed: "FAILED",
    RunStatus.canceled: "KILLED",
}


WORDS_FOR_STATUSES = {
    RunStatus.queued: ("pending", "waiting"),
    RunStatus.running: ("active", "started"),
    RunStatus.completed: ("done", "success", "succeeded", "ok"),
    RunStatus.failed: ("error", "crashed"),
    RunStatus.canceled: ("stopped", "aborted"),
}
"""Words of other tools, which himl suggests its own for."""


def status_of(word: str) -> RunStatus:
    """The status for himl's, MLflow's or hi-ml's *word*, in any case. Raises BadUsage with the nearest status."""
    known = {status.value.lower(): status for status in RunStatus} | {"cancelled": RunStatus.canceled}
    known |= {name.lower(): status for status, name in MLFLOW_STATUSES.items()}
    if (found := known.get(word.lower())) is not None:
        return found
    from difflib import get_close_matches  # imported late, since all commands import this module

    known |= {each: status for status, words in WORDS_FOR_STATUSES.items() for each in words}
    near = [word.lower()] if word.lower() in known else get_close_matches(word.lower(), known, n=1)
    hint = f"Did you mean {known[near[0]].value}? " if near else ""
    every = ", ".join(status.value for status in RunStatus)
    raise BadUsage(f"Unknown status '{word}'.", hint=f"{hint}Statuses: {every}.")


@dataclass(frozen=True)
class Run:
    """One run. Times are UTC: `started` is the start of its first attempt, `ended` the end of its last one. `parent` is
    the id of its parent run, `reason` explains its end, `url` is its page if it has one, `command` the program as users
    see it. `description` is the latest one, in the tag NOTE or from the submission. `target` is the compute target of a
    job on Azure ML. Lists omit archived runs.

    For a new run, `id`, `experiment`, the names, `tags`, `parent` and `command` count.
    """

    id: str
    experiment: str
    status: RunStatus = RunStatus.queued
    created: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    display_name: str = ""
    description: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    exit_code: int | None = None
    reason: str = ""
    command: str = ""
    workspace: str = ""
    folder: str = ""
    url: str = ""
    target: str = ""
    is_archived: bool = False

    @property
    def duration(self) -> float | None:
        """Seconds from the first start to the end, or until now, with the time between attempts. None before the start,
        and if the end was never recorded."""
        if self.started is None or (self.ended is None and self.status.is_final):
            return None
        return max(0.0, ((self.ended or datetime.now(timezone.utc)) - self.started).total_seconds())

    @property
    def is_unknown(self) -> bool:
        """Whether it is unknown if the run is in progress. `status` is the last recorded one, and `reason` says why."""
        return not self.status.is_final and self.reason.startswith(DOUBT)

    @property
    def doubt(self) -> str:
        """The message for a run of which `is_unknown` is true."""
        return f"It is unknown whether run '{self.id}' is in progress: {self.reason.removeprefix(DOUBT)}."

    @property
    def recovery_id(self) -> str:
        """The form `experiment:run_id`, which hi-ml writes to `most_recent_run.txt`."""
        return f"{self.experiment}:{self.id}"

    @property
    def end_text(self) -> str:
        """A description of the end: `failed after 3.2 s: exit code 3`."""
        after, seconds = "", self.duration
        if seconds is not None and seconds < 100:
            after = f" after {seconds:.1f} s"
        elif seconds is not None:
            minutes, rest = divmod(round(seconds), 60)
            hours, left = divmod(minutes, 60)
            after = f" after {hours} h {left} min" if hours else f" after {minutes} min {rest} s"
        why = f": {self.reason}" if self.reason and self.reason != self.status.value.lower() else ""
        return f"{self.status.value.lower()}{after}{why}"


def more_files(runs: Sequence[Run]) -> str:
    """A sentence if *runs* may write more files, because they have not ended, as far as is known. Else empty."""
    found = [run for run in runs if not run.status.is_final]
    if not found:
        return ""
    if len(runs) > 1:
        return f"{len(found)} of {len(runs)} runs have no recorded end. They may write more files."
    (run,) = found
    state = run.doubt if run.is_unknown else f"Run '{run.id}' has not ended."
    return f"{state} It may write more files."


def check_known(run: Run, command: str) -> None:
    """Raise BadUsage if it is unknown whether the run is in progress. The hint is *command* with --force."""
    if run.is_unknown:
        raise BadUsage(run.doubt, hint=f"To do it anyway: {command} {run.id} --force")


@dataclass(frozen=True)
class JobServices:
    """The interactive services that a job was submitted with: their types by name, those that run on each of its
    `nodes` instead of the first one only, and the public keys that its SSH server accepts."""

    types: Mapping[str, str] = field(default_factory=dict)
    everywhere: frozenset[str] = frozenset()
    nodes: int = 1
    public_keys: Sequence[str] = ()


@dataclass(frozen=True)
class RunService:
    """An interactive service of a running job on one of its nodes. `type` and `status` are the service's words
    (`JupyterLab`, `Running`), `url` is its address for a browser, `proxy` its address for ssh."""

    name: str
    type: str
    node: int
    status: str = ""
    url: str = ""
    port: int | None = None
    error: str = ""
    proxy: str = ""

    @property
    def is_ready(self) -> bool:
        return self.status.lower() == "running"

    @property
    def is_failed(self) -> bool:
        return bool(self.error) or self.status.lower() in ("failed", "error")

    @property
    def is_ssh(self) -> bool:
        return self.type.lower() == "ssh"


def run_form(run: Run) -> dict[str, Any]:
    """A run as JSON: `id, experiment, display_name, status, started, duration (seconds), tags` first, then the other
    fields."""
    duration = run.duration
    return {
        "id": run.id,
        "experiment": run.experiment,
        "display_name": run.display_name,
        "status": run.status.value,
        "started": run.started and utc_text(run.started),
        "duration": None if duration is None else round(duration, 3),
        "tags": dict(run.tags),
        "created": utc_text(run.created),
        "ended": run.ended and utc_text(run.ended),
        "parent": run.parent,
        "exit_code": run.exit_code,
        "reason": run.reason,
        "description": run.description,
        "command": run.command,
        "workspace": run.workspace.removeprefix("workspace "),
        "folder": run.folder,
        "url": run.url,
        "archived": run.is_archived,
        "recovery_id": run.recovery_id,
    }


def arguments_of(run: Run) -> dict[str, Scalar]:
    """Named arguments of the run's command, without dashes: `--name value` and `--name=value`. An option without a
    value is True."""
    if "--" not in run.command:
        return {}
    try:
        words = shlex.split(run.command)
    except ValueError:  # an unclosed quote
        words = run.command.split()
    found: dict[str, Scalar] = {}
    for place, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            following = words[place + 1] if place + 1 < len(words) else "--"
            found[name] = value if equals else True if following.startswith("--") else following
    return {name: value for name, value in found.items() if not (isinstance(value, str) and PLACEHOLDER.search(value))}


def beside(run: Run, children: Sequence[Run]) -> Sequence[Run]:
    """The *children* of *run*, or *run* and its children if its script started them one after the other: MLflow's
    first run is the job's run, and the next ones are its child runs."""
    return [run, *children] if any(child.tags.get(BESIDE) == run.id for child in children) else children


def attempt_of(run: Run) -> int:
    """The number of the attempt that created a nested run, or of a job's last attempt, from 1."""
    return int(found) if (found := run.tags.get(LAST_ATTEMPT, "")).isdecimal() else 1


def own_name(run: Run) -> str:
    """The display name, or an empty text if it is the id, which is Azure ML's default."""
    return "" if run.display_name == run.id else run.display_name


def own_tags(run: Run) -> dict[str, str]:
    """The tags that the user set."""
    return {
        name: value
        for name, value in run.tags.items()
        if not name.startswith(AUTOMATIC_TAGS) and name != HYPERPARAMETERS
    }


def new_run_id(experiment: str) -> str:
    """A new id `EXPERIMENT_<unix seconds>_<8 hex>`, short enough for a folder's name (255 bytes) and for a job's on
    Azure ML. This is hi-ml's form of recovery ids."""
    return f"{experiment[:200]}_{int(time.time())}_{os.urandom(4).hex()}"


def is_run_id(text: str) -> bool:
    """Whether *text* can be an id, which is the name of a folder."""
    return re.fullmatch(r"[^/\\\0]{1,255}", text) is not None and text not in (".", "..")


def implied_experiment(run_id: str) -> str | None:
    """The experiment in ids such as `EXPERIMENT_<digits>_<hex>` and `EXPERIMENT_<digits>`, by hi-ml's rule, which does
    not allow `-`. None for other ids."""
    found = re.fullmatch(r"(?P<two>[\w-]+)_\d+_[0-9a-f]+|(?P<one>[\w-]+)_\d+", run_id, re.ASCII)
    return None if found is None else found["two"] or found["one"]


SHORTEST_ID = 4  # characters of an abbreviated id
_HEX_PART = lazy_pattern(r"_\d+_([0-9a-f]+)(_.*)?$")


def _hex_parts(run_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The hex digits and the suffix of a child run of each id that has them."""
    matches = {each: _HEX_PART.search(each) for each in run_ids}
    return {each: (match[1], match[2] or "") for each, match in matches.items() if match}


def hex_part(run_id: str) -> str:
    """The hex digits of an id, with the suffix of a child run, or an id without digits itself."""
    return "".join(_hex_parts([run_id]).get(run_id, (run_id,)))


def run_not_found(run_id: str, where: str, known: Sequence[str], *, is_complete: bool = True) -> RunNotFound:
    """The error for *run_id*, with the *known* ids that it abbreviates: they, or their parts from the hex digits on,
    begin with it. A run represents its children."""
    parts = _hex_parts(known)
    found = [each for each in known if each.startswith(run_id) or "".join(parts.get(each, ())).startswith(run_id)]
    if len(run_id) < SHORTEST_ID:
        found = [each for each in found if each in parts and "".join(parts[each]) == run_id]
    every = {*found}
    found = [
        each for each in found if not (rest := parts.get(each, ("", ""))[1]) or each.removesuffix(rest) not in every
    ]
    similar = found[:3] or near_matches(run_id, known)
    return RunNotFound(run_id, where, similar=similar, abbreviated=found, is_complete=is_complete)


def with_digits(text: str, known: Iterable[str]) -> list[str]:
    """Those of the *known* ids whose hex digits *text* abbreviates, which may have the suffix of a child run. They are
    not read if *text* has no such form."""
    digits, sign, number = text.partition("_")
    if not re.fullmatch("[0-9a-f]+", digits):
        return []
    whole, is_long = (digits, f"{sign}{number}"), len(digits) >= SHORTEST_ID
    parts = _hex_parts(known).items()
    return [
        each
        for each, part in parts
        if part == whole or (is_long and part[0].startswith(digits) and part[1] == whole[1])
    ]


def short_ids(run_ids: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """The shortest abbreviation of each of *run_ids* that is among the *known* ids, with five hex digits or more."""
    parts = _hex_parts(known)
    names = {*parts, *(digits for digits, _ in parts.values())}
    short: dict[str, str] = {}
    for size in range(SHORTEST_ID + 1, 33):
        left = [each for each in run_ids if each in parts and each not in short]
        counts = Counter(name[:size] for name in names) if left else {}
        for each in left:
            digits, rest = parts[each]
            if counts[digits[:size]] == 1:
                short[each] = digits + rest if rest else digits[:size]
    return short


LONGEST_EXPERIMENT = 256


def friendly_experiment(name: str) -> str:
    """*name* in the form that Azure ML accepts: letters, digits, `_` and `-`, first a letter or digit. A valid name is
    unchanged.

    Each sequence of other characters becomes one `_`. A name without valid characters, such as that of a script with a
    Chinese name, becomes `experiment`. Raises BadUsage for an empty one.
    """
    if not name.strip():
        raise BadUsage("The experiment's name is empty.", hint="Name it with --experiment NAME")
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", name).lstrip("_-")[:LONGEST_EXPERIMENT] or "experiment"


def hi_ml_experiment(name: str) -> str:
    """*name* in the form of hi-ml-azure 0.5.4: valid for Azure ML, with each sequence of `_` as one."""
    return re.sub("_+", "_", friendly_experiment(name))


def underscored(name: str) -> str:
    """*name* in the form of hi-ml and older versions of himl, which also replaced `-` by `_`."""
    return re.sub(r"[^a-zA-Z0-9_]+", "_", name)


def experiment_remarks(asked: str, chosen: str) -> list[str]:
    """A remark if the experiment has another name than the user chose."""
    if asked == chosen:
        return []
    taken = f"Names have letters, digits, _ and -, {LONGEST_EXPERIMENT} at most, and begin with a letter or digit."
    return [f"The experiment is called '{chosen}', since Azure ML does not accept '{asked}'. {taken}"]


@dataclass(frozen=True)
class RunQuery:
    """A selection of runs of a workspace, newest first, which meet all conditions. `limit` None means no limit. With
    `children`, child runs of an experiment are included. With `by_start`, local runs are in the order of their start,
    not of their creation. With `archived` there are only archived runs, and with None
    there are both kinds. With `since`, there are only runs that were created at that time or later."""

    experiment: str | None = None
    statuses: Sequence[RunStatus] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    limit: int | None = None
    children: bool = False
    archived: bool | None = False
    by_start: bool = False
    since: datetime | None = None


@dataclass(frozen=True)
class RunSelection:
    """The user's selection of runs. `services.runs.lookup` turns it into runs. With `is_exact`, for changes of runs,
    other spellings of an experiment do not count."""

    runs: Sequence[str] = ()
    experiment: str | None = None
    num_runs: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    statuses: Sequence[RunStatus] = ()
    latest_run_file: str | None = None
    children: bool = False
    archived: bool = False
    is_exact: bool = False


Goal = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Choice:
    """A choice among the checkpoints of a run: the last, the one of `epoch`, or the best by `metric` (None: the one in
    the files' names) and `goal`.

    `name_offset` is the difference between epochs or steps in names and in the log (None: determined by comparison).
    """

    kind: Literal["last", "best", "epoch"] = "last"
    epoch: int | None = None
    metric: str | None = None
    goal: Goal | None = None
    name_offset: int | None = None


@dataclass(frozen=True)
class SignedLink:
    """An address at which anybody can read one file until `expires`. Its signature is a secret."""

    url: str = field(repr=False)
    expires: datetime


@dataclass(frozen=True)
class LinkedCheckpoint:
    """The file `name` of `run`, and its link."""

    run: Run
    name: str
    link: SignedLink


@dataclass(frozen=True)
class PushedCheckpoints:
    """A run of changed checkpoints, and the original run.

    `names` are its files, `unchanged` those that are the same in the original run. `start` is the value of
    `--checkpoint` for a job that starts from them.
    """

    run: Run
    source: Run
    names: Sequence[str]
    unchanged: Sequence[str]
    start: str


@dataclass(frozen=True)
class FetchedCheckpoint:
    """A complete checkpoint on this machine. `shown` is its path (a file or a folder), relative like the request's.

    `status` is `fetched`, `complete` (it was already on this machine) or `local` (the user named a path). `names` are
    its files in the run or at the address, `size` is their total size in bytes. `unverified` counts files without an
    MD5 in the service. `address` has no query.
    """

    shown: str
    status: str
    names: Sequence[str] = ()
    size: int = 0
    run: Run | None = None
    address: str = ""
    epoch: int | None = None
    metric: str = ""
    value: float | None = None
    unverified: int = 0
    seconds: float = 0.0

    @property
    def path(self) -> Path:
        return Path(self.shown)


@dataclass(frozen=True)
class OutputFootprint:
    """A named output of the run called `run`: the data asset `NAME:VERSION`, its address, and its files. `place` is the
    name of their container in messages, `kept` the reason why a deletion keeps them, or empty."""

    run: str
    key: str
    asset: str
    uri: str
    is_file: bool
    place: str
    files: int = 0
    size: int = 0
    kept: str = ""


@dataclass(frozen=True)
class RunFootprint:
    """The data that a deletion of a run includes: the runs `below` it, parents first, and for a run of a service
    (`is_counted`) the number of their files, their bytes, their containers, and the requested outputs."""

    run: Run
    below: Sequence[Run]
    files: int = 0
    size: int = 0
    places: Sequence[str] = ()
    outputs: Sequence[OutputFootprint] = ()
    is_counted: bool = False


@dataclass(frozen=True)
class RunEnd:
    """How a run ended. `reason` is one line, for runs that did not complete."""

    status: RunStatus
    reason: str = ""

    @property
    def text(self) -> str:
        status = self.status.value.lower()
        return f"{status}: {self.reason}" if self.reason not in ("", status) else status


@dataclass(frozen=True)
class Attempt:
    """One attempt of a run that was started several times: a status and a reason as `outcome`, empty while it runs. An
    attempt that was killed has no end."""

    started: datetime | None
    ended: datetime | None
    outcome: str

    @property
    def duration(self) -> float | None:
        """Seconds from start to end, or until now while it runs. None if either is unknown."""
        ended = self.ended if self.outcome else datetime.now(timezone.utc)
        return None if self.started is None or ended is None else max(0.0, (ended - self.started).total_seconds())


def attempts_of(run: Run) -> list[Attempt]:
    """The attempts of a run that was started several times, oldest first. Empty for other runs."""
    found = _attempts(run.tags)
    if len(found) < 2:
        return []
    *before, last = found
    if run.status.is_final:
        last = replace(last, ended=run.ended, outcome=RunEnd(run.status, run.reason).text)
    return [*(replace(each, outcome=each.outcome or "ended without a recorded outcome") for each in before), last]


def later_starts(tags: Mapping[str, str]) -> list[datetime]:
    """When the second attempt of the run with *tags* started, and each later one. Empty for a run with one attempt."""
    return [each.started for each in _attempts(tags)[1:] if each.started is not None]


def _attempts(tags: Mapping[str, str]) -> list[Attempt]:
    found = []
    try:
        for began, ended, outcome in read_json(tags.get(ATTEMPTS) or "[]"):
            times = [each and datetime.fromtimestamp(each / 1000, timezone.utc) for each in (began, ended)]
            found.append(Attempt(times[0], times[1], outcome))
    except (OSError, OverflowError, TypeError, ValueError):  # users may overwrite tags
        return []
    return found


def end_of_trials(statuses: Sequence[RunStatus], total: int) -> RunEnd:
    """How a sweep of *total* trials ended, from the statuses of trials without an early stop."""
    counts = ((RunStatus.failed, "failed"), (RunStatus.canceled, "were canceled"))
    parts = [f"{statuses.count(status)} of {total} trials {word}" for status, word in counts if status in statuses]
    return RunEnd(RunStatus.failed, ", ".join(parts)) if parts else RunEnd(RunStatus.completed)


def job_tag(engine: str) -> str:
    return JOB_TAG.format(engine)


def queued_in(tags: Mapping[str, str]) -> tuple[str, str] | None:
    """The engine in whose queue a local run is, and the handle of its job there, empty if it is unknown."""
    before, after = JOB_TAG.split("{}")
    names = [name for name in tags if name.startswith(before) and name.endswith(after)]
    return (names[0][len(before) : -len(after)], tags[names[0]]) if names else None
