"""Running the jobs of one workspace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from tests.servers.azureml.arm_job_forms import job_type_of
from tests.servers.azureml.jobs.course import Course
from tests.servers.azureml.jobs.manner import Manner
from tests.servers.azureml.jobs.pipelines.course import PipelineCourse
from tests.servers.azureml.jobs.sweeps.course import SweepCourse
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.state import Run

if TYPE_CHECKING:
    from tests.servers.azureml.seeding import StagedWorkspace


class Runs(Protocol):
    """One job from its first status to its last, in a thread of its own."""

    def begin(self) -> None:
        """Start the thread."""

    def release(self) -> None:
        """Let it go on where it is held, now or later."""

    def cancel(self) -> None:
        """Ask for its end; nothing where it comes to its end anyway."""

    def preempt(self) -> None:
        """Take its node away."""

    def join(self) -> None:
        """Wait until nothing of it is left."""


class JobRunner:
    """As long as it is open, jobs that are submitted run; jobs that start jobs send them here as well."""

    def __init__(self, staged: StagedWorkspace, manner: Manner) -> None:
        self.staged, self.manner = staged, manner
        self._courses: dict[str, Runs] = {}
        self._timers: list[threading.Timer] = []
        self._guard = threading.Lock()
        self._is_closed = False
        staged.state.jobs = self

    def submit(self, run: Run, submitter: Principal | None) -> None:
        """Begin with the job of *run*, sent by *submitter*; jobs of other kinds stay as they are. Once the runner is closed it is canceled at once."""
        make = KINDS.get(job_type_of(run))
        if make is None:
            return
        course = make(self, run, submitter)
        with self._guard:
            if not self._is_closed:
                self._courses[run.run_id] = course
                course.begin()
                return
        run.cancel()

    def cancel(self, run: Run) -> bool:
        """Ask for the end of a job; whether it is one of these."""
        course = self._courses.get(run.run_id)
        if course is not None:
            course.cancel()
        return course is not None

    def release(self, run_id: str = "") -> None:
        """Let one job go on that is held, or all of them, with those that they start later."""
        for course in [self._courses[run_id]] if run_id else list(self._courses.values()):
            course.release()

    def preempt(self, run_id: str) -> None:
        """Take the node of a running job away: it begins anew."""
        self._courses[run_id].preempt()

    def preempt_after(self, run_id: str, seconds: float) -> None:
        """The same, so many seconds from now; nothing where it has ended by then."""
        timer = threading.Timer(seconds, self.preempt, [run_id])
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def close(self) -> None:
        """Cancel what still runs, and wait until nothing of it is left."""
        if self.staged.state.jobs is self:
            self.staged.state.jobs = None
        with self._guard:
            self._is_closed = True
            courses = list(self._courses.values())
        for timer in self._timers:
            timer.cancel()
        for course in courses:
            course.release()
            course.cancel()
        for course in courses:
            course.join()

    def __enter__(self) -> JobRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


KINDS: Mapping[str, Callable[[JobRunner, Run, Principal | None], Runs]] = {"Command": Course.of, "Sweep": SweepCourse, "Pipeline": PipelineCourse}
"""How a job of each type runs; others stay in their first status."""
