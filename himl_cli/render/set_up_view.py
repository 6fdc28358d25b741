"""What `himl init` did, for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from himl_cli.core.workspaces import PreparedFile, SetUp
from himl_cli.render.errors import one_line
from himl_cli.render.output import Output
from himl_cli.render.style import folded, width


def say_set_up(output: Output, done: SetUp, folder: Path) -> None:
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
    for file in done.files:
        yield from _item(f"{_verb(file)} {_shown(file.path, folder)}{': ' if file.keys else ''}{', '.join(file.keys)}")
    if len(done.read) > 1:
        yield from _item(f"Read {', '.join(_shown(path, folder) for path in done.read)}")
    if done.left_out:
        yield "Left out:"
        for left in done.left_out:
            yield from _item(f"{left.name}: {left.why}", "  ")


def _item(text: str, indent: str = "") -> Iterator[str]:
    """One line; on a terminal folded, with the rest below the beginning."""
    line = one_line(text)
    first, *rest = folded(line, width() - len(indent) - 2) if sys.stdout.isatty() else [line]
    yield f"{indent}{first}"
    yield from (f"{indent}  {each}" for each in rest)


def _verb(file: PreparedFile) -> str:
    return "Wrote" if file.is_new else "Already there:"


def _shown(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
