"""The display of `--watch`: a screen that is redrawn each second, or off a terminal one line per change. Import this
module only to watch runs."""

from __future__ import annotations

import math
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import pairwise

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from himl_cli.core.events import Event, Notice
from himl_cli.core.logged import SYSTEM, Metric, MetricPoint, WatchedRuns
from himl_cli.core.redaction import redact
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import SWEPT
from himl_cli.core.text import shorten, utc_text
from himl_cli.render.forms import number_text
from himl_cli.render.output import (
    STATUS_STYLES,
    Column,
    Output,
    aligned,
    as_table,
    cut_end,
    duration_text,
    encoded,
    one_line,
    styled,
    width,
)
from himl_cli.render.run_views import best_lines, machine_text, run_columns, steps_view

METRIC_SECONDS = 10.0
"""The shortest time between two lines for the same metric of a run, off a terminal."""
PROMPT_LINES = 4
"""Lines of the terminal below the last frame, for an error, its hint, and the shell's prompt."""
REDRAW_SECONDS = 10.0
"""The longest time until the durations of unchanged runs are drawn again."""
SIGNS, PLAIN_SIGNS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
RANKS = {"STARTED": 7, "METRICS": 3, "DURATION": 2}  # differ from those of other lists of runs

Frame = Callable[[WatchedRuns, int], Iterable[str]]
"""Returns the lines of a screen with a given number of lines."""


@contextmanager
def view(output: Output, frame: Frame) -> Iterator[Screen | ChangeLines]:
    """Show *frame* on a separate screen of the terminal, and print the last frame below the command at the end. Off a
    terminal, print one line per change."""
    if not output.has_screen:
        yield ChangeLines(output)
        return
    screen = Screen(frame)
    try:
        with screen.live:
            yield screen
    finally:
        height = shutil.get_terminal_size().lines - PROMPT_LINES
        output.lines(frame(screen.watched, max(1, height)) if screen.watched else ())


class Screen:
    """The screen during a watch. Its last line shows the latest notice."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._said = ""
        self._drawn: tuple[object, ...] = ()
        self._redraw = 0.0
        self.watched: WatchedRuns | None = None
        console = Console(highlight=False, markup=False)
        # Do not redirect the streams, since the code that makes lines reads the terminal's width from them
        self.live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def notify(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._said = one_line(redact(event.text))

    def show(self, watched: WatchedRuns, seconds: float) -> None:
        """Show the runs for *seconds*. Draw changes of runs and of the terminal's size within a second, and durations
        less often, since a drawing takes much longer than a poll."""
        self.watched, end = watched, time.monotonic() + seconds
        while True:
            size = shutil.get_terminal_size()
            if (size, watched.version, self._said) != self._drawn or time.monotonic() >= self._redraw:
                self._drawn = size, watched.version, self._said
                self._redraw = time.monotonic() + REDRAW_SECONDS
                self._draw(watched, size.lines - bool(self._said))
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(1.0, left))

    def _draw(self, watched: WatchedRuns, height: int) -> None:
        lines = [*self._frame(watched, height)]
        if len(lines) > height:
            lines[height - 1 :] = [styled(f"… {len(lines) - height + 1} more lines", "dim")]
        lines += [styled(self._said, "dim")] * bool(self._said)
        text = encoded("\n".join(lines), sys.stdout).decode(sys.stdout.encoding or "utf-8", "replace")
        self.live.update(Text.from_ansi(text, no_wrap=True, overflow="crop"), refresh=True)


class ChangeLines:
    """Off a terminal: time, run, name and value of each change, separated by tabs. Metrics come rarely, and at the
    end."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._told: dict[tuple[str, str], str] = {}
        self._due: dict[tuple[str, str], float] = {}
        self.watched: WatchedRuns | None = None

    def notify(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._output.notice(event.text)

    def show(self, watched: WatchedRuns, seconds: float) -> None:
        """Print the changes, and wait for *seconds*."""
        now, time_text, lines = time.monotonic(), utc_text(datetime.now(timezone.utc)), []
        for run in watched.runs:
            facts = {"status": run.status.value, "ended": progress_text(watched, run)}
            metrics = {name: number_text(points[-1][1]) for name, points in watched.numbers(run.id).items()}
            for name, value in (facts | metrics).items():
                key = (run.id, name)
                is_due = name in facts or run.status.is_final or now >= self._due.get(key, now)
                if value and is_due and value != self._told.get(key):
                    self._told[key], self._due[key] = value, now + METRIC_SECONDS
                    lines.append("\t".join((time_text, one_line(run.id), one_line(name), value)))
        self._output.lines(lines)
        time.sleep(seconds)


def list_frame(watched: WatchedRuns, height: int) -> Iterator[str]:
    """One line per run: its status, the number of its ended trials, its last metrics with sparklines."""
    columns = [
        column._replace(rank=RANKS.get(column.title, column.rank))
        for column in run_columns(watched.runs)
        if column.title != "TAGS"
    ]
    columns += [
        Column("ENDED", lambda run: progress_text(watched, run), rank=1, least=5, right=True),
        Column("METRICS", lambda run: _metrics_text(watched, run), rank=RANKS["METRICS"], least=24),
    ]
    yield from as_table(watched.runs, columns).split("\n")


def run_frame(watched: WatchedRuns, height: int) -> Iterator[str]:
    """One run: its status, its trials or steps, its last metrics with sparklines, its machine, and as much of its log
    as fits."""
    run = watched.runs[0]
    took = f" {'after' if run.ended else 'for'} {duration_text(run.duration)}" if run.duration is not None else ""
    why = f" ({one_line(run.reason)})" if run.reason else ""
    yield f"{styled(one_line(run.id), 'bold')}  {styled(run.status.value, STATUS_STYLES[run.status.value])}{took}{why}"
    lines: list[str] = []
    if children := watched.children.get(run.id, ()):
        states = Counter(child.status.value for child in children)
        counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
        lines.append(f"{progress_text(watched, run)} ended: {counts}")
        lines += best_lines(watched.sweep) if watched.sweep else steps_view(children, {})
    if machine := machine_text([*_system_metrics(watched, run.id), *watched.machine]):
        lines.append(f"Machine  {machine}")
    if numbers := watched.numbers(run.id):
        rows = [
            (shorten(one_line(name), max(12, width() // 3)), number_text(points[-1][1]), str(points[-1][0]))
            for name, points in numbers.items()
        ]
        lines += ["", *_with_sparklines(rows, [[value for _, value in points] for points in numbers.values()])]
    log = [*watched.log]
    while log and not log[-1].strip():
        log.pop()
    room = max(0, height - 1) if not log else max(height // 2, height - 2 - len(log))
    yield from lines[:room]
    if log:
        rest = max(1, height - 2 - len(lines[:room]))
        yield from ("", *(line if cell_len(line) <= width() else set_cell_size(line, width()) for line in log[-rest:]))


def progress_text(watched: WatchedRuns, run: Run) -> str:
    """The number of ended trials or steps, such as `3/6`. The total is the number that the sweep plans, if known, else
    the number that exist. Empty for a run without any."""
    children = watched.children.get(run.id, ())
    # The last number, since values of hyperparameters come before it
    planned = re.findall(r", (\d{1,9}) (?:trial|run)s?, (?=minimize |maximize |mean of )", run.tags.get(SWEPT, ""))[-1:]
    total = max([len(children), *map(int, planned)])
    return f"{sum(child.status.is_final for child in children)}/{total}" if children else ""


def sparkline(values: Sequence[float], most: int) -> str:
    """*values* in at most *most* characters, from their lowest to their highest. Each character is the mean of its
    share of the values, or a space for NaN and infinities."""
    signs = SIGNS
    try:
        signs.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        signs = PLAIN_SIGNS
    count = min(most, len(values))
    edges = [place * len(values) // count for place in range(count + 1)] if count > 0 else []
    shares = [[value for value in values[start:end] if math.isfinite(value)] for start, end in pairwise(edges)]
    means = [math.fsum(share) / len(share) if share else math.nan for share in shares]
    known = [mean for mean in means if math.isfinite(mean)]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    top = len(signs) - 1
    return "".join(
        " " if not math.isfinite(mean) else signs[round((mean - low) / span * top) if 0 < span < math.inf else top // 2]
        for mean in means
    )


def _with_sparklines(rows: Sequence[tuple[str, str, str]], values: Sequence[Sequence[float]]) -> Iterator[str]:
    lines = [*aligned([("METRIC", "LAST", "STEP"), *rows], right=(1, 2), indent="")]
    begin = max(sum(max(len(row[place]) for row in [*rows, ("METRIC", "LAST", "STEP")]) + 2 for place in range(3)), 0)
    yield lines[0]
    for line, some in zip(lines[1:], values, strict=True):
        yield f"{line.ljust(begin)}{styled(sparkline(some, min(60, width() - begin)), 'cyan')}"


def _metrics_text(watched: WatchedRuns, run: Run) -> str:
    numbers = watched.numbers(run.id)
    return "  ".join(
        f"{cut_end(one_line(name), 20)} {number_text(points[-1][1], 4)} "
        f"{sparkline([value for _, value in points], 8)}".rstrip()
        for name, points in numbers.items()
    )


def _system_metrics(watched: WatchedRuns, run_id: str) -> Iterator[Metric]:
    now = datetime.now(timezone.utc)
    for name, points in watched.points.get(run_id, {}).items():
        if name.startswith(SYSTEM) and points:
            yield Metric(name, [MetricPoint(value, step, now) for step, value in points], run_id)
