"""The blocks of the documents, and the markers that define how tests run them.

A marker is a comment in the line before a fence, `<!-- run: WORLD [word ...] -->`. `<!-- runs: WORLD -->` appears once
in a page, for all blocks without a marker.

    more          run with the folder and variables of the previous block of the same world, as parts of one chain
    prelude=NAME  run tests/docs/preludes/NAME.py before a Python block, NAME.sh before a shell block
    until=TEXT    send Ctrl-C to commands after they print TEXT: they must succeed
    answer=TEXT   run each command in a terminal, and type TEXT
    exit=N        expect this exit code
    file=PATH     write the block to this file
    shows         expect the output of the commands of a console block to match the block
    azureml       run the Python block again with --azureml: the job must complete
    not=REASON    do not run the block (REASONS lists the reasons)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRELUDES = Path(__file__).parent / "preludes"
WORLDS = (
    "here",
    "gpus",
    "example",
    "azure",
    "slides",
    "slurm",
    "ssh",
    "lightning",
    "recipes",
    "runner",
    "dsa",
    "empty",
)
SUFFIXES = {"sh": ".sh", "console": ".sh", "python": ".py"}
KINDS = (*SUFFIXES, "toml", "json", "yaml")
"""The kinds that tests run or parse."""
UNMARKED = re.compile(r"text|\{[\w-]+\}")
"""Other kinds of fences: plain text, and Sphinx directives."""
REASONS = {
    "pip": "installs packages, which the packaging tests do",
    "az-infrastructure": "makes or mounts things in Azure by the programs of others",
    "ssh": "needs another machine",
    "debugger": "waits until a debugger connects",
    "group": "needs a group of users",
    "live": "runs all live checks, which tests/commands/test_live_checks.py does",
    "checkout": "changes the checkout itself, or measures for an hour",
}
ELSEWHERE = ("docs/ci.md", "docs/design*", "docs/performance.md", "docs/reliability.md")
"""Pages for developers of himl that do not show its use, and the page with the files that
tests/project/test_ci_examples.py runs.
"""
VALUED = ("prelude", "until", "answer", "exit", "file", "not")
FLAGS = ("more", "shows", "azureml")

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<kind>\S*)")
_MARKER = re.compile(r"^<!-- (?P<which>runs?): (?P<world>\S+)(?P<words>( \S+)*) -->$")
_COMMANDS = re.compile(r"^\s*(?:\$ )?(?:himl |python |import |from \w+ import )", re.MULTILINE)


@dataclass(frozen=True)
class Marker:
    world: str
    words: tuple[str, ...] = ()

    def value(self, name: str) -> str:
        return next((word.partition("=")[2] for word in self.words if word.startswith(f"{name}=")), "")


@dataclass(frozen=True)
class Block:
    """A fence that starts at `line`, counted from 1."""

    page: str
    line: int
    kind: str
    body: str
    marker: Marker | None = None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def world(self) -> str:
        return self.marker.world if self.marker else ""

    def has(self, word: str) -> bool:
        return self.marker is not None and word in self.marker.words

    def value(self, name: str) -> str:
        return self.marker.value(name) if self.marker else ""


@dataclass(frozen=True)
class Page:
    """The contents of a page. `loose` are the lines and texts of blocks without a fence."""

    name: str
    blocks: Sequence[Block]
    loose: Sequence[tuple[int, str]]
    default: Marker | None = None
    stray: Sequence[int] = field(default_factory=tuple)
    """Lines with a marker that is invalid or not followed by a fence."""


def read(name: str, text: str | None = None) -> Page:
    """Parse the page *name* of the checkout, or *text* as that page."""
    lines = ((ROOT / name).read_text(encoding="utf-8") if text is None else text).splitlines()
    matched = [
        (number, found["which"], found["world"], found["words"])
        for number, line in enumerate(lines, 1)
        if (found := _MARKER.match(line.strip()))
    ]
    markers = {number: Marker(world, tuple(words.split())) for number, which, world, words in matched if which == "run"}
    defaults = [
        (number, Marker(world, tuple(words.split()))) for number, which, world, words in matched if which == "runs"
    ]
    default = defaults[0][1] if defaults else None
    blocks, loose = _fences(name, lines, markers, default)
    begun = {block.line - 1 for block in blocks}
    stray = [
        number
        for number, line in enumerate(lines, 1)
        if line.lstrip().startswith("<!-- run:") and number not in begun & set(markers)
    ]
    stray += [
        number
        for number, line in enumerate(lines, 1)
        if line.lstrip().startswith("<!-- runs:") and [number] != [at for at, _ in defaults]
    ]
    return Page(name, blocks, loose, default, stray)


def _fences(
    name: str, lines: Sequence[str], markers: dict[int, Marker], default: Marker | None
) -> tuple[list[Block], list[tuple[int, str]]]:
    blocks: list[Block] = []
    loose: list[tuple[int, str]] = []
    number, may_begin = 0, True
    while number < len(lines):
        line, begin = lines[number], number + 1
        number += 1
        if found := _FENCE.match(line):
            end = next((at for at in range(number, len(lines)) if lines[at].strip() == found["ticks"]), len(lines))
            body = "".join(f"{inner.removeprefix(found['indent'])}\n" for inner in lines[number:end])
            blocks.append(
                Block(
                    name,
                    begin,
                    found["kind"],
                    body,
                    markers.get(begin - 1) or (default if found["kind"] in KINDS else None),
                )
            )
            number, may_begin = end + 1, True
        elif line.startswith("    ") and may_begin:
            loose.append((begin, line.strip()))
        else:
            may_begin = not line.strip()
    return blocks, loose


def problems(page: Page) -> list[str]:
    found = [f"{page.name}:{line}: a marker that is not understood, or that no block follows" for line in page.stray]
    found += [
        f"{page.name}:{line}: a command without a fence: {text}" for line, text in page.loose if _COMMANDS.match(text)
    ]
    if page.default is not None and (page.default.world not in WORLDS or page.default.words):
        found.append(f"{page.name}: the page's own marker names a world, and nothing more")
    found += [f"{block.where}: {what}" for block in page.blocks for what in _wrong_with(block)]
    begun: set[str] = set()
    for block in _to_run(page):
        if block.has("more") and block.world not in begun:
            found.append(
                f"{block.where}: there is no block of the world '{block.world}' above that it could go on from"
            )
        begun.add(block.world)
    return found


def _wrong_with(block: Block) -> Iterator[str]:
    if block.kind not in KINDS:
        if not UNMARKED.fullmatch(block.kind):
            yield f"a fence of '{block.kind}'"
        if block.marker is not None:
            yield "a marker before a block that is not run"
        if not block.kind.startswith("{") and _COMMANDS.search(re.sub(r".*\[OPTIONS\].*", "", block.body)):
            yield "commands in a block that is not run"
        return
    if block.marker is None:
        yield "no marker, and the page has none"
        return
    if block.world not in WORLDS:
        yield f"there is no world '{block.world}'"
    for word in block.marker.words:
        name, equals, value = word.partition("=")
        if not (name in VALUED and value if equals else name in FLAGS):
            yield f"the word '{word}'"
    if block.value("not") not in ("", *REASONS):
        yield f"'{block.value('not')}' is no reason"
    if (prelude := block.value("prelude")) and not (PRELUDES / f"{prelude}{SUFFIXES.get(block.kind, '')}").is_file():
        yield f"there is no prelude '{prelude}' for it"


def chains(page: Page) -> list[list[Block]]:
    """The blocks to run, in lists that share a folder."""
    found: list[list[Block]] = []
    for block in _to_run(page):
        if block.has("more"):
            next(chain for chain in reversed(found) if chain[0].world == block.world).append(block)
        else:
            found.append([block])
    return found


def _to_run(page: Page) -> list[Block]:
    return [block for block in page.blocks if block.kind in KINDS and not block.value("not")]


def pages() -> list[str]:
    """The pages with blocks to run, relative to the checkout, starting with the README."""
    found = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
    return [name for name in found if not any(fnmatch(name, pattern) for pattern in ELSEWHERE)]
