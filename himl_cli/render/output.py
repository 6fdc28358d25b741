"""The one object that owns every format. stdout is data; stderr is talk."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import IO, TYPE_CHECKING, Any, TextIO

from himl_cli.core.errors import HimlError, NeedsYes
from himl_cli.core.redaction import redact
from himl_cli.render.error_output import noticing_gone_reader, one_line

if TYPE_CHECKING:
    from himl_cli.render.tables import Column


class Declined(HimlError):
    """The user was asked, and did not say yes."""

    code = "declined"


class Format(str, Enum):
    """What goes to stdout: words for people, one JSON document, or ids and paths alone."""

    human = "human"
    json = "json"
    quiet = "quiet"


class Output:
    """Prints results in the format asked for. Every write raises ReaderGone once the reader of stdout has left."""

    def __init__(self, format: Format = Format.human, *, verbose: bool = False, yes: bool = False) -> None:
        self.format = format
        self.verbose = verbose
        self.yes = yes
        self._is_mid_line = False

    @property
    def is_terminal(self) -> bool:
        return sys.stdout.isatty()

    def result(self, data: Any, *, human: str | Callable[[], str], quiet: str | Iterable[str] = ()) -> None:
        """One result in three forms: *data* as a JSON document, *human* text, *quiet* lines. Only the form asked for is
        made."""
        if self.format is Format.json:
            self.json(data)
        elif self.format is Format.quiet:
            self._names([quiet] if isinstance(quiet, str) else quiet)
        else:
            text = human() if callable(human) else human
            self.lines([text] if text else [])

    def table(
        self,
        records: Iterable[Any],
        columns: Sequence[Column] | Callable[[Sequence[Any]], Sequence[Column]],
        *,
        quiet: Callable[[Any], str],
        empty: str = "",
    ) -> None:
        """*records* as a JSON array, as a table (tab-separated off a terminal), or by *quiet*, a line each whatever is
        in it.

        *columns* may depend on the records. With no record, *empty* is said on stderr in the human format.
        """
        if self.format is Format.json:
            self.json(list(records))
        elif self.format is Format.quiet:
            line_end = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # Python's escape stands for it in a name
            self._names(line_end.sub(lambda found: ascii(found[0])[1:-1], quiet(record)) for record in records)
        else:
            from himl_cli.render.tables import as_table, as_tabs

            rows = list(records)
            shown = columns(rows) if callable(columns) else columns
            if not rows and empty:
                self.notice(empty)
            if not self.is_terminal:
                self.lines(as_tabs(rows, shown))
            elif rows:
                self.lines([as_table(rows, shown)])

    def json(self, data: Any, *, is_form: bool = False) -> None:
        """*data* as one strict JSON document in UTF-8, whatever the terminal's encoding; *is_form*: it has the form of
        JSON already (it may be large).

        What a terminal would obey, or be turned around by, has its JSON escape there.
        """
        import json

        from himl_cli.render.tables import json_form

        text = json.dumps(
            data if is_form else json_form(data),
            ensure_ascii=False,
            allow_nan=False,
            indent=2 if self.is_terminal else None,
        )
        if self.is_terminal:
            text = "".join(sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text)
        self.write(f"{text}\n".encode("utf-8", "backslashreplace"))  # a lone surrogate becomes its JSON escape

    def lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(encoded(f"{line}\n", sys.stdout))
        self.flush()

    def _names(self, names: Iterable[str]) -> None:
        """Names, a line each: as they are for programs; on a terminal, which would obey control characters in them,
        without those."""
        self.lines(map(one_line, names) if self.is_terminal else names)

    def write(self, data: bytes) -> None:
        """Bytes for stdout, as they are."""
        with noticing_gone_reader():
            _write(sys.stdout, data)

    def flush(self) -> None:
        with noticing_gone_reader():
            sys.stdout.flush()

    def stream(self, data: bytes) -> None:
        """A job's own output as it comes: on stdout for people, on stderr where stdout holds the result."""
        if self.format is Format.human:
            self.write(data)
            self.flush()
        else:
            self.talk(data)
        if data and (self.format is not Format.human or self.is_terminal):
            self._is_mid_line = not data.endswith(b"\n")

    def end_line(self) -> None:
        """Let what is said next begin on a line of its own, where a job's output shares its place and broke off."""
        if self._is_mid_line:
            self.talk(b"\n")
            self._is_mid_line = False

    def talk(self, data: bytes) -> None:
        sys.stderr.flush()
        _write(sys.stderr, data)
        sys.stderr.flush()

    def notice(self, text: str) -> None:
        """One sentence for the user, on stderr; nothing when quiet."""
        if self.format is not Format.quiet:
            sys.stderr.write(one_line(redact(text)) + "\n")
            sys.stderr.flush()

    def confirm(self, question: str) -> bool:
        """Ask on stderr; True at once with `--yes`. Raises NeedsYes where nobody can answer."""
        if self.yes:
            return True
        if self.format is not Format.human or not sys.stdin.isatty() or not sys.stderr.isatty():
            raise NeedsYes(
                f"{one_line(question)} There is nobody to answer here.",
                hint="Add --yes to go ahead without being asked.",
            )
        sys.stderr.write(f"{one_line(question)} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write(stream: TextIO, data: bytes) -> None:
    buffer: IO[bytes] | None = getattr(stream, "buffer", None)
    if buffer is not None:
        buffer.write(data)
    else:  # it takes text only, as a notebook's does
        stream.write(data.decode("utf-8", "replace"))


def encoded(text: str, stream: TextIO) -> bytes:
    """*text* in the encoding of *stream*; odd bytes of file names come out as they were, other misfits escaped."""
    encoding = stream.encoding or "utf-8"
    try:
        return text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace")
