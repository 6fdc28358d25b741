"""A site's Slurm as the engine of local jobs: batch scripts and sbatch, the status of jobs, and how to cancel them.

The batch step is the supervisor of any local job (`supervisor.main`), on a node that shares the workspace's folder.
himl records a run before it calls sbatch, and the run's id is the job's name, which identifies a job whose number could
not be recorded. While a run's supervisor lives, its lock and its record give the status. Otherwise Slurm does, in one
query for all runs. Options and formats are those of Slurm 20.11 and later (slurm.schedmd.com: sbatch, squeue, sacct,
scancel, scontrol).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import field, replace
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotFound, ServiceFailed
from himl_cli.core.jobs import MANY, STEP, STEP_AFTER, Entry, EntryKind, JobSpec, SlurmSpec, Snapshot
from himl_cli.core.processes import ProcessLock, detached, interruptions, is_held
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import MASK
from himl_cli.core.runs import SLURM_JOB, Run, RunQuery, RunStatus
from himl_cli.core.sampling import make_sampler
from himl_cli.core.workspaces import Check
from himl_cli.workspaces.local.engines.base import ENDED, QUEUED, RUNNING, UNKNOWN, JobState
from himl_cli.workspaces.local.launch_request import (
    PIPELINE,
    LaunchRequest,
    Plan,
    job_from_stored_form,
    stored_form,
)
from himl_cli.workspaces.local.run_folder import STARTING, RunFolder
from himl_cli.workspaces.local.run_process import with_recovery_id
from himl_cli.workspaces.local.run_store import Database, RunStore, chunks
from himl_cli.workspaces.local.staging import JobFiles, Stopped
from himl_cli.workspaces.local.sweep_plan import stage_plan, step_request, trial_request

log = logging.getLogger(__name__)

ASK_SECONDS = 20.0
ASK_AGAIN_SECONDS = 5.0  # between queries to a site's controller while himl waits for a run
WARNING_SECONDS = 60  # between SIGTERM and the time limit
LOG = "supervisor.log"
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED"}
AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}
REASONS = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "canceled in Slurm",
    "DEADLINE": "it would not have ended before its deadline in Slurm",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "it exceeded its memory limit in Slurm (--sbatch mem=SIZE)",
    "PREEMPTED": "Slurm preempted it",
    "TIMEOUT": "it reached Slurm's time limit",
}
INVALID = "Invalid job id specified"
UNKNOWN_END = "it ended without recording an outcome, and Slurm no longer has its job, so it is unknown how"
STEP_BEFORE_FAILED = "a step before it did not complete"
NEVER_SENT = "himl was killed while it submitted the job, and Slurm has no job of this name"


@dataclass()
class SlurmJobs:
    """The status of a workspace's jobs in Slurm, with a limited rate of queries. `waiting` has a reason for each open
    run in Slurm. *end_if_last* records the end of a parent run without open children."""

    folder: Path
    end_if_last: Callable[[RunStore, RunFolder], None]
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked_at: float = -ASK_AGAIN_SECONDS
    waiting: dict[str, str] = field(default_factory=dict)

    def refresh(self, store: RunStore, jobs: Mapping[str, str], *, now: bool = False) -> Mapping[str, str]:
        """The runs among *jobs* (the number in Slurm by run id, empty if unknown) that Slurm has, each with its reason
        to wait. Records the end of the others. None of them may have a supervisor at the moment."""
        with self.lock:
            if now or time.monotonic() - self.asked_at > ASK_AGAIN_SECONDS or set(jobs) - set(self.waiting):
                self._refresh(store, jobs)
            return self.waiting

    def _refresh(self, store: RunStore, jobs: Mapping[str, str]) -> None:
        if jobs:
            parents: dict[str, set[str]] = {}
            for child, parent in store.open_children(list(jobs)):
                parents.setdefault(parent, set()).add(child)
            children = set().union(*parents.values())
            supervised = {child for child in children if RunFolder(self.folder / "runs" / child).is_supervised()}
            asked = {**jobs, **store.slurm_jobs(sorted(children - supervised))}
            arrays = {job for job, handle in jobs.items() if "[" in handle or (not _number(handle) and job in parents)}
            begun = self._starting() if not all(map(_number, asked.values())) else []
            starting = {
                job
                for job, handle in asked.items()
                if not _number(handle) and any(job == each or job.startswith(f"{each}_") for each in begun)
            }
            asked = {job: handle for job, handle in asked.items() if job not in arrays | starting}
            waiting = dict.fromkeys(starting - arrays, "") | record(store, asked, self.states(asked))
            for parent in arrays:
                left = sorted(parents.get(parent, set()) & (waiting.keys() | supervised))
                if left:
                    waiting[parent] = next(filter(None, (waiting.get(child, "") for child in left)), "")
                    continue
                waiting[parent] = ""  # another process may be recording its end
                with suppress(HimlError, OSError):
                    self.end_if_last(store, RunFolder(self.folder / "runs" / parent))
            self.waiting, self.asked_at = waiting, time.monotonic()

    def states(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        """The states of *jobs*, handles by run id, by one squeue for each cluster, and sacct and scontrol for those
        that it does not list. Records nothing. What is not listed has not ended: only an end in a list of Slurm, or the
        controller of the job's cluster that no longer has it, is evidence."""
        clusters: dict[str, dict[str, str]] = {}
        for run_id, handle in jobs.items():
            number, _, cluster = handle.partition(";")
            clusters.setdefault(cluster, {})[run_id] = number
        return {run_id: state for each in clusters.items() for run_id, state in self._states_on(*each).items()}

    def _states_on(self, cluster: str, numbers: Mapping[str, str]) -> dict[str, JobState]:
        at = [f"--clusters={cluster}"] if cluster else []
        command = ["squeue", "--noheader", "--array", "--states=all", *at, "--format=%i|%T|%r|%e|%j"]
        found: dict[str, Seen] = {}
        for selection in _selections(numbers):
            text, problem = output_of([*command, selection])
            if text is None and INVALID not in problem:  # which squeue says if it has none of these
                return dict.fromkeys(numbers, JobState(UNKNOWN, f"squeue failed: {problem}"))
            found |= _matching(numbers, [line.split("|", 4) for line in (text or "").splitlines()])
        missing = {run_id: number for run_id, number in numbers.items() if number and run_id not in found}
        if missing:
            command = ["sacct", "-P", "-n", "-X", *at, "--format=JobID,State,End,JobName", *_selections(missing)]
            rows = [line.split("|", 3) for line in (output_of(command)[0] or "").splitlines()]
            rows = [[row[0], (row[1].split() or [""])[0], "", *row[2:]] for row in rows if len(row) > 2]
            found |= _matching(missing, rows)
        shown: dict[str, tuple[str | None, str]] = {}  # by number, without that of a task
        states: dict[str, JobState] = {}
        for run_id, number in numbers.items():
            seen, base = found.get(run_id), number.partition("_")[0]
            if seen is None:
                if base and base not in shown:
                    shown[base] = output_of(["scontrol", *at, "show", "job", "--oneliner", base])
                states[run_id] = self._state_of_missing(run_id, number, *shown.get(base, ("", "")))
                continue
            handle = "" if number else f"{seen.number}{';' * bool(cluster)}{cluster}"
            if seen.state in WAITING | AT_WORK:
                reason = "" if seen.reason == "None" else seen.reason
                states[run_id] = JobState(QUEUED if seen.state in WAITING else RUNNING, reason, handle=handle)
            else:
                status = RunStatus.canceled if seen.state == "CANCELLED" else RunStatus.failed
                states[run_id] = JobState(ENDED, self._reason(run_id, seen), status, _as_ms(seen.end), handle)
        return states

    def _state_of_missing(self, run_id: str, number: str, text: str | None, problem: str) -> JobState:
        """The state of a job that neither squeue nor sacct lists, from the output of scontrol, or its *problem*. squeue
        was asked for the name of a job without a number."""
        if not number:
            return JobState(ENDED, NEVER_SENT, RunStatus.failed)
        _, _, task = number.partition("_")
        others = [one for each in re.findall(r"ArrayTaskId=(\S+)", text or "") for one in _tasks(each)]
        is_gone = INVALID in problem if text is None else bool(task and others) and int(task) not in others
        if is_gone and (folder := self._folder_of(run_id)).is_cancel_asked():
            return JobState(ENDED, folder.why_canceled(), RunStatus.canceled)
        if is_gone:
            return JobState(ENDED, UNKNOWN_END, RunStatus.failed)
        return JobState(
            UNKNOWN, f"squeue does not list job {number}{f', scontrol failed: {problem}' if problem else ''}"
        )

    def _folder_of(self, run_id: str) -> RunFolder:
        return RunFolder(self.folder / "runs" / run_id)

    def _starting(self) -> list[str]:
        """The runs that processes are submitting at the moment."""
        return [mark.name for mark in (self.folder / STARTING).glob("*") if is_held(mark)]

    def _reason(self, run_id: str, ended: Seen) -> str:
        """The reason for the end of a job without a recorded outcome."""
        folder = RunFolder(self.folder / "runs" / run_id)
        if ended.state == "CANCELLED" and folder.is_cancel_asked():
            return folder.why_canceled()
        if ended.reason.startswith("Dependency"):
            return STEP_BEFORE_FAILED
        if ended.state in REASONS:
            return f"{REASONS[ended.state]} (job {ended.number})"
        said, path, task = "", folder.path / LOG, ended.number.partition("_")[2]
        if task:
            parent, _, index = run_id.rpartition("_")
            path = task_log(RunFolder(folder.path.with_name(parent)), int(index) - int(task), task)
        with suppress(OSError):
            said = (path.read_text(errors="replace").strip().splitlines() or [""])[-1][:200]
        return f"job {ended.number} ended in Slurm as {ended.state} without an outcome{f': {said}' if said else ''}"


class Seen(NamedTuple):
    """A job in Slurm's output. `end` is in this machine's time zone."""

    number: str
    state: str
    reason: str
    end: str
    name: str


def _as_ms(text: str) -> int | None:
    """Slurm's time in milliseconds since 1970, None for an unknown time."""
    try:
        return round(time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")) * 1000)
    except ValueError:
        return None


def _number(handle: str) -> str:
    """The number of a job in its handle, `NUMBER` or `NUMBER;CLUSTER`."""
    return handle.partition(";")[0]


def _selections(numbers: Mapping[str, str]) -> Iterator[str]:
    """The options that select the jobs of runs: those with a number by number, the others by name. A trial without a
    number may be in the first array of its sweep, or be the first one of another."""
    known = sorted({number.partition("_")[0] for number in numbers.values() if number})
    names = [run_id for run_id, number in numbers.items() if not number]
    trials = [run_id.rpartition("_") for run_id in names]
    names = sorted(
        {*names, *(parent for parent, _, _ in trials), *(f"{parent}+{index}" for parent, _, index in trials)}
    )
    for option, values in (("jobs", known), ("name", names)):
        yield from (f"--{option}={','.join(chunk)}" for chunk, _ in chunks(values))


def _matching(numbers: Mapping[str, str], rows: Iterable[Sequence[str]]) -> dict[str, Seen]:
    """Those of Slurm's *rows* (number, state, reason, end, and the name if it is known) that are jobs of runs, by run
    id. A job of the same number with another name is one of another cluster. Tasks that were canceled before they
    started are one row, or none."""
    by_number: dict[str, Seen] = {}
    by_name: dict[str, Seen] = {}
    for row in rows:
        if len(row) < 4:
            continue
        seen = Seen(row[0], row[1], row[2], row[3], row[4] if len(row) > 4 else "")
        base, _, tasks = seen.number.partition("_")
        parent, _, first = seen.name.partition("+")
        for task in _tasks(tasks):
            own = seen._replace(number=f"{base}_{task}")
            by_number[own.number] = by_name[f"{parent}_{task + int(first if first.isdigit() else 0)}"] = own
        by_number[seen.number] = by_name[seen.name] = seen
    found: dict[str, Seen] = {}
    for run_id, number in numbers.items():
        known = by_number.get(number) if number else by_name.get(run_id)
        whole = by_number.get(number.partition("_")[0])
        if known is None and whole is not None and whole.state == "CANCELLED":
            known = whole
        if known is not None and _is_named(known.name, run_id):
            found[run_id] = known
    return found


def _is_named(name: str, run_id: str) -> bool:
    """Whether a job of this name, '' for one that is unknown, is that of the run, or the array of its sweep."""
    own = name.partition("+")[0]
    return own in ("", run_id) or run_id.startswith(f"{own}_")


def _tasks(text: str) -> Iterator[int]:
    """The tasks of an array in Slurm's form: `3`, or `[0-2,5-9:2%4]` for those that wait."""
    for first, last, step in re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", text.partition("%")[0]):
        yield from range(int(first), int(last or first) + 1, int(step or 1))


def record(store: RunStore, jobs: Mapping[str, str], states: Mapping[str, JobState]) -> dict[str, str]:
    """Record what is known of *jobs*, handles by run id: ends, jobs that wait again, and handles. Returns a reason for
    each that has not ended. A run whose handle has changed meanwhile stays as it is."""
    waiting: dict[str, str] = {}
    for run_id, state in states.items():
        with suppress(HimlError):  # after a failed write, the next query repeats it
            if state.kind == ENDED and state.status is not None:
                tag = SLURM_JOB, jobs[run_id]
                store.end(run_id, state.status, reason=state.reason, ended=state.ended, if_tagged=tag)
                continue
            waiting[run_id] = f"unknown: {state.reason}" if state.kind == UNKNOWN else state.reason
            if state.handle:
                store.tag(run_id, {SLURM_JOB: state.handle})
            if state.kind == QUEUED:
                store.requeue(run_id)
    return waiting


def end_unreachable_steps(store: RunStore, run_id: str) -> None:
    """Record the end of steps that wait for one that did not complete. Their jobs never start, and Slurm removes
    them."""
    whole = store.get(run_id)
    if whole is None or whole.tags.get(MANY) != PIPELINE:
        return
    open_ids = {child for child, _ in store.open_children([run_id])}
    steps = [run for run in store.query(RunQuery(parent=run_id, archived=None)) if STEP in run.tags]
    ended = {run.tags[STEP] for run in steps if run.id not in open_ids and run.status is not RunStatus.completed}
    while left := [run for run in steps if run.id in open_ids and ended & {*run.tags[STEP_AFTER].split(",")}]:
        for run in left:
            store.end(run.id, RunStatus.canceled, STEP_BEFORE_FAILED)
            open_ids.remove(run.id)
            ended.add(run.tags[STEP])


def cancel(numbers: Iterable[str], *, only_waiting: bool = False) -> None:
    """Cancel jobs by their numbers in the form of `SLURM_JOB`. With *only_waiting*, leave out those that have started,
    which their supervisors stop. Raises ServiceFailed."""
    plain = [part.partition("[")[0] for number in numbers for part in number.split(",") if part]
    states = ["--state=PENDING"] if only_waiting else []
    if only_waiting and any("_" in number for number in plain):
        # With a state, scancel 22.05 cancels the whole array instead of a task that has not started
        text, _ = output_of(["squeue", "--noheader", "--array", f"--jobs={','.join(plain)}", "--format=%T"])
        if text is None or set(text.split()) != {"PENDING"}:
            return
        states = []
    text, problem = output_of(["scancel", *states, *plain]) if plain else ("", "")
    if text is None and "Invalid job id" not in problem:
        raise ServiceFailed(f"scancel failed: {problem}.", hint="Try again later.")


@dataclass(frozen=True)
class OwnJob:
    """The Slurm job with this process as its batch step."""

    number: str
    facts: Mapping[str, str]

    @classmethod
    def current(cls) -> OwnJob:
        number = os.environ.get("SLURM_JOB_ID", "")
        text, _ = output_of(["scontrol", "show", "job", "--oneliner", number])
        return cls(number, dict(re.findall(r"(\w+)=(\S*)", text or "")))

    def reason_to_stop(self) -> str:
        """The reason why Slurm terminates this process, or '' if it is not known yet."""
        ends = _as_ms(self.facts.get("EndTime", ""))
        is_near = ends is not None and ends / 1000 - time.time() < 2 * WARNING_SECONDS + 5
        is_running = self.facts.get("JobState") == "RUNNING"
        return f"{REASONS['TIMEOUT']} ({self.facts.get('TimeLimit')})" if is_near and is_running else ""

    def requeue(self) -> bool:
        """Make Slurm restart the job. It soon ends all processes of the job, often scontrol first."""
        text, problem = output_of(["scontrol", "requeue", self.number])
        is_taken = text is not None or problem.startswith("exit code -")
        if not is_taken:
            log.warning("scontrol requeue %s: %s", self.number, problem)
        return is_taken


def task_log(folder: RunFolder, first: int, task: str = "TASK") -> Path:
    return folder.path / "tasks" / f"{first}_{task}.log"


def output_of(command: list[str]) -> tuple[str | None, str]:
    """The stdout of a Slurm program, or None and its error message."""
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ASK_SECONDS
        )
    except FileNotFoundError:
        return None, f"there is no {command[0]} on PATH"
    except (OSError, subprocess.SubprocessError) as err:
        return None, f"{command[0]}: {err}"
    if ended.returncode:
        said = ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}"
        complaint = said.splitlines()[-1]
        return None, re.sub(r"^\w+: (error: )?", "", complaint).rstrip(".")
    return ended.stdout, ""


def partitions() -> list[tuple[str, str, str]]:
    """The partitions of the site, default first: name, time limit, generic resources. Raises NotFound without Slurm,
    ServiceFailed."""
    if shutil.which("sinfo") is None:
        raise NotFound(
            "There is no sinfo on PATH, so this machine cannot list partitions.",
            hint="Log in to a machine that can submit jobs to Slurm.",
        )
    text, problem = output_of(["sinfo", "--noheader", "--format=%P|%l|%G"])
    if text is None:
        raise ServiceFailed(f"Cannot list the partitions: {problem}.", hint="Check the output of: sinfo")
    rows = sorted({tuple(line.split("|")[:3]) for line in text.splitlines()}, key=lambda row: not row[0].endswith("*"))
    return [(row[0].rstrip("*"), row[1], row[2]) for row in rows if len(row) == 3]


SUBMIT_SECONDS = 120.0
PROBE_SECONDS, CLOCK_SECONDS = 90.0, 5.0
PROBE = "probe.json"
END = "END_OF_REQUEST"
# Options that also apply to a controller
OF_CONTROLLER = ("account", "clusters", "partition", "qos", "reservation", "time")


def no_sbatch() -> NotFound | None:
    """The error if this machine has no Slurm."""
    if shutil.which("sbatch") is not None:
        return None
    return NotFound(
        "There is no sbatch on PATH, so this machine cannot submit jobs to Slurm.",
        hint="Log in to a machine that can, or omit --cluster slurm:...",
    )


def _script(spec: JobSpec, folder: RunFolder, document: str, own: Mapping[str, str | None]) -> str:
    """The script for sbatch: its options, the lines of `setup`, and the supervisor, which reads *document*.

    The document may contain secrets, so himl pipes the script to sbatch and never writes it to a file.
    """
    slurm = _slurm(spec)
    options: dict[str, str | None] = {
        "job-name": folder.run_id,
        "chdir": str(folder.path),
        "output": str(folder.path / LOG).replace("%", "%%"),
        "open-mode": "append",
        "nodes": str(spec.nodes),
        "ntasks-per-node": str(spec.processes or 1),
        "signal": f"B:TERM@{WARNING_SECONDS}",
        **({} if "no-requeue" in slurm.options else {"requeue": None}),
        **own,
        **slurm.options,
    }
    lines = [f"#SBATCH --{name}{'' if value is None else f'={_quoted(value)}'}" for name, value in options.items()]
    command = shlex.join([sys.executable, "-m", "himl_cli.workspaces.local.supervisor"])
    job = [f"exec {command} >/dev/null <<'{END}'", document, END]
    return "\n".join(["#!/bin/bash", *lines, *slurm.setup, *job, ""])


def _quoted(value: str) -> str:
    """*value*, quoted for an `#SBATCH` line."""
    return value if re.fullmatch(r"[^\s\"'\\#]*", value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _slurm(spec: JobSpec) -> SlurmSpec:
    assert spec.slurm is not None
    return spec.slurm


def job_script(request: LaunchRequest) -> str:
    """The batch script of one job with staged files."""
    spec = replace(request.spec, snapshot=replace(request.spec.snapshot, files=()), brought={})
    document = replace(request, spec=spec).to_json()
    return _script(spec, RunFolder(Path(request.run_folder)), document, {})


def masked(spec: JobSpec) -> JobSpec:
    """The job with all secrets masked."""
    form = stored_form(spec, spec.snapshot.files)
    webhook = spec.webhook and replace(spec.webhook, url=MASK)
    return replace(job_from_stored_form(form, dict.fromkeys(spec.env, MASK)), webhook=webhook)


def array_script(plan: Plan, first: int, count: int, after: str = "") -> str:
    """The batch script of an array of *count* trials from the trial *first* on. The array starts when the job with the
    number *after* has ended."""
    spec, folder = plan.jobs[0].spec, RunFolder(Path(plan.run_folder))
    at_once = f"%{plan.sweep.max_concurrent}" if plan.sweep.max_concurrent else ""
    own: dict[str, str | None] = {
        "job-name": folder.run_id + (f"+{first}" if first else ""),
        "array": f"0-{count - 1}{at_once}",
        "output": str(task_log(folder, first)).replace("%", "%%").replace("TASK", "%a"),
    }
    if after:
        own["dependency"] = f"afterany:{after}"
    return _script(spec, folder, json.dumps({"plan": plan.to_json(), "first": first}), own)


def needs_controller(plan: Plan) -> bool:
    """Whether some trials of a sweep depend on results of others."""
    return plan.sweep.sampling == "bayesian" or plan.sweep.early_stop is not None


def controller_script(plan: Plan) -> str:
    """The batch script of a controller on one processor."""
    spec, slurm = plan.jobs[0].spec, _slurm(plan.jobs[0].spec)
    options = {name: value for name, value in slurm.options.items() if name in OF_CONTROLLER}
    spec = replace(spec, nodes=1, processes=None, slurm=replace(slurm, options=options))
    return _script(spec, RunFolder(Path(plan.run_folder)), json.dumps({"controller": plan.to_json()}), {})


def queue_job(request: LaunchRequest, folder: RunFolder) -> HimlError | None:
    """Record the run as queued, stage its files, and submit its job to Slurm. If Slurm refuses the job, delete the
    record and return the error. Raises OSError, Interrupted, and ServiceFailed if it is unknown whether Slurm has the
    job."""
    if (error := no_sbatch()) is not None:
        return error
    files = JobFiles(replace(request, again=False), folder)
    new = replace(with_recovery_id(request.run), folder=str(files.cwd))

    def stage(is_stopped: Callable[[], bool]) -> None:
        files.stage(is_stopped=is_stopped, is_attempt=False)

    def scripts(numbers: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
        yield job_script(request), {new.id: "{}"}

    return _queue(folder, [new], stage, scripts)


def queue_plan(plan: Plan, folder: RunFolder) -> HimlError | None:
    """As `queue_job`, for a sweep or a pipeline. Record and submit the children that are known in advance: trials as
    arrays, steps as jobs that wait for each other. If trials depend on results of others, submit a controller."""
    if (error := no_sbatch()) is not None:
        return error
    children: list[LaunchRequest] = []
    if plan.kind == PIPELINE:
        children = [step_request(plan, job) for job in plan.jobs]
    elif not needs_controller(plan):
        known = map(make_sampler(plan.sweep), range(plan.sweep.max_trials), repeat(()))
        children = [trial_request(plan, index, values) for index, values in enumerate(known) if values is not None]
    runs = [replace(with_recovery_id(plan.new_run), folder=str(folder.path / plan.jobs[0].place))]
    for child in children:
        own = child.spec.snapshot.root if child.spec.in_place else Path(child.run_folder, "code")
        runs.append(replace(with_recovery_id(child.run), folder=str(own)))
    staged = plan

    def stage(is_stopped: Callable[[], bool]) -> None:
        nonlocal staged
        staged = stage_plan(plan, folder, is_stopped)
        (folder.path / "tasks").mkdir()
        for child in children:
            Path(child.run_folder).mkdir()
            RunFolder(Path(child.run_folder)).allow_to_run()

    def arrays(numbers: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
        size = _largest_array()
        for first in range(0, len(children), size):
            count = min(size, len(children) - first)
            after = numbers[-1] if numbers and plan.sweep.max_concurrent else ""
            trials = {plan.child_id(first + task): f"{{}}_{task}" for task in range(count)}
            yield array_script(staged, first, count, after), {plan.run.id: f"{{}}[0-{count - 1}]", **trials}

    def steps(numbers: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
        keys = [job.key for job in staged.jobs]
        for job in staged.jobs:
            request = replace(step_request(staged, job), again=True)
            before = ":".join(numbers[keys.index(key)] for key in job.after)
            own = {"dependency": f"afterok:{before}", "kill-on-invalid-dep": "yes"} if before else {}
            script = _script(job.spec, RunFolder(Path(request.run_folder)), request.to_json(), own)
            yield script, {plan.run.id: f"{{}}[{job.key}]", request.run.id: "{}"}

    def controller(numbers: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
        yield controller_script(staged), {plan.run.id: "{}"}

    scripts = steps if plan.kind == PIPELINE else controller if needs_controller(plan) else arrays
    return _queue(folder, runs, stage, scripts)


def _largest_array() -> int:
    text, _ = output_of(["scontrol", "show", "config"])
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", text or "")
    return max(1, int(found[1]) - 1) if found else 1000


def queue_again(request: LaunchRequest | Plan, folder: RunFolder) -> HimlError | None:
    """Submit the job of an ended run, or a controller for its missing children, to Slurm. Returns the error if Slurm
    refuses it."""
    if (error := no_sbatch()) is not None:
        return error
    with closing(Database(folder.workspace / "workspace.db")) as database:
        store = RunStore(database)
        folder.allow_to_run()
        try:
            number = _sbatch(controller_script(request) if isinstance(request, Plan) else job_script(request))
        except HimlError as err:
            return err
        store.tag(folder.run_id, {SLURM_JOB: number})
        store.resume(folder.run_id)
        store.requeue(folder.run_id)
    return None


def _queue(
    folder: RunFolder,
    runs: Sequence[Run],
    stage: Callable[[Callable[[], bool]], None],
    scripts: Callable[[Sequence[str]], Iterator[tuple[str, dict[str, str]]]],
) -> HimlError | None:
    """Record *runs*, *stage* their files, submit *scripts*, and record the numbers of the jobs. Each script comes with
    the runs that it starts, by id, each with a pattern of its number. *scripts* gets the numbers of earlier jobs."""
    ids, numbers = [run.id for run in runs], list[str]()
    known: dict[str, list[str]] = {}
    with closing(Database(folder.workspace / "workspace.db", create=True)) as database, interruptions() as interrupted:
        store = RunStore(database)
        store.add_all(replace(run, tags={**run.tags, SLURM_JOB: ""}) for run in runs)
        try:
            stage(lambda: bool(interrupted))
            for script, patterns in scripts(numbers):
                if interrupted:
                    raise Stopped
                numbers.append(_sbatch(script))
                for run_id, pattern in patterns.items():
                    known.setdefault(run_id, []).append(pattern.format(numbers[-1]))
        except NoAnswer:
            raise
        except BaseException as err:
            with suppress(HimlError):
                cancel(numbers)
            store.delete(ids, lambda run_id: RunFolder(folder.path.with_name(run_id)).remove())
            if isinstance(err, Stopped):
                raise Interrupted("Nothing was submitted.") from None
            if isinstance(err, HimlError):
                return err
            raise
        store.tag_each(SLURM_JOB, {run_id: ",".join(found) for run_id, found in known.items()})
        if interrupted:
            for run_id in ids:
                RunFolder(folder.path.with_name(run_id)).ask_to_cancel()
            cancel(numbers)
            for run_id in ids:
                store.end(run_id, RunStatus.canceled, reason="canceled")
            raise Interrupted(f"Run '{folder.run_id}' was canceled.", hint=f"See himl runs show {folder.run_id}")
    return None


class NoAnswer(ServiceFailed):
    """It is unknown whether Slurm has the job."""


def _sbatch(script: str) -> str:
    """Submit the script and return the number of its job. Raises NoAnswer, and BadUsage or ServiceFailed if there is no
    job."""
    process = subprocess.Popen(
        ["sbatch", "--parsable"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # Variables of a job that this process runs in would apply to the new one
        env={
            name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith("SLURM_")
        },
        **detached(),
    )
    try:
        output, complaint = process.communicate(script, timeout=SUBMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise NoAnswer(
            f"sbatch did not respond within {SUBMIT_SECONDS:.0f} s, so it is unknown whether Slurm has the job.",
            hint="Check its status: himl runs list",
        ) from None
    number: str = output.strip().partition(";")[0]
    if process.returncode or not number.isdigit():
        raise _refusal(complaint or output)
    return number


def _refusal(complaint: str) -> HimlError:
    """The error for sbatch's message, in one line."""
    lines = [re.sub(r"^(sbatch: )?(error: )?", "", line).strip() for line in complaint.splitlines()]
    text = "; ".join(dict.fromkeys(line.removeprefix("Batch job submission failed: ").rstrip(".") for line in lines))
    text = text or "no message"
    is_away = re.search(r"unable to contact|connect failure|timed out|communication|configuration source", text, re.I)
    if is_away:
        return ServiceFailed(f"Slurm does not respond: {text}.", hint="Nothing was submitted. Try again later.")
    return BadUsage(f"Slurm refused the job: {text}.", hint="Check sinfo and --sbatch KEY=VALUE.")


def checks(folder: Path, spec: SlurmSpec | None) -> Iterator[Check]:
    """Check whether this machine can submit jobs to Slurm. With *spec*, a job of a few seconds also checks whether its
    nodes share the workspace in *folder* and its locks, have this Python, and the same time."""
    name = "slurm"
    text, problem = output_of(["sbatch", "--version"])
    if text is None:
        yield Check.failed(name, f"sbatch failed: {problem}.", "Log in to a machine that can submit jobs to Slurm.")
        return
    _, problem = output_of(["sinfo", "--noheader", "--format=%P"])
    if problem:
        yield Check.failed(
            name, f"{text.strip()}, but its controller does not respond: {problem}.", "Check it: scontrol ping"
        )
        return
    yield Check.passed(name, f"{text.strip()}.")
    if spec is None:
        return
    with TemporaryDirectory(prefix="probe_", dir=folder) as made:
        probe = RunFolder(Path(made))
        lock = ProcessLock(probe.lock)
        lock.take()
        job = JobSpec("himl", Entry(EntryKind.script, ""), Snapshot(folder, (), 0), slurm=spec)
        document = json.dumps({"probe": made})
        try:
            number = _sbatch(_script(job, probe, document, {"job-name": "himl-doctor", "time": "2"}))
        except HimlError as err:
            yield Check.failed(name, str(err), err.hint)
            return
        deadline, begin, found = time.monotonic() + PROBE_SECONDS, time.time(), dict[str, Any]()
        while not found and time.monotonic() < deadline and _is_open(number):
            time.sleep(1.0)
            found = probe.read(PROBE)
        found = found or probe.read(PROBE)
        with suppress(HimlError):
            cancel([number])
        lock.release()
        if not found:
            said = (Path(made, LOG).read_text(errors="replace") if Path(made, LOG).exists() else "").strip()
            last = f" Its log: {said.splitlines()[-1]}." if said else ""
            waited = f"Job {number} wrote nothing to '{folder}' within {PROBE_SECONDS:.0f} s."
            hint = "Move the workspace and this Python to a file system that all nodes share. See also: squeue --me"
            yield Check.failed(name, waited + last, hint)
            return
        yield Check.passed(name, f"A job on node {found['node']} can access '{folder}' and this Python.")
        if not found["is_held"]:
            text = f"Node {found['node']} does not see locks in '{folder}', so himl relies on Slurm instead."
            yield Check.note(name, text, "Locks on Lustre need the mount option flock.")
        late = max(begin - found["time"], found["time"] - time.time())
        if late > CLOCK_SECONDS:
            text = f"The clock of node {found['node']} differs by {late:.0f} s."
            yield Check.note(name, text, "Report it to the site's administrators.")


def _is_open(number: str) -> bool:
    text, _ = output_of(["squeue", "--noheader", f"--jobs={number}", "--format=%T"])
    return bool(text)
