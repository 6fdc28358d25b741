"""What `himl init`, `himl workspace` and `himl doctor` print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from himl_cli.core.redaction import redact
from himl_cli.core.workspaces import Check, CheckState, SetUp, WorkspaceFacts
from himl_cli.render.error_output import one_line
from himl_cli.render.output import Format, Output
from himl_cli.render.terminal import folded, styled, width

STYLES = {CheckState.passed: "green", CheckState.failed: "red", CheckState.note: "yellow", CheckState.skipped: "dim"}
STATE_WIDTH, NAME_WIDTH = 8, 17
NARROW = 60
"""Columns below which what is said of a check stands below its name."""


def print_checks(output: Output, checks: Iterable[Check]) -> Sequence[Check]:
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


def print_set_up(output: Output, done: SetUp, folder: Path) -> None:
    """The files that are there now; paths alone when quiet. What to do next goes to stderr."""
    output.result(
        done,
        human=lambda: "\n".join(_lines(done, folder)),
        quiet=[str(file.path) for file in done.files if file.is_new],
    )
    if any(file.is_private for file in done.files):
        output.notice(
            "himl.private.toml holds who signs in: keep it out of version control. himl sends it with no job."
        )
    output.notice("Next: himl doctor")


def _lines(done: SetUp, folder: Path) -> Iterator[str]:
    """On a terminal lines are folded, with the rest below the beginning."""

    def shown(path: Path) -> str:
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    def item(text: str, indent: str = "") -> str:
        line = one_line(text)
        lines = folded(line, width() - len(indent) - 2) if sys.stdout.isatty() else [line]
        return indent + f"\n{indent}  ".join(lines)

    for file in done.files:
        verb = "Wrote" if file.is_new else "Already there:"
        yield item(f"{verb} {shown(file.path)}{': ' if file.keys else ''}{', '.join(file.keys)}")
    if len(done.read) > 1:
        yield item(f"Read {', '.join(map(shown, done.read))}")
    if done.left_out:
        yield "Left out:"
        yield from (item(f"{left.name}: {left.why}", "  ") for left in done.left_out)


LABEL = 17


def workspace_view(facts: WorkspaceFacts) -> Iterator[str]:
    """Its name and where that was read, then a line a fact. Values are never folded: they are there to be copied."""
    yield styled(one_line(facts.label), "bold")
    for name, value in {"read from": facts.source, **facts.facts}.items():
        first, *rest = name.split("_")
        title = " ".join([first.capitalize(), *(word.upper() if word in ("id", "url") else word for word in rest)])
        if value:
            yield f"  {styled(title.ljust(LABEL), 'dim')}  {one_line(value)}"
