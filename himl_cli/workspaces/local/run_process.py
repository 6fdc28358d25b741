"""A process that looks after one run from its record to its end: it holds the run's lock, and records the end whatever
happens."""

from __future__ import annotations

import contextlib
import json
import platform
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.jobs import MANY, JobSpec, Webhook
from himl_cli.core.logged import RunResults, results_with_steps, sweep_of
from himl_cli.core.processes import ProcessLock
from himl_cli.core.runs import DUE, NOT_SENT, NOTIFICATION, SENDING, SENT, Run, RunEnd, RunQuery, RunStatus
from himl_cli.workspaces.local.logged_values import read_results
from himl_cli.workspaces.local.run_folder import RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_store import Database, RunStore
from himl_cli.workspaces.local.staging import Stopped

CANCELED = "canceled"
TERMINATED = "its supervisor was told to terminate (SIGTERM), as when the machine shuts down"
# Why a run is refused: another process runs it, it is completed, it cannot be recorded
BUSY, DONE, DISK = "busy", "done", "disk"


@dataclass(frozen=True)
class Outcome(RunEnd):
    """How a run ended that a process of himl looked after."""

    exit_code: int | None = None

    @property
    def text(self) -> str:
        status = self.status.value.lower()
        return f"{status}: {self.reason}" if self.reason not in ("", status) else status


def with_recovery_id(new: Run) -> Run:
    """The run with the tag by which hi-ml finds its runs."""
    return replace(new, tags={**new.tags, "run_recovery_id": f"{new.experiment}:{new.id}"})


def read_request() -> str:
    """The document that this process was started with. From here on Ctrl-C and a closed terminal do not reach it."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    text = sys.stdin.read()
    sys.stdin.close()
    return text


def report(event: str, **facts: str) -> None:
    """Say it to the process that waits for the start; that one may be gone."""
    with contextlib.suppress(OSError, ValueError):  # a sitecustomize may have printed half a line before
        sys.stdout.write("\n" + json.dumps({"event": event, **facts}) + "\n")
        sys.stdout.flush()


def notify_of_end(store: RunStore, folder: RunFolder, webhook: Webhook) -> None:
    """Tell *webhook* how the run of *folder* ended, unless another process does; how that went becomes a tag of the
    run."""
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


def _children(store: RunStore, run: Run) -> list[Run]:
    return list(store.query(RunQuery(parent=run.id, archived=None)))


class RunProcess(ABC):
    """The run of this process, recorded as *new*, with its files in *cwd*. With *again*, a run that is on record and
    not completed is resumed; with *is_queued* it waited in a queue till now, and this may be its first attempt. The
    webhook of *spec* is told of the end."""

    def __init__(
        self,
        new: Run,
        run_folder: str,
        cwd: Path,
        spec: JobSpec | None = None,
        *,
        again: bool,
        is_queued: bool = False,
    ) -> None:
        self.folder = RunFolder(Path(run_folder))
        self._new = new
        self._spec = spec
        self._cwd = cwd
        self._again = again
        self._is_queued = is_queued
        self._terminated = False

    @abstractmethod
    def work(self, store: RunStore) -> Outcome:
        """Do what the run is for. Raises Stopped when `is_stopped` says so before anything runs."""

    def outcome_to_record(self, store: RunStore, outcome: Outcome) -> Outcome | None:
        """How the run ends where its work ended so; None where it goes on, or where another tells how it ended."""
        return outcome

    def has_begun(self, store: RunStore) -> bool:
        """Of a run that waited in a queue: whether there was an attempt before."""
        return False

    def after_the_end(self, store: RunStore) -> None:
        """What follows once the end is recorded."""
        return

    def before_the_end(self, store: RunStore) -> None:
        """What is recorded just before the end is. Raises HimlError; it is called again then."""
        return

    def run(self) -> RunStatus | None:
        """Reports `recorded`, then `started`; or `refused` alone, and nothing was done. Gives how the run ended, None
        where this was not its end."""
        lock, run_id = ProcessLock(self.folder.lock), self._new.id
        if not lock.take():
            message, hint = f"Run '{run_id}' is still in progress.", f"To stop it: himl runs cancel {run_id}"
            report("refused", why=BUSY, message=message, hint=hint)
            return None
        try:
            store = self._record()
        except (OSError, HimlError) as err:
            error = self._explain(err, "Cannot record the run")
            why = DONE if isinstance(error, BadUsage) else DISK
            report("refused", why=why, message=str(error), hint=error.hint)
            return None
        report("recorded")

        def note_termination(number: int, frame: object) -> None:
            self._terminated = True

        signal.signal(signal.SIGTERM, note_termination)
        if (outcome := self.outcome_to_record(store, self._outcome(store))) is not None:
            self._record_end(store, outcome)
            self.after_the_end(store)
        lock.release()  # whoever read the end may go on with the run while this process still exits
        report("started")
        spec = self._spec
        if outcome is not None and spec is not None and spec.webhook is not None:
            try:
                notify_of_end(store, RunFolder(self.folder.path.with_name(spec.parent or run_id)), spec.webhook)
            except Exception:  # the run has ended as it did
                traceback.print_exc()
        return None if outcome is None else outcome.status

    def is_stopped(self) -> bool:
        return self._terminated or self.folder.is_cancel_asked()

    def _record(self) -> RunStore:
        """Write the run into the workspace. Raises BadUsage where there is nothing left to do."""
        self.folder.reserve_space()
        store = RunStore(Database(self.folder.workspace / "workspace.db", create=True))
        known = store.get(self._new.id) if self._again else None
        was_canceled = self._is_queued and self.folder.is_cancel_asked()
        if known is not None and (known.status is RunStatus.completed or (was_canceled and known.status.is_final)):
            self.folder.free_reserve()
            hint = f"See himl runs show {known.id}"
            raise BadUsage(f"Run '{known.id}' is already {known.status.value.lower()}.", hint=hint)
        if self._again and not self._is_queued:
            self.folder.allow_to_run()
        if known is not None:
            self._again = not self._is_queued or self.has_begun(store)
            store.reopen(known.id)
            if due := self._new.tags.get(NOTIFICATION):
                store.tag(known.id, {NOTIFICATION: due})
            else:
                store.delete_tag(known.id, NOTIFICATION)
        else:
            store.add(with_recovery_id(self._new), folder=str(self._cwd))
        return store

    def _outcome(self, store: RunStore) -> Outcome:
        try:
            return self.work(store)
        except Stopped:
            if not self._terminated:
                return Outcome(RunStatus.canceled, self.folder.why_canceled())
            reason = TERMINATED
        except (OSError, HimlError) as err:
            reason = str(self._explain(err, "cannot lay or keep the job's files")).rstrip(".")
        except BaseException as err:  # whatever happens, the run must not stay open
            traceback.print_exc()
            reason = f"himl itself failed: {type(err).__name__}: {err}"
        return Outcome(RunStatus.failed, reason)

    def _explain(self, err: OSError | HimlError, what: str) -> HimlError:
        return err if isinstance(err, HimlError) else explain_disk_error(err, what, self.folder.path)

    def _record_end(self, store: RunStore, outcome: Outcome) -> None:
        """Write the end, using the space set aside for it; where even that fails, the free lock says 'failed' to every
        reader. Nested runs that the script left open end as the job did."""
        run_id = self._new.id
        deadline = time.monotonic() + 30.0
        while True:
            try:
                self.folder.free_reserve()
                for nested in store.open_runs_of(run_id):
                    if nested != run_id:
                        store.end(nested, outcome.status, reason="the job ended")
                self.before_the_end(store)
                store.end(run_id, outcome.status, exit_code=outcome.exit_code, reason=outcome.reason)
                return
            except (OSError, HimlError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
