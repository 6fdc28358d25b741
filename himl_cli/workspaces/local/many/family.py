"""What trials and steps have in common: children that are started, stopped all at once, and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.workspaces.local.keeping import TERMINATED, Outcome
from himl_cli.workspaces.local.many.children import Children
from himl_cli.workspaces.local.many.course import Course, last_lines
from himl_cli.workspaces.local.many.plan import Plan
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import RunStore

SECONDS_BETWEEN_LOOKS = 0.1


@dataclass
class Family:
    """A plan and its children. `why_stopped` says how the whole ends once it was told to stop, and nothing before that."""

    plan: Plan
    store: RunStore
    children: Children
    course: Course
    why_stopped: Callable[[], Outcome | None]
    _stopping: Outcome | None = field(default=None)

    @property
    def parent(self) -> Path:
        return Path(self.plan.run_folder)

    @property
    def stopping(self) -> Outcome | None:
        """How the whole ends because it was told to stop; the children have then been asked to."""
        if self._stopping is None and (why := self.why_stopped()):
            self._stopping = why
            self.course.say(f"stopping, since {'this process was told to terminate' if why.reason == TERMINATED else 'the run was canceled'}")
            if why.reason == TERMINATED:
                self.children.terminate_all()
        if self._stopping and self._stopping.status is RunStatus.canceled:
            self.children.cancel_all("its parent was canceled")  # again and again: a child that was just starting may have missed it
        return self._stopping

    def next_end(self) -> tuple[Run | None, str, str] | None:
        """A child that has ended: its run (None where it could not be recorded), its id, and what went wrong then; None where none has yet."""
        ended = self.children.ended(SECONDS_BETWEEN_LOOKS)
        if ended is None:
            return None
        run_id, trouble = ended
        return self.store.get(run_id, [run_id]), run_id, trouble

    def recorded(self) -> Iterator[tuple[Run, bool]]:
        """The children on record, each with whether it is at work: an earlier keeper started them."""
        for run in self.store.query(RunQuery(parent=self.plan.run_id)):
            if run.status.is_final:
                yield run, False
                continue
            if RunFolder(self.parent.with_name(run.id)).is_supervised():
                yield run, True
                continue
            found = self.store.get(run.id, [run.id])  # anew: it may have ended since
            if found is not None:
                yield found, False

    def last_lines(self, run: Run, count: int) -> list[str]:
        """The end of what a child printed."""
        return last_lines(self.parent.with_name(run.id), run.reason, count)
