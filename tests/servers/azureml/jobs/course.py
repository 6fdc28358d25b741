"""The course of one job, from Starting to its end, in a thread of its own."""

from __future__ import annotations

import tempfile
import threading
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.azureml.history_runs import move
from tests.servers.azureml.jobs.attempt import Attempt
from tests.servers.azureml.jobs.durations import limit_of
from tests.servers.azureml.jobs.failures import JobCanceled, JobFailed, JobPreempted, PreemptedForGood
from tests.servers.azureml.jobs.manner import Manner
from tests.servers.azureml.log import Seen
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.state import Run

if TYPE_CHECKING:
    from tests.servers.azureml.jobs.runner import JobRunner
    from tests.servers.azureml.seeding import StagedWorkspace

BEFORE = ("Preparing", "Queued")


class Course:
    """The job of *run*, sent by *submitter*."""

    def __init__(self, staged: StagedWorkspace, run: Run, submitter: Principal | None, manner: Manner) -> None:
        self._staged, self._run, self._submitter, self._manner = staged, run, submitter, manner
        self._released = threading.Event()
        self._interrupted = threading.Event()
        self._turn = threading.Lock()  # held while a status is changed: a cancelation does not fall between two
        self._canceled = False
        self._thread = threading.Thread(target=self._live, name=f"job {run.run_id}", daemon=True)

    @classmethod
    def of(cls, runner: JobRunner, run: Run, submitter: Principal | None) -> Course:
        return cls(runner.staged, run, submitter, runner.manner)

    def begin(self) -> None:
        self._thread.start()

    def release(self) -> None:
        """Let it go on where it is held, now or later."""
        self._released.set()

    def cancel(self) -> None:
        """Ask for its end; nothing where it comes to its end anyway."""
        with self._turn:
            if self._run.is_ended or self._run.status == "Finalizing":
                return
            self._canceled = True
            move(self._run, "CancelRequested")
        self._interrupted.set()
        self._released.set()

    def preempt(self) -> None:
        """Take its node away, if it has one: its processes are killed, and it is queued again."""
        if self._run.status == "Running":
            self._interrupted.set()

    def join(self) -> None:
        """Wait until nothing of it is left."""
        self._thread.join()

    def _live(self) -> None:
        try:
            self._go()
        finally:
            if not self._run.is_ended:
                self._broken(traceback.format_exc())

    def _go(self) -> None:
        """From the first status to the last."""
        try:
            while True:
                try:
                    self._try()
                    self._enter("Completed")
                    return
                except JobPreempted:
                    self._run.attempt += 1
        except JobCanceled:
            with self._turn:
                self._run.cancel()
        except JobFailed as e:
            self._fail(e)

    def _try(self) -> None:
        for status in BEFORE:
            self._enter(status)
        with tempfile.TemporaryDirectory(prefix="himl-azureml-job-", ignore_cleanup_errors=True) as folder:
            attempt = Attempt(self._staged, self._run, Path(folder).resolve(), self._submitter, self._manner)
            try:
                self._enter("Running")
                self._run.properties |= {"ProcessInfoFile": "azureml-logs/process_info.json", "ProcessStatusFile": "azureml-logs/process_status.json"}
                attempt.lay()
                attempt.start()
                self._watch(attempt)
            finally:
                attempt.clear()

    def _watch(self, attempt: Attempt) -> None:
        """To the end of its processes, and of what is to be done after them."""
        timeout = ((self._run.job or {}).get("limits") or {}).get("timeout")
        limit = limit_of(timeout) if timeout else None
        real = None if limit is None else limit * self._manner.minute / 60
        try:
            ended = attempt.watch(self._interrupted, real)
        except JobFailed:
            self._finalize(attempt, succeeded=False)
            raise
        if ended:
            self._finalize(attempt, succeeded=True)
            return
        if self._interrupted.is_set() and not self._canceled:
            self._interrupted.clear()
            attempt.lose()
            raise PreemptedForGood if self._manner.ends_preempted else JobPreempted
        attempt.leave(succeeded=False)
        if limit and real and not self._canceled and self._run.started:
            self._run.started -= timedelta(seconds=limit - real)  # by its record it ran for as long as it might
        raise JobCanceled

    def _finalize(self, attempt: Attempt, *, succeeded: bool) -> None:
        attempt.stop()
        self._enter("Finalizing")
        attempt.leave(succeeded=succeeded)

    def _enter(self, status: str) -> None:
        """Go into *status*, and wait there where it is to be held. Raises JobCanceled."""
        with self._turn:
            if self._canceled:
                raise JobCanceled
            move(self._run, status)
        if status == self._manner.hold:
            self._released.wait()
            if self._canceled:
                raise JobCanceled

    def _fail(self, reason: JobFailed) -> None:
        with self._turn:
            self._run.error = reason.document()
            move(self._run, "Failed")

    def _broken(self, text: str) -> None:
        """A fault of the double itself: the test fails by it, as by a request that nobody plays."""
        self._staged.stage.log.note(Seen("RUN", "job", f"/{self._run.run_id}", "", {}, unknown=f"the double could not run this job: {text}"))
        self._fail(JobFailed("InternalServerError", "SystemError"))
