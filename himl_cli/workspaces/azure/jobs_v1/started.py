"""Whether a job runs after all, where its submission broke off: the service may have carried out what it did not
answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from himl_cli.core.errors import HimlError, Interrupted
from himl_cli.core.events import Notice, Notify
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.before_creation import say_nothing_runs
from himl_cli.workspaces.azure.jobs.sending import tells
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound
from himl_cli.workspaces.azure.runs.history import RunHistory


@contextmanager
def settled(connection: Connection, run_id: str, notify: Notify) -> Iterator[None]:
    """Within it, the run *run_id* is made, by requests of which any may fail once the job has started.

    A failure counts only where there is no such run; where there is one, the job was submitted, and *notify* hears what
    failed. An interruption always ends in Interrupted, which says whether the job runs.
    """
    try:
        yield
    except KeyboardInterrupt as err:
        raise _interrupted(connection, run_id) from err
    except HimlError as err:
        if not _is_known_to_exist(connection, run_id, err):
            raise
        notify(Notice(f"The job was submitted, but then: {err}"))


def _interrupted(connection: Connection, run_id: str) -> Interrupted:
    try:
        is_there = _exists(connection, run_id)
    except HimlError:
        return Interrupted(
            f"Interrupted; it is not known whether the job {run_id} was submitted.",
            hint=f"See: himl runs show {run_id}",
        )
    if is_there:
        return Interrupted(
            f"Interrupted; the job {run_id} was submitted already.", hint=f"To stop it: himl runs cancel {run_id}"
        )
    return Interrupted("Interrupted; no job was submitted.")


def _is_known_to_exist(connection: Connection, run_id: str, trouble: HimlError) -> bool:
    """Whether there is the run; *trouble*, which led here, says so where there is none, and how to find out where
    nobody knows."""
    try:
        is_there = _exists(connection, run_id)
    except HimlError:
        trouble.hint = f"{trouble.hint} {tells(run_id)}".strip()
        return False
    if not is_there:
        say_nothing_runs(trouble)
    return is_there


def _exists(connection: Connection, run_id: str) -> bool:
    try:
        RunHistory(connection).get(run_id)
    except ServiceNotFound:
        return False
    return True
