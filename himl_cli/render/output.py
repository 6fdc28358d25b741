"""Output to the terminal: every format of results, errors, and text and tables in the terminal's width and colours.
Data goes to stdout, messages go to stderr. Functions import Rich for a table on a terminal, and Typer for an error.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from io import StringIO
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TextIO

from himl_cli.core.errors import HimlError, JobFailed, NeedsYes, StoppedWatching
from himl_cli.core.redaction import redact
from himl_cli.core.text import inert, shorten

if TYPE_CHECKING:
    from himl_cli.core.runs import Run

STATUS_STYLES = {"Completed": "green", "Failed": "red", "Canceled": "yellow", "Running": "cyan", "Queued": "dim"}
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
GAP = 2
LEAST = 12  # characters of a shortened cell


class ReaderGone(Exception):
    """The reader of stdout closed it (`himl runs list | head`). This is no error, but ends the output."""


class Declined(HimlError):
    """The user did not answer yes to a question."""

    code = "declined"


class Format(str, Enum):
    """The content of stdout: text for users, one JSON document, or ids and paths only."""

    human = "human"
    json = "json"
    quiet = "quiet"


class TableFormat(str, Enum):
    """The content of stdout for a table: `human` is `table` on a terminal, else `tsv`."""

    human = "human"
    table = "table"
    csv = "csv"
    tsv = "tsv"
    json = "json"
    quiet = "quiet"


class Output:
    """Prints results in the chosen format. Every write raises ReaderGone once the reader of stdout has closed it."""

    def __init__(self, format: Format = Format.human, *, verbose: bool = False, yes: bool = False) -> None:
        self.format = format
        self.verbose = verbose
        self.yes = yes
        self.layout = TableFormat.human.value
        self.has_pager = False
        self._is_mid_line = False
        self.reworded: Callable[[str], str] = str  # for the text of notices

    @property
    def is_terminal(self) -> bool:
        return sys.stdout.isatty()

    @property
    def has_screen(self) -> bool:
        """Whether stdout is a terminal that can be redrawn."""
        return self.is_terminal and os.environ.get("TERM") != "dumb"

    def result(
        self,
        data: Any,
        *,
        human: str | Callable[[], str],
        quiet: str | Iterable[str] = (),
        is_long: bool = False,
    ) -> None:
        """Print a result: *data* as a JSON document, *human* text (see `lines`), or *quiet* lines. Only the chosen form
        is evaluated."""
        if self.format is Format.json:
            self.json(data)
        elif self.format is Format.quiet:
            self._names([quiet] if isinstance(quiet, str) else quiet)
        else:
            text = human() if callable(human) else human
            self.lines([text] if text else [], is_long=is_long)

    def table(
        self,
        records: Iterable[Any],
        columns: Sequence[Column] | Callable[[Sequence[Any]], Sequence[Column]],
        *,
        quiet: Callable[[Any], str],
        empty: str = "",
        form: Callable[[Any], Any] | None = None,
    ) -> None:
        """Print *records* as a JSON array, as a table (tab-separated off a terminal), or one per line by *quiet*.

        *columns* may depend on the records, and *form* is the JSON form of one. Without records, *empty* goes to stderr
        in the human format.
        """
        if self.format is Format.json:
            from himl_cli.render.forms import json_form

            self._json_array(records, form or json_form)
        elif self.format is Format.quiet:
            # Names show it as Python's escape
            line_end = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
            self._names(line_end.sub(lambda found: ascii(found[0])[1:-1], quiet(record)) for record in records)
        else:
            rows = list(records)
            shown = columns(rows) if callable(columns) else columns
            if not rows and empty:
                self.notice(empty)
            if self.draws_tables and rows:
                self.lines([as_table(rows, shown)], is_long=True)
            elif not self.draws_tables:
                self.cells(as_cells(rows, shown))

    @property
    def draws_tables(self) -> bool:
        """Whether tables are for people. Otherwise, programs get their cells."""
        return self.layout == "table" or (self.is_terminal and self.layout == "human")

    def cells(self, rows: Iterable[Sequence[str]]) -> None:
        """Print a header and rows, separated by tabs or as CSV. Control characters in a cell become spaces, in CSV all
        but line ends and tabs."""
        if self.layout != "csv":
            return self.lines("\t".join(map(one_line, row)) for row in rows)
        import csv

        text, control = StringIO(), re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
        csv.writer(text, lineterminator="\n").writerows([control.sub(" ", inert(cell)) for cell in row] for row in rows)
        self.write(encoded(text.getvalue(), sys.stdout), flush=True)

    def json(self, data: Any, *, is_form: bool = False) -> None:
        """Print *data* as one strict JSON document in UTF-8, independent of the terminal's encoding. *is_form*: it is
        already in the form of JSON (it may be large).

        On a terminal, control characters and changes of direction become JSON escapes.
        """
        from himl_cli.render.forms import json_form

        self.write(self._document(data if is_form else json_form(data)) + b"\n")

    def _json_array(self, records: Iterable[Any], form: Callable[[Any], Any]) -> None:
        """Print the *form* of each of the *records* like `json`. There may be many, so keep only their texts until all
        of them are there."""
        if self.is_terminal:
            self.json([form(record) for record in records], is_form=True)
            return
        texts = [self._document(form(record)) for record in records]
        self.write(b"[")
        for number, text in enumerate(texts):
            self.write(b", " + text if number else text)
        self.write(b"]\n")

    def _document(self, form: Any) -> bytes:
        import json

        text = json.dumps(form, ensure_ascii=False, allow_nan=False, indent=2 if self.is_terminal else None)
        if self.is_terminal:
            text = "".join(sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text)
        # Lone surrogates become JSON escapes
        return text.encode("utf-8", "backslashreplace")

    def lines(self, lines: Iterable[str], *, is_long: bool = False) -> None:
        """Print *lines*. Those that may be longer than the terminal (*is_long*) go through the pager."""
        if is_long and self.has_pager and self.is_terminal and os.environ.get("PAGER", "less"):
            text = "\n".join(lines)
            if text.count("\n") + 1 >= shutil.get_terminal_size().lines:
                import click

                return click.echo_via_pager(encoded(text, sys.stdout).decode(sys.stdout.encoding or "utf-8", "replace"))
            lines = [text]
        for line in lines:
            self.write(encoded(f"{line}\n", sys.stdout))
        self.flush()

    def _names(self, names: Iterable[str]) -> None:
        """Print one name per line: unchanged for programs, without control characters on a terminal, which would
        obey them."""
        self.lines(map(one_line, names) if self.is_terminal else names)

    def write(self, data: bytes, *, flush: bool = False) -> None:
        """Write bytes to stdout unchanged."""
        with noticing_gone_reader():
            _write(sys.stdout, data)
            if flush:
                sys.stdout.flush()

    def flush(self) -> None:
        with noticing_gone_reader():
            sys.stdout.flush()

    @contextmanager
    def job_output(self, run: Run) -> Iterator[Callable[[bytes], None]]:
        """Yield `stream`, which also prints that the job continues if the reader of stdout closes it.

        If the waiting for the run fails, print the run nevertheless, for scripts that use its id
        (`run=$(himl submit -q)`).
        """

        def write(data: bytes) -> None:
            try:
                self.stream(data)
            except ReaderGone:
                self.notice(f"The output is closed. Run {run.id} continues. To cancel it: himl runs cancel {run.id}")
                raise

        try:
            yield write
        except (JobFailed, ReaderGone):
            raise
        except (Exception, KeyboardInterrupt):
            self.result(run, human="", quiet=run.id)
            raise
        finally:
            self.end_line()

    def stream(self, data: bytes) -> None:
        """Print a job's output as it arrives: to stdout in the human format, else to stderr, since stdout has the
        result."""
        if self.format is Format.human:
            self.write(data)
            self.flush()
        else:
            self.talk(data)
        if data and (self.format is not Format.human or self.is_terminal):
            self._is_mid_line = not data.endswith(b"\n")

    def end_line(self) -> None:
        """End an unfinished line of a job's output before the next message."""
        if self._is_mid_line:
            self.talk(b"\n")
            self._is_mid_line = False

    def talk(self, data: bytes) -> None:
        sys.stderr.flush()
        _write(sys.stderr, data)
        sys.stderr.flush()

    def notice(self, text: str) -> None:
        """Print one sentence for the user on stderr, except when quiet."""
        if self.format is not Format.quiet:
            sys.stderr.write(one_line(redact(self.reworded(text))) + "\n")
            sys.stderr.flush()

    def confirm(self, question: str) -> bool:
        """Ask for confirmation on stderr. True at once with `--yes`. Raises NeedsYes if no user can answer."""
        if self.yes:
            return True
        if self.format is not Format.human or not sys.stdin.isatty() or not sys.stderr.isatty():
            raise NeedsYes(
                f"{one_line(question)} This needs confirmation, and there is no terminal.",
                hint="To confirm, add --yes.",
            )
        sys.stderr.write(f"{one_line(question)} [y/N] ")
        sys.stderr.flush()
        if sys.platform != "win32":
            # Python handles a signal only between two instructions. One that arrives just before the system's read
            # would have no effect until the user answers, so wait with a time limit.
            while not select.select([sys.stdin], [], [], 0.1)[0]:
                pass
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write(stream: TextIO, data: bytes) -> None:
    buffer: IO[bytes] | None = getattr(stream, "buffer", None)
    if buffer is not None:
        buffer.write(data)
    else:  # the stream accepts text only, like a notebook's
        stream.write(data.decode("utf-8", "replace"))


def encoded(text: str, stream: TextIO) -> bytes:
    """*text* in the encoding of *stream*. Undecodable bytes of file names stay, other characters are escaped."""
    encoding = stream.encoding or "utf-8"
    try:
        return text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace")


@contextmanager
def noticing_gone_reader() -> Iterator[None]:
    """Raise ReaderGone for a write to a pipe that its reader has closed, which Windows reports as an invalid
    argument."""
    try:
        yield
    except OSError as err:
        is_invalid = sys.platform == "win32" and err.errno == errno.EINVAL and err.filename is None
        if err.errno == errno.EPIPE or is_invalid:
            raise ReaderGone from err
        raise


def print_error(error: HimlError, *, as_json: bool, traceback_of: Exception | None = None) -> None:
    """Print *error* on stderr, after the traceback of *traceback_of*."""
    import typer

    if traceback_of is not None and not as_json:
        import traceback

        typer.echo(redact("".join(traceback.format_exception(traceback_of))), err=True, nl=False)
    # The text may contain user input of any length. Limit the search for secrets, and the output
    message, hint = (shorten(redact(one_line(shorten(text, 50_000))), 3000) for text in (str(error), error.hint))
    if as_json:
        import json

        typer.echo(json.dumps({"error": {"code": error.code, "message": message, "hint": hint}}), err=True)
        return
    if isinstance(error, StoppedWatching):
        typer.echo(f"{message} {hint}".strip(), err=True)
        return
    colour = wanted_colour()
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {message}", err=True, color=colour)
    if hint:
        typer.echo(f"{typer.style('hint:', fg='cyan', bold=True)} {hint}", err=True, color=colour)


def one_line(text: str) -> str:
    """*text* with each sequence of white space and control characters as one space."""
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() or 0xDC80 <= ord(sign) <= 0xDCFF else " " for sign in text)
    return " ".join(text.split())


def wanted_colour() -> bool | None:
    """Whether the user's environment requires colour (FORCE_COLOR, CLICOLOR_FORCE) or forbids it (NO_COLOR, which has
    priority, and a terminal without colour). None: only terminals have colour."""
    if os.environ.get("NO_COLOR"):
        return False
    if any(os.environ.get(name) not in (None, "", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return False if os.environ.get("TERM") == "dumb" else None


def has_colour(stream: TextIO) -> bool:
    """Whether *stream* gets colour: a terminal with colour, or any stream if the user requires it."""
    # Older Windows consoles print the codes
    shows_codes = sys.platform != "win32" or not os.environ.keys().isdisjoint(("WT_SESSION", "TERM", "ANSICON"))
    wanted = wanted_colour()
    return stream.isatty() and shows_codes if wanted is None else wanted


def styled(text: str, style: str) -> str:
    """*text* in *style* (a name of `_CODES`) if stdout has colour."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if text and has_colour(sys.stdout) else text


def width() -> int:
    """Columns of the terminal, 80 if unknown."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def folded(text: str, columns: int) -> list[str]:
    """*text* in lines of at most *columns*, broken at spaces. Quoted text that fits on a line stays together, so that
    it can be copied.

    A word that is longer than a line is cut, and begins on a new line.
    """
    lines: list[str] = []
    for quoted in re.findall(r"(?<!\S)\(?'[^']+'\S*|\S+", text):
        for piece in [quoted] if len(quoted) <= columns else quoted.split():
            if lines and len(lines[-1]) + 1 + len(piece) <= columns:
                lines[-1] += f" {piece}"
            else:
                lines += [piece[start : start + columns] for start in range(0, len(piece), columns)]
    return lines


def cut_end(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def duration_text(seconds: float | None) -> str:
    """A duration such as `0.4s`, `12s`, `1m 05s`, `2h 05m`, `3d 04h`. Empty if unknown."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02d}h"
    if hours:
        return f"{hours}h {minute:02d}m"
    return f"{minutes}m {second:02d}s" if minutes else f"{second}s"


def local_time(time: datetime | None, now: datetime | None = None) -> str:
    """A time in the local time zone: `14:05` today, `Mar 01 14:05` this year, else `2025-03-01`. Empty if unknown."""
    if time is None:
        return ""
    here = time.astimezone()
    today = (now or datetime.now().astimezone()).astimezone()
    if here.date() == today.date():
        return f"{here:%H:%M}"
    return f"{here:%b %d %H:%M}" if here.year == today.year else f"{here:%Y-%m-%d}"


def size_text(size: int) -> str:
    """A size such as `512 B`, `4.0 KB`, `1.5 MB`, in powers of 1,000."""
    if size < 1000:
        return f"{size} B"
    number, units = size / 1000, ["KB", "MB", "GB", "TB"]
    while number >= 999.95 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.1f} {units[0]}"


def shown_path(path: str) -> str:
    """*path*, or on a terminal its relative path if that is shorter. Empty stays empty."""
    try:
        return min(os.path.relpath(path), path, key=len) if sys.stdout.isatty() else path
    except ValueError:  # empty, or on another drive, on Windows
        return path


def stand_in_for_closed_streams() -> None:
    """Replace closed standard streams by the null device. Otherwise the next open file, such as a database, would get a
    stream's number and its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


class Column(NamedTuple):
    """A column of a table: `text` for terminals and `plain` for programs (by default the same).

    If the table is too wide, columns shrink to `least` characters (but at least to their titles), the highest `rank`
    first, and are then omitted in the same order. A column of rank 0 is never omitted or cut. As a last resort it
    folds, to `folds` characters, before a column of rank 1 is omitted. With `is_name`, programs get the title as it is.
    """

    title: str
    text: Callable[[Any], str]
    plain: Callable[[Any], str] | None = None
    rank: int = 0
    least: int = 6
    folds: int = 0
    right: bool = False
    style: Callable[[Any], str] | None = None
    is_name: bool = False


def as_cells(rows: Sequence[Any], columns: Sequence[Column]) -> Iterator[list[str]]:
    """The titles of the columns for programs, and the cells of each row."""
    yield [column.title if column.is_name else column.title.lower().replace(" ", "_") for column in columns]
    for row in rows:
        yield [(column.plain or column.text)(row) for column in columns]


def as_table(rows: Sequence[Any], columns: Sequence[Column]) -> str:
    """The table in the width and colours of the terminal. Empty columns are omitted."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[one_line(column.text(row)) for column in columns] for row in rows]
    natural = [
        max([cell_len(column.title), *(cell_len(line[place]) for line in cells)])
        if column.rank == 0 or any(line[place] for line in cells)
        else 0
        for place, column in enumerate(columns)
    ]
    widths = fitted(natural, columns, width())
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    shown = [(place, column) for place, column in enumerate(columns) if widths[place]]
    for place, column in shown:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            max_width=widths[place] if column.rank or column.folds else None,
            no_wrap=column.rank > 0,
            overflow="ellipsis" if column.rank else "fold",
        )
    for row, line in zip(rows, cells, strict=True):
        table.add_row(*(Text(line[place], column.style(row) if column.style else "") for place, column in shown))
    coloured, written = has_colour(sys.stdout), StringIO()
    colours: Any = "standard" if coloured else None
    Console(file=written, width=width(), force_terminal=coloured, color_system=colours).print(table)
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip("\n").split("\n"))


def fitted(natural: Sequence[int], columns: Sequence[Column], width: int) -> list[int]:
    """The width of each column so that all fit into *width*. 0 for an omitted column."""
    by_rank = sorted(range(len(columns)), key=lambda place: -columns[place].rank)
    ranked = [place for place in by_rank if columns[place].rank > 0]
    titles = [len(column.title) for column in columns]
    # Columns, and the number of characters to which each shrinks (0: it is omitted), in order of trial
    ways = [(place, max(columns[place].least, titles[place])) for place in ranked]
    ways += [(place, 0) for place in ranked if columns[place].rank > 1]
    ways += [(place, max(column.folds, titles[place])) for place, column in enumerate(columns) if column.folds]
    ways += [(place, 0) for place in ranked if columns[place].rank == 1]
    widths = list(natural)

    def room() -> int:
        return width - sum(widths) - GAP * (sum(1 for size in widths if size) - 1)

    for place, least in ways:
        if room() < 0:
            widths[place] = max(min(least, widths[place]), widths[place] + room()) if least else 0
    # The space of omitted columns goes to the columns that shrank, the most important first
    for place in sorted(range(len(columns)), key=lambda place: columns[place].rank):
        if widths[place] and room() > 0:
            widths[place] += min(room(), natural[place] - widths[place])
    return widths


def aligned(
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    indent: str = "  ",
    ranks: Sequence[int] = (),
    cut: Sequence[int] = (),
) -> Iterator[str]:
    """Rows as lines with aligned cells. The first row is a header.

    On a narrow terminal, columns shrink by their *ranks*, as in `fitted`: first the cells of columns in *cut* are cut,
    to LEAST characters, then whole columns are omitted.
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    if ranks and sys.stdout.isatty():
        columns = [
            Column(title, str, rank=rank, least=LEAST if place in cut else size)
            for place, (title, rank, size) in enumerate(zip(rows[0], ranks, widths, strict=True))
        ]
        widths = fitted(widths, columns, width() - len(indent))
    for number, row in enumerate(rows):
        cells = [
            (str.rjust if place in right else str.ljust)(_shortened(cell, size, place), size)
            for place, (cell, size) in enumerate(zip(row, widths, strict=True))
            if size
        ]
        line = indent + "  ".join(cells).rstrip()
        yield styled(line, "dim") if number == 0 else line


def _shortened(cell: str, size: int, place: int) -> str:
    """*cell* in *size* characters. The first of a row is a name, which is cut in the middle, since names differ at
    their ends."""
    if len(cell) <= size:
        return cell
    end = (size - 1) // 2 if place == 0 else 0
    return f"{cell[: size - 1 - end]}…{cell[len(cell) - end :]}"


def row_columns(rows: Sequence[Mapping[str, object]]) -> list[Column]:
    """One column per key, in order of first appearance. In a narrow terminal, later columns shrink first."""

    def column(rank: int, name: str) -> Column:
        return Column(
            name.replace("_", " ").upper(),
            lambda row: _cell_text(row.get(name), for_people=True),
            lambda row: _cell_text(row.get(name)),
            rank=rank,
            right=all(isinstance(row.get(name), (int, float, type(None))) for row in rows),
        )

    return [column(rank, name) for rank, name in enumerate(dict.fromkeys(name for row in rows for name in row))]


def first_value(row: Mapping[str, object]) -> str:
    return _cell_text(next(iter(row.values()), None))


def _cell_text(value: object, *, for_people: bool = False) -> str:
    """Text unchanged, None as an empty text, all else as JSON. *for_people* limits floats to six digits. Raises
    TypeError for values that JSON does not have."""
    import json

    from himl_cli.render.forms import json_form, number_text

    form = json_form(value)
    if isinstance(form, float) and for_people:
        return number_text(form)
    return "" if form is None else form if isinstance(form, str) else json.dumps(form, ensure_ascii=False)
