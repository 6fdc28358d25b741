"""Jobs in the queue of an engine: recording, staging and submitting them.

himl records a run before it submits its job, whose name is the run's id. The name identifies a job whose handle could
not be recorded.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import field, replace
from functools import partial
from itertools import repeat
from pathlib import Path

from himl_cli.core.errors import HimlError, Interrupted
from himl_cli.core.events import Notice, Notify, Starting
from himl_cli.core.files import last_lines
from himl_cli.core.jobs import EngineSpec, JobSpec
from himl_cli.core.locks import is_held
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import MASK
from himl_cli.core.runs import DOUBT, Run, RunStatus, job_tag
from himl_cli.core.sampling import make_sampler
from himl_cli.core.signals import interruptions
from himl_cli.workspaces.local.engines import engine_named, engine_of
from himl_cli.workspaces.local.engines.base import (
    ENDED,
    LOG,
    NOT_STARTED,
    QUEUED,
    UNKNOWN,
    Engine,
    EngineJob,
    JobState,
    NoAnswer,
    QueueFull,
)
from himl_cli.workspaces.local.launch_request import PIPELINE, LaunchRequest, Plan, job_from_stored_form, stored_form
from himl_cli.workspaces.local.run_folder import RECORD, STARTING, RunFolder
from himl_cli.workspaces.local.run_process import with_recovery_id
from himl_cli.workspaces.local.run_store import Database, RunStore
from himl_cli.workspaces.local.staging import JobFiles, Stopped
from himl_cli.workspaces.local.sweep_plan import stage_plan, step_request, trial_request
from himl_cli.workspaces.retry import Pauses

# Between queries to an engine while himl waits for a run: at first, and at most while nothing changes
ASK_AGAIN_SECONDS, LONGEST_PAUSE = 5.0, EngineSpec("").poll
GONE = "it ended without recording an outcome, and {} no longer has its job, so it is unknown how"
SITE = "cluster"  # the file in the folder of a run with the engine's cluster
# A job, with the runs that it starts, by id, each with its part of the job. The jobs of a run, which may depend on the
# handles of earlier ones, by name
Job = tuple[EngineJob, dict[str, str]]
Jobs = Callable[[Mapping[str, str]], Iterator[Job]]


def query_pauses(longest: float = LONGEST_PAUSE) -> Pauses:
    """The pauses between queries to an engine."""
    return Pauses(ASK_AGAIN_SECONDS, longest, 2.0)


@dataclass()
class QueuedJobs:
    """The states of a workspace's jobs in the queues of engines, with a limited rate of queries. `waiting` has a reason
    for each open run that an engine has, or may have. *end_if_last* records the end of a parent run without open
    children."""

    folder: Path
    end_if_last: Callable[[RunStore, RunFolder], None]
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked_at: float = -ASK_AGAIN_SECONDS
    pause: float = ASK_AGAIN_SECONDS
    pauses: Pauses = field(default_factory=query_pauses)
    waiting: dict[str, str] = field(default_factory=dict)

    def refresh(self, store: RunStore, jobs: Mapping[str, tuple[str, str]], *, now: bool = False) -> Mapping[str, str]:
        """The runs among *jobs* (engine and handle by run id, as `RunStore.queued_jobs` returns them) that have not
        ended, each with its reason to wait. Records the end of those with evidence of it. None of them may have a
        supervisor at the moment."""
        with self.lock:
            is_due = now or time.monotonic() - self.asked_at > self.pause or set(jobs) - set(self.waiting)
            if jobs and is_due:
                waiting = self._refreshed(store, jobs)
                self.pause = self.pauses.next(has_changed=waiting != self.waiting)
                self.waiting, self.asked_at = waiting, time.monotonic()
            return self.waiting

    def _refreshed(self, store: RunStore, jobs: Mapping[str, tuple[str, str]]) -> dict[str, str]:
        parents: dict[str, set[str]] = {}
        for child, parent in store.open_children(list(jobs)):
            parents.setdefault(parent, set()).add(child)
        children = set().union(*parents.values())
        supervised = {child for child in children if RunFolder(self.folder / "runs" / child).is_supervised()}
        asked = {**jobs, **store.queued_jobs(sorted(children - supervised))}
        arrays = {job for job, (_, handle) in jobs.items() if "[" in handle or (not handle and job in parents)}
        starting = self._starting([job for job, (_, handle) in asked.items() if not handle])
        waiting = dict.fromkeys(starting - arrays, "")
        for engine in sorted({engine for engine, _ in asked.values()}):
            own = {job: handle for job, (its, handle) in asked.items() if its == engine}
            waiting |= self._ask(store, engine, {job: own[job] for job in own.keys() - arrays - starting})
        for parent in arrays:
            left = sorted(parents.get(parent, set()) & (waiting.keys() | supervised))
            if left:
                waiting[parent] = next(filter(None, (waiting.get(child, "") for child in left)), "")
                continue
            waiting[parent] = ""  # another process may be recording its end
            with suppress(HimlError, OSError):
                self.end_if_last(store, RunFolder(self.folder / "runs" / parent))
        return waiting

    def _ask(self, store: RunStore, name: str, jobs: Mapping[str, str]) -> dict[str, str]:
        """The reasons of the open ones among *jobs*, handles by run id, of the engine *name*."""
        try:
            engine = engine_named(name)
        except HimlError as err:  # the package with the engine is not installed here
            return dict.fromkeys(jobs, f"{DOUBT}{err}")
        waiting: dict[str, str] = {}
        asked = {run_id: handle or self._elsewhere(engine, run_id) for run_id, handle in jobs.items()}
        for run_id, state in (engine.states(asked) if asked else {}).items():
            handle, doubt = jobs[run_id], state.reason if state.kind == UNKNOWN else ""
            if state.kind == ENDED and state.status is None:
                doubt = self._doubt(engine, run_id, asked[run_id])
            with suppress(HimlError):  # after a failed write, the next query repeats it
                if doubt:
                    waiting[run_id] = f"{DOUBT}{doubt}"
                elif state.kind == ENDED and not store.end_as_noted(RunFolder(self.folder / "runs" / run_id)):
                    status, reason = self._end(engine, run_id, state, handle)
                    store.end(run_id, status, reason=reason, ended=state.ended, if_tagged=(job_tag(name), handle))
                elif state.kind != ENDED:
                    waiting[run_id] = state.reason
                    if not handle and state.handle:
                        store.tag(run_id, {job_tag(name): state.handle})
                    if state.kind == QUEUED:
                        store.requeue(run_id)
        return waiting

    def _doubt(self, engine: Engine, run_id: str, handle: str) -> str:
        """The reason for which a run may have a job although the engine does not have it, '' if there is none."""
        with suppress(OSError):  # its folder was deleted
            owner = (self.folder / "runs" / run_id).stat().st_uid
            if hasattr(os, "getuid") and os.getuid() not in (0, owner):
                return f"{engine.LABEL} may hide jobs of other users"
        noted = self._site(run_id)
        here = noted and engine.site(handle)
        return "" if here in ("", noted) else f"its job is on cluster '{noted}', and this machine uses '{here}'"

    def _elsewhere(self, engine: Engine, run_id: str) -> str:
        """The place of a job whose handle was not recorded, `;CLUSTER`, or '' if it is on that of this machine, or on
        one of several (`c1,c2`, `all`)."""
        noted = self._site(run_id)
        is_one = noted not in ("", "all") and "," not in noted
        return f";{noted}" if is_one and engine.site() not in ("", noted) else ""

    def _site(self, run_id: str) -> str:
        """The cluster to which the job of this run was submitted, '' if it is unknown."""
        while run_id:  # a trial or a step has the site of its parent run
            with suppress(OSError):
                return (self.folder / "runs" / run_id / SITE).read_text(encoding="utf-8")
            run_id = run_id.rpartition("_")[0]
        return ""

    def _starting(self, jobs: Sequence[str]) -> set[str]:
        """Those of *jobs* that processes are submitting at the moment, with the trials and steps of others."""
        marks = (self.folder / STARTING).glob("*") if jobs else ()
        begun = [mark.name for mark in marks if is_held(mark)]
        return {job for job in jobs if any(job == each or job.startswith(f"{each}_") for each in begun)}

    def _end(self, engine: Engine, run_id: str, state: JobState, handle: str) -> tuple[RunStatus, str]:
        """The status and the reason of an ended job without a recorded outcome."""
        folder = RunFolder(self.folder / "runs" / run_id)
        if state.status is not RunStatus.failed and handle and folder.is_cancel_asked():
            return RunStatus.canceled, folder.why_canceled()
        if not state.reason or (state.reason == NOT_STARTED and (folder.path / RECORD).exists()):
            return RunStatus.failed, GONE.format(engine.LABEL)
        return state.status or RunStatus.failed, self._reason(engine, folder, state)

    def _reason(self, engine: Engine, folder: RunFolder, state: JobState) -> str:
        if state.is_explained:
            return state.reason
        path = folder.path / LOG
        if task := re.search(r"_(\d+)", state.handle):
            parent, _, index = folder.run_id.rpartition("_")
            path = task_log(folder.path.with_name(parent), int(index) - int(task[1]), task[1])
        if os.access(path.parent, os.X_OK) and not path.exists():
            check = f" (check: {engine.DOCTOR})" if engine.DOCTOR else ""
            return f"{state.reason}; its node wrote no log in '{path.parent}', which it may not see{check}"
        return ": ".join([state.reason, *last_lines(path)])


def task_log(folder: Path, first: int, task: str) -> Path:
    """The log of a task of the array that begins with the trial *first*."""
    return folder / "tasks" / f"{first}_{task}.log"


def masked(spec: JobSpec) -> JobSpec:
    """The job with all secrets masked."""
    form = stored_form(spec, spec.snapshot.files)
    webhook = spec.webhook and replace(spec.webhook, url=MASK)
    return replace(job_from_stored_form(form, dict.fromkeys(spec.env, MASK)), webhook=webhook)


def has_controller(plan: Plan, engine: Engine) -> bool:
    """Whether a job starts the others: some trials depend on results of others, or the engine cannot start them."""
    is_sequential = plan.kind != PIPELINE and (plan.sweep.sampling == "bayesian" or plan.sweep.early_stop is not None)
    return is_sequential or not engine.largest_array()


def job_of(request: LaunchRequest, after: Sequence[str] = (), *, is_staged: bool = True) -> EngineJob:
    """The job of one run, which stages its files itself unless that *is_staged*."""
    folder, spec = Path(request.run_folder), request.spec
    if is_staged:
        spec = replace(spec, snapshot=replace(spec.snapshot, files=()), brought={})
    return EngineJob(folder.name, folder, spec, replace(request, spec=spec).to_json(), folder / LOG, after=after)


def array_of(plan: Plan, first: int, count: int, after: Sequence[str] = ()) -> EngineJob:
    """The array of *count* trials from the trial *first* on."""
    document = json.dumps({"plan": plan.to_json(), "first": first})
    name = plan.run.id + (f"+{first}" if first else "")
    spec, at_once, folder = plan.jobs[0].spec, plan.sweep.max_concurrent or 0, Path(plan.run_folder)
    return EngineJob(name, folder, spec, document, task_log(folder, first, "TASK"), count, at_once, after)


def controller_of(plan: Plan) -> EngineJob:
    document = json.dumps({"controller": plan.to_json()})
    folder = Path(plan.run_folder)
    return EngineJob(plan.run.id, folder, plan.jobs[0].spec, document, folder / LOG, is_controller=True)


def _jobs_of(plan: Plan, children: int, size: int, submitted: Mapping[str, str]) -> Iterator[Job]:
    """The jobs of the *children* of a staged plan: arrays of at most *size* trials, or steps. Without children, that of
    its controller."""
    if not children:
        yield controller_of(plan), {plan.run.id: ""}
    elif plan.kind == PIPELINE:
        ids = {job.key: plan.child_id(job) for job in plan.jobs}
        for job in plan.jobs:
            request = replace(step_request(plan, job), again=True)
            before = [submitted[ids[key]] for key in job.after]
            yield job_of(request, before, is_staged=False), {plan.run.id: f"[{job.key}]", request.run.id: ""}
    else:
        for first in range(0, children, size):
            count = min(size, children - first)
            after = list(submitted.values())[-1:] if plan.sweep.max_concurrent else ()
            trials = {plan.child_id(first + task): f"_{task}" for task in range(count)}
            yield array_of(plan, first, count, after), {plan.run.id: f"[0-{count - 1}]", **trials}


def queue_job(request: LaunchRequest, folder: RunFolder, notify: Notify) -> HimlError | None:
    """Record the run as queued, stage its files, and submit its job. If the engine refuses the job, delete the record
    and return the error. *notify* gets what the engine says otherwise. Raises OSError, Interrupted, and NoAnswer if it
    is unknown whether the engine has the job."""
    files = JobFiles(replace(request, again=False), folder)
    new = replace(with_recovery_id(request.run), folder=str(files.cwd))

    def stage(is_stopped: Callable[[], bool]) -> Jobs:
        files.stage(is_stopped=is_stopped, is_attempt=False)
        return lambda submitted: iter([(job_of(request), {new.id: ""})])

    return _queue(engine_of(request.spec), folder, [new], stage, notify)


def queue_plan(plan: Plan, folder: RunFolder, notify: Notify) -> HimlError | None:
    """As `queue_job`, for a sweep or a pipeline. Record and submit the children that are known in advance: trials as
    arrays, steps as jobs that wait for each other. Otherwise, or if the queue has no place for all of them, submit a
    controller."""
    engine = engine_of(plan.jobs[0].spec)
    if has_controller(plan, engine):
        return _queue_children(plan, [], folder, engine, notify)
    if plan.kind == PIPELINE:
        children = [step_request(plan, job) for job in plan.jobs]
    else:
        known = map(make_sampler(plan.sweep), range(plan.sweep.max_trials), repeat(()))
        children = [trial_request(plan, index, values) for index, values in enumerate(known) if values is not None]
    error = _queue_children(plan, children, folder, engine, notify)
    if isinstance(error, QueueFull):
        folder.path.mkdir(parents=True)
        folder.allow_to_run()
        if (error := _queue_children(plan, [], folder, engine, notify)) is None:
            notify(Notice(f"{engine.LABEL} takes fewer jobs at a time, so a controller submits them as others end."))
    return error


def _queue_children(
    plan: Plan, children: Sequence[LaunchRequest], folder: RunFolder, engine: Engine, notify: Notify
) -> HimlError | None:
    runs = [replace(with_recovery_id(plan.new_run), folder=str(folder.path / plan.jobs[0].place))]
    for child in children:
        own = child.spec.snapshot.root if child.spec.in_place else Path(child.run_folder, "code")
        runs.append(replace(with_recovery_id(child.run), folder=str(own)))

    def stage(is_stopped: Callable[[], bool]) -> Jobs:
        staged = stage_plan(plan, folder, is_stopped)
        (folder.path / "tasks").mkdir()
        for child in children:
            Path(child.run_folder).mkdir()
            RunFolder(Path(child.run_folder)).allow_to_run()
        return partial(_jobs_of, staged, len(children), engine.largest_array())

    return _queue(engine, folder, runs, stage, notify)


def queue_again(request: LaunchRequest | Plan, folder: RunFolder, notify: Notify) -> None:
    """Submit the job of an ended run, or a controller for its missing children. Raises HimlError if the engine does not
    have it, and NoAnswer if that is unknown."""
    job, handle, unknown = controller_of(request) if isinstance(request, Plan) else job_of(request), "", None
    engine = engine_of(job.spec)
    with _shared(engine, folder, notify) as store:
        folder.allow_to_run()
        (folder.path / SITE).write_text(engine.site(spec=job.spec), encoding="utf-8")
        try:
            handle = engine.submit(job, notify)
        except NoAnswer as err:
            unknown = err
        store.tag(folder.run_id, {job_tag(engine.NAME): handle})
        store.resume(folder.run_id)
        store.requeue(folder.run_id)
    if unknown is not None:
        raise unknown


@contextmanager
def _shared(engine: Engine, folder: RunFolder, notify: Notify) -> Iterator[RunStore]:
    """The runs of the workspace, which the machines of *engine* will use. Raises HimlError if they or this one
    cannot."""
    if (error := engine.unavailable()) is not None:
        raise error
    with closing(Database(folder.workspace / "workspace.db", create=True, is_guarded=False)) as database:
        database.share()
        if database.has_locks is None:
            check = f" To check it: {engine.DOCTOR}" if engine.DOCTOR else ""
            text = f"It is unknown whether other machines see locks in '{folder.workspace}'."
            notify(Notice(f"{text} If they do not, simultaneous jobs fail.{check}"))
        yield RunStore(database)


def _queue(
    engine: Engine,
    folder: RunFolder,
    runs: Sequence[Run],
    stage: Callable[[Callable[[], bool]], Jobs],
    notify: Notify,
) -> HimlError | None:
    """Record *runs*, stage their files, submit the jobs that *stage* returns, and record their handles."""
    ids, tag = [run.id for run in runs], job_tag(engine.NAME)
    submitted, known = dict[str, str](), dict[str, list[str]]()
    unknown: NoAnswer | None = None
    try:
        with _shared(engine, folder, notify) as store, interruptions() as interrupted:
            notify(Starting(folder.run_id))
            store.add(*(replace(run, tags={**run.tags, tag: ""}) for run in runs))
            try:
                for job, parts in stage(lambda: bool(interrupted))(submitted):
                    if interrupted:
                        raise Stopped
                    if not submitted:
                        (folder.path / SITE).write_text(engine.site(spec=job.spec), encoding="utf-8")
                    submitted[job.name] = engine.submit(job, notify)
                    number, *place = submitted[job.name].split(";")
                    for run_id, part in parts.items():
                        known.setdefault(run_id, []).append(";".join([number + part, *place]))
                    store.tag_each(tag, {run_id: ",".join(known[run_id]) for run_id in parts})
            except NoAnswer as err:
                if not interrupted:
                    raise
                unknown = err
            except BaseException as err:
                with suppress(HimlError):
                    engine.cancel(submitted)
                store.delete(ids, lambda run_id: RunFolder(folder.path.with_name(run_id)).remove())
                if isinstance(err, Stopped):
                    raise Interrupted("Nothing was submitted.") from None
                raise
            if interrupted:
                for run_id in ids:
                    RunFolder(folder.path.with_name(run_id)).ask_to_cancel()
                engine.cancel(submitted)
                if unknown is not None:  # a job that the engine has stops when it starts
                    raise Interrupted(str(unknown), hint=unknown.hint)
                for run_id in ids:
                    store.end(run_id, RunStatus.canceled, reason="canceled")
                raise Interrupted(f"Run '{folder.run_id}' was canceled.", hint=f"See himl runs show {folder.run_id}")
    except (Interrupted, NoAnswer):
        raise
    except HimlError as err:
        return err
    return None
