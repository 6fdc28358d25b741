"""Jobs of the local workspace in a site's Slurm: what it tells of them, and canceling them.

While a run's supervisor lives, its lock and the record count; else Slurm does, which is asked once for all runs.
Formats are those of Slurm 20.11 and later (slurm.schedmd.com: squeue, sacct, scancel, scontrol).
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from himl_cli.core.errors import HimlError, ServiceFailed
from himl_cli.core.jobs import MANY, STEP, STEP_AFTER
from himl_cli.core.processes import is_held
from himl_cli.core.runs import SLURM_JOB, RunQuery, RunStatus
from himl_cli.workspaces.local.launch_request import PIPELINE
from himl_cli.workspaces.local.run_folder import STARTING, RunFolder
from himl_cli.workspaces.local.run_store import RunStore

log = logging.getLogger(__name__)

ASK_SECONDS = 20.0
ASK_AGAIN_SECONDS = 5.0  # whoever waits for a run asks a site's controller no more often
WARNING_SECONDS = 60  # between SIGTERM and the time limit
LOG = "supervisor.log"
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED"}
AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}
REASONS = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "canceled in Slurm",
    "DEADLINE": "it could not end before its deadline in Slurm",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "it used more memory than Slurm had given it (--sbatch mem=SIZE)",
    "PREEMPTED": "Slurm preempted it",
    "TIMEOUT": "it reached Slurm's time limit",
}
UNKNOWN_END = "it ended without recording an outcome, and Slurm does not know its job any more"
STEP_BEFORE_FAILED = "a step before it did not complete"
NEVER_SENT = "himl was killed before sbatch had the job"


@dataclass
class SlurmJobs:
    """What Slurm tells of the jobs of a workspace, asked seldom. `waiting` has a reason for each run that is open
    there, *end_if_last* records the end of a whole none of whose children are."""

    folder: Path
    end_if_last: Callable[[RunStore, RunFolder], None]
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked_at: float = -ASK_AGAIN_SECONDS
    waiting: dict[str, str] = field(default_factory=dict)

    def refresh(self, store: RunStore, jobs: Mapping[str, str], *, now: bool = False) -> Mapping[str, str]:
        """The runs among *jobs* (the number in Slurm by run id, empty where it is not known) that Slurm has, each with
        its reason to wait; how others ended is recorded. None of them may be supervised at the moment."""
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
            arrays = {job for job, number in jobs.items() if "[" in number or (not number and job in parents)}
            waiting = self._ask(store, {job: number for job, number in asked.items() if job not in arrays})
            for parent in arrays:
                left = sorted(parents.get(parent, set()) & (waiting.keys() | supervised))
                if left:
                    waiting[parent] = next(filter(None, (waiting.get(child, "") for child in left)), "")
                    continue
                waiting[parent] = ""  # where another process is just recording its end
                with suppress(HimlError, OSError):
                    self.end_if_last(store, RunFolder(self.folder / "runs" / parent))
            self.waiting, self.asked_at = waiting, time.monotonic()

    def _ask(self, store: RunStore, jobs: Mapping[str, str]) -> dict[str, str]:
        if not jobs:
            return {}
        columns = "%i|%T|%r|%e|%j"
        command = ["squeue", "--noheader", "--array", "--states=all", f"--user={_user()}", f"--format={columns}"]
        text, problem = output_of(command)
        if text is None:
            return dict.fromkeys(jobs, f"Slurm cannot be asked: {problem}")
        by_number: dict[str, Seen] = {}
        by_name: dict[str, Seen] = {}
        for line in text.splitlines():
            number, state, reason, end, name = (*line.split("|", 4), "", "", "", "")[:5]
            task = number.partition("_")[2]
            if task.isdigit():
                parent, _, first = name.partition("+")
                name = f"{parent}_{int(task) + int(first or 0)}"
            by_number[number] = by_name[name] = Seen(number, state, reason, end)
        found = {run_id: by_number.get(number) or by_name.get(run_id) for run_id, number in jobs.items()}
        for run_id, number in jobs.items():  # tasks that were canceled before they began are one line, or none
            whole = by_number.get(number.partition("_")[0])
            if found[run_id] is None and whole is not None and whole.state == "CANCELLED":
                found[run_id] = whole
        gone = [jobs[run_id] for run_id, known in found.items() if known is None and jobs[run_id]]
        accounted = _accounted(gone) if gone else {}
        waiting: dict[str, str] = {}
        for run_id, known in found.items():
            number = jobs[run_id]
            known = known or accounted.get(number)
            with suppress(HimlError):  # what cannot be written is asked again
                if known is None and not number and self._is_starting(store, run_id):
                    waiting[run_id] = ""
                elif known is None:
                    store.end(run_id, *self._unknown_end(store, run_id, number), if_tagged=(SLURM_JOB, number))
                if known is None:
                    continue
                if known.state in WAITING | AT_WORK:
                    if not number:
                        store.tag(run_id, {SLURM_JOB: known.number})
                    waiting[run_id] = "" if known.reason == "None" else known.reason
                    if known.state in WAITING:
                        store.requeue(run_id)
                else:
                    status = RunStatus.canceled if known.state == "CANCELLED" else RunStatus.failed
                    reason, ended = self._reason(run_id, known), _as_ms(known.end)
                    store.end(run_id, status, reason=reason, ended=ended, if_tagged=(SLURM_JOB, jobs[run_id]))
        return waiting

    def _unknown_end(self, store: RunStore, run_id: str, number: str) -> tuple[RunStatus, str]:
        folder, run = RunFolder(self.folder / "runs" / run_id), store.get(run_id)
        if number and folder.is_cancel_asked():
            return RunStatus.canceled, folder.why_canceled()
        if number and run is not None and run.started is None:
            return RunStatus.canceled, "canceled in Slurm before it began"
        return RunStatus.failed, UNKNOWN_END if number else NEVER_SENT

    def _is_starting(self, store: RunStore, run_id: str) -> bool:
        """Whether a process is submitting the run, or the whole that it belongs to."""
        run = store.get(run_id)
        return run is not None and any(
            is_held(self.folder / STARTING / name) for name in (run.id, run.parent or run.id)
        )

    def _reason(self, run_id: str, ended: Seen) -> str:
        """Why a job ended of which its supervisor recorded nothing."""
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
        return (
            f"job {ended.number} ended in Slurm as {ended.state} before himl recorded it{f': {said}' if said else ''}"
        )


class Seen(NamedTuple):
    """A job as Slurm tells of it; `end` is in this machine's time."""

    number: str
    state: str
    reason: str
    end: str


def _as_ms(text: str) -> int | None:
    """Slurm's time in milliseconds since 1970; None for one that is not known."""
    try:
        return round(time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")) * 1000)
    except ValueError:
        return None


def _accounted(numbers: Iterable[str]) -> dict[str, Seen]:
    """What sacct knows of jobs that squeue has forgotten; nothing where the site keeps no accounts."""
    command = ["sacct", "-P", "-n", "-X", "--format=JobID,State,End", f"--jobs={','.join(numbers)}"]
    text, _ = output_of(command)
    rows = [line.split("|") for line in (text or "").splitlines()]
    return {row[0]: Seen(row[0], row[1].split()[0], "", row[2]) for row in rows if len(row) > 2 and row[1]}


def end_unreachable_steps(store: RunStore, run_id: str) -> None:
    """Record the end of steps that wait for one that did not complete: their jobs never start, and Slurm
    removes them."""
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
    """Cancel jobs, by numbers as `SLURM_JOB` has them, or those that have not begun: what has begun is told to stop by
    its supervisor. Raises ServiceFailed."""
    plain = [part.partition("[")[0] for number in numbers for part in number.split(",") if part]
    states = ["--state=PENDING"] if only_waiting else []
    if only_waiting and any("_" in number for number in plain):
        # With a state, scancel 22.05 takes the task of an array that has not begun for the whole array
        text, _ = output_of(["squeue", "--noheader", "--array", f"--jobs={','.join(plain)}", "--format=%T"])
        if text is None or set(text.split()) != {"PENDING"}:
            return
        states = []
    text, problem = output_of(["scancel", *states, *plain]) if plain else ("", "")
    if text is None and "Invalid job id" not in problem:
        raise ServiceFailed(f"Slurm cannot be told to cancel: {problem}.", hint="Try again later.")


@dataclass(frozen=True)
class OwnJob:
    """The job of Slurm that this process is the batch step of."""

    number: str
    facts: Mapping[str, str]

    @classmethod
    def current(cls) -> OwnJob:
        number = os.environ.get("SLURM_JOB_ID", "")
        text, _ = output_of(["scontrol", "show", "job", "--oneliner", number])
        return cls(number, dict(re.findall(r"(\w+)=(\S*)", text or "")))

    def reason_to_stop(self) -> str:
        """Why Slurm told this process to terminate, where that is known by now; else empty."""
        ends = _as_ms(self.facts.get("EndTime", ""))
        is_near = ends is not None and ends / 1000 - time.time() < 2 * WARNING_SECONDS + 5
        is_running = self.facts.get("JobState") == "RUNNING"
        return f"{REASONS['TIMEOUT']} ({self.facts.get('TimeLimit')})" if is_near and is_running else ""

    def requeue(self) -> bool:
        """Have Slurm start the job again. It ends all processes of the job soon, and often scontrol first."""
        text, problem = output_of(["scontrol", "requeue", self.number])
        is_taken = text is not None or problem.startswith("exit code -")
        if not is_taken:
            log.warning("scontrol requeue %s: %s", self.number, problem)
        return is_taken


def task_log(folder: RunFolder, first: int, task: str = "TASK") -> Path:
    return folder.path / "tasks" / f"{first}_{task}.log"


def output_of(command: list[str]) -> tuple[str | None, str]:
    """What a program of Slurm prints, or None and its complaint."""
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ASK_SECONDS
        )
    except FileNotFoundError:
        return None, f"there is no {command[0]} on PATH"
    except (OSError, subprocess.SubprocessError) as err:
        return None, f"{command[0]}: {err}"
    if ended.returncode:
        complaint = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        return None, re.sub(r"^\w+: (error: )?", "", complaint).rstrip(".")
    return ended.stdout, ""


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "")


def partitions() -> list[tuple[str, str, str]]:
    """The partitions of the site, the default one first: name, time limit, generic resources. Raises ServiceFailed."""
    text, problem = output_of(["sinfo", "--noheader", "--format=%P|%l|%G"])
    if text is None:
        raise ServiceFailed(f"The partitions cannot be listed: {problem}.", hint="Look at: sinfo")
    rows = sorted({tuple(line.split("|")[:3]) for line in text.splitlines()}, key=lambda row: not row[0].endswith("*"))
    return [(row[0].rstrip("*"), row[1], row[2]) for row in rows if len(row) == 3]
