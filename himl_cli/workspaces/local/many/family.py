"""What trials and steps have in common: children that are started, stopped all at once, and ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import Run, RunQuery
from himl_cli.workspaces.local.keeping import TERMINATED, Outcome
from himl_cli.workspaces.local.many.children import Children
from himl_cli.workspaces.local.many.course import Course, last_lines
from himl_cli.workspaces.local.many.plan import Plan
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import RunStore

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_BEAR = 600.0


@dataclass
class Family:
    """A plan and its children. `why_stopped` says how the whole ends once it was told to stop, and nothing before
    that."""

    plan: Plan
    store: RunStore
    children: Children
    course: Course
    why_stopped: Callable[[], Outcome | None]
    _stopping: Outcome | None = field(default=None)
    _borne: set[str] = field(default_factory=set)
    _unread_since: float = 0.0

    @property
    def parent(self) -> Path:
        return Path(self.plan.run_folder)

    @property
    def stopping(self) -> Outcome | None:
        """How the whole ends because it was told to stop; the children have then been asked to."""
        if self._stopping is None and (why := self.why_stopped()):
            self._stopping = why
            self.course.say(
                "stopping, since "
                f"{'this process was told to terminate' if why.reason == TERMINATED else 'the run was canceled'}"
            )
        if self._stopping:  # again and again: a child that was just starting may have missed it
            is_terminated = self._stopping.reason == TERMINATED
            self.bear(
                self.children.terminate_all() if is_terminated else self.children.cancel_all("its parent was canceled")
            )
        return self._stopping

    def bear(self, trouble: HimlError | None) -> None:
        """Say what went wrong, once, and go on: it is tried again at the next look, and must not end the whole while
        children are at work."""
        if trouble is not None and str(trouble) not in self._borne:
            self._borne.add(str(trouble))
            self.course.say(f"{trouble} It is tried again.")

    @contextmanager
    def bearing(self) -> Iterator[None]:
        """`bear` the HimlError of what is done within."""
        try:
            yield
        except HimlError as err:
            self.bear(err)

    def next_end(self) -> tuple[Run | None, str, str] | None:
        """A child that has ended: its run (None where it could not be recorded), its id, and what went wrong then; None
        where none has yet.

        Raises HimlError where runs could not be read for `SECONDS_TO_BEAR`.
        """
        ended = self.children.ended(SECONDS_BETWEEN_LOOKS)
        if ended is None:
            return None
        run_id, trouble = ended
        try:
            run = self.store.get(run_id, [run_id])
        except HimlError as err:
            self.children.put_back(run_id, trouble)
            self._unread_since = self._unread_since or time.monotonic()
            if time.monotonic() - self._unread_since > SECONDS_TO_BEAR:
                raise
            self.bear(err)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            return None
        self._unread_since = 0.0
        return run, run_id, trouble

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
