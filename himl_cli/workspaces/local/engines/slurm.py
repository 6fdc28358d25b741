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
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from himl_cli.core.errors import BadUsage, HimlError, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.jobs import EngineSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.locks import ProcessLock
from himl_cli.core.processes import detached
from himl_cli.core.records import dataclass
from himl_cli.core.runs import RunStatus
from himl_cli.core.workspaces import Check
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
from himl_cli.workspaces.local.ranks import SHIM, Ends, Rank, end_of
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_process import SETUP_FAILED, SETUP_LOG, SETUP_PYTHON
from himl_cli.workspaces.local.run_store import chunks

NAME, LABEL, DOCTOR = "slurm", "Slurm", "himl doctor --slurm NAME"
OPTIONS: Mapping[str, str] | None = None  # sbatch judges them

ASK_SECONDS = 20.0
EARLY_SECONDS = 65.0  # by which Slurm may send a signal before its time
PAUSE_SECONDS = 5.0  # between queries for the reason of a signal
SQUEUE = ("squeue", "--noheader", "--array", "--format=%i|%T|%r|%e|%j")  # the fields of `Seen`
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
NEVER_SENT = "its submission was interrupted or got no answer, and Slurm has no job of this name"


def states(jobs: Mapping[str, str]) -> dict[str, JobState]:
    """As `Engine.states`, by one squeue for each cluster, and sacct and scontrol for those that it does not list.
    Absence from a list is no evidence of an end. An end in a list is, and a controller that no longer has the job."""
    clusters: dict[str, dict[str, str]] = {}
    for run_id, handle in jobs.items():
        clusters.setdefault(_cluster(handle), {})[run_id] = _number(handle)
    return {run_id: state for each in clusters.items() for run_id, state in _states_on(*each).items()}


def _states_on(cluster: str, numbers: Mapping[str, str]) -> dict[str, JobState]:
    at = [f"--clusters={cluster}"] if cluster else []
    command = [*SQUEUE, "--states=all", *at]
    found: dict[str, Seen] = {}
    for selection in _selections(numbers):
        text, problem = output_of([*command, selection])
        if text is None and INVALID not in problem:  # which squeue says if it has none of these
            return dict.fromkeys(numbers, JobState(UNKNOWN, f"squeue failed: {problem}"))
        found |= _matching(numbers, [line.split("|", 4) for line in (text or "").splitlines()])
    missing, unrecorded = {run_id: number for run_id, number in numbers.items() if number and run_id not in found}, ""
    if missing:
        command = ["sacct", "-P", "-n", "-X", *at, "--format=JobID,State,End,JobName", *_selections(missing)]
        text, unrecorded = output_of(command)
        rows = [line.split("|", 3) for line in (text or "").splitlines()]
        rows = [[row[0], (row[1].split() or [""])[0], "", *row[2:]] for row in rows if len(row) > 2]
        found |= _matching(missing, rows)
    shown: dict[str, tuple[str | None, str]] = {}  # by number, without that of a task
    states: dict[str, JobState] = {}
    for run_id, number in numbers.items():
        seen, base = found.get(run_id), number.partition("_")[0]
        if seen is None and number and re.search(NO_CONNECTION, unrecorded, re.IGNORECASE):
            states[run_id] = JobState(UNKNOWN, f"squeue does not list job {number}, sacct failed: {unrecorded}")
            continue
        if seen is None:
            if base and base not in shown:
                shown[base] = output_of(["scontrol", *at, "show", "job", "--oneliner", base])
            states[run_id] = _state_of_missing(run_id, number, *shown.get(base, ("", "")))
            continue
        handle = "" if number else f"{seen.number}{';' * bool(cluster)}{cluster}"
        if seen.state in WAITING | AT_WORK:
            reason = "" if seen.reason == "None" else seen.reason
            states[run_id] = JobState(QUEUED if seen.state in WAITING else RUNNING, reason, handle=handle)
        else:
            states[run_id] = _end_of(seen)._replace(handle=handle)
    return states


def _state_of_missing(run_id: str, number: str, text: str | None, problem: str) -> JobState:
    """The state of a job that neither squeue nor sacct lists, from the output of scontrol, or its *problem*. squeue was
    asked for the name of a job without a number."""
    if not number:
        return JobState(ENDED, NEVER_SENT)
    _, _, task = number.partition("_")
    own = [
        line for line in (text or "").splitlines() if _is_named("".join(re.findall(r" JobName=(\S+)", line)), run_id)
    ]
    others = [one for each in re.findall(r"ArrayTaskId=(\S+)", "\n".join(own)) for one in _tasks(each)]
    if text is None and INVALID in problem:
        return JobState(ENDED)
    if task and others and int(task) not in others:
        return JobState(ENDED, NOT_STARTED, RunStatus.canceled)
    return JobState(UNKNOWN, f"squeue does not list job {number}{f', scontrol failed: {problem}' if problem else ''}")


def _end_of(seen: Seen) -> JobState:
    status = RunStatus.canceled if seen.state == "CANCELLED" else RunStatus.failed
    ended = JobState(ENDED, STEP_BEFORE_FAILED, status, _as_ms(seen.end))
    if seen.reason.startswith("Dependency"):
        return ended
    if seen.state in REASONS:
        return ended._replace(reason=f"{REASONS[seen.state]} (job {seen.number})")
    reason = f"job {seen.number} ended in Slurm as {seen.state} without an outcome"
    return ended._replace(reason=reason, is_explained=False)


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
    """The number of a job in its handle, `NUMBER`, or `NUMBER;CLUSTER` if it is not on the default cluster."""
    return re.split(r"[;\[]", handle)[0]


def _cluster(handle: str) -> str:
    return handle.partition(";")[2]


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
    """Whether a job of this name, '' for one that is unknown, is that of the run, of a step of it, or of the array of
    its sweep."""
    own = name.partition("+")[0]
    return own in ("", run_id) or run_id.startswith(f"{own}_") or own.startswith((f"{run_id}_", f"{run_id}+"))


def _tasks(text: str) -> Iterator[int]:
    """The tasks of an array in Slurm's form: `3`, or `[0-2,5-9:2%4]` for those that wait."""
    for first, last, step in re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", text.partition("%")[0]):
        yield from range(int(first), int(last or first) + 1, int(step or 1))


def part_of(handle: str, part: str) -> str:
    number, *cluster = handle.split(";")
    return ";".join([number + part, *cluster])


def cancel(jobs: Mapping[str, str], *, only_waiting: bool = False) -> None:
    """As `Engine.cancel`. A job with the number of a run's and another name is one of another cluster, and stays."""
    clusters: dict[str, list[tuple[str, str]]] = {}
    for name, handles in jobs.items():
        for handle in filter(_number, handles.split(",")):
            clusters.setdefault(_cluster(handle), []).append((name, _number(handle)))
    for cluster, wanted in clusters.items():
        at = [f"--clusters={cluster}"] if cluster else []
        bases = sorted({number.partition("_")[0] for _, number in wanted})
        text, problem = output_of([*SQUEUE, *at, f"--jobs={','.join(bases)}"])
        if text is None and INVALID not in problem:
            raise ServiceFailed(f"No job was canceled, because squeue failed: {problem}.", hint="Try again later.")
        rows = [line.split("|") for line in (text or "").splitlines()]
        doomed: dict[str, list[str]] = {}  # by the state, '' for any
        for name, number in wanted:
            own = [row for row in rows if number in (row[0], row[0].partition("_")[0]) and _is_named(row[-1], name)]
            states = {row[1] for row in own} & STOPPED if only_waiting else {""}
            # With a state, scancel 22.05 cancels the whole array instead of a task that has not started
            for state in {""} if "_" in number and states else states:
                if own:
                    doomed.setdefault(state, []).append(number)
        for state, numbers in sorted(doomed.items()):
            text, problem = output_of(["scancel", *at, *([f"--state={state}"] if state else []), *numbers])
            if text is None and "Invalid job id" not in problem:
                raise ServiceFailed(f"scancel failed: {problem}.", hint="Try again later.")


@dataclass(frozen=True)
class OwnJob:
    """The Slurm job with this process as its batch step."""

    number: str

    def reason_to_stop(self, grace: float, wait: float = 0.0) -> str | None:
        deadline = time.monotonic() + wait
        while True:
            text, _ = output_of(["scontrol", "show", "job", "--oneliner", self.number])
            if text is None and wait and (shutil.which("scontrol") is None or time.monotonic() > deadline):
                return None  # the next query of another machine gives the reason
            facts = dict(re.findall(r"(\w+)=(\S*)", text or ""))
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


def own_job() -> OwnJob:
    return OwnJob(os.environ.get("SLURM_JOB_ID", ""))


def ranks_of_nodes(request: LaunchRequest, log: Path, ends: Ends) -> Rank:
    return RanksOfNodes(request, log, ends)


class RanksOfNodes(Rank):
    """The ranks of all nodes. One `srun` starts a shim for each, copies its stdin to all of them, and merges their
    output."""

    name = "$SLURM_PROCID"

    def __init__(self, request: LaunchRequest, log: Path, ends: Ends) -> None:
        self._request, self._log = request, log
        self._count, self._ends = request.rank_count or 1, ends
        self._count_here, self.parent = request.spec.processes or 1, 0
        self._is_started = False

    def start(self, command: Sequence[str], env: Mapping[str, str], cwd: Path, *, tty: bool = False) -> None:
        request, log = self._request, self._log
        options = [f"--ntasks={self._count}", f"--ntasks-per-node={request.spec.processes}", f"--chdir={cwd}"]
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

    def close(self) -> None:
        if not self._is_started:
            return
        assert self._shim.stdin is not None
        with suppress(BrokenPipeError):
            self._shim.stdin.close()
        try:
            self._shim.wait(SRUN_SECONDS)
        except subprocess.TimeoutExpired:  # a node does not respond
            self._shim.kill()
            self._shim.wait()

    def _listen(self) -> None:
        assert self._shim.stdout is not None
        left = set(range(self._count))
        for line in self._shim.stdout:
            with suppress(ValueError, KeyError):  # output of a node's prologue
                facts = json.loads(line)
                if "parent" in facts and facts["rank"] < self._count_here:
                    self.parent = facts["parent"]
                if (end := end_of(facts)) is not None:
                    left.remove(facts["rank"])
                    self._ends.put((facts["rank"], *end))
        for number in sorted(left):
            self._ends.put((number, 128 + int(signal.SIGTERM), "its node or srun ended it"))


def _variables(request: LaunchRequest, env: Mapping[str, str]) -> dict[str, str]:
    """The variables of ranks on several nodes, which refer to those that srun sets per rank. *env* are the shared
    variables, with the job's tracking server at the loopback address, and with `$SLURM_PROCID` in its token."""
    first = "$SLURM_LAUNCH_NODE_IPADDR"
    ranks = rank_variables(request, first, "$SLURM_NODEID", "$SLURM_PROCID", "$SLURM_LOCALID")
    known = ("MLFLOW_TRACKING_URI", "HIML_TRACKING_URI", "NO_PROXY", "no_proxy")
    tokens = {name: env[name] for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD") if name in env}
    return ranks | tokens | {name: env[name].replace("127.0.0.1", first) for name in known if name in env}


def output_of(command: list[str]) -> tuple[str | None, str]:
    """The stdout of a Slurm program, or None and its error message."""
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "errors": "replace"}
    try:
        ended = subprocess.run(command, env=_environment(command[0]), timeout=ASK_SECONDS, **options)
    except FileNotFoundError:
        return None, f"there is no {command[0]} on PATH"
    except (OSError, subprocess.SubprocessError) as err:
        return None, f"{command[0]}: {err}"
    if ended.returncode:
        said = ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}"
        complaint = said.splitlines()[-1]
        return None, re.sub(r"^(\w+:? error|\w+): ", "", complaint).rstrip(".")
    return ended.stdout, ""


def _environment(program: str) -> dict[str, str]:
    """The environment of a program of Slurm. Variables of the user's shell apply to new jobs, except those for options
    that himl never gives. They do not change queries."""
    if program == "sbatch":  # variables of a job that this process runs in would apply to the new one
        of_job = {name for name in os.environ if name.startswith("SLURM_") and name not in OF_SITE}
        return {name: value for name, value in os.environ.items() if name not in of_job | NOT_OF_JOBS}
    own = {name: value for name, value in os.environ.items() if not re.match(OF_QUERIES, name)}
    return own | {"SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}


def site(handle: str = "", spec: JobSpec | None = None) -> str:
    asked = _cluster(handle)
    if spec is not None:
        asked = (
            _slurm(spec).options.get("clusters")
            or os.environ.get("SBATCH_CLUSTERS")
            or os.environ.get("SLURM_CLUSTERS", "")
        )
    with suppress(LookupError):
        return asked or _default_cluster(shutil.which("scontrol"), os.environ.get("SLURM_CONF"))
    return ""


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
SRUN_SECONDS = 30.0  # for srun to end after its shims
END = "END_OF_REQUEST"
# Options that also apply to a controller
OF_CONTROLLER = ("account", "clusters", "partition", "qos", "reservation", "time")


def unavailable() -> NotFound | None:
    if shutil.which("sbatch") is not None:
        return None
    return NotFound(
        "There is no sbatch on PATH, so this machine cannot submit jobs to Slurm.",
        hint="Log in to a machine that can, or omit --cluster slurm:...",
    )


def _script(spec: JobSpec, folder: RunFolder, document: str, own: Mapping[str, str | None]) -> str:
    """The script for sbatch: its options, the lines of `setup`, and the supervisor, which reads *document*. *own* are
    options that himl sets.

    The document may contain secrets, so himl pipes the script to sbatch and never writes it to a file.
    """
    slurm = _slurm(spec)
    options: dict[str, str | None] = {
        "chdir": str(folder.path),
        "open-mode": "append",
        "nodes": str(spec.nodes),
        "ntasks-per-node": str(spec.processes or 1),
        "signal": f"B:TERM@{slurm.grace:.0f}",
        **({} if "no-requeue" in slurm.options else {"requeue": None}),
        **slurm.options,
        **own,
    }
    lines = [f"#SBATCH --{name}{'' if value is None else f'={_quoted(value)}'}" for name, value in options.items()]
    job = [f"exec {_supervisor()} $SLURM_ARRAY_TASK_ID >/dev/null <<'{END}'", document, END]
    if slurm.setup:
        job = _after_setup(slurm.setup, job, str(own["output"]))
    return "\n".join(["#!/bin/bash", *lines, *job, ""])


def _supervisor() -> str:
    """The command of the supervisor, which ignores variables such as PYTHONPATH, since `setup` may set them for another
    Python. If this himl was found by such a variable, it looks in the same folders."""
    module, installed = "himl_cli.workspaces.local.supervisor", (sys.prefix, sys.base_prefix)
    if str(Path(__file__)).startswith(installed):
        return shlex.join([sys.executable, "-E", "-m", module])
    folders = [path for path in sys.path if os.path.isdir(path) and not path.startswith(installed)]
    code = f"import sys; sys.path += {folders}; from {module} import main; main()"
    return shlex.join([sys.executable, "-E", "-c", code])


def _after_setup(lines: Sequence[str], job: Sequence[str], output: str) -> list[str]:
    """The lines of a script that run *lines* with their output in a file beside *output*, and then *job*, with the
    variables of `run_process.setup_outcome`. The first command that fails ends them. If they changed the first `python`
    on PATH, that is the job's. Raises BadUsage for lines that bash rejects."""
    groups, group = list[str](), ""
    for line in lines:
        group += line
        check = subprocess.run(["bash", "-n"], input=group, capture_output=True, text=True)
        if not check.returncode and not check.stderr and not group.endswith("\\"):
            groups.append(group)
            group = ""
        else:
            group += "\n"
    if group:
        problem = (check.stderr.strip().splitlines() or ["incomplete"])[-1]
        raise BadUsage(f"bash rejects the setup lines: {problem}.", hint="Check 'setup' in himl.toml.")
    quoted = output.replace("'", "'\\''")
    path = re.sub("%(.)", lambda found: "%" if found[1] == "%" else "'$SLURM_ARRAY_TASK_ID'", quoted)
    found = ["trap - EXIT", '[ "${1%% *}" != 143 ] || exit 143']  # after SIGTERM, Slurm has the reason
    found += [f"export {SETUP_LOG} {SETUP_FAILED}=$1", "local now=$(command -v python)"]
    found += [f'[ "$now" = "$himl_python" ] || export {SETUP_PYTHON}=$now', *job]
    head = ["himl_supervisor() {", *found, "}", "trap 'exit 143' TERM", "trap 'himl_supervisor \"$? exit\"' EXIT"]
    head += [f"{SETUP_LOG}='{path}.setup'", f': >"${SETUP_LOG}"', "himl_python=$(command -v python)"]
    for each in groups:
        first = shlex.quote(each.strip().split("\n")[0])
        head += ["{", each, f'}} >>"${SETUP_LOG}" 2>&1 || himl_supervisor "$? "{first}']
    return [*head, "himl_supervisor"]


def _quoted(value: str) -> str:
    """*value*, quoted for an `#SBATCH` line."""
    return value if re.fullmatch(r"[^\s\"'\\#]*", value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _slurm(spec: JobSpec) -> EngineSpec:
    assert spec.engine is not None
    return spec.engine


def preview(job: EngineJob) -> str:
    """The batch script of the job."""
    folder, options = RunFolder(job.folder), _slurm(job.spec).options
    own: dict[str, str | None] = {}
    if job.tasks:
        own["array"] = f"0-{job.tasks - 1}" + (f"%{job.at_once}" if job.at_once else "")
    after = ":".join(map(_number, job.after))
    if after and job.tasks:
        own["dependency"] = f"afterany:{after}"
    elif after:
        own |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
    output = f"{job.log.parent}/".replace("%", "%%") + job.log.name.replace("TASK", "%a")
    spec = job.spec
    if job.is_controller:
        inherited = {name: value for name, value in options.items() if name in OF_CONTROLLER}
        options = {**inherited, **_slurm(spec).controller}
        engine = replace(_slurm(spec), options=options, grace=EngineSpec("").grace)
        spec = replace(spec, nodes=1, processes=None, engine=engine)
    return _script(
        spec,
        folder,
        job.document,
        {"job-name": job.name, "output": output, **own},
    )


def submit(job: EngineJob, notify: Notify) -> str:
    return _sbatch(preview(job), notify)


def largest_array() -> int:
    text, _ = output_of(["scontrol", "show", "config"])
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", text or "")
    return max(1, int(found[1]) - 1) if found else 1000


def _sbatch(script: str, notify: Notify) -> str:
    """Submit the script and return the handle of its job. Raises as `submit`."""
    # Variables such as SBATCH_PARTITION override lines of a script, and options override variables
    lines = takewhile(lambda line: line.startswith("#SBATCH "), script.splitlines()[1:])
    options = [option for line in lines for option in shlex.split(line.removeprefix("#SBATCH "))]
    process = subprocess.Popen(
        ["sbatch", "--parsable", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=_environment("sbatch"),
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
    found: set[str] = {";".join(filter(None, match)) for match in re.findall(NUMBER, output, re.MULTILINE)}
    texts = [re.sub(r"^(sbatch: )?(error: )?", "", line).strip() for line in (complaint or output).splitlines()]
    texts = [line.removeprefix("Batch job submission failed: ").rstrip(".") for line in texts if line] or ["no message"]
    said = "; ".join(dict.fromkeys(texts))
    if process.returncode and not found:
        raise _refusal(said)
    if process.returncode or len(found) != 1:
        what = f"sbatch (exit code {process.returncode}) printed {len(found) or 'no'} numbers of jobs"
        raise NoAnswer(
            f"{what}, so it is unknown whether Slurm has the job: {texts[-1]}.", hint="Check its status: himl runs list"
        )
    if complaint.strip():
        notify(Notice(f"sbatch: {said}."))
    handle = found.pop()
    # On a site without accounting, programs do not know the name of their own cluster
    return _number(handle) if _cluster(handle) and _cluster(handle) == site() else handle


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
        job = JobSpec("himl", Entry(EntryKind.script, ""), Snapshot(folder, (), 0), engine=spec)
        document = json.dumps({"probe": made})
        try:
            own = {"job-name": PROBE_NAME, "output": str(probe.path / LOG).replace("%", "%%"), "time": "2"}
            handle = _sbatch(_script(job, probe, document, own), ignore)
        except HimlError as err:
            yield Check.failed(name, str(err), err.hint)
            return
        deadline, begin, found = time.monotonic() + PROBE_SECONDS, time.time(), dict[str, Any]()
        while not found and time.monotonic() < deadline and _is_open(handle):
            time.sleep(1.0)
            found = probe.read(PROBE)
        found = found or probe.read(PROBE)
        with suppress(HimlError):
            cancel({PROBE_NAME: handle})
        lock.release()
        if not found:
            said = (Path(made, LOG).read_text(errors="replace") if Path(made, LOG).exists() else "").strip()
            last = f" Its log: {said.splitlines()[-1]}." if said else ""
            waited = f"Job {_number(handle)} wrote nothing to '{folder}' within {PROBE_SECONDS:.0f} s."
            hint = "Move the workspace and this Python to a file system that all nodes share. See also: squeue --me"
            yield Check.failed(name, waited + last, hint)
            return
        yield Check.passed(name, f"A job on node {found['node']} can access '{folder}' and this Python.")
        if found["problem"]:
            yield Check.failed(name, f"On node {found['node']}, {found['problem']}.", "Correct 'setup' in himl.toml.")
        if not found["is_held"]:
            text = f"Node {found['node']} does not see locks in '{folder}', so simultaneous jobs may lose results."
            yield Check.failed(name, text, "Locks on Lustre need the mount option flock, those on NFS local_lock=none.")
        late = max(begin - found["time"], found["time"] - time.time())
        if late > CLOCK_SECONDS:
            text = f"The clock of node {found['node']} differs by {late:.0f} s."
            yield Check.note(name, text, "Report it to the site's administrators.")


def _is_open(handle: str) -> bool:
    at = [f"--clusters={cluster}"] if (cluster := _cluster(handle)) else []
    return bool(output_of([*SQUEUE, *at, f"--jobs={_number(handle)}"])[0])
