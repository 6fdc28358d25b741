"""The trials of a sweep: so many at once, until all have ended or were stopped early."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from statistics import fmean, stdev

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import TRIES, Run, RunStatus
from himl_cli.core.sweeps import (
    BEST_TRIAL,
    REPEATED,
    STOPPED_EARLY,
    EarlyStop,
    Scalar,
    Trial,
    best_of,
    hyperparameters_of,
)
from himl_cli.workspaces.local.children import Children, describe_end
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_process import Outcome
from himl_cli.workspaces.local.sampling import make_sampler, trials_to_stop
from himl_cli.workspaces.local.sweep_plan import trial_id, trial_request

FAILURES_TO_GIVE_UP = 3
POLL_SECONDS = 0.25
SHARE_OF_TIME = 10  # with many trials and long series: a tenth of the time at most goes into reading and judging


@dataclass
class Started:
    """A trial that was started: the values of the primary metric in the order logged, how far these were read, how it
    ended."""

    index: int
    values: Mapping[str, Scalar]
    run_id: str
    metric: list[float] = field(default_factory=list)
    place: int = 0
    is_again: bool = False
    """It had an earlier attempt, of whose values those that a later one logged again do not count."""
    status: RunStatus | None = None
    is_stopped_early: bool = False
    verdict: str = ""
    """Why it is to stop early; said to it until it has ended."""

    @property
    def trial(self) -> Trial:
        return Trial(self.index, self.values, self.metric, is_over=self.status is not None)

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
    """Runs the sweep whose *children* these are."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._plan = children.plan
        self._spec = children.plan.sweep
        self._log = children.log
        self._sampler = make_sampler(self._spec)
        self._metrics = MetricStore(children.store.database)
        self._started: dict[str, Started] = {}
        self._at_work: dict[str, Started] = {}
        self._version = -1  # of the database at the last look
        self._next_look = 0.0
        self._is_to_judge = False
        self._ends: list[RunStatus] = []  # of those that ended under this controller
        self.total = self._spec.max_trials
        if self._spec.sampling == "grid":
            self.total = min(self.total, prod(len(found.values) for found in self._spec.space.values()))

    def run(self) -> Outcome:
        waiting = deque(self._find_what_is_left())
        most = self._spec.max_concurrent or 1
        while True:
            stopping = self._children.stopping
            while waiting and len(self._at_work) < most and not stopping and not self._has_given_up:
                self._start(waiting.popleft())
            if not self._at_work:
                self._log_best()
                return stopping or self._outcome(len(waiting))
            if (ended := self._children.next_end()) is not None:
                self._note_end(*ended)
            if self._spec.early_stop is not None:
                self._stop_early(self._spec.early_stop)

    @property
    def _has_given_up(self) -> bool:
        return self._ends[:FAILURES_TO_GIVE_UP] == [RunStatus.failed] * FAILURES_TO_GIVE_UP

    def _find_what_is_left(self) -> Iterable[int]:
        """The numbers of the trials to start; those that are at work already are watched from here on."""
        if not self._plan.again:
            self._log(f"{self.total} trial{'s' * (self.total != 1)}, {self._spec.max_concurrent or 1} at once")
            return range(self.total)
        numbers = {trial_id(self._plan, index): index for index in range(self.total)}
        left = set(range(self.total))
        for run, is_at_work in self._children.recorded():
            if run.id not in numbers:
                continue
            index = numbers[run.id]
            started = Started(index, hyperparameters_of(run.tags), run.id, is_again=TRIES in run.tags)
            self._started[run.id] = started
            if is_at_work:
                left.discard(index)
                self._at_work[run.id] = started
                self._children.adopt(run.id)
            elif run.status is RunStatus.completed or _is_stopped_early(run):
                left.discard(index)
                started.status, started.is_stopped_early = run.status, _is_stopped_early(run)
            else:  # another attempt, with the same values
                started.is_again = True
                self._children.store.delete_tag(run.id, STOPPED_EARLY)
        with self._children.logging_errors():
            self._read_metrics(self._started.values())
        self._log(f"resumed: {len(left)} of {self.total} trials are left, {len(self._at_work)} at work")
        return sorted(left)

    def _start(self, index: int) -> None:
        run_id = trial_id(self._plan, index)
        started = self._started.get(run_id)
        if started is None:
            values = self._sampler(index, [each.trial for each in self._started.values()])
            assert values is not None, f"trial {index} of {self.total}"
            started = Started(index, values, run_id)
        self._started[run_id] = self._at_work[run_id] = started
        self._log(f"{started.title}: started, {run_id}")
        try:
            request = trial_request(self._plan, index, started.values)
        except HimlError as err:  # a file lies where its output's folder is to be
            self._children.add_ended(run_id, str(err))
        else:
            self._children.start(request)

    def _note_end(self, run: Run | None, run_id: str, trouble: str) -> None:
        started = self._at_work.pop(run_id)
        with self._children.logging_errors():
            self._read_metrics([started])
        if run is None:
            started.status, text = RunStatus.failed, f"could not be started: {trouble}"
        else:
            started.status, started.is_stopped_early = run.status, _is_stopped_early(run)
            is_judged = started.verdict and started.is_stopped_early
            text = describe_end(replace(run, reason="") if is_judged else run) + self._metric_text(started)
            if run.status is RunStatus.failed and (lines := self._children.last_lines(run, 1)):
                text += f"; its last line: {lines[0].strip()}"
        self._ends.append(started.status)
        ended = sum(1 for each in self._started.values() if each.status)
        self._log(f"{started.title}: {text} ({ended} of {self.total} ended)")

    def _read_metrics(self, some: Iterable[Started]) -> bool:
        """Take what was logged since the last look. Whether anything was. Raises HimlError."""
        places = {each.run_id: 0 if each.is_again else each.place for each in some}
        by_run: dict[str, list[tuple[int, float]]] = {}
        for run_id, place, value in self._metrics.values_after(self._spec.primary_metric, places):
            by_run.setdefault(run_id, []).append((place, value))
        is_new = False
        for run_id, found in by_run.items():
            started = self._started[run_id]
            if found[-1][0] > started.place:
                is_new = True
                if started.is_again:
                    started.metric.clear()
                started.metric += [value for _, value in found]
                started.place = found[-1][0]
        return is_new

    def _stop_early(self, policy: EarlyStop) -> None:
        if (begin := time.monotonic()) >= self._next_look:
            with self._children.logging_errors():  # where nobody wrote to the database, looking costs nothing
                if (version := self._metrics.version()) != self._version:
                    self._is_to_judge |= self._read_metrics(self._at_work.values())
                    self._version = version
            verdicts: Mapping[int, str] = {}
            if self._is_to_judge:
                trials = [each.trial for each in self._started.values()]
                verdicts, self._is_to_judge = trials_to_stop(policy, self._spec.goal, trials), False
            for index, why in verdicts.items():
                judged = self._at_work.get(trial_id(self._plan, index))
                if judged is None or judged.verdict:
                    continue
                with self._children.logging_errors():
                    self._children.store.tag(judged.run_id, {STOPPED_EARLY: policy.policy})
                    judged.verdict, judged.is_stopped_early = why, True
                    self._log(f"{judged.title}: {why}")
                self._is_to_judge |= not judged.verdict
            self._next_look = time.monotonic() + max(POLL_SECONDS, SHARE_OF_TIME * (time.monotonic() - begin))
        for started in self._at_work.values():  # again and again, as of a sweep that was canceled
            if started.verdict:
                self._children.cancel(started.run_id, started.verdict)

    def _log_best(self) -> None:
        """Which trial is the best, and tag it; of folds and seeds, their mean."""
        name = self._spec.primary_metric
        if self._spec.kind in REPEATED:
            completed = [each for each in self._started.values() if each.status is RunStatus.completed and each.metric]
            values = [each.metric[-1] for each in completed if isfinite(each.metric[-1])]
            spread = f", std {stdev(values):.6g}" if len(values) > 1 else ""
            if values:
                runs = f"{len(values)} run{'s' * (len(values) != 1)}"
                self._log(f"{name}: mean {fmean(values):.6g}{spread} of {runs}")
                return
            what = "of which the mean counts"
        else:
            scored = [(best_of(self._spec.goal, each.metric), each) for each in self._started.values()]
            known = [(score, each) for score, each in scored if score is not None]
            known = [(score, each) for score, each in known if each.is_done] or known
            if known:
                wanted = best_of(self._spec.goal, (score for score, _ in known))
                best = min((each for score, each in known if score == wanted), key=lambda each: each.index)
                with suppress(HimlError):  # a disk that is full now must not hide how the sweep ended
                    self._children.store.tag(self._plan.run_id, {BEST_TRIAL: best.run_id})
                status = best.status.value.lower() if best.status else "open"
                word = "best" if best.is_done else f"best (none was completed, this one is {status})"
                self._log(f"{word}: {best.title}{self._metric_text(best)}, {best.run_id}")
                return
            what = "by which they are compared"
        if self._started:
            self._log(f"no trial logged a value of '{name}', {what} (--primary_metric)")

    def _outcome(self, not_started: int) -> Outcome:
        if self._has_given_up and not_started:
            reason = (
                f"the first {FAILURES_TO_GIVE_UP} trials to end failed; {not_started} of {self.total} were not started"
            )
            return Outcome(RunStatus.failed, reason=reason)
        statuses = [each.status for each in self._started.values() if not each.is_stopped_early]
        counts = ((RunStatus.failed, "failed"), (RunStatus.canceled, "were canceled"))
        parts = [
            f"{statuses.count(status)} of {self.total} trials {word}" for status, word in counts if status in statuses
        ]
        return Outcome(RunStatus.failed, reason=", ".join(parts)) if parts else Outcome(RunStatus.completed)

    def _metric_text(self, started: Started) -> str:
        best = best_of(self._spec.goal, started.metric)
        if best is None:
            return ""
        last = started.metric[-1]
        return f", {self._spec.primary_metric} {last:g}" + (f" (best {best:g})" if last != best else "")


def _is_stopped_early(run: Run) -> bool:
    """Whether a policy stopped the trial: one that ended by itself meanwhile counts as that."""
    return run.status is RunStatus.canceled and STOPPED_EARLY in run.tags
