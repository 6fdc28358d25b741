"""The process that looks after one local job from its record to its end. Started by `jobs.launch`, in a session of its own.

It reads the order from stdin and tells its progress on stdout, a JSON object a line: `recorded`, then `started` or
`refused`; after that nobody needs to listen, so that a closed terminal loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import time
import traceback
from pathlib import Path

from filelock import FileLock

from himl_cli.core.errors import HimlError
from himl_cli.core.run_ids import new_run_id
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.disk_errors import explain_disk_error
from himl_cli.workspaces.local.job_environment import free_port, job_command, job_environment, rank_environment
from himl_cli.workspaces.local.kept_files import Stamp, Stopped, keep_changed, lay_snapshot, make_kept_folders, remove_if_empty, stamps
from himl_cli.workspaces.local.order import Order, order_from_json
from himl_cli.workspaces.local.rank import Rank, RankEnd, end_adopted
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import NewRun, RunStore
from himl_cli.workspaces.local.shim import become_subreaper
from himl_cli.workspaces.local.tracking.server import TrackingServer

POLL_SECONDS = 0.1
SECONDS_TO_TERM = 10.0  # Ctrl-C's rule: SIGINT, after 10 s SIGTERM, after 5 more SIGKILL
SECONDS_TO_KILL = 15.0
SECONDS_TO_RECORD = 30.0
CANCELED = "canceled"
RANK_FAILED = "a rank failed"
TERMINATED = "its supervisor was told to terminate (SIGTERM), as when the machine shuts down"


def main() -> None:
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    become_subreaper()
    order = order_from_json(sys.stdin.read())
    sys.stdin.close()
    with FileLock(RunFolder(Path(order.run_folder)).lock):
        Supervisor(order).run()


def tell(event: str, **facts: str) -> None:
    """Say it to the process that waits for the start; that one may be gone."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
        sys.stdout.flush()


class Supervisor:
    """One job: records it, lays its files, starts its ranks, watches them, records how it ended."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.spec = order.spec
        self.folder = RunFolder(Path(order.run_folder))
        self.cwd = self.spec.snapshot.root if self.spec.in_place else self.folder.code
        self._ends: queue.Queue[RankEnd] = queue.Queue()
        self._terminated = False
        self._before: dict[str, Stamp] = {}
        self._made: list[Path] = []

    def run(self) -> None:
        if not (store := self._record()):
            return
        signal.signal(signal.SIGTERM, self._note_termination)
        try:
            status, exit_code, reason = self._run_job(store)
        except Stopped:
            status, exit_code, reason = (RunStatus.failed, None, TERMINATED) if self._terminated else (RunStatus.canceled, None, CANCELED)
        except OSError as err:
            status, exit_code, reason = RunStatus.failed, None, str(explain_disk_error(err, "cannot lay or keep the job's files", self.folder.path)).rstrip(".")
        except BaseException as err:  # whatever happens, the run must not stay open
            traceback.print_exc()
            status, exit_code, reason = RunStatus.failed, None, f"himl itself failed: {type(err).__name__}: {err}"
        self._record_end(store, status, exit_code, reason)
        tell("started")

    def _record(self) -> RunStore | None:
        """Write the run into the workspace, or refuse the job and leave nothing."""
        spec = self.spec
        try:
            self.folder.reserve_space()
            store = RunStore(Database(Path(self.order.workspace) / "workspace.db", create=True))
            new = NewRun(
                id=self.folder.run_id,
                job=self.folder.run_id,
                experiment=spec.experiment,
                display_name=spec.display_name,
                description=spec.description,
                command=self.order.command,
                folder=str(self.cwd),
                tags=spec.tags,
            )
            store.add(new)
        except (OSError, HimlError) as err:
            error = err if isinstance(err, HimlError) else explain_disk_error(err, "Cannot record the run", self.folder.path)
            tell("refused", message=str(error), hint=error.hint)
            return None
        tell("recorded")
        return store

    def _run_job(self, store: RunStore) -> tuple[RunStatus, int | None, str]:
        self._lay_files()
        tracking = TrackingServer(store.database, self.folder.run_id, artifacts_of=self._artifacts_of, new_child_id=self._child_id)
        try:
            env = self._environment(tracking)
            store.start(self.folder.run_id)
            ranks = self._start_ranks(env)
            tell("started")
            status, code, reason = self._outcome(*self._watch(ranks))
        finally:
            trouble = self._finish(tracking)
        return status, code, "; ".join(part for part in (reason, trouble) if part)

    def _finish(self, tracking: TrackingServer) -> str:
        """What comes after the script and cannot change how it ended; trouble is told, to stand beside its outcome."""
        trouble = ""
        try:
            if self.spec.in_place:
                keep_changed(self.cwd, self._before, self.folder.code)
                remove_if_empty(self._made)
        except OSError as err:
            trouble = f"not all of its outputs could be kept: {err.strerror}: '{err.filename or self.folder.code}'"
        try:
            tracking.close()
        except (OSError, HimlError) as err:
            trouble = trouble or f"what it logged could not be tidied: {err}".rstrip(".")
        return trouble

    def _lay_files(self) -> None:
        self.folder.user_logs.mkdir()
        for log in self._logs():
            log.touch()
        self.folder.write_record({"inputs": self.order.inputs, "outputs": self.order.outputs, "python": self.spec.python, "in_place": self.spec.in_place})
        for path in self.order.outputs.values():
            Path(path).mkdir(parents=True, exist_ok=True)
        self.folder.code.mkdir()
        if self.spec.in_place:
            self._made = make_kept_folders(self.cwd)
            self._before = stamps(self.cwd)
        else:
            lay_snapshot(self.spec.snapshot, self.folder.code, is_stopped=self._is_stopped)
            make_kept_folders(self.folder.code)

    def _logs(self) -> list[Path]:
        if self.spec.processes is None or self.spec.processes == 1:
            return [self.folder.user_logs / "std_log.txt"]
        return [self.folder.user_logs / f"std_log_process_{number}.txt" for number in range(self.spec.processes)]

    def _environment(self, tracking: TrackingServer) -> dict[str, str]:
        base = job_environment(self.order, self.folder.run_id, os.environ)
        if "MLFLOW_TRACKING_URI" in self.spec.env:  # a server of the user's own knows nothing of our run
            return {**base, **self.spec.env}
        changes = tracking.environment(base)
        env = {name: value for name, value in base.items() if name not in changes.drop}
        return {**env, **changes.set, **self.spec.env}

    def _start_ranks(self, env: dict[str, str]) -> list[Rank]:
        command, port = job_command(self.order), free_port()
        return [
            Rank(number, command, env=env | rank_environment(self.order, number, port), cwd=self.cwd, log=log, terminal=self.order.terminal, ends=self._ends)
            for number, log in enumerate(self._logs())
        ]

    def _watch(self, ranks: list[Rank]) -> tuple[list[RankEnd], str]:
        """Wait for all ranks; once a reason to stop shows up, end them by and by. Returns their ends in order, and that reason."""
        ends: list[RankEnd] = []
        stopping, stop, sent = 0.0, "", 0
        deadline = time.monotonic() + self.spec.max_seconds if self.spec.max_seconds else None
        try:
            while len(ends) < len(ranks):
                with contextlib.suppress(queue.Empty):
                    ends.append(self._ends.get(timeout=POLL_SECONDS))
                now = time.monotonic()
                if not stopping and (stop := self._reason_to_stop(ends, deadline)):
                    stopping = now
                while stopping and sent < len(words := self._words(stop)) and now - stopping >= words[sent][0]:
                    for rank in ranks:
                        rank.send(words[sent][1])
                    sent += 1
        finally:
            for rank in ranks:
                rank.close()
            end_adopted()
        return ends, stop

    def _words(self, stop: str) -> list[tuple[float, str]]:
        """What is sent to the ranks, and how many seconds after the decision to stop."""
        if stop == CANCELED:
            return [(0.0, "INT"), (SECONDS_TO_TERM, "TERM"), (SECONDS_TO_KILL, "KILL")]
        return [(0.0, "TERM"), (SECONDS_TO_KILL - SECONDS_TO_TERM, "KILL")]

    def _reason_to_stop(self, ends: list[RankEnd], deadline: float | None) -> str:
        if self._terminated:
            return TERMINATED
        if self.folder.is_cancel_asked():
            return CANCELED
        if any(not end.is_success for end in ends):
            return RANK_FAILED
        if deadline is not None and time.monotonic() > deadline:
            return f"stopped after --max_run_duration ({self.spec.max_seconds:g} s)"
        return ""

    def _outcome(self, ends: list[RankEnd], stop: str) -> tuple[RunStatus, int | None, str]:
        failed = next((end for end in ends if not end.is_success), None)
        code = failed.code if failed else 0
        if stop == CANCELED:
            return RunStatus.canceled, code, CANCELED
        if stop and stop != RANK_FAILED:
            return RunStatus.failed, code, stop
        if failed is None:
            return RunStatus.completed, 0, ""
        reason = failed.reason if len(ends) == 1 else f"rank {failed.number}: {failed.reason}"
        if self.folder.is_disk_full():
            reason += f"; no space is left on the disk of '{self.folder.path}'"
        return RunStatus.failed, code, reason

    def _record_end(self, store: RunStore, status: RunStatus, exit_code: int | None, reason: str) -> None:
        """Write the end, using the space set aside for it; where even that fails, the free lock says 'failed' to every reader."""
        deadline = time.monotonic() + SECONDS_TO_RECORD
        while True:
            try:
                self.folder.free_reserve()
                self._close_children(store, status)
                store.end(self.folder.run_id, status, exit_code=exit_code, reason=reason)
                return
            except (OSError, HimlError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _close_children(self, store: RunStore, status: RunStatus) -> None:
        """Nested runs that the script left open end as the job did."""
        for run_id in store.open_runs_of(self.folder.run_id):
            if run_id != self.folder.run_id:
                store.end(run_id, status, reason="the job ended")

    def _is_stopped(self) -> bool:
        return self._terminated or self.folder.is_cancel_asked()

    def _note_termination(self, number: int, frame: object) -> None:
        self._terminated = True

    def _artifacts_of(self, run_id: str) -> Path:
        return RunFolder(self.folder.path.parent / run_id).artifacts

    def _child_id(self) -> str:
        return new_run_id(self.spec.experiment)


if __name__ == "__main__":
    main()
