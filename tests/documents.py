"""Reading the Markdown of the documents: tables, blocks, and the `himl` commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import typer.main

from himl_cli.app import app
from himl_cli.commands.completion import app_shape
from himl_cli.commands.groups import normalized
from himl_cli.core.command_shape import CommandShape

DOCS = Path(__file__).parents[1] / "docs"
BEHIND = ("--", "|", ">", ">>", "||", "&&", ";")
"""What ends the words of a himl command in a shell."""

_FENCE = re.compile(r"^```(?P<kind>\w*)[^\n]*\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"(?:^ *\|.*\n?)+", re.MULTILINE)


def page(name: str) -> str:
    """The text of docs/*name*."""
    return (DOCS / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Row:
    """A row of a table: the names (in backticks) of its first cell, and what the second says."""

    names: tuple[str, ...]
    said: str

    @property
    def is_absent(self) -> bool:
        """Whether it says that there is no such thing."""
        return self.said.startswith("—")

    @property
    def is_same(self) -> bool:
        return self.said.startswith("the same")


def rows(text: str, heading: str) -> list[Row]:
    """The rows of all tables of two columns below *heading* (`## Commands`), to the next heading; without the tables' heads."""
    section = re.split(r"^#", text.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    found: list[Row] = []
    for line, following in pairwise([*section.splitlines(), ""]):
        if line.startswith("| ") and not following.startswith("|---"):
            first, second = (cell.strip() for cell in line.strip("|").split(" | "))
            found.append(Row(tuple(re.findall(r"`([^`]+)`", first)), second))
    return found


def torn_rows(text: str) -> list[str]:
    """The lines of tables in *text* that have another number of cells than their table's head, and heads without a line of dashes below.

    A bar parts cells in backticks too, unless a backslash stands before it (GitHub Flavored Markdown, section 4.10).
    """
    found: list[str] = []
    for table in _TABLE.findall(without_blocks(text)):
        head, *others = (line.strip() for line in table.splitlines())
        if not others or not re.fullmatch(r"[|:\- ]+", others[0]):
            found.append(head)
        found += [line for line in others if _cells(line) != _cells(head)]
    return found


def _cells(row: str) -> int:
    inside = row.removeprefix("|")
    return len(re.findall(r"(?<!\\)\|", inside)) + (not inside.endswith("|") or inside.endswith("\\|"))


def blocks(text: str, kind: str) -> list[str]:
    """What stands in the fences of *kind* (`sh`, `yaml`, …)."""
    return [found["body"] for found in _FENCE.finditer(text) if found["kind"] == kind]


def without_blocks(text: str) -> str:
    return _FENCE.sub("", text)


@cache
def shapes() -> Mapping[str, CommandShape]:
    """All commands and groups of the program by their words."""
    return {shape.words: shape for shape in app_shape(typer.main.get_command(app)).walk()}


def accepts(words: str, option: str) -> bool:
    """Whether the command *words* (`himl tb`) takes *option*, by a name of today or one of hi-ml's."""
    shape = shapes()[words]
    known = {normalized(name.lstrip("-")) for each in shape.options for name in (*each.names, *each.off_names)}
    return normalized(option.lstrip("-")) in known


def himl_commands(text: str) -> list[str]:
    """Each `himl …` of the sentences, the tables and the shell blocks of *text*, without what follows it in the shell."""
    said = [" ".join(command.split()) for command in re.findall(r"`(himl [^`]+)`", without_blocks(text))]
    shell = "\n".join((*blocks(text, "sh"), *blocks(text, "console"))).replace("\\\n", " ")
    inside = re.findall(r"\$\((himl [^)]*)\)", shell)
    return sorted({*said, *inside, *re.findall(r"^(?:\$ )?(himl .*)$", shell, flags=re.MULTILINE)})


def wrong_with(command: str) -> str:
    """What a `himl …` names that there is not; empty for nothing."""
    words = list(_own_words(command))
    depth = max(count for count in range(1, len(words) + 1) if " ".join(words[:count]) in shapes())
    found = " ".join(words[:depth])
    if shapes()[found].children and words[depth:] and not words[depth].startswith("-"):
        return f"there is no command '{found} {words[depth]}'"
    options = [word.partition("=")[0] for word in words[depth:] if re.match(r"--?[A-Za-z]", word)]
    unknown = [option for option in options if option not in ("--help", "--version") and not accepts(found, option)]
    return f"'{found}' has no {' and no '.join(unknown)}" if unknown else ""


def _own_words(command: str) -> Iterator[str]:
    for word in shlex.split(command, comments=True):
        if word in BEHIND:
            return
        yield word
