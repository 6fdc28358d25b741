"""The children of a sweep or a pipeline, which are jobs with separate supervisors."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from himl_cli.core.errors import HimlError, Interrupted
from himl_cli.core.events import Event, Notice
from himl_cli.core.runs import FAILED_RANK, Run, RunQuery, RunStatus
from himl_cli.workspaces.local.engines import engine_named
from himl_cli.workspaces.local.engines.base import NoAnswer, QueueFull
from himl_cli.workspaces.local.engines.queue import QueuedJobs, queue_again
from himl_cli.workspaces.local.launch import events_of, launch, spawn, start_error
from himl_cli.workspaces.local.launch_request import LaunchRequest, Plan
from himl_cli.workspaces.local.run_folder import RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_process import BUSY, TERMINATED
from himl_cli.workspaces.local.run_store import Outcome, RunStore

POLL_SECONDS = 0.1
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
        self._unread_since = 0.0
        self._ended: queue.Queue[tuple[str, str]] = queue.Queue()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._queued = queued
        self._poll = POLL_SECONDS if queued is None else POLL_SECONDS_OF_ENGINE
        self._turn = threading.Lock()  # to submit

    def log(self, line: str) -> None:
        path = Path(self.plan.run_folder) / "user_logs" / "std_log.txt"
        with suppress(OSError), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{datetime.now():%Y-%m-%dT%H:%M:%S} {line}\n")

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
        """Start the job or pipeline of *request*, and wait for its end in the background. Without *request*, wait for a
        child that an earlier controller started. `next_end` returns its errors."""
        self.at_work.add(run_id)
        threading.Thread(target=self._watch, args=(RunFolder(self._runs / run_id), request), daemon=True).start()

    def add_ended(self, run_id: str, trouble: str) -> None:
        """Add a job that has ended, or that cannot be started because of *trouble*."""
        self.at_work.add(run_id)
        self._ended.put((run_id, trouble))

    def next_end(self) -> tuple[Run | None, str, str] | None:
        """The next ended child: its run (None if it could not be started, and was not completed before), its id, and
        the error of the start. None if no child has ended yet.

        Raises HimlError if runs could not be read for `SECONDS_UNREAD`.
        """
        try:
            run_id, trouble = self._ended.get(timeout=self._poll)
        except queue.Empty:
            return None
        try:
            run = self.store.get(run_id, [run_id])
        except HimlError as err:
            self._ended.put((run_id, trouble))
            self._unread_since = self._unread_since or time.monotonic()
            if time.monotonic() - self._unread_since > SECONDS_UNREAD:
                raise
            self._log_once(err)
            time.sleep(POLL_SECONDS)
            return None
        self.at_work.discard(run_id)
        self._processes.pop(run_id, None)
        self._unread_since = 0.0
        if trouble and run is not None and run.status is not RunStatus.completed:
            run = None  # the record has the end of an earlier attempt
        return run, run_id, trouble

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
        for run in self.store.query(RunQuery(parent=self.plan.run.id, archived=None)):
            if run.status.is_final:
                yield run, False
                continue
            folder = RunFolder(self._runs / run.id)
            if self._queued is None:
                is_at_work = folder.may_be_supervised()
            else:  # also if that is unknown
                is_at_work = folder.is_supervised() or run.id in self._waiting(self._queued, [run.id])
            if is_at_work:
                yield run, True
            else:
                self.store.end_as_noted(folder)
                if (found := self.store.get(run.id, [run.id])) is not None:  # read again, since it may have ended
                    yield found, False

    def last_lines(self, run: Run, count: int) -> list[str]:
        """The last non-empty lines of a child's log, or of the log of its failed rank. Empty if it cannot be read."""
        rank = FAILED_RANK.match(run.reason)
        log = RunFolder(self._runs / run.id).user_logs / (f"std_log_process_{rank[1]}.txt" if rank else "std_log.txt")
        try:
            with log.open("rb") as stream:
                stream.seek(max(0, log.stat().st_size - 16 * 1024))
                text = stream.read().decode(errors="replace")
        except OSError:
            return []
        return [line[:200] for line in text.splitlines() if line.strip()][-count:]

    def _watch(self, folder: RunFolder, request: LaunchRequest | Plan | None) -> None:
        trouble = ""
        try:
            if self._queued is not None:
                self._watch_queued(self._queued, folder, request)
                return self._ended.put((folder.run_id, ""))
            events = [{"event": "refused", "why": BUSY}] if request is None else self._run(folder, request)
            if events and events[-1].get("why") == BUSY:
                while folder.may_be_supervised():
                    time.sleep(POLL_SECONDS)
            elif (error := start_error(events, folder)) is not None:
                trouble = str(error)
        except OSError as err:
            trouble = str(explain_disk_error(err, "Cannot start the job", folder.path))
        except (HimlError, ValueError) as err:
            trouble = str(err)
        self._ended.put((folder.run_id, trouble))

    def _watch_queued(self, queued: QueuedJobs, folder: RunFolder, request: LaunchRequest | Plan | None) -> None:
        """Wait until the job has ended. Raises HimlError if it could not be submitted."""
        run_id, pause = folder.run_id, FIRST_PAUSE
        assert not isinstance(request, Plan), "pipelines are no trials in a queue"
        with self._turn:
            while request is not None:
                if self._stopping is not None:
                    raise Interrupted("The parent run is stopping.")
                try:
                    self._submit(replace(request, again=True), folder)
                    request = None
                except QueueFull as err:
                    self._log_once(err)
                    time.sleep(pause)
                    pause = min(LONGEST_PAUSE, 2 * pause)
        while (run := self.store.get(run_id)) is not None and not run.status.is_final:
            if not folder.is_supervised():
                self._waiting(queued, list(self.at_work))
            time.sleep(self._poll)

    def _submit(self, request: LaunchRequest, folder: RunFolder) -> None:
        try:
            if self.store.get(folder.run_id) is None:
                launch(request, self._log_notice)
            elif error := queue_again(request, folder, self._log_notice):
                raise error
        except NoAnswer as err:  # the engine may have the job
            self.log(str(err))

    def _waiting(self, queued: QueuedJobs, run_ids: list[str]) -> Mapping[str, str]:
        """The children among these that wait in a queue, with their reasons to wait."""
        free = [run_id for run_id in run_ids if not RunFolder(self._runs / run_id).is_supervised()]
        return queued.refresh(self.store, self.store.queued_jobs(free))

    def _run(self, folder: RunFolder, request: LaunchRequest | Plan) -> list[dict[str, Any]]:
        """Run the supervisor, and return its events once it has ended. Until then, the job is in progress."""
        folder.path.mkdir(parents=True, exist_ok=True)
        if not request.again:
            folder.allow_to_run()
        process = self._processes[folder.run_id] = spawn(request)
        try:
            return list(events_of(process))
        finally:
            process.wait()
            with suppress(OSError):
                assert process.stdout is not None
                process.stdout.close()
