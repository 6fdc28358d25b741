"""Running the command jobs of one workspace."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from tests.servers.azureml.jobs.course import Course
from tests.servers.azureml.jobs.manner import Manner
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.state import Run

if TYPE_CHECKING:
    from tests.servers.azureml.seeding import StagedWorkspace


class JobRunner:
    """As long as it is open, jobs that are submitted run."""

    def __init__(self, staged: StagedWorkspace, manner: Manner) -> None:
        self._staged, self._manner = staged, manner
        self._courses: dict[str, Course] = {}
        self._guard = threading.Lock()
        staged.state.jobs = self

    def submit(self, run: Run, submitter: Principal | None) -> None:
        """Begin with the job of *run*, sent by *submitter*."""
        course = Course(self._staged, run, submitter, self._manner)
        with self._guard:
            self._courses[run.run_id] = course
        course.begin()

    def cancel(self, run: Run) -> bool:
        """Ask for the end of a job; whether it is one of these."""
        course = self._courses.get(run.run_id)
        if course is not None:
            course.cancel()
        return course is not None

    def release(self, run_id: str = "") -> None:
        """Let one job go on that is held, or all of them."""
        for course in [self._courses[run_id]] if run_id else list(self._courses.values()):
            course.release()

    def preempt(self, run_id: str) -> None:
        """Take the node of a running job away: it begins anew."""
        self._courses[run_id].preempt()

    def close(self) -> None:
        """Cancel what still runs, and wait until nothing of it is left."""
        if self._staged.state.jobs is self:
            self._staged.state.jobs = None
        with self._guard:
            courses = list(self._courses.values())
        for course in courses:
            course.release()
            course.cancel()
        for course in courses:
            course.join()

    def __enter__(self) -> JobRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
