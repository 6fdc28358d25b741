"""The output of `himl init`, `himl workspace`, `himl doctor` and `himl gc`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from himl_cli.core.redaction import redact
from himl_cli.core.workspaces import Check, CheckState, Garbage, SetUp, WorkspaceFacts
from himl_cli.render.output import (
    Column,
    Format,
    Output,
    folded,
    one_line,
    size_text,
    styled,
    width,
)

STYLES = {CheckState.passed: "green", CheckState.failed: "red", CheckState.note: "yellow", CheckState.skipped: "dim"}


STATE_WIDTH, NAME_WIDTH = 8, 17


def print_checks(output: Output, checks: Iterable[Check]) -> Sequence[Check]:
    """Print each check when it is complete (JSON: an array at the end, quiet: the names of failed checks), and return
    all."""
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
    """The state, name and message of a check. A terminal folds the message, a narrow one below the name. Otherwise it
    is one line with tabs."""
    if not sys.stdout.isatty():
        yield "\t".join(filter(None, (check.state.value, check.name, check.message, check.remedy)))
        return
    is_wide = width() >= 60
    indent = STATE_WIDTH + NAME_WIDTH if is_wide else 2
    head = styled(check.state.value.ljust(STATE_WIDTH), STYLES[check.state]) + check.name
    lines = [line for text in (check.message, check.remedy) for line in folded(text, width() - indent)]
    if is_wide:
        head += " " * (NAME_WIDTH - len(check.name)) + lines.pop(0)
    yield from (head.rstrip(), *(" " * indent + line for line in lines))


def print_set_up(output: Output, done: SetUp, folder: Path, following: str = "himl doctor") -> None:
    """Print the files of the setup, or only paths when quiet. The *following* command goes to stderr."""
    output.result(
        done,
        human=lambda: "\n".join(_set_up_lines(done, folder)),
        quiet=[str(file.path) for file in done.files if file.is_new],
    )
    if any(file.is_private for file in done.files):
        output.notice(
            "himl.private.toml contains credentials. Keep it out of version control. himl excludes it from jobs."
        )
    output.notice(f"Next: {following}")


def _set_up_lines(done: SetUp, folder: Path) -> Iterator[str]:
    """The lines of the setup, folded on a terminal."""

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


def workspace_view(facts: WorkspaceFacts) -> Iterator[str]:
    """The name and source of the workspace, then one line per fact. Values are never folded, so that they can be
    copied."""
    yield styled(one_line(facts.label), "bold")
    for name, value in {"read from": facts.source, **facts.facts}.items():
        first, *rest = name.split("_")
        title = " ".join([first.capitalize(), *(word.upper() if word in ("id", "url") else word for word in rest)])
        if value:
            yield f"  {styled(title.ljust(17), 'dim')}  {one_line(value)}"


GARBAGE = {
    "copies": "copies of code in the folders of ended runs",
    "code": "stored code that no run has",
    "artifacts": "artifacts of old runs",
    "downloads": "unused downloads in himl's cache",
}


def print_garbage(output: Output, found: Sequence[Garbage]) -> None:
    """Print the files that can be deleted, or with `--yes` those that himl has deleted."""
    columns = (
        Column("FILES", lambda each: f"{each.files:,}", plain=lambda each: str(each.files), right=True),
        Column("SIZE", lambda each: size_text(each.size), plain=lambda each: str(each.size), right=True),
        Column("WHAT", lambda each: GARBAGE[each.kind], plain=lambda each: each.kind, rank=1, least=12),
    )
    output.table(found, columns, quiet=lambda each: each.kind, empty="")
    total = size_text(sum(each.size for each in found))
    if output.yes:
        output.notice(f"Deleted {total}.")
    elif any(each.files for each in found):
        output.notice(f"himl can delete {total}. To delete the files, add --yes.")
