"""Where in a line for bash one is: within which quotes, in a comment, in a command within the line, in a
here-document."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

BEFORE_A_WORD = " \t\n;&|()<>`"
COMMAND, GROUP, BACKQUOTE, COMMENT, ESCAPED = "$(", "(", "`", "#", "$'"
_HERE = re.compile(r"<<-?[ \t]*([\"'\\]?)([\w.-]+)")


@dataclass
class ShellPlace:
    """Reads a line sign by sign. What is open stands in `within`, the outermost first: quotes (', ", $'), a comment
    (#), commands ($( and `), groups.

    `has_commands`: a `$(` has been met.
    """

    within: list[str] = field(default_factory=list)
    has_commands: bool = False
    _last: str = "\n"
    _is_escaped: bool = False
    _ends: list[str] = field(default_factory=list)
    _document: str | None = None

    @property
    def innermost(self) -> str:
        return self.within[-1] if self.within else ""

    @property
    def trouble(self) -> str:
        """Why nothing is known of the quotes that a text needs here; empty where they are known."""
        if self._document is not None:
            return "in a here-document"
        return "in a command in `backquotes`" if BACKQUOTE in self.within else ""

    def read_word(self) -> None:
        """Something that is part of a word stood there."""
        self._last, self._is_escaped = "x", False
        if self._document is not None:
            self._document += "x"

    def read(self, line: str, at: int) -> None:
        """Take the sign at *at* in; what stands behind it is looked at as well."""
        sign = line[at]
        if self._document is not None:
            self._read_document(sign)
        elif self._is_escaped:
            self._is_escaped, sign = False, "x"  # part of a word, whatever it is
        elif sign == "\\" and self.innermost not in ("'", COMMENT):
            self._is_escaped = True
        elif self.innermost in ("'", '"', ESCAPED, COMMENT):
            self._read_quoted(sign)
        else:
            self._read_plain(line, at)
        self._last = sign

    def _read_document(self, sign: str) -> None:
        assert self._document is not None
        if sign != "\n":
            self._document += sign
            return
        if self._document.lstrip("\t") == self._ends[0]:
            del self._ends[0]
        self._document = "" if self._ends else None

    def _read_quoted(self, sign: str) -> None:
        if self.innermost == COMMENT:
            if sign == "\n":
                self.within.pop()
                self._end_line()
        elif sign == self.innermost[-1]:
            self.within.pop()
        elif self.innermost == '"':
            self._read_command(sign)

    def _read_plain(self, line: str, at: int) -> None:
        sign = line[at]
        if sign == "\n":
            self._end_line()
        elif sign == "#" and self._last in BEFORE_A_WORD:
            self.within.append(COMMENT)
        elif sign in "'\"":
            self.within.append(ESCAPED if sign == "'" and self._last == "$" else sign)
        elif sign == ")" and self.innermost in (COMMAND, GROUP):
            self.within.pop()
        elif (
            sign == "<"
            and self._last != "<"
            and (found := _HERE.match(line, at))
            and self.within[-2:] != [COMMAND, GROUP]
        ):
            self._ends.append(found[2])
        else:
            self._read_command(sign)

    def _read_command(self, sign: str) -> None:
        if sign == "`":
            if self.innermost == BACKQUOTE:
                self.within.pop()
            else:
                self.within.append(BACKQUOTE)
        elif sign == "(" and (self._last == "$" or self.innermost != '"'):
            self.within.append(COMMAND if self._last == "$" else GROUP)
            self.has_commands |= self._last == "$"

    def _end_line(self) -> None:
        if self._ends:
            self._document = ""
