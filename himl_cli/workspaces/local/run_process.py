"""A process that supervises one run from its record to its end. It holds the run's lock, and always records the end."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import shutil
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from himl_cli.core.documents import to_document
from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.jobs import JobSpec
from himl_cli.core.locks import ProcessLock
from himl_cli.core.logged import RunResults, results_with_steps, sweep_of
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.core.sweeps import MANY
from himl_cli.core.webhook import DUE, NOT_SENT, NOTIFICATION, SENDING, SENT, Webhook
from himl_cli.workspaces.local.code_store import CodeStore
from himl_cli.workspaces.local.logged_values import read_results
from himl_cli.workspaces.local.run_folder import END, RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_store import Database, Outcome, RunStore, now_ms
from himl_cli.workspaces.local.setup_lines import SETUP_FAILED, SETUP_LOG
from himl_cli.workspaces.local.staging import Stopped, copied_code

# Signals that a script may get from its engine
PASSED = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
CANCELED = "canceled"
TERMINATED = "its supervisor received SIGTERM, as at a shutdown of the machine"
# Reasons to refuse a run: another process runs it, it is completed, it cannot be recorded
BUSY, DONE, DISK = "busy", "done", "disk"
REQUEUE_SECONDS = 60.0  # until an engine terminates a requeued job
PATIENCE, LONGEST_PATIENCE = 2.0, 24 * 3600.0  # seconds to record an end that the run's folder has, or has not


def with_recovery_id(new: Run) -> Run:
    """The run with the tag that hi-ml uses to find its runs."""
    return replace(new, tags={**new.tags, "run_recovery_id": f"{new.experiment}:{new.id}"})


def read_request(prepare: Callable[[], None] = lambda: None) -> str:
    """The request on stdin. From now on, this process ignores Ctrl-C and the closing of the terminal. If the request is
    not there yet, it calls *prepare* (POSIX)."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for name in PASSED:  # until the script has started
        signal.signal(name, lambda number, frame: None)
    if sys.platform != "win32" and not select.select([sys.stdin], [], [], 0)[0]:
        prepare()
    text = sys.stdin.read()
    sys.stdin.close()
    return text


def setup_outcome(log: Path) -> Outcome | None:
    """The outcome of a run if a line of `setup` failed. Appends the output of these lines to *log*. The batch script
    sets the variables: a file with that output, and the exit code and the line that failed."""
    output, failed = (os.environ.pop(name, "") for name in (SETUP_LOG, SETUP_FAILED))
    with contextlib.suppress(OSError):
        if output and os.path.getsize(output):
            with open(output, "rb") as source, log.open("ab") as target:
                shutil.copyfileobj(source, target)
        os.unlink(output)
    if not failed:
        return None
    code, _, line = failed.partition(" ")
    return Outcome(RunStatus.failed, f"the setup line '{line}' ended with exit code {code}", int(code))


def report(event: str, **facts: str) -> None:
    """Report *event* to the process that waits for the start, if it still exists."""
    with contextlib.suppress(OSError, ValueError):
        # The first newline ends a partial line that a sitecustomize may have printed
        sys.stdout.write("\n" + json.dumps({"event": event, **facts}) + "\n")
        sys.stdout.flush()


def notify_of_end(store: RunStore, folder: RunFolder, webhook: Webhook) -> None:
    """Notify *webhook* of the end of the run of *folder*, unless another process does. Records the result as a tag."""
    run_id, tags = folder.run_id, {word: f"{word}: {webhook.host}" for word in (DUE, SENDING, SENT)}
    run = store.get(run_id)
    if run is None or not run.status.is_final or run.tags.get(NOTIFICATION) != tags[DUE]:
        return
    from himl_cli.workspaces.webhook import post, run_document

    children = _children(store, run) if MANY in run.tags else []

    def results(runs: Sequence[Run], **asked: Any) -> Mapping[str, RunResults]:
        return read_results(store.database, folder.path.parent, [each.id for each in runs], whole=False, **asked)

    sweep = sweep_of(run, children, partial(results_with_steps, steps_of=partial(_children, store), results=results))
    logged = results([run], wanted=lambda name: True)[run_id]
    document = run_document(run, platform.node(), logged, children, sweep)
    if store.replace_tag(run_id, NOTIFICATION, tags[DUE], tags[SENDING]):
        problem = post(webhook, run, document)
        store.replace_tag(run_id, NOTIFICATION, tags[SENDING], f"{NOT_SENT}: {problem}" if problem else tags[SENT])


def keep_code(store: RunStore, folder: RunFolder) -> None:
    """Move the unchanged code of an ended run to the store, unless one of its children goes on. Raises OSError,
    ValueError and HimlError for records that cannot be read."""
    places = {place: snapshot.source for place, snapshot in copied_code(folder).items()}

    def is_ended() -> bool:
        return all(run.status.is_final for run in store.many(store.descendants(folder.run_id)))

    CodeStore(folder.workspace).keep(places, folder.lock, is_ended)


def _children(store: RunStore, run: Run) -> list[Run]:
    return list(store.query(RunQuery(parent=run.id, archived=None)))


class RunProcess(ABC):
    """Supervises the run *new*, with its files in *cwd*. With *again*, it resumes a recorded run that is not completed.
    A run of an engine has waited in a queue, and this may be its first attempt. Notifies the webhook of *spec* of the
    end."""

    def __init__(self, new: Run, run_folder: str, cwd: Path, spec: JobSpec | None = None, *, again: bool) -> None:
        self.folder = RunFolder(Path(run_folder))
        self._new = new
        self._spec = spec
        self._cwd = cwd
        self._again = again
        self._is_queued = spec is not None and spec.engine is not None
        self._terminated = False
        self._handle: int | None = None  # of the run's folder, whose path may change

    @abstractmethod
    def work(self, store: RunStore) -> Outcome:
        """Execute the run. Raises Stopped if `is_stopped` is true before anything runs."""

    def outcome_to_record(self, store: RunStore, outcome: Outcome) -> Outcome | None:
        """The outcome of the run after its work, None if it continues or another process records it."""
        return outcome

    def restart(self, store: RunStore, outcome: Outcome, requeue: Callable[[], str]) -> Outcome | None:
        """Make the engine restart the job of this process (`OwnJob.requeue`) for the run. Returns None, or the outcome
        to record if it does not."""
        store.requeue(self.folder.run_id)
        self._terminated = False
        if problem := requeue():
            return replace(outcome, reason=f"{outcome.reason}; the job was not restarted: {problem}")
        deadline = time.monotonic() + REQUEUE_SECONDS
        while not self._terminated and time.monotonic() < deadline:  # Slurm does not requeue a job that ends earlier
            time.sleep(0.1)
        return None

    def after_the_end(self, store: RunStore) -> None:
        """Hook after the end is recorded."""
        return

    def before_the_end(self, store: RunStore) -> None:
        """Hook just before the end is recorded, which is called again after a HimlError."""
        return

    def run(self) -> RunStatus | None:
        """Supervise the run. Reports `recorded`, then `started`, or only `refused` without doing anything. Returns the
        final status of the run, None if the run has not ended."""
        lock, run_id = ProcessLock(self.folder.lock), self._new.id
        if not lock.take():
            message, hint = f"Run '{run_id}' is still in progress.", f"To stop it: himl runs cancel {run_id}"
            report("refused", why=BUSY, message=message, hint=hint)
            return None
        try:
            lock.sign()
            store = self._record()
        except (OSError, HimlError) as err:
            error = self._explain(err, "Cannot record the run")
            why = DONE if isinstance(error, BadUsage) else DISK
            report("refused", why=why, message=str(error), hint=error.hint)
            sys.stderr.write(f"{error}\n")  # nothing reads the report of a job that waited in a queue
            lock.release()
            return None
        report("recorded")

        signal.signal(signal.SIGTERM, self.note_signal)
        if (outcome := self.outcome_to_record(store, self._outcome(store))) is not None:
            self._record_end(store, outcome)
            self.after_the_end(store)
            store.database.is_guarded = True  # from now on, another machine may record
        lock.release()  # others may use the run while this process exits
        report("started")
        spec = self._spec
        if outcome is not None and spec is not None and spec.webhook is not None:
            try:
                notify_of_end(store, RunFolder(self.folder.path.with_name(spec.parent or run_id)), spec.webhook)
            except Exception:  # a failed notification does not change the status
                traceback.print_exc()
        if outcome is not None and not self._new.parent:
            with contextlib.suppress(OSError, HimlError, ValueError):  # the copies stay
                keep_code(store, self.folder)
        return None if outcome is None else outcome.status

    def note_signal(self, number: int, frame: object) -> None:
        self._terminated = True

    def is_stopped(self) -> bool:
        return self._terminated or self.is_canceled()

    def is_canceled(self) -> bool:
        """Whether a user asked to cancel the run, or deleted its folder, which has no name then."""
        with contextlib.suppress(OSError):  # a failure of the file system is no evidence
            if self._handle is not None and os.fstat(self._handle).st_nlink == 0:
                return True
        return self.folder.is_cancel_asked()

    def _record(self) -> RunStore:
        """Record the run in the workspace. Raises BadUsage if it is already completed."""
        self.folder.reserve_space()
        if os.open in os.supports_dir_fd:
            self._handle = os.open(self.folder.path, os.O_RDONLY)
        store = RunStore(Database(self.folder.workspace / "workspace.db", create=True))
        store.database.check_alone(self._new.id)
        known = store.get(self._new.id) if self._again else None
        was_canceled = self._is_queued and self.folder.is_cancel_asked()
        if known is not None and (known.status is RunStatus.completed or (was_canceled and known.status.is_final)):
            self.folder.free_reserve()
            raise BadUsage(
                f"Run '{known.id}' is already {known.status.value.lower()}.", hint=f"See himl runs show {known.id}"
            )
        if self._again and not self._is_queued:
            self.folder.allow_to_run()
        if known is not None:
            self._again = not self._is_queued or known.started is not None
            store.resume(known.id)
            store.tag(known.id, {NOTIFICATION: self._new.tags.get(NOTIFICATION)})
        else:
            store.add(replace(with_recovery_id(self._new), folder=str(self._cwd)))
        return store

    def _outcome(self, store: RunStore) -> Outcome:
        try:
            return self.work(store)
        except Stopped:
            if not self._terminated:
                return Outcome(RunStatus.canceled, self.folder.why_canceled())
            reason = TERMINATED
        except (OSError, HimlError) as err:
            reason = str(self._explain(err, "cannot write the job's files")).rstrip(".")
        except BaseException as err:  # the run must never stay open
            traceback.print_exc()
            reason = f"internal error of himl: {type(err).__name__}: {err}"
        return Outcome(RunStatus.failed, reason)

    def _explain(self, err: OSError | HimlError, what: str) -> HimlError:
        return err if isinstance(err, HimlError) else explain_disk_error(err, what, self.folder.path)

    def _record_end(self, store: RunStore, outcome: Outcome) -> None:
        """Record the end, using the reserved disk space: in the folder of the run, and in the database. If that is
        impossible, the next reader records it."""
        end = replace(outcome, ended=now_ms())
        is_noted, begun = False, time.monotonic()
        while True:
            with contextlib.suppress(OSError):
                self.folder.free_reserve()
            try:
                is_noted = is_noted or self._note(end)
                self.before_the_end(store)
                store.end_job(self._new.id, end)
                return
            except FileNotFoundError:  # its folder was deleted
                return
            except (OSError, HimlError):
                waited = time.monotonic() - begun
                if waited > (PATIENCE if is_noted else LONGEST_PATIENCE):
                    return traceback.print_exc()
                time.sleep(min(30.0, max(0.5, waited / 10)))

    def _note(self, end: Outcome) -> bool:
        """Write the end into the folder of the run, which may have been renamed. Raises OSError."""
        here = self._handle
        opened = None if here is None else partial(os.open, mode=0o666, dir_fd=here)
        part = f"{END}.part" if here is not None else str(self.folder.path / f"{END}.part")
        with open(part, "w", encoding="utf-8", opener=opened) as stream:
            json.dump(to_document(end), stream)
        os.replace(part, part.removesuffix(".part"), src_dir_fd=here, dst_dir_fd=here)
        return True
