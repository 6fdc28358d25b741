"""Jobs of the local workspace in a site's Slurm: their status, and how to cancel them.

While a run's supervisor lives, its lock and its record give the status. Otherwise Slurm does, in one query for all
runs. Formats are those of Slurm 20.11 and later (slurm.schedmd.com: squeue, sacct, scancel, scontrol).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import NamedTuple

from himl_cli.core.errors import HimlError, NotFound, ServiceFailed
from himl_cli.core.jobs import MANY, STEP, STEP_AFTER
from himl_cli.core.processes import is_held
from himl_cli.core.records import dataclass
from himl_cli.core.runs import SLURM_JOB, RunQuery, RunStatus
from himl_cli.workspaces.local.launch_request import PIPELINE
from himl_cli.workspaces.local.run_folder import STARTING, RunFolder
from himl_cli.workspaces.local.run_store import RunStore

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
UNKNOWN_END = "it ended without recording an outcome, and Slurm has no record of its job"
STEP_BEFORE_FAILED = "a step before it did not complete"
NEVER_SENT = "himl was killed before it submitted the job"


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
            arrays = {job for job, number in jobs.items() if "[" in number or (not number and job in parents)}
            waiting = self._ask(store, {job: number for job, number in asked.items() if job not in arrays})
            for parent in arrays:
                left = sorted(parents.get(parent, set()) & (waiting.keys() | supervised))
                if left:
                    waiting[parent] = next(filter(None, (waiting.get(child, "") for child in left)), "")
                    continue
                waiting[parent] = ""  # another process may be recording its end
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
            return dict.fromkeys(jobs, f"squeue failed: {problem}")
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
        for run_id, number in jobs.items():  # tasks that were canceled before they started are one line, or none
            whole = by_number.get(number.partition("_")[0])
            if found[run_id] is None and whole is not None and whole.state == "CANCELLED":
                found[run_id] = whole
        gone = [jobs[run_id] for run_id, known in found.items() if known is None and jobs[run_id]]
        accounted = _accounted(gone) if gone else {}
        waiting: dict[str, str] = {}
        for run_id, known in found.items():
            number = jobs[run_id]
            known = known or accounted.get(number)
            with suppress(HimlError):  # after a failed write, the next query repeats it
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
        if number and run is not None and run.status is RunStatus.queued:
            return RunStatus.canceled, "canceled in Slurm before it started"
        return RunStatus.failed, UNKNOWN_END if number else NEVER_SENT

    def _is_starting(self, store: RunStore, run_id: str) -> bool:
        """Whether a process is submitting the run or its parent run."""
        run = store.get(run_id)
        return run is not None and any(
            is_held(self.folder / STARTING / name) for name in (run.id, run.parent or run.id)
        )

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


def _as_ms(text: str) -> int | None:
    """Slurm's time in milliseconds since 1970, None for an unknown time."""
    try:
        return round(time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")) * 1000)
    except ValueError:
        return None


def _accounted(numbers: Iterable[str]) -> dict[str, Seen]:
    """Jobs that squeue does not list any more, from sacct. Empty if the site has no accounting."""
    command = ["sacct", "-P", "-n", "-X", "--format=JobID,State,End", f"--jobs={','.join(numbers)}"]
    text, _ = output_of(command)
    rows = [line.split("|") for line in (text or "").splitlines()]
    return {row[0]: Seen(row[0], row[1].split()[0], "", row[2]) for row in rows if len(row) > 2 and row[1]}


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
        complaint = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        return None, re.sub(r"^\w+: (error: )?", "", complaint).rstrip(".")
    return ended.stdout, ""


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "")


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
