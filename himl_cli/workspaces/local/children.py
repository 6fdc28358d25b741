"""The children of a sweep or a pipeline, each a job with a supervisor of its own: started, watched, and stopped all at
once."""

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

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import FAILED_RANK, Run, RunQuery, RunStatus
from himl_cli.workspaces.local.launch import begin, events_of, spawn, start_error
from himl_cli.workspaces.local.launch_request import LaunchRequest, Plan
from himl_cli.workspaces.local.run_folder import RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_process import BUSY, TERMINATED, Outcome
from himl_cli.workspaces.local.run_store import RunStore
from himl_cli.workspaces.local.slurm import SlurmJobs, cancel
from himl_cli.workspaces.local.slurm_batch import queue_again, queue_job

POLL_SECONDS = 0.1
SECONDS_UNREAD = 600.0


class Children:
    """A plan's children, started, watched, stopped all at once, and the log of the whole, `user_logs/std_log.txt`.
    `at_work` are the ids of those that have not ended.

    *why_stopped* says how the whole ends once it was told to stop, and nothing before that; *slurm* are the jobs of the
    workspace, where Slurm has the children. What fails on the way is logged once and tried again at the next look: it
    must not end the whole while children are at work.
    """

    def __init__(
        self, plan: Plan, store: RunStore, why_stopped: Callable[[], Outcome | None], slurm: SlurmJobs | None = None
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
        self._slurm = slurm

    def log(self, line: str) -> None:
        path = Path(self.plan.run_folder) / "user_logs" / "std_log.txt"
        with suppress(OSError), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{datetime.now():%Y-%m-%dT%H:%M:%S} {line}\n")

    @contextmanager
    def logging_errors(self) -> Iterator[None]:
        """Log a HimlError of what is done within, once."""
        try:
            yield
        except HimlError as err:
            self._log_once(err)

    def _log_once(self, err: HimlError) -> None:
        if str(err) not in self._reported:
            self._reported.add(str(err))
            self.log(f"{err} It is tried again.")

    def watch(self, run_id: str, request: LaunchRequest | Plan | None = None) -> None:
        """Start the job, or the pipeline, that *request* tells of, and wait in the background for its end; without one,
        for that of one that an earlier controller started, and whose supervisor lives. What goes wrong is told with its
        end."""
        self.at_work.add(run_id)
        threading.Thread(target=self._watch, args=(RunFolder(self._runs / run_id), request), daemon=True).start()

    def add_ended(self, run_id: str, trouble: str) -> None:
        """A job that has ended, or that cannot even be started: *trouble* says why."""
        self.at_work.add(run_id)
        self._ended.put((run_id, trouble))

    def next_end(self) -> tuple[Run | None, str, str] | None:
        """A child that has ended: its run (None where it could not be started, and was not completed before), its id,
        and what went wrong then; None where none has yet.

        Raises HimlError where runs could not be read for `SECONDS_UNREAD`.
        """
        try:
            run_id, trouble = self._ended.get(timeout=POLL_SECONDS)
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
            run = None  # what is on record of it is how an earlier attempt ended
        return run, run_id, trouble

    @property
    def stopping(self) -> Outcome | None:
        """How the whole ends because it was told to stop; the children have then been asked to."""
        if self._stopping is None and (why := self._why_stopped()):
            self._stopping = why
            told = "this process was told to terminate" if why.reason == TERMINATED else "the run was canceled"
            self.log(f"stopping, since {told}")
        if self._stopping is None:
            return None
        for run_id in self.at_work:  # again and again: a child that was just starting may have missed it
            process = self._processes.get(run_id)
            if self._stopping.reason != TERMINATED:
                self.cancel(run_id, "its parent was canceled")
            elif process is None:  # an earlier controller started it: only its lock is known
                self.cancel(run_id, "the keeper of its parent was told to terminate")
            elif process.poll() is None:
                process.terminate()
        return self._stopping

    def cancel(self, run_id: str, why: str) -> None:
        """Ask the job to stop. To be called again and again to its end: a job that is just starting may miss it."""
        folder = RunFolder(self._runs / run_id)
        if not folder.is_cancel_asked():  # else the reason beside it may be just being read
            with self.logging_errors():
                folder.ask_to_cancel(why)
                if self._slurm is not None:
                    cancel(self.store.slurm_jobs([run_id]).values(), only_waiting=True)

    def recorded(self) -> Iterator[tuple[Run, bool]]:
        """The children on record, each with whether it is at work: an earlier controller started them."""
        for run in self.store.query(RunQuery(parent=self.plan.run.id, archived=None)):
            if run.status.is_final:
                yield run, False
            elif RunFolder(self._runs / run.id).is_supervised() or run.id in self._waiting([run.id]):
                yield run, True
            elif (found := self.store.get(run.id, [run.id])) is not None:  # anew: it may have ended since
                yield found, False

    def last_lines(self, run: Run, count: int) -> list[str]:
        """The last lines of what a child printed that are not empty, as far as they can be read; of several ranks, of
        the one that failed."""
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
            if self._slurm is not None:
                return self._ended.put((folder.run_id, self._watch_queued(folder, request)))
            events = [{"event": "refused", "why": BUSY}] if request is None else self._run(folder, request)
            if events and events[-1].get("why") == BUSY:
                while folder.is_supervised():
                    time.sleep(POLL_SECONDS)
            elif (error := start_error(events, folder)) is not None:
                trouble = str(error)
        except OSError as err:
            trouble = str(explain_disk_error(err, "Cannot start the job", folder.path))
        except (HimlError, ValueError) as err:
            trouble = str(err)
        self._ended.put((folder.run_id, trouble))

    def _watch_queued(self, folder: RunFolder, request: LaunchRequest | Plan | None) -> str:
        """Why the job could not be sent to Slurm; else nothing, once it has ended."""
        run_id = folder.run_id
        assert not isinstance(request, Plan), "pipelines are no trials on Slurm"
        if request is not None and self.store.get(run_id) is None:
            begin(replace(request, again=True), start=queue_job)
        elif request is not None and (error := queue_again(replace(request, again=True), folder)) is not None:
            return str(error)
        while (run := self.store.get(run_id)) is not None and not run.status.is_final:
            if not folder.is_supervised():
                self._waiting(list(self.at_work))
            time.sleep(5 * POLL_SECONDS)
        return ""

    def _waiting(self, run_ids: list[str]) -> Mapping[str, str]:
        """Of these children, those that Slurm has, and what it says of them."""
        if self._slurm is None:
            return {}
        free = [run_id for run_id in run_ids if not RunFolder(self._runs / run_id).is_supervised()]
        return self._slurm.refresh(self.store, self.store.slurm_jobs(free))

    def _run(self, folder: RunFolder, request: LaunchRequest | Plan) -> list[dict[str, Any]]:
        """What the supervisor reported to its end. As long as it lives the job is at work, whatever it says."""
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
