"""Progress as bars on stderr; only here are events drawn."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.redaction import redact
from himl_cli.render.error_output import one_line
from himl_cli.render.output import Format

if TYPE_CHECKING:
    from himl_cli.render.bars import Bars
    from himl_cli.render.output import Output


@contextmanager
def observing(output: Output) -> Iterator[Notify]:
    """An observer that draws a bar for transfers, and one for what is counted, on a terminal's stderr, and says notices
    anywhere.

    Rich is imported at the first event that is drawn, so that commands without progress do not pay for it.
    """
    watcher = Watcher(output)
    try:
        yield watcher
    finally:
        watcher.close()


class Watcher:
    """Draws events, of several threads too. `close` takes the bars away; after it nothing is drawn, and notices are
    still said."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._bars: Bars | None = None
        self._is_closed = False
        self._turn = Lock()

    def __call__(self, event: Event) -> None:
        with self._turn:
            if isinstance(event, Notice):
                if self._bars is None:
                    self._output.notice(event.text)
                else:
                    self._bars.say(one_line(redact(event.text)))
            elif self._bars is not None:  # then Rich 13 and 14 have stderr be no terminal
                self._bars.draw(event)
            elif (
                not self._is_closed
                and self._output.format is Format.human
                and sys.stderr.isatty()
                and os.environ.get("TERM") != "dumb"
            ):
                from himl_cli.render.bars import Bars

                self._bars = Bars()
                self._bars.draw(event)

    def close(self) -> None:
        with self._turn:
            self._is_closed = True
            if self._bars is not None:
                self._bars.stop()
                self._bars = None
