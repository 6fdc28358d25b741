"""Log records on stderr, without secrets."""

from __future__ import annotations

import logging

from himl_cli.core.redaction import redact


class RedactingFilter(logging.Filter):
    """Guards every record of a handler: no secret is logged, whoever logs it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True


class RedactingFormatter(logging.Formatter):
    """Masks what a filter cannot reach: the traceback of a record."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def start_logging(*, verbose: bool) -> None:
    """Send log records to stderr: warnings of any library, and with *verbose* everything himl logs and its libraries' INFO."""
    handler = logging.StreamHandler()
    handler.addFilter(RedactingFilter())
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("himl_cli").setLevel(logging.DEBUG if verbose else logging.WARNING)
