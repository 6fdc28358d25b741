"""Log records on stderr, without secrets: himl's own warnings as plain lines for people, all else in a logger's
form."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from himl_cli.core.redaction import redact
from himl_cli.render.errors import one_line

OWN_LOGGER = "himl_cli"
RETRYING = ("himl_cli.workspaces.retry",)
"""Loggers that warn that a request is tried again."""


class RedactingFilter(logging.Filter):
    """Guards every record of a handler: no secret is logged, whoever logs it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True


class RedactingFormatter(logging.Formatter):
    """Masks what a filter cannot reach: the traceback of a record."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class PlainFormatter(RedactingFormatter):
    """Says what himl itself logs as `himl: …`, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name.partition(".")[0] != OWN_LOGGER:
            return super().format(record)
        return f"himl: {one_line(redact(record.getMessage()))}"


class StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]  # takes one since Python 3.11
    """Writes to what `sys.stderr` is at that moment: a progress bar puts itself in its place, so that lines come above
    it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


def start_logging(*, verbose: bool) -> None:
    """Send log records to stderr: warnings of any library, and with *verbose* everything himl logs and its libraries'
    INFO."""
    handler = StderrHandler()
    handler.addFilter(RedactingFilter())
    handler.setFormatter(
        (RedactingFormatter if verbose else PlainFormatter)("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger(OWN_LOGGER).setLevel(logging.DEBUG if verbose else logging.WARNING)


def leave_out_retries() -> None:
    """From now on say only in a debug log that requests are tried again: for a command that goes on for hours and tells
    itself when nobody answers."""
    if not logging.getLogger().isEnabledFor(logging.INFO):
        for name in RETRYING:
            logging.getLogger(name).setLevel(logging.ERROR)
