"""The process that looks after one local job from its record to its end. In a session of its own; started by `himl
submit`, of a trial or a step by the keeper.

It reads the order from stdin and tells its progress on stdout, a JSON object a line: `recorded`, then `started` or
`refused`; after that nobody needs to listen, so that a closed terminal loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from pathlib import Path

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import RunStatus, new_run_id
from himl_cli.workspaces.local.job_environment import free_port, job_command, job_environment, rank_environment
from himl_cli.workspaces.local.keeping import CANCELED, TERMINATED, Outcome, RunKeeper, read_order, tell
from himl_cli.workspaces.local.laying import JobFiles
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.order import Order, order_from_json
from himl_cli.workspaces.local.rank import Rank, RankEnd, end_adopted
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import NewRun, RunStore
from himl_cli.workspaces.local.shim import become_subreaper
from himl_cli.workspaces.local.tracking.server import TrackingServer
from himl_cli.workspaces.local.tries import begin_try

POLL_SECONDS = 0.1
SECONDS_TO_TERM = 10.0  # Ctrl-C's rule: SIGINT, after 10 s SIGTERM, after 5 more SIGKILL
SECONDS_TO_KILL = 15.0
RANK_FAILED = "a rank failed"


def main() -> None:
    become_subreaper()
    Supervisor(order_from_json(read_order())).keep()


class Supervisor(RunKeeper):
    """One job: records it, lays its files, starts its ranks, watches them, records how it ended."""

    def __init__(self, order: Order) -> None:
        super().__init__(order.run_folder, order.workspace, again=order.again)
        self.order = order
        self.spec = order.spec
        self.files = JobFiles(order, self.folder)
        self._ends: queue.Queue[RankEnd] = queue.Queue()

    def new_run(self) -> NewRun:
        spec = self.spec
        return NewRun(
            id=self.folder.run_id,
            job=self.folder.run_id,
            parent=spec.parent or None,
            experiment=spec.experiment,
            display_name=spec.display_name,
            description=spec.description,
            command=self.order.command,
            folder=str(self.files.cwd),
            tags=spec.tags,
        )

    def work(self, store: RunStore) -> Outcome:
        if self._again:
            begin_try(store.database, self.folder.run_id)
        self.files.lay(is_stopped=self.is_stopped)
        tracking = TrackingServer(
            store.database, self.folder.run_id, artifacts_of=self._artifacts_of, new_child_id=self._child_id
        )
        try:
            env = self._environment(tracking)
            store.start(self.folder.run_id)
            ranks = self._start_ranks(env)
            tell("started")
            outcome = self._outcome_of_ranks(*self._watch(ranks))
        finally:
            trouble = self._finish(tracking)
        return Outcome(outcome.status, outcome.exit_code, "; ".join(part for part in (outcome.reason, trouble) if part))

    def _finish(self, tracking: TrackingServer) -> str:
        """What comes after the script and cannot change how it ended; trouble is told, to stand beside its outcome."""
        trouble = ""
        try:
            self.files.keep()
        except OSError as err:
            trouble = f"not all of its outputs could be kept: {err.strerror}: '{err.filename or self.folder.code}'"
        try:
            tracking.close()
        except (OSError, HimlError) as err:
            trouble = trouble or f"what it logged could not be tidied: {err}".rstrip(".")
        return trouble

    def before_the_end(self, store: RunStore) -> None:
        # Only now: what the script logs under these names may be written otherwise (1 and 1.0), and parameters cannot
        # change.
        if self.order.values:
            MetricStore(store.database).log_missing_parameters(self.folder.run_id, self.order.values)

    def _environment(self, tracking: TrackingServer) -> dict[str, str]:
        base = job_environment(self.order, self.folder.run_id, os.environ)
        if "MLFLOW_TRACKING_URI" in self.spec.env:  # a server of the user's own knows nothing of our run
            return {**base, **self.spec.env}
        changes = tracking.environment(base)
        env = {name: value for name, value in base.items() if name not in changes.drop}
        return {**env, **changes.set, **self.spec.env}

    def _start_ranks(self, env: dict[str, str]) -> list[Rank]:
        command, port, stdin = job_command(self.order), free_port(), self.order.stdin
        ranks = [
            Rank(
                number,
                command,
                env=env | rank_environment(self.order, number, port),
                cwd=self.files.cwd,
                log=log,
                stdin=stdin if number == 0 or not stdin.isdigit() else "",
                ends=self._ends,
            )
            for number, log in enumerate(self.files.logs())
        ]
        if stdin.isdigit():
            os.close(int(stdin))  # whoever writes into the pipe is to see that the script has closed it
        return ranks

    def _watch(self, ranks: list[Rank]) -> tuple[list[RankEnd], str]:
        """Wait for all ranks; once a reason to stop shows up, end them by and by. Returns their ends in order, and that
        reason."""
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

    def _outcome_of_ranks(self, ends: list[RankEnd], stop: str) -> Outcome:
        failed = next((end for end in ends if not end.is_success), None)
        code = failed.code if failed else 0
        if stop == CANCELED:
            return Outcome(RunStatus.canceled, code, self.folder.why_canceled())
        if stop and stop != RANK_FAILED:
            return Outcome(RunStatus.failed, code, stop)
        if failed is None:
            return Outcome(RunStatus.completed, 0)
        reason = failed.reason if len(ends) == 1 else f"rank {failed.number}: {failed.reason}"
        if self.folder.is_disk_full():
            reason += f"; no space is left on the disk of '{self.folder.path}'"
        return Outcome(RunStatus.failed, code, reason)

    def _artifacts_of(self, run_id: str) -> Path:
        return RunFolder(self.folder.path.parent / run_id).artifacts

    def _child_id(self) -> str:
        return new_run_id(self.spec.experiment)


if __name__ == "__main__":
    main()
