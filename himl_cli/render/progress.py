"""Progress as bars on stderr; only here are events drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from himl_cli.core.events import Event, Finished, Moved, Notice, Notify, Planned

if TYPE_CHECKING:
    from rich.progress import Progress

    from himl_cli.render.output import Output

NARROW = 60
"""Columns below which there is no room for a bar beside its numbers."""


@contextmanager
def observing(output: Output) -> Iterator[Notify]:
    """An observer that draws one bar for the whole transfer on a terminal's stderr, and says notices anywhere.

    Rich is imported at the first event that is drawn, so that commands without progress do not pay for it.
    """
    watcher = Watcher(output)
    try:
        yield watcher
    finally:
        watcher.close()


class Watcher:
    """Draws events. Safe to call after `close`, which takes the bar away."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._bar: Progress | None = None
        self._done = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._say(event.text)
        elif self._output.draws_progress:
            self._draw(event)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, text: str) -> None:
        if self._bar is None:
            self._output.notice(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def _draw(self, event: Planned | Moved | Finished) -> None:
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.start()
        task = self._bar.task_ids[0]
        if isinstance(event, Planned):
            self._bar.update(task, total=(self._bar.tasks[0].total or 0) + event.bytes)
        elif isinstance(event, Moved):
            self._bar.advance(task, event.bytes)
        else:
            self._done += 1
        self._bar.update(task, description=f"{self._done:,} file{'s' * (self._done != 1)}")


def _new_bar() -> Progress:
    """One bar for all files, gone when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn()]
    if console.width >= NARROW:
        columns[1:1] = [BarColumn(bar_width=None)]
        columns.append(TimeRemainingColumn(compact=True))
    bar = Progress(*columns, console=console, transient=True, expand=True)
    bar.add_task("", total=0)
    return bar
