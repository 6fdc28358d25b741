"""Bars on stderr, drawn by Rich. Import this module only to draw one."""

from __future__ import annotations

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text
from rich.theme import Theme

from himl_cli.core.events import Counting, Event, Finished, Moved, Planned

COLOURS = Theme({"bar.complete": "cyan", "bar.finished": "green", "bar.back": "dim", "progress.data.speed": "none"})
"""Replacements for Rich's colours that are hard to see on a light or dark terminal, or that look like a failure."""
TASK = TaskID(0)  # the only one of a line


class Bars:
    """A line for file transfers and a line for counted items, each from its first event until `stop`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, theme=COLOURS)
        self._is_wide = self._console.width >= 60  # else a bar does not fit beside its numbers
        self._lines: list[Progress] = []
        self._files: Progress | None = None
        self._things: Progress | None = None
        self._ended = 0
        self._live = Live(
            get_renderable=lambda: Group(*(line.get_renderable() for line in self._lines)),
            console=self._console,
            transient=True,
        )
        self._live.start()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        self._live.stop()

    def draw(self, event: Event) -> None:
        """Draw the progress of transfers and of counted items. A new unit restarts the count."""
        if isinstance(event, Counting):
            if self._things is None:
                amount = TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.description}", markup=False)
                self._things = self._line(event.unit, amount, [_Rate(), _Left(compact=True)])
            if self._things.tasks[0].description != event.unit:
                self._things.reset(TASK, total=0, description=event.unit)
            _grow(self._things, event.total)
        elif isinstance(event, (Planned, Moved, Finished)):
            if self._files is None:
                last = [TimeRemainingColumn(compact=True)] if self._is_wide else []
                numbers = [DownloadColumn(), TransferSpeedColumn(), *last]
                self._files = self._line("0 files", TextColumn("{task.description}"), numbers)
            if isinstance(event, Planned):
                _grow(self._files, event.bytes)
            elif isinstance(event, Moved):
                self._files.advance(TASK, event.bytes)
            else:
                self._ended += 1
                self._files.update(TASK, description=f"{self._ended:,} file{'s' * (self._ended != 1)}")
        elif self._things is not None:
            self._things.advance(TASK, 1)

    def _line(self, title: str, first: ProgressColumn, numbers: list[ProgressColumn]) -> Progress:
        bar = [BarColumn(bar_width=None)] if self._is_wide else []
        progress = Progress(first, *bar, *numbers, console=self._console, expand=True)
        progress.add_task(title, total=0)
        self._lines.append(progress)
        return progress


def _grow(line: Progress, count: int) -> None:
    line.update(TASK, total=(line.tasks[0].total or 0) + count)


class _Rate(ProgressColumn):
    """The rate, such as `3.4 slides/s`, after the first two items."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{rate(speed)} {task.description}/s" if speed else "", no_wrap=True)


class _Left(TimeRemainingColumn):
    """The remaining time, such as `ETA 00:48`."""

    def render(self, task: Task) -> Text:
        return Text("ETA ") + super().render(task)


def rate(number: float) -> str:
    """The rate in two digits or as a whole number: `0.37`, `3.4`, `1,240`."""
    return f"{number:.2g}" if number < 9.95 else f"{number:,.0f}"
