"""The children of a sweep or a pipeline, as its controller sees them: each has a supervisor of its own, which outlives
the controller if need be."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import FAILED_RANK, Run, RunQuery
from himl_cli.workspaces.local.launch import SUPERVISOR, events_of, spawn, start_error
from himl_cli.workspaces.local.launch_request import LaunchRequest
from himl_cli.workspaces.local.run_folder import RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_process import BUSY, TERMINATED, Outcome
from himl_cli.workspaces.local.run_store import RunStore
from himl_cli.workspaces.local.sweep_plan import Plan

POLL_SECONDS = 0.1
SECONDS_UNREAD = 600.0
TAIL_BYTES = 16 * 1024
LONGEST_LINE = 200


class Children:
    """A plan's children, started, watched, stopped all at once, and the log of the whole, `user_logs/std_log.txt`.

    *why_stopped* says how the whole ends once it was told to stop, and nothing before that. What fails on the way is
    logged once and tried again at the next look: it must not end the whole while children are at work.
    """

    def __init__(self, plan: Plan, store: RunStore, why_stopped: Callable[[], Outcome | None]) -> None:
        self.plan = plan
        self.store = store
        self._runs = Path(plan.run_folder).parent
        self._log = Path(plan.run_folder) / "user_logs" / "std_log.txt"
        self._why_stopped = why_stopped
        self._stopping: Outcome | None = None
        self._reported: set[str] = set()
        self._unread_since = 0.0
        self._ended: queue.Queue[tuple[str, str]] = queue.Queue()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._at_work: set[str] = set()

    def __len__(self) -> int:
        """Of those at work."""
        return len(self._at_work)

    def log(self, line: str) -> None:
        """A line of the log; on a disk that is full it is missing."""
        with suppress(OSError), self._log.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{datetime.now():%Y-%m-%dT%H:%M:%S} {line}\n")

    @contextmanager
    def logging_errors(self) -> Iterator[None]:
        """Log a HimlError of what is done within, once."""
        try:
            yield
        except HimlError as err:
            self._log_error(err)

    def _log_error(self, err: HimlError) -> None:
        if str(err) not in self._reported:
            self._reported.add(str(err))
            self.log(f"{err} It is tried again.")

    def start(self, request: LaunchRequest) -> None:
        """Start the job; what goes wrong with that is told when it has ended."""
        folder = RunFolder(Path(request.run_folder))
        self._at_work.add(folder.run_id)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            if not request.again:
                folder.allow_to_run()
        except OSError as err:
            self._ended.put((folder.run_id, str(explain_disk_error(err, "Cannot start the job", folder.path))))
            return
        threading.Thread(target=self._watch, args=(folder, request), daemon=True).start()

    def adopt(self, run_id: str) -> None:
        """Watch a job that an earlier controller started, and whose supervisor lives."""
        self._at_work.add(run_id)
        threading.Thread(target=self._watch, args=(RunFolder(self._runs / run_id), None), daemon=True).start()

    def add_ended(self, run_id: str, trouble: str) -> None:
        """A job that has ended, or that cannot even be started: *trouble* says why."""
        self._at_work.add(run_id)
        self._ended.put((run_id, trouble))

    def next_end(self) -> tuple[Run | None, str, str] | None:
        """A child that has ended: its run (None where it could not be recorded), its id, and what went wrong then; None
        where none has yet.

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
            self._log_error(err)
            time.sleep(POLL_SECONDS)
            return None
        self._at_work.discard(run_id)
        self._processes.pop(run_id, None)
        self._unread_since = 0.0
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
        for run_id in self._at_work:  # again and again: a child that was just starting may have missed it
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

    def recorded(self) -> Iterator[tuple[Run, bool]]:
        """The children on record, each with whether it is at work: an earlier controller started them."""
        for run in self.store.query(RunQuery(parent=self.plan.run_id)):
            if run.status.is_final:
                yield run, False
            elif RunFolder(self._runs / run.id).is_supervised():
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
                stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
                text = stream.read().decode(errors="replace")
        except OSError:
            return []
        return [line[:LONGEST_LINE] for line in text.splitlines() if line.strip()][-count:]

    def _watch(self, folder: RunFolder, request: LaunchRequest | None) -> None:
        """To the end of the job, which *request* starts; None where it is at work already."""
        trouble = ""
        try:
            is_of_another = request is None or self._run(folder, request.to_json())
        except (OSError, HimlError, ValueError) as err:
            is_of_another, trouble = False, str(err)
        while is_of_another and folder.is_supervised():
            time.sleep(POLL_SECONDS)
        self._ended.put((folder.run_id, trouble))

    def _run(self, folder: RunFolder, request: str) -> bool:
        """Start it and wait for its end. Whether another process runs it. Raises OSError, HimlError where there is no
        run."""
        process = spawn(SUPERVISOR, request, folder)
        self._processes[folder.run_id] = process
        try:
            events = list(events_of(process))
        finally:  # as long as it lives the job is at work, whatever it says
            process.wait()
            with suppress(OSError):
                assert process.stdout is not None
                process.stdout.close()
        if events and events[-1].get("why") == BUSY:
            return True
        if (error := start_error(events, folder)) is not None:
            raise error
        return False


def describe_end(run: Run) -> str:
    """How a run ended, in words: `failed after 3.2 s: exit code 3`."""
    after, seconds = "", run.duration
    if seconds is not None and seconds < 100:
        after = f" after {seconds:.1f} s"
    elif seconds is not None:
        minutes, rest = divmod(round(seconds), 60)
        hours, left = divmod(minutes, 60)
        after = f" after {hours} h {left} min" if hours else f" after {minutes} min {rest} s"
    why = f": {run.reason}" if run.reason and run.reason != run.status.value.lower() else ""
    return f"{run.status.value.lower()}{after}{why}"


def children_at_work(runs: Path, store: RunStore, run_id: str) -> list[str]:
    """Ids of the children of a run that have a supervisor which lives; *runs* is the folder of all runs."""
    children = [run.id for run in store.query(RunQuery(parent=run_id)) if not run.status.is_final]
    return [child for child in children if store.job_of(child) == child and RunFolder(runs / child).is_supervised()]
