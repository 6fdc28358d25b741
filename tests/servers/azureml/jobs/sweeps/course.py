"""The course of a sweep: it starts trials, looks at what they log, and comes to its end when they do."""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.servers.azureml.history_runs import move
from tests.servers.azureml.jobs.durations import limit_of
from tests.servers.azureml.jobs.failures import JobFailed
from tests.servers.azureml.jobs.sweeps import space
from tests.servers.azureml.jobs.sweeps.best import Best, logged
from tests.servers.azureml.jobs.sweeps.checks import MOST_TRIALS
from tests.servers.azureml.jobs.sweeps.log import SweepLog
from tests.servers.azureml.jobs.sweeps.policies import is_ended, is_looked_at
from tests.servers.azureml.jobs.sweeps.record import LONGEST, PREFIX
from tests.servers.azureml.jobs.sweeps.trials import add_trial
from tests.servers.azureml.log import Seen
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.state import Run, now

if TYPE_CHECKING:
    from tests.servers.azureml.jobs.runner import JobRunner

LOOK = 0.05  # seconds between two looks at the trials
FIRST = 3  # when so many trials fail before any other ends, no more are started
FAILURE = "User errors were found in at least one of the child runs."
FAILURE_AT_ONCE = "Marking the experiment as failed because initial child jobs have failed due to user error"


class SweepCourse:
    """The sweep of *run*, sent by *submitter*; its trials are jobs of *runner*."""

    def __init__(self, runner: JobRunner, run: Run, submitter: Principal | None) -> None:
        assert run.job is not None, "a run without a job"
        self._runner, self._run, self._submitter, self._job = runner, run, submitter, run.job
        self._workspace = runner.staged.state
        limits = self._job.get("limits") or {}
        total = limits.get("maxTotalTrials") or MOST_TRIALS
        self._concurrent = limits.get("maxConcurrentTrials") or total
        self._seconds = limit_of(limits.get("timeout") or LONGEST) * runner.manner.minute / 60
        self._policy = self._job.get("earlyTermination")
        self._metric = str(self._job["objective"]["primaryMetric"])
        self._maximize = str(self._job["objective"]["goal"]).lower() == "maximize"
        self._points = itertools.islice(self._drawn(), total)
        self._trials: list[Run] = []
        self._ended: dict[str, str] = {}  # the last status of each trial that ended, in the order of their ends
        self._looked_at: dict[str, int] = {}  # how many values of each trial the policy has looked at
        self._best = Best(run, self._metric, maximize=self._maximize)
        self._log = SweepLog(self._workspace, run)
        self._canceled, self._released = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"sweep {run.run_id}", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def release(self) -> None:
        """Let its trials go on where they are held, also those to come."""
        self._released.set()

    def cancel(self) -> None:
        """Ask for the end of all trials, and of itself."""
        if not self._run.is_ended and not self._canceled.is_set():
            self._run.tags[f"{PREFIX}cancellation_requested"] = "true"
            move(self._run, "CancelRequested")
        self._canceled.set()

    def preempt(self) -> None:
        """Nothing: only its trials have nodes."""

    def join(self) -> None:
        self._thread.join()

    def _drawn(self) -> Iterator[space.Values]:
        sampling = self._job["samplingAlgorithm"]
        if sampling["samplingAlgorithmType"] == "Grid":
            return space.grid(self._job["searchSpace"])
        return space.drawn(self._job["searchSpace"], sampling.get("seed"))

    def _live(self) -> None:
        try:
            self._go()
        finally:
            if not self._run.is_ended:
                self._broken(traceback.format_exc())
            self._log.push()

    def _go(self) -> None:
        self._log.say("API", "Experiment created")
        if not self._canceled.is_set():
            move(self._run, "Running")
        if self._runner.manner.prepares:
            self._prepare()
        deadline = time.monotonic() + self._seconds
        is_complete = False
        while not (is_complete and len(self._ended) == len(self._trials)):
            self._see()
            if self._canceled.is_set() or time.monotonic() > deadline:
                self._end_all()
                return
            self._stop_early()
            is_complete = is_complete or self._has_failed_at_once or not self._start_more()
            self._log.push()
            self._canceled.wait(LOOK)
        self._run.tags[f"{PREFIX}all_jobs_generated"] = "true"
        self._finish()

    def _see(self) -> None:
        """Take note of what the trials did since the last time."""
        for trial in self._trials:
            if self._released.is_set() and not trial.is_ended and trial.run_id not in self._ended:
                self._runner.release(trial.run_id)
            is_over = trial.is_ended
            if trial.run_id not in self._ended:
                self._best.see(trial)
            if is_over and trial.run_id not in self._ended:
                self._ended[trial.run_id] = trial.status

    def _start_more(self) -> bool:
        """As many trials as may run at the same time; whether there may be more to come."""
        while len(self._trials) - len(self._ended) < self._concurrent:
            values = next(self._points, None)
            if values is None:
                self._log.say("GENERATOR", "All jobs generated.")
                return False
            trial = add_trial(self._workspace, self._run, len(self._trials), values, self._runner.manner)
            self._log.say("SCHEDULER", f"Scheduling job, id='{trial.run_id}' ")
            self._trials.append(trial)
            self._runner.submit(trial, self._submitter)
        return True

    def _stop_early(self) -> None:
        """Look at the values that came since the last time, in the order in which they were logged."""
        if self._policy is None:
            return
        series = {trial.run_id: logged(trial, self._metric) for trial in self._trials}
        for trial in self._trials:
            values, begin = series[trial.run_id], self._looked_at.get(trial.run_id, 0)
            self._looked_at[trial.run_id] = len(values)
            due = [interval for interval in range(begin + 1, len(values) + 1) if is_looked_at(self._policy, interval)]
            if not trial.is_ended and any(is_ended(self._policy, trial.run_id, interval, series, maximize=self._maximize) for interval in due):
                self._log.say("ENFORCER", f"Jobs [{trial.run_id}] have been marked for cancel by the policy {self._policy['policyType']}.")
                self._runner.cancel(trial)

    @property
    def _has_failed_at_once(self) -> bool:
        ends = list(self._ended.values())[:FIRST]
        return len(ends) == FIRST and set(ends) == {"Failed"}

    def _end_all(self) -> None:
        """Cancel what runs, and be canceled when nothing is left."""
        for trial in self._trials:
            self._runner.cancel(trial)
        while not all(trial.is_ended for trial in self._trials):
            time.sleep(LOOK)
        self._best.close()
        self._log.say("CONTROLLER", "Changing Run Status from Running to Canceled")
        self._log.push()
        self._run.cancel()

    def _finish(self) -> None:
        """Failed where its trials did from the first on, or all of them (or, if so asked for, any)."""
        ends = list(self._ended.values())
        failing = any if self._runner.manner.fails_with_a_trial else all
        is_failed = self._has_failed_at_once or (bool(ends) and failing(end == "Failed" for end in ends))
        status = "Failed" if is_failed else "Completed"
        self._best.close()
        self._log.say("CONTROLLER", f"Changing Run Status from Running to {status}")
        self._log.push()
        if self._canceled.is_set():
            self._run.cancel()
            return
        if is_failed:
            self._run.error = JobFailed(FAILURE_AT_ONCE if self._has_failed_at_once else FAILURE, component="hyperdrive").document()
        move(self._run, status)

    def _prepare(self) -> None:
        """The child that older sweeps have beside their trials: it builds the image, and has neither values nor metrics."""
        name = f"{self._run.run_id}_preparation"
        record = Run(name, self._run.experiment, "Completed", now(), now(), now(), name, self._run.user_name, f"dcid.{name}", next(self._workspace.numbers))
        record.parent_id, record.run_type = self._run.run_id, "preparation"
        self._workspace.keep_run(record)

    def _broken(self, text: str) -> None:
        """A fault of the double itself: the test fails by it, as by a request that nobody plays."""
        self._runner.staged.stage.log.note(Seen("RUN", "sweep", f"/{self._run.run_id}", "", {}, unknown=f"the double could not run this sweep: {text}"))
        move(self._run, "Failed")
