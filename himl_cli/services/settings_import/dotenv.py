"""Files of environment variables, a `NAME=value` a line."""

from __future__ import annotations

import re
from pathlib import Path

from himl_cli.core.errors import BadUsage

_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<value>.*)")
_COMMENT = re.compile(r"(?:^|(?<=\s))#")
_QUOTED = re.compile(r"(?P<quote>['\"])(?P<inside>.*)(?P=quote)\s*(?:#.*)?")


def parse_dotenv(text: str, path: Path) -> dict[str, str]:
    """The variables in *text*, which was read from *path*; the last of two lines counts. Raises BadUsage naming a line
    that is none, not its content."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise BadUsage(
                f"'{path}', line {number}: no NAME=value.", hint="A value stands on one line; comments begin with '#'."
            )
        quoted = _QUOTED.fullmatch(found["value"])
        values[found["name"]] = quoted["inside"] if quoted else _COMMENT.split(found["value"], maxsplit=1)[0].strip()
    return values
