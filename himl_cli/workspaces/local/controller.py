"""The process that supervises a sweep or a pipeline: starts its children, and records the end of the parent run.

It starts and reports like a job's supervisor. Each child has a separate supervisor. If this process is killed, children
in progress continue to their end, and the parent run can be resumed later.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, replace
from math import isfinite, prod
from pathlib import Path
from statistics import fmean, stdev

from himl_cli.core.errors import HimlError
from himl_cli.core.jobs import STEP, STEP_AFTER, EngineSpec
from himl_cli.core.locks import ProcessLock
from himl_cli.core.logged import SYSTEM
from himl_cli.core.records import dataclass
from himl_cli.core.runs import ATTEMPT_ENDS, Run, RunQuery, RunStatus, end_of_trials
from himl_cli.core.sampling import Trial, make_sampler, trials_to_stop
from himl_cli.core.sweeps import (
    BEST_TRIAL,
    MANY,
    REPEATED,
    STOPPED_EARLY,
    TRIAL,
    EarlyStop,
    Scalar,
    best_of,
    hyperparameters_of,
    short_text,
)
from himl_cli.workspaces.local.children import Children
from himl_cli.workspaces.local.code_store import CodeStore
from himl_cli.workspaces.local.engines import engine_of
from himl_cli.workspaces.local.engines.base import STEP_BEFORE_FAILED
from himl_cli.workspaces.local.engines.queue import QueuedJobs, query_pauses
from himl_cli.workspaces.local.launch_request import (
    PIPELINE,
    Plan,
    PlannedJob,
    plan_from_json,
    plan_from_stored,
)
from himl_cli.workspaces.local.logged_values import last_points
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_folder import PLAN, RunFolder
from himl_cli.workspaces.local.run_process import TERMINATED, RunProcess, read_request, report, setup_outcome
from himl_cli.workspaces.local.run_store import Outcome, RunStore
from himl_cli.workspaces.local.sweep_plan import job_outputs, pipeline_trial, stage_plan, step_request, trial_request

SECONDS_TO_JUDGE = 0.25  # between checks of a policy, or longer, so that checks take at most a tenth of the time


class Controller(RunProcess):
    """One sweep, or one pipeline."""

    def __init__(self, plan: Plan) -> None:
        again = plan.again or plan.spec.engine is not None
        super().__init__(plan.new_run, plan.run_folder, plan.places[0], plan.spec, again=again)
        self._plan = plan

    def work(self, store: RunStore) -> Outcome:
        if self._is_queued:
            plan = replace(self._plan, again=self._again)
        else:
            is_staged = self._plan.again and not self._plan.staged_in
            plan = self._plan if is_staged else stage_plan(self._plan, self.folder, self.is_stopped)
        if (failed := setup_outcome(self.folder.user_logs / "std_log.txt")) is not None:
            return failed
        for place in {*plan.places} if self._again and not plan.staged_in else ():
            CodeStore(self.folder.workspace).restore(place, None, self.folder.run_id)
        store.start(plan.run.id)
        report("started")
        engine = plan.spec.engine
        queued = QueuedJobs(self.folder.workspace, end_if_last, pauses=query_pauses(engine.poll)) if engine else None
        children = Children(plan, store, self._why_stopped, queued)
        outcome = _run_steps(children) if plan.kind == PIPELINE else Sweep(children).run()
        children.log(outcome.text)
        return outcome

    def outcome_to_record(self, store: RunStore, outcome: Outcome) -> Outcome | None:
        """In a queue, restart the controller after SIGTERM, whose trials continue meanwhile, unless the engine does."""
        job = engine_of(self._plan.spec).own_job() if self._is_queued and outcome.reason == TERMINATED else None
        if job is None:
            return outcome
        reason = job.reason_to_stop(EngineSpec("").grace)
        outcome = replace(outcome, reason=reason or TERMINATED)
        return None if reason is None else self.restart(store, outcome, job.requeue)

    def _why_stopped(self) -> Outcome | None:
        if self._terminated:
            return Outcome(RunStatus.failed, TERMINATED)
        return Outcome(RunStatus.canceled, self.folder.why_canceled()) if self.is_canceled() else None


def end_if_last(store: RunStore, folder: RunFolder) -> None:
    """Record the end of a sweep or pipeline without a controller, whose children are in a queue, once none of them is
    open. Raises HimlError, OSError."""
    lock = ProcessLock(folder.lock)
    _, handle = store.queued_jobs([folder.run_id]).get(folder.run_id, ("", ""))
    if "[" not in handle:
        return
    _end_unreachable_steps(store, folder.run_id)
    if any(store.open_children([folder.run_id])) or not lock.take():
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


def _end_unreachable_steps(store: RunStore, run_id: str) -> None:
    """Record the end of steps that wait for one that did not complete. Their jobs never start."""
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


def _run_steps(children: Children) -> Outcome:
    """Run the remaining steps of the pipeline in order, and return its outcome. The first step that does not complete
    ends it."""
    plan = children.plan
    recorded = children.recorded() if plan.again else ()
    known = {run.tags[STEP]: (run, is_at_work) for run, is_at_work in recorded if STEP in run.tags}
    completed = {key for key, (run, _) in known.items() if run.status is RunStatus.completed}
    left = _steps_left(children, completed)
    count = f"{len(plan.jobs)} step{'s' * (len(plan.jobs) != 1)}"
    children.log(f"resumed: {len(left)} of {count} remaining" if plan.again else count)
    for number, job in enumerate(plan.jobs):
        if children.stopping:
            return children.stopping
        if job.key not in left:
            continue
        if job.key in completed:
            children.store.resume(known[job.key][0].id)  # its supervisor refuses completed runs
        run, trouble = _run_step(children, job, job.key in known and known[job.key][1])
        if children.stopping:
            return children.stopping
        rest = ", ".join(other.key for other in plan.jobs[number + 1 :])
        rest = f"; not started: {rest}" if rest else ""
        if run is None:
            return Outcome(RunStatus.failed, f"{job.title} could not be started: {trouble.rstrip('.')}{rest}")
        if run.status is not RunStatus.completed:
            was_canceled, why = run.status is RunStatus.canceled, run.reason or "no reason is known"
            how = "was canceled" if was_canceled else f"failed: {why}"
            return Outcome(run.status, f"{job.title} {how}{rest}", run.exit_code)
    return Outcome(RunStatus.completed)


def _outcome_of_steps(children: Children) -> Outcome:
    """The outcome of a pipeline whose steps have all ended."""
    known = {run.tags[STEP]: run for run, _ in children.recorded() if STEP in run.tags}
    for job in children.plan.jobs:
        run = known.get(job.key)
        if run is not None and run.status is not RunStatus.completed:
            return Outcome(run.status, f"{job.title} {run.end_text}", run.exit_code)
    return Outcome(RunStatus.completed)


def _steps_left(children: Children, completed: set[str]) -> set[str]:
    """The keys of the steps to run: those that are not completed, and those with a missing output that one of these
    reads."""
    left: set[str] = set()
    read_by: dict[str, str] = {}
    for job in reversed(children.plan.jobs):
        if job.key in completed:
            outputs = job_outputs(job, children.plan.child_id(job)).values() if job.key in read_by else ()
            gone = [path for path in outputs if not Path(path).is_dir()]
            if not gone:
                continue
            children.log(f"{job.title} runs again: {read_by[job.key]} reads its output '{gone[0]}', which is missing")
        left.add(job.key)
        read_by |= {step: job.key for step, _ in job.takes.values()}
    return left


def _run_step(children: Children, job: PlannedJob, is_at_work: bool) -> tuple[Run | None, str]:
    """Run one step. Returns its run, or None and the reason if it could not be started."""
    run_id = children.plan.child_id(job)
    children.watch(run_id, None if is_at_work else step_request(children.plan, job))
    children.log(f"{job.title}: {'running' if is_at_work else 'started'}, {run_id}")
    while (ended := children.next_end()) is None:
        if children.stopping and not children.at_work:  # stops the step if the pipeline is stopping
            return None, ""
    run, _, trouble = ended
    children.log(f"{job.title}: {run.end_text if run else f'could not be started: {trouble}'}")
    if run is not None and run.status is RunStatus.failed:
        for line in children.last_lines(run, 10):
            children.log(f"  {job.key}: {line}")
    return run, trouble


@dataclass()
class StartedTrial(Trial):
    """A trial and its progress.

    `sources` are the runs that may log its primary metric, its own or its steps'. The last one with values counts.
    `place` is the position up to which values were read. `is_again`: the trial may have several attempts, so that
    values of an earlier one that a later one logged again do not count. `verdict` is a policy's reason to stop it.
    """

    run_id: str = ""
    sources: Sequence[str] = ()
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
        return ", ".join([f"trial {self.index}", *(f"{name}={short_text(each)}" for name, each in self.values.items())])


class Sweep:
    """Runs the trials of a sweep, a limited number at once, until all have ended or were stopped early."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._plan = children.plan
        self._spec = children.plan.sweep
        self._log = children.log
        self._sampler = make_sampler(self._spec)
        self._metrics = MetricStore(children.store.database)
        self._started: dict[str, StartedTrial] = {}
        self._version = -1  # of the database at the last check
        self._next_look = 0.0
        self._is_to_judge = False
        self._ends: list[RunStatus] = []  # of trials that ended under this controller
        self._trouble = ""  # of the first trial that could not be started
        self._is_known = False  # whether any trial logged metrics
        self._total = self._spec.max_trials
        if self._spec.sampling == "grid":
            self._total = min(self._total, prod(len(found.values) for found in self._spec.space.values()))
        self._most = self._spec.max_concurrent or (self._total if self._plan.spec.engine else self._most_here())

    def _most_here(self) -> int:
        """As many trials at once as the GPUs of this machine allow, 1 for trials without `--gpus`."""
        if not any(spec.gpus for spec in self._plan.specs):
            return 1
        from himl_cli.workspaces.local.gpus import jobs_at_once

        return jobs_at_once(self._plan.specs)

    def run(self) -> Outcome:
        waiting = deque(self._find_what_is_left())
        most = self._most
        while True:
            stopping, at_work = self._children.stopping, self._children.at_work
            first = self._ends[: self._spec.max_failures]
            has_given_up = 0 < self._spec.max_failures == first.count(RunStatus.failed)
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
            return Outcome(RunStatus.failed, self._why_given_up(waiting))
        return self._outcome_of_trials()

    def _why_given_up(self, waiting: Sequence[int]) -> str:
        """The reason of a sweep that leaves the trials *waiting*. If all of these failed before, resuming would begin
        with the same failures, so it names the option that continues."""
        most, child_id = self._spec.max_failures, self._plan.child_id
        new = [index for index in waiting if child_id(index) not in self._started]
        failed = "trial to end" if most == 1 else f"{most} trials to end"
        count, again = len(new or waiting), "" if new else " again"
        were = f"{count} of {self._total} {'was' if count == 1 else 'were'} not started{again}"
        resume = "" if new else f"; to run all: himl submit --resume {self._plan.run.id} --max_failures 0"
        return f"the first {failed} failed{self._trouble}; {were}{resume}"

    def outcome_of_recorded(self) -> Outcome:
        """The outcome of a sweep whose trials have all ended."""
        for run, _ in self._children.recorded():
            if TRIAL in run.tags:
                self._new(int(run.tags[TRIAL]), hyperparameters_of(run.tags)).note_end(run.status)
        self._read_metrics(self._started)
        self._log_best()
        return self._outcome_of_trials()

    def _outcome_of_trials(self) -> Outcome:
        statuses = [each.status for each in self._started.values() if each.status and not each.is_stopped_early]
        end = end_of_trials(statuses, self._total)
        return Outcome(end.status, end.reason and end.reason + self._trouble)

    def _find_what_is_left(self) -> Iterable[int]:
        """The numbers of the trials to start. Watches trials in progress from now on."""
        if not self._plan.again:
            self._log(f"{self._total} trial{'s' * (self._total != 1)}, {self._most} at once")
            return range(self._total)
        numbers = {self._plan.child_id(index): index for index in range(self._total)}
        left = dict.fromkeys(range(self._total))
        for run, is_at_work in self._children.recorded():
            if run.id not in numbers:
                continue
            index = numbers[run.id]
            started = self._new(index, hyperparameters_of(run.tags), is_again=ATTEMPT_ENDS in run.tags)
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
            self._is_to_judge = self._read_metrics(self._started)
        at_work = len(self._children.at_work)
        self._log(f"resumed: {len(left)} of {self._total} trials remaining, {at_work} running")
        # Those that failed before come last, since they may fail again
        return sorted(left, key=lambda index: self._plan.child_id(index) in self._started)

    def _start(self, index: int) -> None:
        run_id = self._plan.child_id(index)
        started = self._started.get(run_id)
        if started is None:
            values = self._sampler(index, [*self._started.values()])
            assert values is not None, f"trial {index} of {self._total}"
            started = self._new(index, values)
        self._log(f"{started.title}: started, {run_id}")
        try:
            request_of = pipeline_trial if self._plan.has_steps else trial_request
            self._children.watch(run_id, request_of(self._plan, index, started.values))
        except HimlError as err:  # a file has the name of its output's folder
            self._children.add_ended(run_id, str(err))

    def _new(self, index: int, values: Mapping[str, Scalar], *, is_again: bool = False) -> StartedTrial:
        plan, run_id = self._plan, self._plan.child_id(index)
        own = replace(plan, run=replace(plan.run, id=run_id))
        sources = [own.child_id(job) for job in plan.jobs] if plan.has_steps else [run_id]
        is_again = is_again or plan.has_steps or plan.spec.retries > 0
        self._started[run_id] = StartedTrial(index, values, run_id=run_id, sources=sources, is_again=is_again)
        return self._started[run_id]

    def _note_end(self, run: Run | None, run_id: str, trouble: str) -> None:
        started = self._started[run_id]
        with self._children.logging_errors():  # the policy compares the other trials with these values
            self._is_to_judge |= self._read_metrics([run_id])
        if run is None:
            started.note_end(RunStatus.failed)
            text = f"could not be started: {trouble}"
            self._trouble = self._trouble or f" ({started.title} {text.rstrip('.')})"
        else:
            started.note_end(run.status, _is_stopped_early(run))
            is_judged = started.verdict and started.is_stopped_early
            text = (replace(run, reason="") if is_judged else run).end_text + self._metric_text(started)
            text += self._complaint(started)
            if run.status is RunStatus.failed and (lines := self._children.last_lines(run, 1)):
                text += f"; last line of its log: {lines[0].strip()}"
        self._ends.append(started.status or RunStatus.failed)
        ended = sum(1 for each in self._started.values() if each.status)
        self._log(f"{started.title}: {text} ({ended} of {self._total} ended)")

    def _read_metrics(self, run_ids: Iterable[str]) -> bool:
        """Read values that were logged since the last call, and return whether there are any. Raises HimlError."""
        some = [self._started[run_id] for run_id in run_ids]
        places = {source: 0 if each.is_again else each.place for each in some for source in each.sources}
        found: dict[str, list[tuple[int, float]]] = {}
        for run_id, place, value in self._metrics.values_after(self._spec.primary_metric, places):
            found.setdefault(run_id, []).append((place, value))
        is_any = False
        for started in some:
            told = next((found[source] for source in reversed(started.sources) if source in found), None)
            if told is not None and told[-1][0] > started.place:
                values = [value for _, value in told]
                started.metric = values if started.is_again else started.metric + values
                started.place, is_any = told[-1][0], True
        return is_any

    def _complaint(self, trial: StartedTrial) -> str:
        """The names that the first trial that logged metrics logged, if the primary metric is not among them."""
        if self._is_known:
            return ""
        points = last_points(self._children.store.database, trial.sources)
        names = sorted({name for found in points.values() for name in found if not name.startswith(SYSTEM)})
        self._is_known = bool(names)
        if not names or self._spec.primary_metric in names:
            return ""
        return (
            f", without the primary metric '{self._spec.primary_metric}' (--primary_metric), logged: {', '.join(names)}"
        )

    def _stop_early(self, policy: EarlyStop) -> None:
        at_work, begin = self._children.at_work, time.monotonic()
        if begin >= self._next_look:
            with self._children.logging_errors():  # an unchanged database costs no reads
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
        for run_id in at_work:  # repeated, as for a canceled sweep
            if verdict := self._started[run_id].verdict:
                self._children.cancel(run_id, verdict)

    def _log_best(self) -> None:
        """Log the best trial, and record it as a tag. For folds and seeds, log their mean."""
        name, trials = self._spec.primary_metric, self._started.values()
        what = "the metric for the mean"
        if self._spec.kind in REPEATED:
            completed = [each for each in trials if each.status is RunStatus.completed and each.metric]
            values = [each.metric[-1] for each in completed if isfinite(each.metric[-1])]
            spread = f", std {stdev(values):.6g}" if len(values) > 1 else ""
            if values:
                runs = f"{len(values)} run{'s' * (len(values) != 1)}"
                self._log(f"{name}: mean {fmean(values):.6g}{spread} of {runs}")
                return
        else:
            what = "the primary metric"
            known = [(score, each) for each in trials if (score := best_of(self._spec.goal, each.metric)) is not None]
            known = [(score, each) for score, each in known if each.is_done] or known
            if known:
                wanted = best_of(self._spec.goal, (score for score, _ in known))
                best = min((each for score, each in known if score == wanted), key=lambda each: each.index)
                with suppress(HimlError):  # a full disk must not hide the outcome of the sweep
                    self._children.store.tag(self._plan.run.id, {BEST_TRIAL: best.run_id})
                status = best.status.value.lower() if best.status else "open"
                word = "best" if best.is_done else f"best (no trial completed, this one is {status})"
                self._log(f"{word}: {best.title}{self._metric_text(best)}, {best.run_id}")
                return
        if trials:
            self._log(f"no trial logged a finite value of '{name}', {what} (--primary_metric)")

    def _metric_text(self, trial: StartedTrial) -> str:
        best = best_of(self._spec.goal, trial.metric)
        if best is None:
            return ""
        last = trial.metric[-1]
        return f", {self._spec.primary_metric} {last:g}" + (f" (best {best:g})" if last != best else "")


def _is_stopped_early(run: Run) -> bool:
    """Whether a policy stopped the trial. False if it ended before the policy took effect."""
    return run.status is RunStatus.canceled and STOPPED_EARLY in run.tags


if __name__ == "__main__":
    Controller(plan_from_json(read_request())).run()
