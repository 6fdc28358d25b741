"""The process that supervises one local job from its record to its end, in a separate session. `himl submit` starts it,
or the controller for a trial or a step.

It reads its request from stdin and reports its progress on stdout, one JSON object per line: `recorded`, then `started`
or `refused`. After that the reader can go away, so that closing the terminal loses nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import platform
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.core.documents import to_document, types_of
from himl_cli.core.editables import with_snapshot_first
from himl_cli.core.errors import HimlError
from himl_cli.core.installed import RunEnvironment, environment_of, machine_facts
from himl_cli.core.jobs import Entry, JobSpec, Snapshot
from himl_cli.core.mounts import is_local_folder
from himl_cli.core.redaction import mask_document
from himl_cli.core.runs import GPUS, LAST_ATTEMPT, Run, RunStatus, new_run_id
from himl_cli.core.text import named
from himl_cli.workspaces.local.engines import engine_named, engine_of
from himl_cli.workspaces.local.engines.base import PROBE
from himl_cli.workspaces.local.launch_request import (
    TRY_VARIABLE,
    WITHOUT_GPUS,
    LaunchRequest,
    job_command,
    job_environment,
    plan_from_json,
    rank_environments,
    request_from_json,
)
from himl_cli.workspaces.local.log_times import LEAST_GAP, LONGEST_GAP, LogTimes
from himl_cli.workspaces.local.ranks import Ends, Rank, RankEnd, end_spares, start_spare
from himl_cli.workspaces.local.run_folder import ENVIRONMENT, WAITING, RunFolder
from himl_cli.workspaces.local.run_process import (
    CANCELED,
    PASSED,
    TERMINATED,
    RunProcess,
    read_request,
    report,
    setup_outcome,
)
from himl_cli.workspaces.local.run_store import Outcome, RunStore, now_ms, put_pairs
from himl_cli.workspaces.local.setup_lines import SETUP_PYTHON
from himl_cli.workspaces.local.shim import become_subreaper, children_of
from himl_cli.workspaces.local.staging import JobFiles, Stopped
from himl_cli.workspaces.local.system_metrics import ENABLED, sampling
from himl_cli.workspaces.local.tracking.tracking_server import TrackingServer

if TYPE_CHECKING:
    from himl_cli.workspaces.local.claims import JobClaim

POLL_SECONDS = 0.1
POLL_SECONDS_IF_WOKEN = 1.0  # where the kernel reports a request to cancel
POLL_SECONDS_IF_SHARED = 6.0  # on a network file system, for three calls of stat
POLL_SECONDS_OF_ENGINE = 2.0  # for two calls of stat, as the workspace is on a file system that many jobs share
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # before the second local attempt, and at most; each is twice the last
WHOLE_SECONDS = 30.0  # for another process to record the end of the parent run after its last child
# Signals for the ranks, each with the seconds since the decision to stop. As for Ctrl-C: SIGINT, SIGTERM after 10 s,
# SIGKILL after 5 s more
CANCEL_SIGNALS = ((0.0, "INT"), (10.0, "TERM"), (15.0, "KILL"))
STOP_SIGNALS = ((0.0, "TERM"), (5.0, "KILL"))
SECONDS_TO_RECORD = 15.0  # between SIGKILL and the end of an engine's job
RANK_FAILED = "a rank failed"
SECONDS_TO_READ = 2.0  # after the job's end, for its environment, since a driver or a disk may hang


class Supervisor(RunProcess):
    """Records one job, stages its files, starts and watches its ranks, and records its end."""

    def __init__(self, request: LaunchRequest) -> None:
        self._files = JobFiles(request, RunFolder(Path(request.run_folder)))
        super().__init__(request.run, request.run_folder, self._files.cwd, request.spec, again=request.again)
        self._request = request
        self._ends: Ends = queue.SimpleQueue()
        self._reading: threading.Thread | None = None  # what the job runs on
        self._signals: list[str] = []  # that the engine sent for the ranks
        self._claim: JobClaim | None = None
        self._ranks = self._new_ranks()  # their shims load while the run is recorded and its files are staged
        end_spares()

    def work(self, store: RunStore) -> Outcome:
        try:
            return self._work(store)
        finally:
            for rank in self._ranks:  # which a job that waits starts later
                rank.close()

    def _work(self, store: RunStore) -> Outcome:
        run_id, spec = self.folder.run_id, self._request.spec
        if self.is_stopped():
            raise Stopped
        if self._again:
            from himl_cli.workspaces.local.metric_store import begin_attempt

            begin_attempt(store.database, run_id)
        self._files.stage(is_stopped=self.is_stopped)
        attempt = self._files.attempt
        if attempt > 1:
            store.tag(run_id, {LAST_ATTEMPT: str(attempt)})
        if (failed := setup_outcome(self._files.logs[0])) is not None:
            return failed
        if spec.waits and not self._has_claim(store):
            return Outcome(RunStatus.canceled, TERMINATED if self._terminated else self.folder.why_canceled())
        tracking = TrackingServer(
            store.database,
            run_id,
            artifacts_of=lambda name: RunFolder(self.folder.path.parent / name).artifacts,
            new_child_id=lambda: new_run_id(spec.experiment),
            is_shared=self._request.nodes > 1,
        )
        try:
            base = job_environment(self._request, os.environ, self._files.cwd)

            def environment(rank: str) -> dict[str, str]:
                env = base if "MLFLOW_TRACKING_URI" in spec.env else tracking.environment(base, rank)
                env = with_snapshot_first(env | {TRY_VARIABLE: str(attempt), **spec.env}, spec.editables)
                return env | (self._claim.variables if self._claim else WITHOUT_GPUS if spec.gpus == 0 else {})

            env = environment("0")
            store.start(run_id)
            if spec.engine and spec.parent:
                store.start_parent(spec.parent)
            began = now_ms()
            self._start_ranks(environment)
            for number in PASSED if spec.engine else ():
                signal.signal(number, self.note_signal)
            report("started")
            self._reading = threading.Thread(target=_record_environment, args=(self.folder, spec, env), daemon=True)
            self._reading.start()
            logs, gap = self._files.logs, LEAST_GAP
            if spec.engine:  # many jobs may share the file system
                logs, gap = logs[:1], LONGEST_GAP
            times = LogTimes(self.folder, logs, attempt, gap)
            tracking.serve()
            is_sampled = not spec.no_system_metrics and ENABLED not in env
            first = self._ranks[0]
            samples = sampling(self.folder.path, env, lambda: first.parent, began)
            with samples if is_sampled else contextlib.nullcontext():
                outcome = self._outcome_of_ranks(*self._watch(times))
            if self._claim is not None and not spec.retries:  # before the files are stored, which takes no GPU
                self._claim.release()
        finally:  # a failure after the script's end cannot change its status, so it is added to the reason
            problem = ""
            try:
                if self._files.collect():
                    problem = self._doubt(store)
                if self._files.omitted:
                    problem = f"links that lead out of the project are not saved: {named(self._files.omitted)}"
            except OSError as err:
                where = err.filename or self.folder.code
                problem = f"not all of its outputs could be saved: {err.strerror}: '{where}'"
            try:
                tracking.close()
            except (OSError, HimlError) as err:
                problem = problem or f"the tracking server did not close cleanly: {err}".rstrip(".")
        reason = "; ".join(part for part in (outcome.reason, problem) if part)
        return Outcome(outcome.status, reason, outcome.exit_code)

    def _has_claim(self, store: RunStore) -> bool:
        """Whether the job has what it waits for. False if it is to stop before."""
        if self._claim is not None:  # of an earlier attempt
            return True
        from himl_cli.workspaces.local.claims import JobClaim

        run_id, claim = self.folder.run_id, JobClaim(self.folder.path, self._request.spec, os.environ, self._ends)

        def note_waiting() -> None:
            (self.folder.path / WAITING).touch()
            store.requeue(run_id)
            report("started", waits=claim.reason_to_wait())

        self._is_woken()
        if not claim.wait(self.is_stopped, note_waiting):
            return False
        self._claim = claim
        self._ranks = self._new_ranks()
        store.tag(run_id, {GPUS: claim.shown})
        (self.folder.path / WAITING).unlink(missing_ok=True)
        return True

    def _is_woken(self) -> bool:
        """Whether a request to cancel wakes this process from now on."""
        if sys.platform == "linux" and self._handle is not None:
            import fcntl

            signal.signal(signal.SIGIO, lambda number, frame: self._ends.put(None))
            with contextlib.suppress(OSError):
                changes = fcntl.DN_CREATE | fcntl.DN_RENAME | fcntl.DN_MULTISHOT
                fcntl.fcntl(self._handle, fcntl.F_NOTIFY, changes)
                return True
        return False

    def _doubt(self, store: RunStore) -> str:
        """The remark that results of this run, which is in place, may be those of others. Empty without others."""
        others = store.others_in_folder(self.folder.run_id, str(self._files.cwd))
        folders = {each: RunFolder(self.folder.path.with_name(each)) for each, _ in others}
        names = [each for each, ended in others if ended or folders[each].may_be_supervised()]
        return f"the results may include files of {named(names)}, which ran in the same folder then" if names else ""

    def outcome_to_record(self, store: RunStore, outcome: Outcome) -> Outcome | None:
        """Restart a failed job up to its number of retries. An engine with a queue restarts it itself, knows whether
        the script requeued its job, and gives the reason of a termination at the latest once the job has ended."""
        engine = self._request.spec.engine
        if engine is None or (job := engine_named(engine.name).own_job()) is None:
            return self._outcome_of_attempts(store, outcome)
        is_terminated = outcome.reason == TERMINATED
        if outcome.status is not RunStatus.canceled:
            reason = job.reason_to_stop(engine.grace, engine.grace if is_terminated else 0.0)
            if reason is None:
                store.end_attempt(self.folder.run_id, outcome.text)
                return None
            outcome = replace(outcome, reason=reason or TERMINATED) if is_terminated else outcome
        if outcome.status is not RunStatus.failed or self._files.retries >= self._request.spec.retries:
            return outcome
        self._files.note_retry()
        store.end_attempt(self.folder.run_id, outcome.text)
        return self.restart(store, outcome, job.requeue)

    def _outcome_of_attempts(self, store: RunStore, outcome: Outcome) -> Outcome:
        for number in range(self._request.spec.retries):
            if outcome.status is not RunStatus.failed or self._terminated:
                break
            deadline = time.monotonic() + min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**number)
            while not self.is_stopped() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            store.end_attempt(self.folder.run_id, outcome.text)
            # The first attempt has read what was piped in
            stdin = "" if self._request.stdin.isdigit() else self._request.stdin
            self._request, self._again = replace(self._request, again=True, stdin=stdin), True
            self._files, self._ends = JobFiles(self._request, self.folder), queue.SimpleQueue()
            self._ranks = self._new_ranks()
            outcome = self._outcome(store)
        return outcome

    def note_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            super().note_signal(number, frame)
        else:
            self._signals.append(signal.Signals(number).name.removeprefix("SIG"))
        self._ends.put(None)

    def after_the_end(self, store: RunStore) -> None:
        with contextlib.suppress(OSError, ValueError):  # the copies stay
            self._files.drop_shared()
        parent, deadline = self._request.spec.parent, time.monotonic() + WHOLE_SECONDS
        while self._request.spec.engine and parent:
            from himl_cli.workspaces.local.controller import end_if_last

            with contextlib.suppress(HimlError, OSError):  # the next command that reads the sweep records its end
                end_if_last(store, RunFolder(self.folder.path.with_name(parent)))
                if any(store.open_children([parent])) or (whole := store.get(parent)) is None or whole.status.is_final:
                    return
            # Another process is recording its end, and this one notifies the webhook
            if self._request.spec.webhook is None or time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)

    def before_the_end(self, store: RunStore) -> None:
        if self._claim is not None:
            self._claim.release()
        # After the script, which may log these names in another form (1 and 1.0), since parameters cannot change
        if self._request.values:
            with store.database.writing() as connection:
                put_pairs(connection, "parameters", self.folder.run_id, self._request.values, rule="IGNORE")

    def _new_ranks(self) -> list[Rank]:
        """The ranks of the next attempt, none for a job that waits until it has its claim."""
        stdin, claim = self._request.stdin, self._claim
        if self._request.spec.waits and claim is None:
            return []
        if self._request.nodes > 1:
            return [engine_of(self._request.spec).ranks_of_nodes(self._request, self._files.logs[0], self._ends)]
        ranks = []
        for number, log in enumerate(self._files.logs):
            source = stdin if number == 0 or not stdin.isdigit() else ""
            ranks.append(Rank(number, source, log, self._ends, claim.handle if claim else None))
        if stdin.isdigit():
            os.close(int(stdin))  # the writer of the pipe must notice when the script closes it
        return ranks

    def _start_ranks(self, environment: Callable[[str], Mapping[str, str]]) -> None:
        """Start all ranks. *environment* returns the variables of a rank."""
        command, cwd = job_command(self._request), self._files.cwd
        if self._request.nodes > 1:
            return self._ranks[0].start(command, environment(self._ranks[0].name), cwd)
        for number, (rank, own) in enumerate(zip(self._ranks, rank_environments(self._request), strict=True)):
            rank.start(command, {**environment(str(number)), **own}, cwd, tty=self._request.spec.tty)

    def _watch(self, times: LogTimes) -> tuple[list[RankEnd], str]:
        """Wait for all ranks, noting the sizes of their logs, and stop them in steps if there is a reason. Returns
        their ends, and the reason."""
        ends: list[RankEnd] = []
        stopping, stop, sent, passed = 0.0, "", 0, 0
        poll = POLL_SECONDS_IF_WOKEN if self._is_woken() else POLL_SECONDS
        poll = POLL_SECONDS_OF_ENGINE if self._request.spec.engine else poll
        poll = poll if is_local_folder(self.folder.path) else POLL_SECONDS_IF_SHARED
        limit = self._request.spec.max_seconds
        deadline = time.monotonic() + limit if limit else None
        try:
            while len(ends) < (self._request.rank_count or 1):
                left = poll if deadline is None else deadline - time.monotonic()
                pause = POLL_SECONDS if stop else max(0.001, min(poll, left))
                with contextlib.suppress(queue.Empty):
                    ends += filter(None, [self._ends.get(timeout=pause)])
                times.note()
                for word in self._signals[passed:]:
                    passed += 1
                    for rank in self._ranks:
                        rank.send(word)
                now = time.monotonic()
                if not stop:
                    stop, stopping = self._reason_to_stop(ends, deadline), now
                signals = CANCEL_SIGNALS if stop == CANCELED else STOP_SIGNALS
                if stop == TERMINATED and self._request.spec.engine:
                    left = self._request.spec.engine.grace - SECONDS_TO_RECORD
                    signals = (STOP_SIGNALS[0], (max(STOP_SIGNALS[1][0], left), "KILL"))
                while stop and sent < len(signals) and now - stopping >= signals[sent][0]:
                    for rank in self._ranks:
                        rank.send(signals[sent][1])
                    sent += 1
        finally:
            for rank in self._ranks:
                rank.close()
            times.note(now=True)
            if self._reading is not None:  # it may ask an interpreter, which is no adopted process
                self._reading.join(SECONDS_TO_READ)
            _end_adopted()
        return ends, stop

    def _reason_to_stop(self, ends: list[RankEnd], deadline: float | None) -> str:
        if self._terminated:
            return TERMINATED
        if self.is_canceled():
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
            reason += f"; the disk of '{self.folder.path}' is full"
        return Outcome(RunStatus.failed, reason, code)


def _record_environment(folder: RunFolder, spec: JobSpec, env: Mapping[str, str]) -> None:
    """Write what the job runs on to its folder. Failures do not affect the run."""
    from himl_cli.workspaces.local.gpus import VISIBLE, driver_facts

    if spec.words_before:
        found = RunEnvironment(problem=f"the job runs in '{spec.words_before}'", machine=machine_facts())
    else:
        found = environment_of(spec.python, env.get("PYTHONPATH", ""))
    with contextlib.suppress(OSError, HimlError):
        folder.write(ENVIRONMENT, to_document(found))
        if gpus := driver_facts(env.get(VISIBLE)):
            folder.write(ENVIRONMENT, to_document(replace(found, machine={**found.machine, **gpus})))


def _end_adopted() -> None:
    """Kill processes that became children of this one because their shim was killed (Linux, after `become_subreaper`).
    All ranks must be closed."""
    if sys.platform == "win32":
        return
    deadline = time.monotonic() + 2.0
    while (adopted := children_of(os.getpid())) and time.monotonic() < deadline:
        for pid in adopted:
            with contextlib.suppress(ProcessLookupError):  # a thread of this process waited for it
                os.kill(pid, signal.SIGKILL)  # its own children are adopted in turn
        for pid in adopted:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def main() -> None:
    """Supervise the job on stdin. In an engine's queue, that may also be the controller of a sweep, the trial of an
    array's task, whose number is its argument, or the probe of `himl doctor`.

    The exit code shows the engine, and so the jobs that wait for this one, whether the run completed. It is 0 for a run
    that continues, since no engine requeues a job that fails at that moment.
    """
    atexit.register(gc.freeze)  # skips the garbage collection at exit, which takes 10 ms
    for record in (Entry, Snapshot, JobSpec, LaunchRequest, Run, Outcome):  # compile them before the request arrives
        types_of(record)
    mask_document("a value", "author")  # compiles the patterns of secrets, since this name contains `auth`
    document = read_request(start_spare)
    if not document:
        return  # `himl submit` has ended, or needs no supervisor here
    form = json.loads(document)
    if "probe" in form:
        probe = RunFolder(Path(form["probe"]))
        failed = setup_outcome(probe.path / "setup.log")
        found = {"node": platform.node(), "time": time.time(), "is_held": probe.is_supervised()}
        return probe.write(PROBE, {**found, "problem": failed.reason if failed else ""})
    try:
        process = _process_of(form, document)
    except HimlError as err:
        sys.exit(str(err))
    sys.exit(0 if process.run() in (RunStatus.completed, None) else 1)


def _process_of(form: Mapping[str, Any], document: str) -> RunProcess:
    if "controller" in form:
        from himl_cli.workspaces.local.controller import Controller

        return Controller(plan_from_json(form["controller"]))
    become_subreaper()
    request = _task_request(form) if "plan" in form else request_from_json(document)
    if request.spec.engine is None:  # it may have been started before its run
        os.chdir(request.run_folder)
        with open("supervisor.log", "ab") as stream:
            os.dup2(stream.fileno(), 2)
    python = os.environ.pop(SETUP_PYTHON, "")
    is_named = request.spec.engine.python if request.spec.engine else request.spec.python != sys.executable
    if python and not is_named:
        request = replace(request, spec=replace(request.spec, python=python))
    return Supervisor(request)


def _task_request(form: Mapping[str, Any]) -> LaunchRequest:
    """The request for the array task of this process."""
    from himl_cli.core.sampling import make_sampler
    from himl_cli.workspaces.local.sweep_plan import trial_request

    plan, index = plan_from_json(form["plan"]), form["first"] + int(sys.argv[1])
    values = make_sampler(plan.sweep)(index, ())
    assert values is not None, f"trial {index}"
    return replace(trial_request(plan, index, values), again=True)


if __name__ == "__main__":
    main()
