"""A site's Slurm as the engine of local jobs: batch scripts and sbatch, the status of jobs, and how to cancel them.

The batch step is the supervisor of any local job (`supervisor.main`), on a node that shares the workspace's folder.
himl records a run before it calls sbatch, and the run's id is the job's name, which identifies a job whose number could
not be recorded. While a run's supervisor lives, its lock and its record give the status. Otherwise Slurm does, in one
query for all runs. Options and formats are those of Slurm 20.11 and later (slurm.schedmd.com: sbatch, squeue, sacct,
scancel, scontrol).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from himl_cli.core.errors import BadUsage, HimlError, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.files import last_lines
from himl_cli.core.jobs import EngineSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.locks import ProcessLock
from himl_cli.core.processes import detached
from himl_cli.core.records import dataclass
from himl_cli.core.runs import RunStatus
from himl_cli.core.workspaces import Check
from himl_cli.workspaces.local import SUPERVISOR
from himl_cli.workspaces.local.engines.base import (
    ENDED,
    LOG,
    NOT_STARTED,
    PROBE,
    QUEUED,
    RUNNING,
    STEP_BEFORE_FAILED,
    UNKNOWN,
    EngineJob,
    JobState,
    NoAnswer,
    QueueFull,
)
from himl_cli.workspaces.local.launch_request import LaunchRequest, rank_variables
from himl_cli.workspaces.local.ranks import SHIM, Ends, Rank
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import chunks
from himl_cli.workspaces.local.setup_lines import after_setup, isolated_command

NAME, LABEL, DOCTOR = "slurm", "Slurm", "himl doctor --slurm NAME"
OPTIONS: Mapping[str, str] | None = None  # sbatch judges them

ASK_SECONDS = 20.0
SRUN_SECONDS = 30.0  # for srun to end after its shims
EARLY_SECONDS = 65.0  # by which Slurm may send a signal before its time
ANSWER_SECONDS = 30.0  # for Slurm to answer, or to end this process
PAUSE_SECONDS = 5.0  # between queries for the reason of a signal
# The fields of `Seen`, and these without the reason
SQUEUE = ("squeue", "--noheader", "--array", "--format=%i|%T|%r|%e|%j")
SACCT = ("sacct", "-P", "-n", "-X", "--format=JobID,State,End,JobName")
# Environment variables of the user's shell: those of the site, which look like those of a job, those for options of
# sbatch that himl never gives, and those that change what queries find
OF_SITE = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS"}
NOT_OF_JOBS = {"SBATCH_ARRAY_INX", "SBATCH_ERROR", "SBATCH_INPUT", "SBATCH_WAIT"}
OF_QUERIES = r"(SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO)_|SLURM_(CLUSTERS|LOCAL|TIME_FORMAT|BITSTR_LEN)$"
STOPPED = {"PENDING", "SUSPENDED"}  # states in which a supervisor cannot stop its job
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
NO_CONNECTION = r"unable to contact|connect|timed out|communication|configuration source|talking to"
UNSURE, CHECK_STATUS = "it is unknown whether Slurm has the job", "Check its status: himl runs list"
NEVER_SENT = "its submission was interrupted or got no answer, and Slurm has no job of this name"


class Seen(NamedTuple):
    """A job in Slurm's output. `end` is in this machine's time zone, and `name` '' if it is unknown."""

    number: str
    state: str
    reason: str
    end: str
    name: str = ""


def states(jobs: Mapping[str, str]) -> dict[str, JobState]:
    """As `Engine.states`, by one squeue for each cluster, and sacct and scontrol for those that it does not list.
    Absence from a list is no evidence of an end. An end in a list is, and a controller that no longer has the job."""
    found: dict[str, JobState] = {}
    for cluster, numbers in _by_cluster(jobs).items():
        found |= _states_on(cluster, dict(numbers))
    return found


def _states_on(cluster: str, numbers: Mapping[str, str]) -> dict[str, JobState]:
    rows: list[Seen] = []
    for selection in _selections(numbers):
        text, problem = output_of([*SQUEUE, "--states=all", selection], cluster)
        if text is None and INVALID not in problem:  # which squeue says if it has none of these
            return dict.fromkeys(numbers, JobState(UNKNOWN, f"squeue failed: {problem}"))
        rows += _rows(text)
    found = _matching(numbers, rows)
    missing, unrecorded = {run_id: number for run_id, number in numbers.items() if number and run_id not in found}, ""
    if missing:
        text, unrecorded = output_of([*SACCT, *_selections(missing)], cluster)
        found |= _matching(missing, _rows(text, has_reasons=False))
    shown: dict[str, tuple[str | None, str]] = {}  # by number, without that of a task
    states: dict[str, JobState] = {}
    for run_id, number in numbers.items():
        base = number.partition("_")[0]
        seen = found.get(run_id)
        if seen is not None and not number and seen.name == run_id and "_" in seen.number:
            # A task shows the array of a sweep, but not the end of the sweep
            array = f"{seen.number.partition('_')[0]}[]"
            states[run_id] = JobState(RUNNING, handle=f"{array}{';' * bool(cluster)}{cluster}")
        elif seen is not None:
            states[run_id] = _state_of(seen, "" if number else f"{seen.number}{';' * bool(cluster)}{cluster}")
        elif not number:  # squeue was asked for the name
            states[run_id] = JobState(ENDED, NEVER_SENT)
        elif re.search(NO_CONNECTION, unrecorded, re.IGNORECASE):
            states[run_id] = JobState(UNKNOWN, f"squeue does not list job {number}, sacct failed: {unrecorded}")
        else:
            if base not in shown:
                shown[base] = output_of(["scontrol", "show", "job", "--oneliner", base], cluster)
            states[run_id] = _state_of_missing(run_id, number, *shown[base])
    return states


def _state_of(seen: Seen, handle: str) -> JobState:
    if seen.state in WAITING | AT_WORK:
        return JobState(QUEUED if seen.state in WAITING else RUNNING, seen.reason, handle=handle)
    status = RunStatus.canceled if seen.state == "CANCELLED" else RunStatus.failed
    ended = JobState(ENDED, STEP_BEFORE_FAILED, status, _as_ms(seen.end), handle)
    if seen.reason.startswith("Dependency"):
        return ended
    if seen.state in REASONS:
        return ended._replace(reason=f"{REASONS[seen.state]} (job {seen.number})")
    reason = f"job {seen.number} ended in Slurm as {seen.state} without an outcome"
    return ended._replace(reason=reason, is_explained=False)


def _state_of_missing(run_id: str, number: str, text: str | None, problem: str) -> JobState:
    """The state of a job that neither squeue nor sacct lists, from the output of scontrol, or its *problem*."""
    if text is None and INVALID in problem:
        return JobState(ENDED)
    own = [facts for facts in _facts(text) if _is_named(facts.get("JobName", ""), run_id)]
    others = [task for facts in own for task in _tasks(facts.get("ArrayTaskId", ""))]
    task = number.partition("_")[2]
    if task and others and int(task) not in others:
        return JobState(ENDED, NOT_STARTED, RunStatus.canceled)
    return JobState(UNKNOWN, f"squeue does not list job {number}{f', scontrol failed: {problem}' if problem else ''}")


def _facts(text: str | None) -> list[dict[str, str]]:
    """The jobs that scontrol prints, one per line."""
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in (text or "").splitlines()]


def _as_ms(text: str) -> int | None:
    """Slurm's time in milliseconds since 1970, None for an unknown time."""
    try:
        return round(time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")) * 1000)
    except ValueError:
        return None


def _number(handle: str) -> str:
    """The number of a job in its handle, `NUMBER`, or `NUMBER;CLUSTER` if it is not on the default cluster."""
    return re.split(r"[;\[]", handle)[0]


def _by_cluster(jobs: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """The names and numbers of *jobs* (`Engine.cancel`) on each cluster."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, handles in jobs.items():
        for handle in handles.split(","):
            found.setdefault(handle.partition(";")[2], []).append((name, _number(handle)))
    return found


def _selections(numbers: Mapping[str, str]) -> Iterator[str]:
    """The options that select the jobs of runs: those with a number by number, the others by name. A trial without a
    number may be in the first array of its sweep, or be the first one of another."""
    known = {number.partition("_")[0] for number in numbers.values() if number}
    names = {run_id for run_id, number in numbers.items() if not number}
    for parent, _, index in [run_id.rpartition("_") for run_id in names]:
        names |= {parent, f"{parent}+{index}"}
    for option, values in (("jobs", known), ("name", names)):
        yield from (f"--{option}={','.join(chunk)}" for chunk, _ in chunks(sorted(values)))


def _rows(text: str | None, *, has_reasons: bool = True) -> Iterator[Seen]:
    """The jobs in the output of squeue, or in that of sacct, which has no reasons."""
    for line in (text or "").splitlines():
        number, state, *rest = line.split("|", 4 if has_reasons else 3)
        reason, *rest = rest if has_reasons else ["", *rest]
        yield Seen(number, (state.split() or [""])[0], "" if reason == "None" else reason, *rest)


def _matching(numbers: Mapping[str, str], rows: Iterable[Seen]) -> dict[str, Seen]:
    """Those of *rows* that are jobs of runs, by run id. A job of the same number with another name is one of another
    cluster. Tasks that were canceled before they started are one row, or none."""
    known: dict[str, Seen] = {}  # by number, and by name
    for seen in rows:
        base, _, tasks = seen.number.partition("_")
        parent, _, first = seen.name.partition("+")
        for task in _tasks(tasks):
            own = seen._replace(number=f"{base}_{task}")
            known[own.number] = known[f"{parent}_{task + int(first if first.isdigit() else 0)}"] = own
        known[seen.number] = known[seen.name] = seen
    found: dict[str, Seen] = {}
    for run_id, number in numbers.items():
        whole = known.get(number.partition("_")[0]) if number else None
        match = known.get(number or run_id) or (whole if whole and whole.state == "CANCELLED" else None)
        if match is not None and _is_named(match.name, run_id):
            found[run_id] = match
    return found


def _is_named(name: str, run_id: str) -> bool:
    """Whether a job of this name, '' for one that is unknown, is that of the run, of a step of it, or of the array of
    its sweep."""
    own = name.partition("+")[0]
    return own in ("", run_id) or run_id.startswith(f"{own}_") or own.startswith((f"{run_id}_", f"{run_id}+"))


def _tasks(text: str) -> Iterator[int]:
    """The tasks of an array in Slurm's form: `3`, or `[0-2,5-9:2%4]` for those that wait."""
    for first, last, step in re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", text.partition("%")[0]):
        yield from range(int(first), int(last or first) + 1, int(step or 1))


def cancel(jobs: Mapping[str, str], *, only_waiting: bool = False) -> None:
    """As `Engine.cancel`. A job with the number of a run's and another name is one of another cluster, and stays."""
    known = {name: handles for name, handles in jobs.items() if _number(handles)}
    for cluster, wanted in _by_cluster(known).items():
        bases = sorted({number.partition("_")[0] for _, number in wanted})
        text, problem = output_of([*SQUEUE, f"--jobs={','.join(bases)}"], cluster)
        if text is None and INVALID not in problem:
            raise ServiceFailed(f"No job was canceled, because squeue failed: {problem}.", hint="Try again later.")
        rows, doomed = list(_rows(text)), dict[str, list[str]]()  # by the state, '' for any
        for name, number in wanted:
            own = [seen for seen in rows if number in (seen.number, seen.number.partition("_")[0])]
            states = {seen.state for seen in own if _is_named(seen.name, name)}
            states = states & STOPPED if only_waiting else states
            # With a state, scancel 22.05 cancels the whole array instead of a task that has not started
            for state in {""} if states and ("_" in number or not only_waiting) else states:
                doomed.setdefault(state, []).append(number)
        for state, numbers in sorted(doomed.items()):
            text, problem = output_of(["scancel", *([f"--state={state}"] if state else []), *numbers], cluster)
            if text is None and "Invalid job id" not in problem:
                raise ServiceFailed(f"scancel failed: {problem}.", hint="Try again later.")


@dataclass(frozen=True)
class SlurmJob:
    """The Slurm job with this process as its batch step."""

    number: str

    def reason_to_stop(self, grace: float, wait: float = 0.0) -> str | None:
        begun = time.monotonic()
        deadline = begun + wait
        while True:
            text, problem = output_of(["scontrol", "show", "job", "--oneliner", self.number])
            is_silent = text is None and INVALID not in problem and shutil.which("scontrol") is not None
            # Slurm ends all processes of a job that was requeued, which may include scontrol
            if is_silent and time.monotonic() < begun + (wait or ANSWER_SECONDS):
                time.sleep(PAUSE_SECONDS if wait else 0.5)
                continue
            if text is None and wait:
                return None  # the next query of another machine gives the reason
            # The number of an array's last task is that of the array, for which scontrol lists all tasks. A job with
            # another name is one of another cluster.
            own = {"JobId": self.number, "JobName": os.environ.get("SLURM_JOB_NAME")}
            facts = next((each for each in _facts(text) if own.items() <= each.items()), {})
            ends, state = _as_ms(facts.get("EndTime", "")), facts.get("JobState", "RUNNING")
            if state != "RUNNING":
                return None
            if ends is not None and ends / 1000 - time.time() < grace + EARLY_SECONDS:
                less = f", less {grace:.0f} s to save" if grace else ""
                return f"{REASONS['TIMEOUT']} ({facts.get('TimeLimit')}{less})"
            is_preempted = facts.get("PreemptTime", "None") != "None"  # Slurm ends the job after a time of the site
            if time.monotonic() > deadline and not (is_preempted and wait):
                return ""
            time.sleep(PAUSE_SECONDS)

    def requeue(self) -> str:
        text, problem = output_of(["scontrol", "requeue", self.number])
        # Slurm soon ends all processes of the job, often scontrol first
        return "" if text is not None or problem.startswith("exit code -") else problem


def own_job() -> SlurmJob:
    return SlurmJob(os.environ.get("SLURM_JOB_ID", ""))


def ranks_of_nodes(request: LaunchRequest, log: Path, ends: Ends) -> Rank:
    return RanksOfNodes(request, log, ends)


class RanksOfNodes(Rank):
    """The ranks of all nodes. One `srun` starts a shim for each, copies its stdin to all of them, and merges their
    output."""

    name, how_lost = "$SLURM_PROCID", "its node or srun ended it"

    def __init__(self, request: LaunchRequest, log: Path, ends: Ends) -> None:
        self._request, self._log, self._ends = request, log, ends
        self._numbers, self._here = range(request.rank_count or 1), range(request.spec.processes or 1)
        self.parent, self._is_started = 0, False

    def start(self, command: Sequence[str], env: Mapping[str, str], cwd: Path, *, tty: bool = False) -> None:
        request, log = self._request, self._log
        options = [f"--ntasks={len(self._numbers)}", f"--ntasks-per-node={request.spec.processes}", f"--chdir={cwd}"]
        options += ["--export=ALL", "--distribution=block", "--wait=0", "--kill-on-bad-exit=0", "--open-mode=append"]
        options += [f"--error={log.parent}/std_log_process_%t.txt".replace("%", "%%").replace("%%t", "%t")]
        if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):  # srun ignores it since 22.05
            options.append(f"--cpus-per-task={cpus}")
        self._shim = subprocess.Popen(
            ["srun", *options, *SHIM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        self._is_started = True
        own = _variables(request, env)
        self._begin(command=command, stdin="", log="", cwd="", env={}, tty=False, own=own, rank=self.name)

    def close(self, seconds: float | None = SRUN_SECONDS) -> None:
        try:
            if self._is_started:
                super().close(seconds)
        except subprocess.TimeoutExpired:  # a node does not respond
            self._shim.kill()
            self._shim.wait()


def _variables(request: LaunchRequest, env: Mapping[str, str]) -> dict[str, str]:
    """The variables of ranks on several nodes, which refer to those that srun sets per rank. *env* are the shared
    variables, with the job's tracking server at the loopback address, and with `$SLURM_PROCID` in its token."""
    first = "$SLURM_LAUNCH_NODE_IPADDR"
    ranks = rank_variables(request, first, "$SLURM_NODEID", "$SLURM_PROCID", "$SLURM_LOCALID")
    known = ("MLFLOW_TRACKING_URI", "HIML_TRACKING_URI", "NO_PROXY", "no_proxy")
    tokens = {name: env[name] for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD") if name in env}
    return ranks | tokens | {name: env[name].replace("127.0.0.1", first) for name in known if name in env}


def output_of(command: list[str], cluster: str = "") -> tuple[str | None, str]:
    """The stdout of a Slurm program, asked for a *cluster*, or None and its error message."""
    program, *words = command
    words = [f"--clusters={cluster}", *words] if cluster else words
    # Variables of the user's shell would change what queries find
    env = {name: value for name, value in os.environ.items() if not re.match(OF_QUERIES, name)}
    env |= {"SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "errors": "replace"}
    try:
        ended = subprocess.run([program, *words], env=env, timeout=ASK_SECONDS, **options)
    except FileNotFoundError:
        return None, f"there is no {program} on PATH"
    except (OSError, subprocess.SubprocessError) as err:
        return None, f"{program}: {err}"
    if ended.returncode:
        said = ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}"
        return None, re.sub(r"^(\w+:? error|\w+): ", "", said.splitlines()[-1]).rstrip(".")
    return ended.stdout, ""


def site(handle: str = "", spec: JobSpec | None = None) -> str:
    asked = handle.partition(";")[2]
    if spec is not None:
        typed = _slurm(spec).options.get("clusters")
        asked = typed or os.environ.get("SBATCH_CLUSTERS") or os.environ.get("SLURM_CLUSTERS", "")
    with suppress(LookupError):
        return asked or _default_cluster(shutil.which("scontrol"), os.environ.get("SLURM_CONF"))
    return ""


def shell(handle: str) -> str:
    number, cluster = _number(handle), handle.partition(";")[2]
    return f"srun {f'-M {cluster} ' if cluster else ''}--jobid={number} --overlap --pty bash" if number else ""


@lru_cache(maxsize=1)
def _default_cluster(program: str | None, configuration: str | None) -> str:
    """The cluster that *program* (scontrol) uses with the file *configuration*. Raises LookupError if it is unknown,
    which is not cached."""
    text, _ = output_of(["scontrol", "show", "config"])
    found = re.search(r"^ClusterName\s*=\s*(\S+)", text or "", re.MULTILINE)
    if found is None:
        raise LookupError
    return found[1]


def places() -> Sequence[tuple[str, str, str]]:
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
# The number of a job on a line of sbatch's output, or of a wrapper that drops --parsable
NUMBER = r"^\s*(?:(\d+)(?:;(\S+))?|Submitted batch job (\d+)(?: on cluster (\S+))?.*?)\s*$"
PROBE_SECONDS, CLOCK_SECONDS = 90.0, 5.0
PROBE_NAME = "himl-doctor"
END = "END_OF_REQUEST"
AFTER = r"([\d_]+);([^:,?]*)"
# Options that also apply to a controller
OF_CONTROLLER = ("account", "clusters", "partition", "qos", "reservation", "time")


def unavailable() -> NotFound | None:
    if shutil.which("sbatch") is not None:
        return None
    return NotFound(
        "There is no sbatch on PATH, so this machine cannot submit jobs to Slurm.",
        hint='Log in to a machine that can, or for scripts, name it in the settings: [slurm.NAME] host = "LOGIN"',
    )


def _options(job: EngineJob) -> dict[str, str | None]:
    """The options of sbatch for the job: himl's defaults, the user's, and those that himl sets. Raises BadUsage for a
    job that would wait for one of another cluster."""
    slurm, after = _slurm(job.spec), ":".join(map(_number, job.after))
    nodes, grace, asked = job.spec.nodes, slurm.grace, slurm.options
    if job.is_controller:
        asked = {**{name: value for name, value in asked.items() if name in OF_CONTROLLER}, **slurm.controller}
        nodes, grace = 1, EngineSpec("").grace
    no_gpus = not any(name in ("gres", "gpus") or name.startswith(("gpus-per-", "tres-per-")) for name in asked)
    options: dict[str, str | None] = {
        "chdir": str(job.folder),
        "open-mode": "append",
        "nodes": str(nodes),
        "ntasks-per-node": str(1 if job.is_controller else job.spec.processes or 1),
        "signal": f"B:TERM@{grace:.0f}",
        **({} if "no-requeue" in asked else {"requeue": None}),
        **({"gres": f"gpu:{job.spec.gpus:g}"} if job.spec.gpus and not job.is_controller and no_gpus else {}),
        **asked,
        "job-name": job.name,
        "output": f"{job.log.parent}/".replace("%", "%%") + job.log.name.replace("TASK", "%a"),
    }
    if asked.get("dependency"):
        options["dependency"] = re.sub(AFTER, partial(_number_here, spec=job.spec), str(asked["dependency"]))
    if job.tasks:
        options["array"] = f"0-{job.tasks - 1}" + (f"%{job.at_once}" if job.at_once else "")
    if after:
        ended = {"dependency": f"afterany:{after}"}
        options |= ended if job.tasks else {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
    return options


def _number_here(found: re.Match[str], spec: JobSpec) -> str:
    """The number of a job that a new one waits for, from `NUMBER;CLUSTER` in `dependency` (see --after)."""
    there, here = site(found[0]), site(spec=spec)
    if there and here and there != here:
        text = f"--after: job {found[1]} is on cluster '{there}', and this job would be on '{here}'."
        raise BadUsage(text, hint=f"Add --sbatch clusters={there}, since a job waits only for those of its cluster.")
    return found[1]


def _script(job: EngineJob, options: Mapping[str, str | None]) -> str:
    """The script for sbatch: its options, the lines of `setup`, and the supervisor, which reads the job's document.

    The document may contain secrets, so himl pipes the script to sbatch and never writes it to a file.
    """
    lines = [f"#SBATCH --{name}{'' if value is None else f'={_quoted(value)}'}" for name, value in options.items()]
    work = [f"exec {isolated_command(SUPERVISOR)} $SLURM_ARRAY_TASK_ID >/dev/null <<'{END}'", job.document, END]
    if setup := _slurm(job.spec).setup:
        log = str(options["output"]).replace("'", "'\\''")
        log = re.sub("%(.)", lambda found: "%" if found[1] == "%" else "'$SLURM_ARRAY_TASK_ID'", log)
        work = after_setup(setup, work, f"'{log}.setup'")
    return "\n".join(["#!/bin/bash", *lines, *work, ""])


def _quoted(value: str) -> str:
    """*value*, quoted for an `#SBATCH` line."""
    return value if re.fullmatch(r"[^\s\"'\\#]*", value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _slurm(spec: JobSpec) -> EngineSpec:
    assert spec.engine is not None
    return spec.engine


def preview(job: EngineJob) -> str:
    """The batch script of the job."""
    return _script(job, _options(job))


def largest_array() -> int:
    text, _ = output_of(["scontrol", "show", "config"])
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", text or "")
    return max(1, int(found[1]) - 1) if found else 1000


def submit(job: EngineJob, notify: Notify) -> str:
    options = _options(job)
    script, exported = _script(job, options), (options.get("export") or "").split(",")
    # Variables such as SBATCH_PARTITION override lines of a script, and options override variables. Variables of a job
    # that this process runs in would apply to the new one
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in NOT_OF_JOBS and (name in OF_SITE or not name.startswith("SLURM_"))
    }
    env |= {name: value for name, value in job.spec.env.items() if name in exported}
    words = [f"--{key}" + ("" if value is None else f"={value}") for key, value in options.items()]
    given: dict[str, Any] = {"input": script, "text": True, "errors": "replace", "env": env, **detached()}
    command = ["sbatch", "--parsable", *words]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=SUBMIT_SECONDS, **given)
    except subprocess.TimeoutExpired:
        text = f"sbatch did not respond within {SUBMIT_SECONDS:.0f} s, so {UNSURE}."
        raise NoAnswer(text, hint=CHECK_STATUS) from None
    found: set[str] = {";".join(filter(None, match)) for match in re.findall(NUMBER, ended.stdout, re.MULTILINE)}
    texts = [
        re.sub(r"^(sbatch: )?(error: )?", "", line).strip() for line in (ended.stderr or ended.stdout).splitlines()
    ]
    texts = [line.removeprefix("Batch job submission failed: ").rstrip(".") for line in texts if line] or ["no message"]
    said = "; ".join(dict.fromkeys(texts))
    if ended.returncode < 0 and not found:
        text = f"sbatch was ended by {signal.Signals(-ended.returncode).name}, so {UNSURE}."
        raise NoAnswer(text, hint=CHECK_STATUS)
    if ended.returncode and not found:
        raise _refusal(said)
    if ended.returncode or len(found) != 1:
        what = f"sbatch (exit code {ended.returncode}) printed {len(found) or 'no'} numbers of jobs"
        raise NoAnswer(f"{what}, so {UNSURE}: {texts[-1]}.", hint=CHECK_STATUS)
    if ended.stderr.strip():
        notify(Notice(f"sbatch: {said}."))
    number, _, cluster = found.pop().partition(";")
    # On a site without accounting, programs do not know the name of their own cluster
    return f"{number};{cluster}" if cluster and cluster != site() else number


def _refusal(text: str) -> HimlError:
    """The error for the *text* of sbatch."""
    if unknown := re.search(r"(?:unrecognized|ambiguous) option '--([\w-]+)", text):
        listed = output_of(["sbatch", "--help"])[0] or ""
        near = get_close_matches(unknown[1], re.findall(r"--([a-z][a-z0-9-]+)", listed), n=1)
        hint = f"Did you mean {near[0]}?" if near else "See: sbatch --help"
        return BadUsage(f"--sbatch {unknown[1]}: sbatch has no option --{unknown[1]}.", hint=hint)
    is_away = re.search(NO_CONNECTION, text, re.IGNORECASE)
    if is_away:
        return ServiceFailed(f"Slurm does not respond: {text}.", hint="Nothing was submitted. Try again later.")
    kind = QueueFull if "MaxSubmitJob" in text else BadUsage
    return kind(f"Slurm refused the job: {text}.", hint="Check sinfo and --sbatch KEY=VALUE.")


def checks(folder: Path, spec: EngineSpec | None) -> Iterator[Check]:
    """Check whether this machine can submit jobs to Slurm. With *spec*, a job of a few seconds also checks whether its
    nodes share the workspace in *folder* and its locks, have this Python, and the same time."""
    version, problem = output_of(["sbatch", "--version"])
    if version is None:
        yield Check.failed(NAME, f"sbatch failed: {problem}.", "Log in to a machine that can submit jobs to Slurm.")
        return
    _, problem = output_of(["sinfo", "--noheader", "--format=%P"])
    if problem:
        text = f"{version.strip()}, but its controller does not respond: {problem}."
        yield Check.failed(NAME, text, "Check it: scontrol ping")
        return
    yield Check.passed(NAME, f"{version.strip()}.")
    if spec is not None:
        yield from _checks_of_node(folder, spec)


def _checks_of_node(folder: Path, spec: EngineSpec) -> Iterator[Check]:
    spec = replace(spec, options={**spec.options, "time": "2"})
    with TemporaryDirectory(prefix="probe_", dir=folder) as made:
        probe = RunFolder(Path(made))
        lock, log = ProcessLock(probe.lock), probe.path / LOG
        lock.take()
        job = JobSpec("himl", Entry(EntryKind.script, ""), Snapshot(folder, (), 0), engine=spec)
        try:
            handle = submit(EngineJob(PROBE_NAME, probe.path, job, json.dumps({"probe": made}), log), ignore)
        except HimlError as err:
            yield Check.failed(NAME, str(err), err.hint)
            return
        begin, jobs = time.time(), {PROBE_NAME: handle}
        while not (found := probe.read(PROBE)) and time.time() - begin < PROBE_SECONDS:
            if states(jobs)[PROBE_NAME].kind == ENDED:
                found = probe.read(PROBE)
                break
            time.sleep(1.0)
        with suppress(HimlError):
            cancel(jobs)
        lock.release()
        if not found:
            last = "".join(f" Its log: {line}." for line in last_lines(log))
            waited = f"Job {_number(handle)} wrote nothing to '{folder}' within {PROBE_SECONDS:.0f} s."
            hint = "Move the workspace and this Python to a file system that all nodes share. See also: squeue --me"
            yield Check.failed(NAME, waited + last, hint)
            return
        node, late = found["node"], max(begin - found["time"], found["time"] - time.time())
        yield Check.passed(NAME, f"A job on node {node} can access '{folder}' and this Python.")
        if found["problem"]:
            yield Check.failed(NAME, f"On node {node}, {found['problem']}.", "Correct 'setup' in himl.toml.")
        if not found["is_held"]:
            text = f"Node {node} does not see locks in '{folder}', so simultaneous jobs may lose results."
            yield Check.failed(NAME, text, "Locks on Lustre need the mount option flock, those on NFS local_lock=none.")
        if late > CLOCK_SECONDS:
            text = f"The clock of node {node} differs by {late:.0f} s."
            yield Check.note(NAME, text, "Report it to the site's administrators.")
