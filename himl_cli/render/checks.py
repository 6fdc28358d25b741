"""The lines of `himl doctor`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from himl_cli.core.redaction import redact
from himl_cli.core.workspaces import Check, CheckState
from himl_cli.render.errors import one_line
from himl_cli.render.output import Format, Output
from himl_cli.render.style import folded, styled, width

STYLES = {CheckState.passed: "green", CheckState.failed: "red", CheckState.note: "yellow", CheckState.skipped: "dim"}
STATE_WIDTH, NAME_WIDTH = 8, 17
NARROW = 60
"""Columns below which what is said of a check stands below its name."""


def say_checks(output: Output, checks: Iterable[Check]) -> Sequence[Check]:
    """Print each check as soon as it was made (JSON: an array at the end; quiet: the names of those that failed), and
    give all."""
    made: list[Check] = []
    for check in checks:
        made.append(replace(check, message=redact(one_line(check.message)), remedy=redact(one_line(check.remedy))))
        if output.format is Format.human:
            output.lines(check_lines(made[-1]))
    if output.format is Format.json:
        output.json(made)
    elif output.format is Format.quiet:
        output.lines(dict.fromkeys(check.name for check in made if check.state is CheckState.failed))
    return made


def check_lines(check: Check) -> Iterator[str]:
    """State, name, and what there is to say: folded below each other on a terminal, else one line with tabs."""
    if not sys.stdout.isatty():
        yield "\t".join(filter(None, (check.state.value, check.name, check.message, check.remedy)))
        return
    indent = STATE_WIDTH + NAME_WIDTH
    if width() < NARROW:
        yield styled(check.state.value.ljust(STATE_WIDTH), STYLES[check.state]) + check.name
        yield from (f"  {line}" for text in (check.message, check.remedy) for line in folded(text, width() - 2))
        return
    head = styled(check.state.value.ljust(STATE_WIDTH), STYLES[check.state]) + check.name.ljust(NAME_WIDTH)
    first, *rest = [line for text in (check.message, check.remedy) for line in folded(text, width() - indent)]
    yield f"{head}{first}".rstrip()
    yield from (" " * indent + line for line in rest)
