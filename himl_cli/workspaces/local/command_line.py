"""Placeholders in a line for bash: what is put in their place stays one word, whatever characters it has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from himl_cli.core.placeholders import PLACEHOLDER

SPECIAL_IN_DOUBLE = re.compile(r'([\\"$`])')


def fill_command(line: str, known: Mapping[str, Mapping[str, str]]) -> str:
    """*line* with `${{KIND.KEY}}` replaced by `known[KIND][KEY]`, quoted as its place in the line needs; other placeholders stay."""
    filled, done, quote = "", 0, ""
    for found in PLACEHOLDER.finditer(line):
        before = line[done : found.start()]
        quote = quote_after(before, quote)
        value = known.get(found[1], {}).get(found[2])
        filled += before + (found[0] if value is None else _quoted(value, quote))
        done = found.end()
    return filled + line[done:]


def quote_after(text: str, quote: str) -> str:
    """The quote that is open behind *text*, where *quote* was open before it; '' for none."""
    is_escaped = False
    for sign in text:
        if is_escaped:
            is_escaped = False
        elif sign == "\\" and quote != "'":
            is_escaped = True
        elif quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
    return quote


def _quoted(value: str, quote: str) -> str:
    if quote == "'":
        return value.replace("'", "'\\''")
    return SPECIAL_IN_DOUBLE.sub(r"\\\1", value) if quote else shlex.quote(value)
