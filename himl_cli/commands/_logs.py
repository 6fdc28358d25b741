"""Printing logs: bytes as they are, or lines of a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from himl_cli.commands._session import Session
from himl_cli.core.errors import BadUsage
from himl_cli.core.runs import Run
from himl_cli.render.output import Format
from himl_cli.services.run_logs import follow_log, read_log, watching


def check_form(form: Format, attempt: int | None, *, follow: bool) -> None:
    """Raises BadUsage for a JSON document that would have no end, and for a try that no job has."""
    if attempt is not None and attempt < 1:
        raise BadUsage(f"--try {attempt}: tries count from 1.")
    if follow and form is Format.json:
        raise BadUsage(
            "--follow and --json do not go together: a JSON document has an end.", hint="Leave one of them out."
        )


def print_logs(session: Session, runs: Sequence[Run], name: str | None, attempt: int | None, *, follow: bool) -> None:
    """Print the log of each of *runs*. Raises NotFound where one has none, Interrupted when *follow* is cut short."""
    if follow and len(runs) > 1:
        raise BadUsage(f"--follow takes one run, and {len(runs)} are meant.", hint="Give one run id.")
    if session.output.format is Format.json:
        _as_json(session, runs, name, attempt)
        return
    for run in runs:
        if len(runs) > 1:
            session.output.notice(f"==> {run.id} <==")
        read = follow_log if follow else read_log
        with watching(run.id) if follow else nullcontext():
            for piece in read(session.workspace, run.id, name, session.notify, attempt=attempt):
                session.output.write(piece)
                session.output.flush()


def _as_json(session: Session, runs: Sequence[Run], name: str | None, attempt: int | None) -> None:
    """Bytes that are no UTF-8 become the lone surrogates by which Python writes them."""
    logs = [b"".join(read_log(session.workspace, run.id, name, session.notify, attempt=attempt)) for run in runs]
    session.output.json(
        [{"run": run.id, "log": log.decode("utf-8", "surrogateescape")} for run, log in zip(runs, logs, strict=True)]
    )
