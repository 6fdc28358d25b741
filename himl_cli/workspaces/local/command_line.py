"""Placeholders in a line for bash: what is put in their place stays one word, whatever characters it has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import PLACEHOLDER
from himl_cli.workspaces.local.shell_place import COMMENT, ESCAPED, ShellPlace

SPECIAL_IN_DOUBLE = re.compile(r'([\\"$`])')
SPECIAL_IN_ESCAPED = re.compile(r"([\\'])")
_CASE = re.compile(r"\bcase\b")


def fill_command(line: str, known: Mapping[str, Mapping[str, str]]) -> str:
    """*line* with `${{KIND.KEY}}` replaced by `known[KIND][KEY]`, quoted as its place in the line needs; other
    placeholders stay.

    Raises BadUsage for a text that needs quotes where none can be given: in a here-document, in a command in
    backquotes.
    """
    place, filled, done = ShellPlace(), "", 0
    for found in PLACEHOLDER.finditer(line):
        for at in range(done, found.start()):
            place.read(line, at)
        value = known.get(found[1], {}).get(found[2])
        filled += line[done : found.start()] + (
            found[0] if value is None else _quoted(found[0], value, place, _CASE.search(line) is not None)
        )
        place.read_word()
        done = found.end()
    return filled + line[done:]


def _quoted(placeholder: str, value: str, place: ShellPlace, has_case: bool) -> str:
    if shlex.quote(value) == value:
        return value
    trouble = place.trouble or ("in or behind a $(…), in a line with 'case'" if has_case and place.has_commands else "")
    if trouble:
        raise BadUsage(
            f"'{placeholder}' stands {trouble}, where '{value}' cannot be quoted.",
            hint=f"Set a variable before it, and write that there: VALUE={placeholder}",
        )
    if place.innermost == COMMENT:
        return " ".join(value.split())
    if place.innermost == "'":
        return value.replace("'", "'\\''")
    if place.innermost == ESCAPED:
        return SPECIAL_IN_ESCAPED.sub(r"\\\1", value)
    return SPECIAL_IN_DOUBLE.sub(r"\\\1", value) if place.innermost == '"' else shlex.quote(value)
