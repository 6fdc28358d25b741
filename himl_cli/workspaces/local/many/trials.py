"""The trials of a sweep: so many at once, until all have ended or were stopped early."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from statistics import fmean, stdev

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import TRIES, Run, RunStatus
from himl_cli.core.sweeps import BEST_TRIAL, REPEATED, STOPPED_EARLY, EarlyStop, Trial, best_of, hyperparameters_of
from himl_cli.workspaces.local.keeping import Outcome
from himl_cli.workspaces.local.many.child_orders import trial_id, trial_order
from himl_cli.workspaces.local.many.course import told_end
from himl_cli.workspaces.local.many.family import Family
from himl_cli.workspaces.local.many.readings import Reading, Readings
from himl_cli.workspaces.local.many.sampling import make_sampler
from himl_cli.workspaces.local.many.stopping import trials_to_stop
from himl_cli.workspaces.local.metric_store import MetricStore

FAILURES_TO_GIVE_UP = 3


@dataclass
class Started:
    """A trial that was started: the values of the primary metric in the order logged, how far these were read, how it
    ended."""

    trial: Trial
    run_id: str
    metric: list[float] = field(default_factory=list)
    place: int = 0
    is_again: bool = False
    """It had an earlier try, of whose values those that a later one logged again do not count."""
    status: RunStatus | None = None
    is_stopped_early: bool = False
    verdict: str = ""
    """Why it is to stop early; said to it until it has ended."""


class Trials:
    """Runs the sweep of *family*'s plan."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._spec = family.plan.sweep
        self._say = family.course.say
        self._sampler = make_sampler(self._spec)
        self._readings = Readings(MetricStore(family.store.database), self._spec.primary_metric)
        self._started: dict[str, Started] = {}
        self._at_work: dict[str, Started] = {}
        self._is_to_judge = False
        self._ends: list[RunStatus] = []  # of those that ended under this keeper
        self.total = self._spec.max_trials
        if self._spec.sampling == "grid":
            self.total = min(self.total, prod(len(found.values) for found in self._spec.space.values()))

    def run(self) -> Outcome:
        waiting = deque(self._find_what_is_left())
        most = self._spec.max_concurrent or 1
        while True:
            stopping = self._family.stopping
            while waiting and len(self._at_work) < most and not stopping and not self._has_given_up:
                self._start(waiting.popleft())
            if not self._at_work:
                return self._end(stopping, len(waiting))
            if (ended := self._family.next_end()) is not None:
                self._note_end(*ended)
            self._stop_early()

    @property
    def _has_given_up(self) -> bool:
        return self._ends[:FAILURES_TO_GIVE_UP] == [RunStatus.failed] * FAILURES_TO_GIVE_UP

    def _find_what_is_left(self) -> Iterable[int]:
        """The numbers of the trials to start; those that are at work already are watched from here on."""
        if not self._family.plan.again:
            self._say(f"{self.total} trial{'s' * (self.total != 1)}, {self._spec.max_concurrent or 1} at once")
            return range(self.total)
        numbers = {trial_id(self._family.plan, index): index for index in range(self.total)}
        kept: set[int] = set()
        for run, is_at_work in self._family.recorded():
            if run.id not in numbers:
                continue
            index = numbers[run.id]
            started = Started(Trial(index, hyperparameters_of(run.tags)), run.id, is_again=TRIES in run.tags)
            if is_at_work:
                self._watch(started)
                self._family.children.adopt(run.id)
            elif run.status is RunStatus.completed or is_stopped_early(run):
                self._started[run.id] = started
                self._note_status(started, run)
            else:  # another try, with the same values
                self._started[run.id] = started
                started.is_again = True
                self._family.store.delete_tag(run.id, STOPPED_EARLY)
                continue
            kept.add(index)
        self._read_metrics(self._started.values())
        left = [index for index in range(self.total) if index not in kept]
        self._say(f"resumed: {len(left)} of {self.total} trials are left, {len(self._at_work)} at work")
        return left

    def _start(self, index: int) -> None:
        run_id = trial_id(self._family.plan, index)
        started = self._started.get(run_id)
        if started is None:
            values = self._sampler.values(index, [each.trial for each in self._started.values()])
            assert values is not None, f"trial {index} of {self.total}"
            started = Started(Trial(index, values), run_id)
        self._watch(started)
        self._say(f"{_title(started)}: started, {run_id}")
        try:
            order = trial_order(self._family.plan, index, started.trial.values)
        except HimlError as err:  # a file lies where its output's folder is to be
            self._family.children.refuse(run_id, str(err))
        else:
            self._family.children.start(order)

    def _watch(self, started: Started) -> None:
        started.trial = replace(started.trial, metric=started.metric)  # the same list: what is read is seen there
        self._started[started.run_id] = self._at_work[started.run_id] = started

    def _note_end(self, run: Run | None, run_id: str, trouble: str) -> None:
        started = self._at_work.pop(run_id)
        self._read_metrics([started])
        if run is None:
            started.status, told = RunStatus.failed, f"could not be started: {trouble}"
        else:
            self._note_status(started, run)
            told = told_end(
                replace(run, reason="") if started.verdict and started.is_stopped_early else run
            ) + self._told_metric(started)
            if run.status is RunStatus.failed and (lines := self._family.last_lines(run, 1)):
                told += f"; its last line: {lines[0].strip()}"
        assert started.status is not None
        self._ends.append(started.status)
        ended = sum(1 for each in self._started.values() if each.status)
        self._say(f"{_title(started)}: {told} ({ended} of {self.total} ended)")

    def _note_status(self, started: Started, run: Run) -> None:
        started.status = run.status
        started.is_stopped_early = is_stopped_early(run)
        started.trial = replace(started.trial, is_over=True, metric=started.metric)

    def _read_metrics(
        self, some: Iterable[Started], how: Callable[[Mapping[str, int]], list[Reading]] | None = None
    ) -> bool:
        """Take what was logged since the last look. Whether anything was."""
        places = {each.run_id: 0 if each.is_again else each.place for each in some}
        found: list[Reading] = []
        with self._family.bearing():
            found = (how or self._readings.take)(places)
        by_run: dict[str, list[Reading]] = {}
        for reading in found:
            by_run.setdefault(reading[0], []).append(reading)
        news = {
            run_id: readings for run_id, readings in by_run.items() if readings[-1][1] > self._started[run_id].place
        }
        for run_id, readings in news.items():
            started = self._started[run_id]
            if started.is_again:
                started.metric.clear()
            started.metric += [value for _, _, value in readings]
            started.place = readings[-1][1]
        return bool(news)

    def _stop_early(self) -> None:
        if self._spec.early_stop is None:
            return
        if self._readings.is_due:
            begin = time.monotonic()
            self._is_to_judge |= self._read_metrics(self._at_work.values(), self._readings.look)
            if self._is_to_judge:
                self._judge(self._spec.early_stop)
            self._readings.rest_after(time.monotonic() - begin)
        for started in self._at_work.values():  # again and again, as of a sweep that was canceled
            if started.verdict:
                self._family.bear(self._family.children.cancel(started.run_id, started.verdict))

    def _judge(self, policy: EarlyStop) -> None:
        verdicts = trials_to_stop(policy, self._spec.goal, [each.trial for each in self._started.values()])
        self._is_to_judge = False
        for index, why in verdicts.items():
            started = self._at_work.get(trial_id(self._family.plan, index))
            if started is None or started.verdict:
                continue
            with self._family.bearing():
                self._family.store.tag(started.run_id, {STOPPED_EARLY: policy.policy})
                started.verdict, started.is_stopped_early = why, True
                self._say(f"{_title(started)}: {why}")
            self._is_to_judge |= not started.verdict

    def _end(self, stopping: Outcome | None, not_started: int) -> Outcome:
        best = None if self._spec.kind in REPEATED else self._best()
        if best is not None:
            with suppress(HimlError):  # a disk that is full now must not hide how the sweep ended
                self._family.store.tag(self._family.plan.run_id, {BEST_TRIAL: best.run_id})
            word = (
                "best"
                if _is_done(best)
                else f"best (none was completed, this one is {best.status.value.lower() if best.status else 'open'})"
            )
            self._say(f"{word}: {_title(best)}{self._told_metric(best)}, {best.run_id}")
        elif self._started:
            what = "of which the mean counts" if self._spec.kind in REPEATED else "by which they are compared"
            self._say(
                self._told_mean()
                or f"no trial logged a value of '{self._spec.primary_metric}', {what} (--primary_metric)"
            )
        outcome = stopping or self._judged(not_started)
        self._say(f"{outcome.status.value.lower()}{f': {outcome.reason}' if outcome.reason else ''}")
        return outcome

    def _judged(self, not_started: int) -> Outcome:
        if self._has_given_up and not_started:
            return Outcome(
                RunStatus.failed,
                reason=f"the first {FAILURES_TO_GIVE_UP} trials to end failed; {not_started} of {self.total} were not "
                "started",
            )
        failed = sum(1 for each in self._started.values() if each.status is RunStatus.failed)
        canceled = sum(
            1 for each in self._started.values() if each.status is RunStatus.canceled and not each.is_stopped_early
        )
        parts = [
            f"{count} of {self.total} trials {word}"
            for count, word in ((failed, "failed"), (canceled, "were canceled"))
            if count
        ]
        return Outcome(RunStatus.failed, reason=", ".join(parts)) if parts else Outcome(RunStatus.completed)

    def _best(self) -> Started | None:
        """The best of the trials that were completed or stopped early; of the others, where none of those has a
        value."""
        scored = [
            (score, each)
            for each in self._started.values()
            if (score := best_of(self._spec.goal, each.metric)) is not None
        ]
        if not scored:
            return None
        scored = [(score, each) for score, each in scored if _is_done(each)] or scored
        wanted = best_of(self._spec.goal, (score for score, _ in scored))
        return min((each for score, each in scored if score == wanted), key=lambda each: each.trial.index)

    def _told_mean(self) -> str:
        """Mean and spread of the last values of folds or seeds that were completed; empty where there are none, and of
        a search."""
        completed = [each for each in self._started.values() if each.status is RunStatus.completed and each.metric]
        values = (
            [each.metric[-1] for each in completed if isfinite(each.metric[-1])] if self._spec.kind in REPEATED else []
        )
        if not values:
            return ""
        spread = f", std {stdev(values):.6g}" if len(values) > 1 else ""
        return (
            f"{self._spec.primary_metric}: mean {fmean(values):.6g}{spread} of {len(values)} "
            f"run{'s' * (len(values) != 1)}"
        )

    def _told_metric(self, started: Started) -> str:
        best = best_of(self._spec.goal, started.metric)
        if best is None:
            return ""
        last = started.metric[-1]
        return f", {self._spec.primary_metric} {last:g}" + (f" (best {best:g})" if last != best else "")


def is_stopped_early(run: Run) -> bool:
    """Whether a policy stopped the trial: one that ended by itself meanwhile counts as that."""
    return run.status is RunStatus.canceled and STOPPED_EARLY in run.tags


def _is_done(started: Started) -> bool:
    return started.status is RunStatus.completed or started.is_stopped_early


def _title(started: Started) -> str:
    values = ", ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in started.trial.values.items()
    )
    return f"trial {started.trial.index}, {values}" if values else f"trial {started.trial.index}"
