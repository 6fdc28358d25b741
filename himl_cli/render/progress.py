"""Output on stderr while a command works: progress bars, notices, log records."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import AbstractContextManager
from threading import Lock
from typing import TYPE_CHECKING, TextIO

from himl_cli.core.events import Event, Notice
from himl_cli.core.files import warned
from himl_cli.core.redaction import redact
from himl_cli.render.output import Format, Output, one_line

if TYPE_CHECKING:
    from himl_cli.render.bars import Bars

OWN_LOGGER = "himl_cli"


class Watcher(AbstractContextManager["Watcher"]):
    """An observer that prints notices, and draws bars for transfers and counted items on a terminal's stderr. Events
    may come from several threads. `close`, or the end of the context, removes the bars. Then only notices are printed.

    It imports Rich at the first bar, so that commands without progress avoid the delay.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._bars: Bars | None = None
        # Check stderr before a bar starts, since below a bar of Rich 13 and 14 it is not a terminal
        self._may_draw = output.format is Format.human and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._turn = Lock()

    def __call__(self, event: Event) -> None:
        with self._turn:
            if isinstance(event, Notice):
                if self._bars is None:
                    self._output.notice(event.text)
                else:
                    self._bars.say(one_line(redact(event.text)))
            elif self._may_draw:
                if self._bars is None:
                    from himl_cli.render.bars import Bars

                    self._bars = Bars()
                self._bars.draw(event)

    def close(self, *_: object) -> None:
        with self._turn:
            self._may_draw = False
            if self._bars is not None:
                self._bars.stop()
                self._bars = None

    __exit__ = close


class LogFormatter(logging.Formatter):
    """Removes secrets from every record of a handler, including its traceback. If it `is_plain`, himl's own records are
    `himl: …`, on one line."""

    is_plain = False

    def format(self, record: logging.LogRecord) -> str:
        if self.is_plain and record.name.partition(".")[0] == OWN_LOGGER:
            return f"himl: {one_line(redact(record.getMessage()))}"
        return redact(super().format(record))


class StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic since Python 3.11
    """Writes to the current `sys.stderr`, which a progress bar replaces, so that lines appear above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


def start_logging(*, verbose: bool) -> None:
    """Send log records to stderr: warnings of any library, and with *verbose* all of himl's records and INFO records
    of libraries."""
    warned.clear()  # a command repeats the warnings of earlier ones in this process
    handler = StderrHandler()
    formatter = LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    formatter.is_plain = not verbose
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger(OWN_LOGGER).setLevel(logging.DEBUG if verbose else logging.WARNING)
