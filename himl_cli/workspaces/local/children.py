"""The children of a sweep or a pipeline, which are jobs with separate supervisors."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from himl_cli.core.errors import HimlError
from himl_cli.core.events import Event, Notice
from himl_cli.core.files import last_lines
from himl_cli.core.runs import FAILED_RANK, Run, RunQuery, RunStatus
from himl_cli.workspaces.local.engines import engine_named
from himl_cli.workspaces.local.engines.base import NoAnswer, QueueFull
from himl_cli.workspaces.local.engines.queue import QueuedJobs, queue_again
from himl_cli.workspaces.local.launch import events_of, launch, spawn, start_error
from himl_cli.workspaces.local.launch_request import LaunchRequest, Plan
from himl_cli.workspaces.local.run_folder import RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_process import BUSY, TERMINATED
from himl_cli.workspaces.local.run_store import Outcome, RunStore

POLL_SECONDS = 0.05
POLL_SECONDS_IF_WOKEN = 0.5  # where the kernel reports the ends of processes
POLL_SECONDS_OF_ENGINE = 2.0  # the workspace is on a file system that many jobs share
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # before a job is submitted again to a queue that was full
SECONDS_UNREAD = 600.0


class Children:
    """Starts, watches and stops the children of a plan, and writes the log of the parent run,
    `user_logs/std_log.txt`. `at_work` are the ids of those that have not ended.

    *why_stopped* returns the outcome of the parent run once it has to stop, else None. *queued* are the
    workspace's jobs in queues, if the children run there. An error is logged once and the action is retried, since it
    must not end the parent run while children are running.
    """

    def __init__(
        self, plan: Plan, store: RunStore, why_stopped: Callable[[], Outcome | None], queued: QueuedJobs | None = None
    ) -> None:
        self.plan = plan
        self.store = store
        self.at_work: set[str] = set()
        self._runs = Path(plan.run_folder).parent
        self._why_stopped = why_stopped
        self._stopping: Outcome | None = None
        self._reported: set[str] = set()
        self._ended: list[tuple[str, str]] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._queued = queued
        self._unsubmitted: dict[str, LaunchRequest] = {}
        self._submit_at, self._pause, self._read_at = 0.0, FIRST_PAUSE, time.monotonic()

    def log(self, line: str) -> None:
        path = Path(self.plan.run_folder) / "user_logs" / "std_log.txt"
        with suppress(OSError), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n")

    @contextmanager
    def logging_errors(self) -> Iterator[None]:
        """Log a HimlError that is raised inside, once."""
        try:
            yield
        except HimlError as err:
            self._log_once(err)

    def _log_notice(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.log(event.text)

    def _log_once(self, err: HimlError) -> None:
        if str(err) not in self._reported:
            self._reported.add(str(err))
            self.log(f"{err} himl retries it.")

    def watch(self, run_id: str, request: LaunchRequest | Plan | None = None) -> None:
        """Start the job or pipeline of *request*, now or by `next_end`, which returns the errors of the start. Without
        *request*, an earlier controller started it."""
        self.at_work.add(run_id)
        if request is None:
            return
        if self._queued is not None:
            assert not isinstance(request, Plan), "pipelines are no trials in a queue"
            self._unsubmitted[run_id] = replace(request, again=True)
            return
        folder = RunFolder(self._runs / run_id)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            if not request.again:
                folder.allow_to_run()
            self._processes[run_id] = spawn(request)
        except OSError as err:
            self.add_ended(run_id, str(explain_disk_error(err, "Cannot start the job", folder.path)))

    def add_ended(self, run_id: str, trouble: str) -> None:
        """Add a job that has ended, or that cannot be started because of *trouble*."""
        self.at_work.add(run_id)
        self._ended.append((run_id, trouble))

    def next_end(self) -> tuple[Run | None, str, str] | None:
        """The next ended child: its run (None if it could not be started, and was not completed before), its id, and
        the error of the start. None if no child has ended yet. Then waits for a moment.

        Raises HimlError if runs could not be read for `SECONDS_UNREAD`.
        """
        try:
            if not self._ended:
                self._find_ended()
            if self._ended:
                run_id, trouble = self._ended[0]
                run = self.store.get(run_id, [run_id])
                del self._ended[0]
                self.at_work.discard(run_id)
                self._submit_at, self._pause, self._read_at = 0.0, FIRST_PAUSE, time.monotonic()
                if trouble and run is not None and run.status is not RunStatus.completed:
                    run = None  # the record has the end of an earlier attempt
                return run, run_id, trouble
            self._read_at = time.monotonic()
        except HimlError as err:
            if time.monotonic() - self._read_at > SECONDS_UNREAD:
                raise
            self._log_once(err)
        self._pause_or_submit()
        return None

    def _find_ended(self) -> None:
        submitted = self.at_work - self._unsubmitted.keys()
        for run_id in sorted(submitted - self._open(submitted)):
            trouble = ""
            if run_id in self._processes:
                with self._processes.pop(run_id) as process:
                    events = list(events_of(process))
                if events and events[-1].get("why") == BUSY:  # an earlier controller started it
                    continue
                trouble = str(start_error(events, RunFolder(self._runs / run_id)) or "")
            self.add_ended(run_id, trouble)

    def _open(self, run_ids: Iterable[str]) -> set[str]:
        """Those of the started children that are in progress, or may be. Records the ends of others in a queue."""
        folders = {run_id: RunFolder(self._runs / run_id) for run_id in run_ids}
        if self._queued is not None:
            free = [run_id for run_id, folder in folders.items() if not folder.is_supervised()]
            self._queued.refresh(self.store, self.store.queued_jobs(free))
            return {run_id for run_id, _ in self.store.open_children([self.plan.run.id])}
        own = {run_id for run_id, process in self._processes.items() if process.poll() is None}
        others = {run_id for run_id in folders.keys() - self._processes.keys() if folders[run_id].may_be_supervised()}
        return own | others

    @property
    def stopping(self) -> Outcome | None:
        """The outcome of the parent run if it has to stop. Also requests the children to stop, except those in a queue
        after SIGTERM: a restarted controller continues with them."""
        if self._stopping is None and (why := self._why_stopped()):
            self._stopping = why
            told = "this process received SIGTERM" if why.reason == TERMINATED else "the run was canceled"
            self.log(f"stopping, since {told}")
        if self._stopping is None:
            return None
        for run_id in self._unsubmitted:
            self.log(f"run {run_id} is not submitted, since its parent run is stopping")
        self.at_work -= self._unsubmitted.keys()
        self._unsubmitted.clear()
        if self._queued is not None and self._stopping.reason == TERMINATED:
            self.at_work.clear()
        for run_id in self.at_work:  # repeated, since a starting child may miss the request
            process = self._processes.get(run_id)
            if self._stopping.reason != TERMINATED:
                self.cancel(run_id, "its parent was canceled")
            elif process is None:  # an earlier controller started it, so that only its lock is known
                self.cancel(run_id, "the controller of its parent received SIGTERM")
            elif process.poll() is None:
                process.terminate()
        return self._stopping

    def cancel(self, run_id: str, why: str) -> None:
        """Request the job to stop. Call it repeatedly until the job ends, since a starting job may miss the request."""
        folder = RunFolder(self._runs / run_id)
        if not folder.is_cancel_asked():  # else another process may be reading the reason
            with self.logging_errors():
                folder.ask_to_cancel(why)
                for child, (engine, handle) in self.store.queued_jobs([run_id]).items():
                    engine_named(engine).cancel({child: handle}, only_waiting=True)

    def recorded(self) -> Iterator[tuple[Run, bool]]:
        """The recorded children, which an earlier controller started, each with whether it is in progress."""
        runs = list(self.store.query(RunQuery(parent=self.plan.run.id, archived=None)))
        is_open = self._open([run.id for run in runs if not run.status.is_final])
        for run in runs:
            is_at_work = run.id in is_open and not run.status.is_final
            if not is_at_work and not run.status.is_final:  # read it again, since it may have ended
                self.store.end_as_noted(RunFolder(self._runs / run.id))
                run = self.store.get(run.id, [run.id]) or run
            yield run, is_at_work

    def last_lines(self, run: Run, count: int) -> list[str]:
        """The last non-empty lines of a child's log, or of the log of its failed rank. Empty if it cannot be read."""
        rank = FAILED_RANK.match(run.reason)
        log = RunFolder(self._runs / run.id).user_logs / (f"std_log_process_{rank[1]}.txt" if rank else "std_log.txt")
        return last_lines(log, count)

    def _pause_or_submit(self) -> None:
        """Wait for a while, and submit children meanwhile, unless the queue is full."""
        end = time.monotonic() + (POLL_SECONDS if self._queued is None else POLL_SECONDS_OF_ENGINE)
        while self._unsubmitted and self._submit_at < time.monotonic() < end:
            run_id, request = next(iter(self._unsubmitted.items()))
            try:
                with ThreadPoolExecutor(1) as thread:  # where SIGTERM does not interrupt it
                    thread.submit(self._submit, request, RunFolder(self._runs / run_id)).result()
            except QueueFull as err:
                self._log_once(err)
                self._submit_at, self._pause = time.monotonic() + self._pause, min(LONGEST_PAUSE, 2 * self._pause)
                continue
            except (HimlError, OSError) as err:
                self._ended.append((run_id, str(err)))
            del self._unsubmitted[run_id]
        if self._queued is not None or not self._is_woken():
            time.sleep(max(0.0, end - time.monotonic()))

    def _is_woken(self) -> bool:
        """Wait for the end of a process, if all children are processes of this one and the kernel reports their ends.
        Returns whether it does."""
        if sys.platform != "linux" or not self.at_work or not self.at_work <= self._processes.keys():
            return False
        with suppress(OSError), ExitStack() as handles:  # a kernel before 5.3, or too many open files
            ends = select.poll()
            for process in self._processes.values():
                ends.register(handle := os.pidfd_open(process.pid), select.POLLIN)
                handles.callback(os.close, handle)
            ends.poll(POLL_SECONDS_IF_WOKEN * 1000)
            return True
        return False

    def _submit(self, request: LaunchRequest, folder: RunFolder) -> None:
        try:
            if self.store.get(folder.run_id) is None:
                launch(request, self._log_notice)
            else:
                queue_again(request, folder, self._log_notice)
        except NoAnswer as err:  # the engine may have the job
            self.log(str(err))
