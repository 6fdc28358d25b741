"""The rules of one ignore file: pathspec reads each pattern, and the last one that fits an entry decides, as in git.

Read otherwise than by git are, within brackets, `[:alpha:]` and its kind, backslashes, slashes and ranges that run backwards; in patterns
of more than one part `***`, `**` next to other characters (`a**/b`), an escaped slash, and `[!x]` amid a part, which may match a slash;
and by pathspec before 1.1 an open bracket, which it takes for itself.
"""

from __future__ import annotations

import codecs
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

from pathspec import GitIgnoreSpec, RegexPattern

# What GitIgnoreSpec makes of a line, under a name that depends on pathspec's version; made alone, no other engine than `re` reads it.
GitPattern = cast("Callable[[str], RegexPattern]", type(GitIgnoreSpec.from_lines(["*"]).patterns[0]))
# A pattern ends before a slash (which means folders only) and before spaces that no backslash protects, never amid an escape.
LINE = re.compile(r"(?P<sign>!?)(?P<body>(?:[^\\]|\\.)*?)(?P<slash>/?) *", re.DOTALL)
# Stands after patterns and names, which cannot hold it: else pathspec would match what lies below a folder against the folder's rule too.
END = "\0"


class Rule(NamedTuple):
    pattern: RegexPattern
    folders_only: bool
    by_name: bool


class IgnoreRules:
    """The rules of a file; paths are relative to the file's folder, with `/` separators."""

    def __init__(self, content: bytes) -> None:
        # Latin-1 makes each byte a character: git matches byte by byte, whatever the encoding.
        lines = content.removeprefix(codecs.BOM_UTF8).decode("latin-1").split("\n")
        self._last_first = [rule for line in reversed(lines) if (rule := _rule(line.removesuffix("\r"))) is not None]

    def __bool__(self) -> bool:
        return bool(self._last_first)

    def verdict(self, path: str, *, is_folder: bool) -> bool | None:
        """Whether the rules exclude *path* (True), include it again (False), or do not speak of it (None)."""
        whole = os.fsencode(path).decode("latin-1") + END
        name = whole.rpartition("/")[2]
        for pattern, folders_only, by_name in self._last_first:
            if (is_folder or not folders_only) and pattern.match_file(name if by_name else whole) is not None:
                return pattern.include
        return None


def read_rules(path: Path) -> IgnoreRules | None:
    """The rules in a file; None where there is none, or none that can be read."""
    try:
        return IgnoreRules(path.read_bytes()) or None
    except OSError:
        return None


def _rule(line: str) -> Rule | None:
    """The rule in one line; None for comments, blank lines and patterns that match nothing, such as an open bracket."""
    parts = LINE.fullmatch(line)
    if parts is None or not parts["body"] or line.startswith("#"):
        return None
    sign, body, slash = parts.group("sign", "body", "slash")
    start = "\\" if body[0].isspace() else ""  # older pathspecs take away what is not protected
    below = "/*" if body.endswith("/**") else ""  # with the end mark, `**` would no longer stand alone
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of `re`, about brackets within brackets
            pattern = GitPattern(f"{sign}{start}{body}{below}{END}")
    except (ValueError, re.error):
        return None
    return None if pattern.include is None else Rule(pattern, bool(slash), "/" not in body)
