"""Bars on stderr, drawn by Rich: import this module where something is drawn, not before."""

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

NARROW = 60
"""Columns below which there is no room for a bar beside its numbers."""
COLOURS = Theme({"bar.complete": "cyan", "bar.finished": "green", "bar.back": "dim", "progress.data.speed": "none"})
"""In place of those of Rich that a light or a dark terminal does not show well, or that look like a failure."""


class Bars:
    """A line for all files that move, a line for what is counted; each from its first event on, and both gone after
    `stop`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, theme=COLOURS)
        self._lines: list[Progress] = []
        self._files: _Line | None = None
        self._things: _Line | None = None
        self._live = Live(
            get_renderable=lambda: Group(*(line.get_renderable() for line in self._lines)),
            console=self._console,
            transient=True,
        )
        self._live.start()

    def say(self, text: str) -> None:
        """A sentence above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        self._live.stop()

    def draw(self, event: Event) -> None:
        """Bytes and files that move; things that are counted, another unit than before beginning anew."""
        if isinstance(event, Planned):
            self.files.add(event.bytes)
        elif isinstance(event, Moved):
            self.files.advance(event.bytes)
        elif isinstance(event, Finished):
            self.files.ended += 1
            self.files.name(f"{self.files.ended:,} file{'s' * (self.files.ended != 1)}")
        elif isinstance(event, Counting):
            if self._things is None:
                self._things = self._line(_Amount(), [_Rate(), _Left()])
            if self._things.unit != event.unit:
                self._things.begin(event.unit)
            self._things.add(event.total)
        elif self._things is not None:
            self._things.advance(1)

    @property
    def files(self) -> _Line:
        if self._files is None:
            self._files = self._line(
                TextColumn("{task.description}"),
                [DownloadColumn(), TransferSpeedColumn()],
                TimeRemainingColumn(compact=True),
            )
            self._files.name("0 files")
        return self._files

    def _line(self, title: ProgressColumn, numbers: list[ProgressColumn], last: ProgressColumn | None = None) -> _Line:
        is_wide = self._console.width >= NARROW
        bar: list[ProgressColumn] = [BarColumn(bar_width=None)] if is_wide else []
        tail = [last] if last is not None and is_wide else []
        progress = Progress(title, *bar, *numbers, *tail, console=self._console, expand=True)
        self._lines.append(progress)
        return _Line(progress)


class _Line:
    """One bar with its numbers."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=0)
        self.unit = ""
        self.ended = 0

    def begin(self, unit: str) -> None:
        self.unit = unit
        self._progress.reset(self._task, total=0, description=unit)

    def name(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def add(self, count: int) -> None:
        self._progress.update(self._task, total=(self._progress.tasks[0].total or 0) + count)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)


class _Amount(ProgressColumn):
    """`37/200 slides`."""

    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed):,}/{int(task.total or 0):,} {task.description}", no_wrap=True)


class _Rate(ProgressColumn):
    """`3.4 slides/s`; nothing before two were done."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{rate(speed)} {task.description}/s" if speed else "", no_wrap=True)


class _Left(ProgressColumn):
    """`ETA 0:48`, `ETA 1:02:03`."""

    def render(self, task: Task) -> Text:
        return Text(f"ETA {clock(task.time_remaining)}", no_wrap=True)


def rate(number: float) -> str:
    """`0.37`, `3.4`, `1,240`: two digits or a whole number."""
    return f"{number:.2g}" if number < 9.95 else f"{number:,.0f}"


def clock(seconds: float | None) -> str:
    """`0:48`, `12:05`, `1:02:03`; `-:--` where it is unknown."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
