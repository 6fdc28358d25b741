"""The process that looks after one local job from its record to its end. In a session of its own; started by `himl
submit`, of a trial or a step by the controller.

It reads its request from stdin and reports its progress on stdout, a JSON object a line: `recorded`, then `started` or
`refused`; after that nobody needs to listen, so that a closed terminal loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import Run, RunStatus, new_run_id
from himl_cli.workspaces.local.launch_request import (
    LaunchRequest,
    job_command,
    job_environment,
    rank_environments,
    request_from_json,
)
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_process import CANCELED, TERMINATED, Outcome, RunProcess, read_request, report
from himl_cli.workspaces.local.run_store import RunStore
from himl_cli.workspaces.local.shim import become_subreaper, children_of
from himl_cli.workspaces.local.staging import JobFiles
from himl_cli.workspaces.local.tracking.tracking_server import TrackingServer

POLL_SECONDS = 0.1
# What is sent to the ranks, and how many seconds after the decision to stop. Ctrl-C's rule: SIGINT, after 10 s SIGTERM,
# after 5 more SIGKILL
CANCEL_SIGNALS = ((0.0, "INT"), (10.0, "TERM"), (15.0, "KILL"))
STOP_SIGNALS = ((0.0, "TERM"), (5.0, "KILL"))
RANK_FAILED = "a rank failed"

# How the process of a rank ended: the rank, the code of a shell (the exit code, 128 + the signal's number, 127 where
# nothing could be started), why the job failed
RankEnd = tuple[int, int, str]


class Supervisor(RunProcess):
    """One job: records it, stages its files, starts its ranks, watches them, records how it ended."""

    def __init__(self, request: LaunchRequest) -> None:
        spec, folder = request.spec, RunFolder(Path(request.run_folder))
        self._files = JobFiles(request, folder)
        new = Run(
            folder.run_id,
            spec.experiment,
            display_name=spec.display_name,
            description=spec.description,
            tags=spec.tags,
            parent=spec.parent or None,
            command=request.command,
        )
        super().__init__(new, request.run_folder, self._files.cwd, again=request.again)
        self._request = request
        self._ends: queue.Queue[RankEnd] = queue.Queue()

    def work(self, store: RunStore) -> Outcome:
        run_id, spec = self.folder.run_id, self._request.spec
        if self._again:
            from himl_cli.workspaces.local.metric_store import begin_attempt

            begin_attempt(store.database, run_id)
        self._files.stage(is_stopped=self.is_stopped)
        tracking = TrackingServer(
            store.database,
            run_id,
            artifacts_of=lambda name: RunFolder(self.folder.path.parent / name).artifacts,
            new_child_id=lambda: new_run_id(spec.experiment),
        )
        try:
            env = job_environment(self._request, os.environ)
            if "MLFLOW_TRACKING_URI" not in spec.env:  # a server of the user's own knows nothing of our run
                env = tracking.environment(env)
            store.start(run_id)
            ranks = self._start_ranks({**env, **spec.env})
            report("started")
            tracking.serve()
            outcome = self._outcome_of_ranks(*self._watch(ranks))
        finally:  # what comes after the script cannot change how it ended: what fails is said beside that
            problem = ""
            try:
                self._files.collect()
            except OSError as err:
                where = err.filename or self.folder.code
                problem = f"not all of its outputs could be kept: {err.strerror}: '{where}'"
            try:
                tracking.close()
            except (OSError, HimlError) as err:
                problem = problem or f"what it logged could not be tidied: {err}".rstrip(".")
        reason = "; ".join(part for part in (outcome.reason, problem) if part)
        return Outcome(outcome.status, reason, outcome.exit_code)

    def before_the_end(self, store: RunStore) -> None:
        # Only now: what the script logs under these names may be written otherwise (1 and 1.0), and parameters cannot
        # change.
        if self._request.values:
            from himl_cli.workspaces.local.metric_store import MetricStore

            MetricStore(store.database).log(self.folder.run_id, [], self._request.values, rule="IGNORE")

    def _start_ranks(self, env: Mapping[str, str]) -> list[Rank]:
        command, stdin = job_command(self._request), self._request.stdin
        ranks = []
        for number, (log, own) in enumerate(zip(self._files.logs, rank_environments(self._request), strict=True)):
            source = stdin if number == 0 or not stdin.isdigit() else ""
            ranks.append(Rank(number, command, {**env, **own}, self._files.cwd, log, source, self._ends))
        if stdin.isdigit():
            os.close(int(stdin))  # whoever writes into the pipe is to see that the script has closed it
        return ranks

    def _watch(self, ranks: list[Rank]) -> tuple[list[RankEnd], str]:
        """Wait for all ranks; once a reason to stop shows up, end them by and by. Returns their ends in order, and that
        reason."""
        ends: list[RankEnd] = []
        stopping, stop, sent = 0.0, "", 0
        limit = self._request.spec.max_seconds
        deadline = time.monotonic() + limit if limit else None
        try:
            while len(ends) < len(ranks):
                with contextlib.suppress(queue.Empty):
                    ends.append(self._ends.get(timeout=POLL_SECONDS))
                now = time.monotonic()
                if not stop:
                    stop, stopping = self._reason_to_stop(ends, deadline), now
                signals = CANCEL_SIGNALS if stop == CANCELED else STOP_SIGNALS
                while stop and sent < len(signals) and now - stopping >= signals[sent][0]:
                    for rank in ranks:
                        rank.send(signals[sent][1])
                    sent += 1
        finally:
            for rank in ranks:
                rank.close()
            _end_adopted()
        return ends, stop

    def _reason_to_stop(self, ends: list[RankEnd], deadline: float | None) -> str:
        if self._terminated:
            return TERMINATED
        if self.folder.is_cancel_asked():
            return CANCELED
        if any(code for _, code, _ in ends):
            return RANK_FAILED
        if deadline is not None and time.monotonic() > deadline:
            return f"stopped after --max_run_duration ({self._request.spec.max_seconds:g} s)"
        return ""

    def _outcome_of_ranks(self, ends: list[RankEnd], stop: str) -> Outcome:
        failures = [end for end in ends if end[1]]
        number, code, reason = failures[0] if failures else (0, 0, "")
        if stop == CANCELED:
            return Outcome(RunStatus.canceled, self.folder.why_canceled(), code)
        if stop and stop != RANK_FAILED:
            return Outcome(RunStatus.failed, stop, code)
        if not failures:
            return Outcome(RunStatus.completed, exit_code=0)
        if len(ends) > 1:
            reason = f"rank {number}: {reason}"
        if self.folder.is_disk_full():
            reason += f"; no space is left on the disk of '{self.folder.path}'"
        return Outcome(RunStatus.failed, reason, code)


class Rank:
    """One process of the job: starts the command under its shim; its end arrives in *ends*.

    *stdin* is that of the request. The command's output goes straight to *log* (append mode), so a log line is never
    lost to a dying supervisor.
    """

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        stdin: str,
        ends: queue.Queue[RankEnd],
    ) -> None:
        self._number = number
        self._ends = ends
        with log.open("ab") as stream:
            self._shim = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("shim.py")), stdin, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                cwd=cwd,
                env=env,
                start_new_session=True,
                pass_fds=(int(stdin),) if stdin.isdigit() else (),
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, word: str) -> None:
        """INT, TERM or KILL to every process of the rank."""
        assert self._shim.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it ended in the meantime, which is what was wanted
            self._shim.stdin.write(word.encode() + b"\n")
            self._shim.stdin.flush()

    def close(self) -> None:
        """Close the pipe to the shim: it ends whatever is left and itself."""
        assert self._shim.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._shim.stdin.close()
        self._shim.wait()

    def _listen(self) -> None:
        assert self._shim.stdout is not None
        pid, code, reason = None, None, ""
        for line in self._shim.stdout:
            facts = json.loads(line)
            pid = facts.get("pid", pid)
            if "error" in facts:
                code, reason = 127, facts["error"]
            elif "exit" in facts:
                code, reason = facts["exit"], f"exit code {facts['exit']}"
            elif "signal" in facts:
                number = facts["signal"]
                name = next((each.name for each in signal.Signals if each == number), "unknown")
                code, reason = 128 + number, f"ended by signal {number} ({name})"
        if code is None:
            code, reason = 128 + int(signal.SIGTERM), "the process that watched over it was killed"
            if pid is not None and sys.platform != "win32":  # the process group, which the shim cannot end any more
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        self._ends.put((self._number, code, reason))


def _end_adopted() -> None:
    """Kill what became a child of this process because its shim was killed (Linux, after `become_subreaper`). All ranks
    must be closed."""
    if sys.platform == "win32":
        return
    deadline = time.monotonic() + 2.0
    while (adopted := children_of(os.getpid())) and time.monotonic() < deadline:
        for pid in adopted:
            os.kill(pid, signal.SIGKILL)  # its own children are adopted in turn
        for pid in adopted:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    become_subreaper()
    Supervisor(request_from_json(read_request())).run()
