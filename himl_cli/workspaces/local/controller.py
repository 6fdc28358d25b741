"""The process that looks after a sweep or a pipeline: starts its children, and records how the whole ended.

Started as a job's supervisor is, and reports the same. The children have supervisors of their own: when this process is
killed, those that run go on to their end, and the run can be resumed later.
"""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import isfinite, prod
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from himl_cli.core.errors import HimlError
from himl_cli.core.jobs import (
    BEST_TRIAL,
    REPEATED,
    STEP,
    STOPPED_EARLY,
    TRIAL,
    EarlyStop,
    best_of,
    hyperparameters_of,
)
from himl_cli.core.processes import ProcessLock
from himl_cli.core.runs import FAILED_RANK, TRIES, Run, RunQuery, RunStatus
from himl_cli.workspaces.local.launch import begin, events_of, spawn, start_error
from himl_cli.workspaces.local.launch_request import (
    PIPELINE,
    LaunchRequest,
    Plan,
    PlannedJob,
    plan_from_json,
    plan_from_stored,
)
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_folder import PLAN, RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_process import BUSY, CANCELED, TERMINATED, Outcome, RunProcess, read_request, report
from himl_cli.workspaces.local.run_store import RunStore
from himl_cli.workspaces.local.sampling import Trial, make_sampler, trials_to_stop
from himl_cli.workspaces.local.slurm import SlurmJobs, cancel, end_unreachable_steps
from himl_cli.workspaces.local.slurm_batch import queue_again, queue_job
from himl_cli.workspaces.local.sweep_plan import job_outputs, stage_plan, step_request, trial_request

POLL_SECONDS = 0.1
SECONDS_UNREAD = 600.0
FAILURES_TO_GIVE_UP = 3
SECONDS_TO_JUDGE = 0.25  # with many trials and long series: a tenth of the time at most goes into reading and judging


class Controller(RunProcess):
    """One sweep, or one pipeline."""

    def __init__(self, plan: Plan, *, is_queued: bool = False) -> None:
        cwd = Path(plan.run_folder) / plan.jobs[0].place
        again, spec = plan.again or is_queued, plan.jobs[0].spec
        super().__init__(plan.new_run, plan.run_folder, cwd, spec, again=again, is_queued=is_queued)
        self._plan = plan

    def work(self, store: RunStore) -> Outcome:
        if self._is_queued:
            plan = replace(self._plan, again=self._again)
        else:
            plan = self._plan if self._plan.again else stage_plan(self._plan, self.folder, self.is_stopped)
        store.start(plan.run.id)
        report("started")
        children = Children(plan, store, self._why_stopped)
        outcome = _run_steps(children) if plan.kind == PIPELINE else Sweep(children).run()
        children.log(outcome.text)
        return outcome

    def has_begun(self, store: RunStore) -> bool:
        return any(True for _ in store.query(RunQuery(parent=self._plan.run.id, limit=1, archived=None)))

    def _why_stopped(self) -> Outcome | None:
        if self._terminated:
            return Outcome(RunStatus.failed, TERMINATED)
        return Outcome(RunStatus.canceled, CANCELED) if self.folder.is_cancel_asked() else None


def end_if_last(store: RunStore, folder: RunFolder) -> None:
    """Record the end of a sweep or pipeline that no controller looks after, since Slurm has its children, once none of
    them is open. Raises HimlError, OSError."""
    lock = ProcessLock(folder.lock)
    if "[" not in store.slurm_jobs([folder.run_id]).get(folder.run_id, ""):
        return
    end_unreachable_steps(store, folder.run_id)
    if any(store.open_children([folder.run_id])) or not lock.try_to_take():
        return
    try:
        run = store.get(folder.run_id)
        if run is None or run.status.is_final:
            return
        plan = plan_from_stored(folder.read(PLAN)["many"], folder.path, {})
        children = Children(plan, store, lambda: None)
        outcome = _outcome_of_steps(children) if plan.kind == PIPELINE else Sweep(children).outcome_of_recorded()
        if folder.is_cancel_asked():
            outcome = Outcome(RunStatus.canceled, folder.why_canceled())
        children.log(outcome.text)
        store.end(run.id, outcome.status, reason=outcome.reason)
    finally:
        lock.release()


def _run_steps(children: Children) -> Outcome:
    """Run what is left of the pipeline, one step after another, and give how it ended; the first step that does not
    complete ends it."""
    plan = children.plan
    recorded = children.recorded() if plan.again else ()
    known = {run.tags[STEP]: (run, is_at_work) for run, is_at_work in recorded if STEP in run.tags}
    completed = {key for key, (run, _) in known.items() if run.status is RunStatus.completed}
    left = _steps_left(children, completed)
    count = f"{len(plan.jobs)} step{'s' * (len(plan.jobs) != 1)}"
    children.log(f"resumed: {len(left)} of {count} are left" if plan.again else count)
    for number, job in enumerate(plan.jobs):
        if children.stopping:
            return children.stopping
        if job.key not in left:
            continue
        if job.key in completed:
            children.store.reopen(known[job.key][0].id)  # its supervisor refuses what is completed
        run, trouble = _run_step(children, job, job.key in known and known[job.key][1])
        if children.stopping:
            return children.stopping
        rest = ", ".join(other.key for other in plan.jobs[number + 1 :])
        rest = f"; not started: {rest}" if rest else ""
        if run is None:
            return Outcome(RunStatus.failed, f"{job.title} could not be started: {trouble.rstrip('.')}{rest}")
        if run.status is RunStatus.canceled:
            return Outcome(RunStatus.canceled, f"{job.title} was canceled{rest}", run.exit_code)
        if run.status is not RunStatus.completed:
            why = run.reason or "no reason is known"
            return Outcome(RunStatus.failed, f"{job.title} failed: {why}{rest}", run.exit_code)
    return Outcome(RunStatus.completed)


def _outcome_of_steps(children: Children) -> Outcome:
    """How a pipeline ended, of which all steps have."""
    known = {run.tags[STEP]: run for run, _ in children.recorded() if STEP in run.tags}
    for job in children.plan.jobs:
        run = known.get(job.key)
        if run is not None and run.status is not RunStatus.completed:
            return Outcome(run.status, f"{job.title} {run.end_text}", run.exit_code)
    return Outcome(RunStatus.completed)


def _steps_left(children: Children, completed: set[str]) -> set[str]:
    """The keys of the steps that have to run: those that are not completed, and those whose output one of these reads
    and which is gone."""
    left: set[str] = set()
    read_by: dict[str, str] = {}
    for job in reversed(children.plan.jobs):
        if job.key in completed:
            outputs = job_outputs(job, children.plan.child_id(job)).values() if job.key in read_by else ()
            gone = [path for path in outputs if not Path(path).is_dir()]
            if not gone:
                continue
            children.log(f"{job.title} runs again: {read_by[job.key]} reads its output, and '{gone[0]}' is gone")
        left.add(job.key)
        read_by |= {step: job.key for step, _ in job.takes.values()}
    return left


def _run_step(children: Children, job: PlannedJob, is_at_work: bool) -> tuple[Run | None, str]:
    """None, and why, where it could not be started."""
    run_id = children.plan.child_id(job)
    children.watch(run_id, None if is_at_work else step_request(children.plan, job))
    children.log(f"{job.title}: {'at work' if is_at_work else 'started'}, {run_id}")
    while (ended := children.next_end()) is None:
        _ = children.stopping  # asks it to stop where the pipeline was
    run, _, trouble = ended
    children.log(f"{job.title}: {run.end_text if run else f'could not be started: {trouble}'}")
    if run is not None and run.status is RunStatus.failed:
        for line in children.last_lines(run, 10):
            children.log(f"  {job.key}: {line}")
    return run, trouble


class Children:
    """A plan's children, started, watched, stopped all at once, and the log of the whole, `user_logs/std_log.txt`.
    `at_work` are the ids of those that have not ended.

    *why_stopped* says how the whole ends once it was told to stop, and nothing before that. What fails on the way is
    logged once and tried again at the next look: it must not end the whole while children are at work.
    """

    def __init__(self, plan: Plan, store: RunStore, why_stopped: Callable[[], Outcome | None]) -> None:
        self.plan = plan
        self.store = store
        self.at_work: set[str] = set()
        self._runs = Path(plan.run_folder).parent
        self._why_stopped = why_stopped
        self._stopping: Outcome | None = None
        self._reported: set[str] = set()
        self._unread_since = 0.0
        self._ended: queue.Queue[tuple[str, str]] = queue.Queue()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._slurm = SlurmJobs(self._runs.parent, end_if_last) if any(job.spec.slurm for job in plan.jobs) else None

    def log(self, line: str) -> None:
        path = Path(self.plan.run_folder) / "user_logs" / "std_log.txt"
        with suppress(OSError), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{datetime.now():%Y-%m-%dT%H:%M:%S} {line}\n")

    @contextmanager
    def logging_errors(self) -> Iterator[None]:
        """Log a HimlError of what is done within, once."""
        try:
            yield
        except HimlError as err:
            self._log_once(err)

    def _log_once(self, err: HimlError) -> None:
        if str(err) not in self._reported:
            self._reported.add(str(err))
            self.log(f"{err} It is tried again.")

    def watch(self, run_id: str, request: LaunchRequest | None = None) -> None:
        """Start the job that *request* tells of, and wait in the background for its end; without one, for that of a job
        that an earlier controller started, and whose supervisor lives. What goes wrong is told with its end."""
        self.at_work.add(run_id)
        threading.Thread(target=self._watch, args=(RunFolder(self._runs / run_id), request), daemon=True).start()

    def add_ended(self, run_id: str, trouble: str) -> None:
        """A job that has ended, or that cannot even be started: *trouble* says why."""
        self.at_work.add(run_id)
        self._ended.put((run_id, trouble))

    def next_end(self) -> tuple[Run | None, str, str] | None:
        """A child that has ended: its run (None where it could not be started, and was not completed before), its id,
        and what went wrong then; None where none has yet.

        Raises HimlError where runs could not be read for `SECONDS_UNREAD`.
        """
        try:
            run_id, trouble = self._ended.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return None
        try:
            run = self.store.get(run_id, [run_id])
        except HimlError as err:
            self._ended.put((run_id, trouble))
            self._unread_since = self._unread_since or time.monotonic()
            if time.monotonic() - self._unread_since > SECONDS_UNREAD:
                raise
            self._log_once(err)
            time.sleep(POLL_SECONDS)
            return None
        self.at_work.discard(run_id)
        self._processes.pop(run_id, None)
        self._unread_since = 0.0
        if trouble and run is not None and run.status is not RunStatus.completed:
            run = None  # what is on record of it is how an earlier attempt ended
        return run, run_id, trouble

    @property
    def stopping(self) -> Outcome | None:
        """How the whole ends because it was told to stop; the children have then been asked to."""
        if self._stopping is None and (why := self._why_stopped()):
            self._stopping = why
            told = "this process was told to terminate" if why.reason == TERMINATED else "the run was canceled"
            self.log(f"stopping, since {told}")
        if self._stopping is None:
            return None
        for run_id in self.at_work:  # again and again: a child that was just starting may have missed it
            process = self._processes.get(run_id)
            if self._stopping.reason != TERMINATED:
                self.cancel(run_id, "its parent was canceled")
            elif process is None:  # an earlier controller started it: only its lock is known
                self.cancel(run_id, "the keeper of its parent was told to terminate")
            elif process.poll() is None:
                process.terminate()
        return self._stopping

    def cancel(self, run_id: str, why: str) -> None:
        """Ask the job to stop. To be called again and again to its end: a job that is just starting may miss it."""
        folder = RunFolder(self._runs / run_id)
        if not folder.is_cancel_asked():  # else the reason beside it may be just being read
            with self.logging_errors():
                folder.ask_to_cancel(why)
                if self._slurm is not None:
                    cancel(self.store.slurm_jobs([run_id]).values(), only_waiting=True)

    def recorded(self) -> Iterator[tuple[Run, bool]]:
        """The children on record, each with whether it is at work: an earlier controller started them."""
        for run in self.store.query(RunQuery(parent=self.plan.run.id, archived=None)):
            if run.status.is_final:
                yield run, False
            elif RunFolder(self._runs / run.id).is_supervised() or run.id in self._waiting([run.id]):
                yield run, True
            elif (found := self.store.get(run.id, [run.id])) is not None:  # anew: it may have ended since
                yield found, False

    def last_lines(self, run: Run, count: int) -> list[str]:
        """The last lines of what a child printed that are not empty, as far as they can be read; of several ranks, of
        the one that failed."""
        rank = FAILED_RANK.match(run.reason)
        log = RunFolder(self._runs / run.id).user_logs / (f"std_log_process_{rank[1]}.txt" if rank else "std_log.txt")
        try:
            with log.open("rb") as stream:
                stream.seek(max(0, log.stat().st_size - 16 * 1024))
                text = stream.read().decode(errors="replace")
        except OSError:
            return []
        return [line[:200] for line in text.splitlines() if line.strip()][-count:]

    def _watch(self, folder: RunFolder, request: LaunchRequest | None) -> None:
        trouble = ""
        try:
            if self._slurm is not None:
                return self._ended.put((folder.run_id, self._watch_queued(folder, request)))
            events = [{"event": "refused", "why": BUSY}] if request is None else self._run(folder, request)
            if events and events[-1].get("why") == BUSY:
                while folder.is_supervised():
                    time.sleep(POLL_SECONDS)
            elif (error := start_error(events, folder)) is not None:
                trouble = str(error)
        except OSError as err:
            trouble = str(explain_disk_error(err, "Cannot start the job", folder.path))
        except (HimlError, ValueError) as err:
            trouble = str(err)
        self._ended.put((folder.run_id, trouble))

    def _watch_queued(self, folder: RunFolder, request: LaunchRequest | None) -> str:
        """Why the job could not be sent to Slurm; else nothing, once it has ended."""
        run_id = folder.run_id
        if request is not None and self.store.get(run_id) is None:
            begin(replace(request, again=True), start=queue_job)
        elif request is not None and (error := queue_again(replace(request, again=True), folder)) is not None:
            return str(error)
        while (run := self.store.get(run_id)) is not None and not run.status.is_final:
            if not folder.is_supervised():
                self._waiting(list(self.at_work))
            time.sleep(5 * POLL_SECONDS)
        return ""

    def _waiting(self, run_ids: list[str]) -> Mapping[str, str]:
        """Of these children, those that Slurm has, and what it says of them."""
        if self._slurm is None:
            return {}
        free = [run_id for run_id in run_ids if not RunFolder(self._runs / run_id).is_supervised()]
        return self._slurm.refresh(self.store, self.store.slurm_jobs(free))

    def _run(self, folder: RunFolder, request: LaunchRequest) -> list[dict[str, Any]]:
        """What the supervisor reported to its end. As long as it lives the job is at work, whatever it says."""
        folder.path.mkdir(parents=True, exist_ok=True)
        if not request.again:
            folder.allow_to_run()
        process = self._processes[folder.run_id] = spawn(request)
        try:
            return list(events_of(process))
        finally:
            process.wait()
            with suppress(OSError):
                assert process.stdout is not None
                process.stdout.close()


@dataclass
class StartedTrial(Trial):
    """`place` is how far the values of the primary metric were read. `is_again`: it had an earlier attempt, of whose
    values those that a later one logged again do not count. `verdict` is why it is to stop early; said to it until it
    has ended."""

    run_id: str = ""
    metric: list[float] = field(default_factory=list)
    place: int = 0
    is_again: bool = False
    status: RunStatus | None = None
    is_stopped_early: bool = False
    verdict: str = ""

    def note_end(self, status: RunStatus, is_stopped_early: bool = False) -> None:
        self.status, self.is_stopped_early, self.is_over = status, is_stopped_early, True

    @property
    def is_done(self) -> bool:
        return self.status is RunStatus.completed or self.is_stopped_early

    @property
    def title(self) -> str:
        values = [
            f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.values.items()
        ]
        return ", ".join([f"trial {self.index}", *values])


class Sweep:
    """The trials of the sweep whose *children* these are: so many at once, until all have ended or were stopped
    early."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._plan = children.plan
        self._spec = children.plan.sweep
        self._log = children.log
        self._sampler = make_sampler(self._spec)
        self._metrics = MetricStore(children.store.database)
        self._started: dict[str, StartedTrial] = {}
        self._version = -1  # of the database at the last look
        self._next_look = 0.0
        self._is_to_judge = False
        self._ends: list[RunStatus] = []  # of those that ended under this controller
        self._total = self._spec.max_trials
        if self._spec.sampling == "grid":
            self._total = min(self._total, prod(len(found.values) for found in self._spec.space.values()))
        self._most = self._spec.max_concurrent or (self._total if self._plan.jobs[0].spec.slurm else 1)

    def run(self) -> Outcome:
        waiting = deque(self._find_what_is_left())
        most = self._most
        while True:
            stopping, at_work = self._children.stopping, self._children.at_work
            has_given_up = self._ends[:FAILURES_TO_GIVE_UP] == [RunStatus.failed] * FAILURES_TO_GIVE_UP
            while waiting and len(at_work) < most and not stopping and not has_given_up:
                self._start(waiting.popleft())
            if not at_work:
                break
            if (ended := self._children.next_end()) is not None:
                self._note_end(*ended)
            if self._spec.early_stop is not None:
                self._stop_early(self._spec.early_stop)
        self._log_best()
        if stopping:
            return stopping
        if has_given_up and waiting:
            not_started = f"{len(waiting)} of {self._total} were not started"
            return Outcome(RunStatus.failed, f"the first {FAILURES_TO_GIVE_UP} trials to end failed; {not_started}")
        return self._outcome_of_trials()

    def outcome_of_recorded(self) -> Outcome:
        """How the sweep ended, of which all trials have."""
        for run, _ in self._children.recorded():
            if TRIAL in run.tags:
                started = StartedTrial(int(run.tags[TRIAL]), hyperparameters_of(run.tags), run_id=run.id)
                started.note_end(run.status)
                self._started[run.id] = started
        self._read_metrics(self._started)
        self._log_best()
        return self._outcome_of_trials()

    def _outcome_of_trials(self) -> Outcome:
        statuses = [each.status for each in self._started.values() if not each.is_stopped_early]
        counts = ((RunStatus.failed, "failed"), (RunStatus.canceled, "were canceled"))
        parts = [
            f"{statuses.count(status)} of {self._total} trials {word}" for status, word in counts if status in statuses
        ]
        return Outcome(RunStatus.failed, ", ".join(parts)) if parts else Outcome(RunStatus.completed)

    def _find_what_is_left(self) -> Iterable[int]:
        """The numbers of the trials to start; those that are at work already are watched from here on."""
        if not self._plan.again:
            self._log(f"{self._total} trial{'s' * (self._total != 1)}, {self._most} at once")
            return range(self._total)
        numbers = {self._plan.child_id(index): index for index in range(self._total)}
        left = dict.fromkeys(range(self._total))
        for run, is_at_work in self._children.recorded():
            if run.id not in numbers:
                continue
            index = numbers[run.id]
            started = StartedTrial(index, hyperparameters_of(run.tags), run_id=run.id, is_again=TRIES in run.tags)
            self._started[run.id] = started
            if is_at_work:
                del left[index]
                self._children.watch(run.id)
            elif run.status is RunStatus.completed or _is_stopped_early(run):
                del left[index]
                started.note_end(run.status, _is_stopped_early(run))
            else:  # another attempt, with the same values
                started.is_again = True
                self._children.store.delete_tag(run.id, STOPPED_EARLY)
        with self._children.logging_errors():
            self._read_metrics(self._started)
        at_work = len(self._children.at_work)
        self._log(f"resumed: {len(left)} of {self._total} trials are left, {at_work} at work")
        return left

    def _start(self, index: int) -> None:
        run_id = self._plan.child_id(index)
        started = self._started.get(run_id)
        if started is None:
            values = self._sampler(index, [*self._started.values()])
            assert values is not None, f"trial {index} of {self._total}"
            started = self._started[run_id] = StartedTrial(index, values, run_id=run_id)
        self._log(f"{started.title}: started, {run_id}")
        try:
            self._children.watch(run_id, trial_request(self._plan, index, started.values))
        except HimlError as err:  # a file lies where its output's folder is to be
            self._children.add_ended(run_id, str(err))

    def _note_end(self, run: Run | None, run_id: str, trouble: str) -> None:
        started = self._started[run_id]
        with self._children.logging_errors():
            self._read_metrics([run_id])
        if run is None:
            started.note_end(RunStatus.failed)
            text = f"could not be started: {trouble}"
        else:
            started.note_end(run.status, _is_stopped_early(run))
            is_judged = started.verdict and started.is_stopped_early
            text = (replace(run, reason="") if is_judged else run).end_text + self._metric_text(started)
            if run.status is RunStatus.failed and (lines := self._children.last_lines(run, 1)):
                text += f"; its last line: {lines[0].strip()}"
        self._ends.append(started.status or RunStatus.failed)
        ended = sum(1 for each in self._started.values() if each.status)
        self._log(f"{started.title}: {text} ({ended} of {self._total} ended)")

    def _read_metrics(self, run_ids: Iterable[str]) -> bool:
        """Take what was logged since the last look. Whether anything was. Raises HimlError."""
        some = [self._started[run_id] for run_id in run_ids]
        places = {each.run_id: 0 if each.is_again else each.place for each in some}
        found: dict[str, list[tuple[int, float]]] = {}
        for run_id, place, value in self._metrics.values_after(self._spec.primary_metric, places):
            found.setdefault(run_id, []).append((place, value))
        new = [each for each in some if each.run_id in found and found[each.run_id][-1][0] > each.place]
        for started in new:
            values = [value for _, value in found[started.run_id]]
            started.metric = values if started.is_again else started.metric + values
            started.place = found[started.run_id][-1][0]
        return bool(new)

    def _stop_early(self, policy: EarlyStop) -> None:
        at_work, begin = self._children.at_work, time.monotonic()
        if begin >= self._next_look:
            with self._children.logging_errors():  # where nobody wrote to the database, looking costs nothing
                if (version := self._metrics.version()) != self._version:
                    self._is_to_judge |= self._read_metrics(at_work)
                    self._version = version
            verdicts: Mapping[int, str] = {}
            if self._is_to_judge:
                verdicts = trials_to_stop(policy, self._spec.goal, [*self._started.values()])
                self._is_to_judge = False
            for index, why in verdicts.items():
                judged = self._started[self._plan.child_id(index)]
                if judged.run_id not in at_work or judged.verdict:
                    continue
                with self._children.logging_errors():
                    self._children.store.tag(judged.run_id, {STOPPED_EARLY: policy.policy})
                    judged.verdict, judged.is_stopped_early = why, True
                    self._log(f"{judged.title}: {why}")
                self._is_to_judge |= not judged.verdict
            now = time.monotonic()
            self._next_look = now + max(SECONDS_TO_JUDGE, 10 * (now - begin))
        for run_id in at_work:  # again and again, as of a sweep that was canceled
            if verdict := self._started[run_id].verdict:
                self._children.cancel(run_id, verdict)

    def _log_best(self) -> None:
        """Which trial is the best, and tag it; of folds and seeds, their mean."""
        name, trials = self._spec.primary_metric, self._started.values()
        what = "of which the mean counts"
        if self._spec.kind in REPEATED:
            completed = [each for each in trials if each.status is RunStatus.completed and each.metric]
            values = [each.metric[-1] for each in completed if isfinite(each.metric[-1])]
            spread = f", std {stdev(values):.6g}" if len(values) > 1 else ""
            if values:
                runs = f"{len(values)} run{'s' * (len(values) != 1)}"
                self._log(f"{name}: mean {fmean(values):.6g}{spread} of {runs}")
                return
        else:
            what = "by which they are compared"
            known = [(score, each) for each in trials if (score := best_of(self._spec.goal, each.metric)) is not None]
            known = [(score, each) for score, each in known if each.is_done] or known
            if known:
                wanted = best_of(self._spec.goal, (score for score, _ in known))
                best = min((each for score, each in known if score == wanted), key=lambda each: each.index)
                with suppress(HimlError):  # a disk that is full now must not hide how the sweep ended
                    self._children.store.tag(self._plan.run.id, {BEST_TRIAL: best.run_id})
                status = best.status.value.lower() if best.status else "open"
                word = "best" if best.is_done else f"best (none was completed, this one is {status})"
                self._log(f"{word}: {best.title}{self._metric_text(best)}, {best.run_id}")
                return
        if trials:
            self._log(f"no trial logged a value of '{name}', {what} (--primary_metric)")

    def _metric_text(self, trial: StartedTrial) -> str:
        best = best_of(self._spec.goal, trial.metric)
        if best is None:
            return ""
        last = trial.metric[-1]
        return f", {self._spec.primary_metric} {last:g}" + (f" (best {best:g})" if last != best else "")


def _is_stopped_early(run: Run) -> bool:
    """Whether a policy stopped the trial: one that ended by itself meanwhile counts as that."""
    return run.status is RunStatus.canceled and STOPPED_EARLY in run.tags


if __name__ == "__main__":
    Controller(plan_from_json(read_request())).run()
