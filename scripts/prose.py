"""Check what people read against the standard in docs/contributing/writing.md.

`python -m scripts.prose` checks help texts, messages, docstrings, comments and pages for banned words, and help for
long sentences. It prints each finding as `place: text`, and exits with 1 if there are any.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import typer.main

from himl_cli.app import app
from himl_cli.commands.completion import app_shape
from scripts.generate import texts

ROOT = Path(__file__).parents[1]
STANDARD = ROOT / "docs" / "contributing" / "writing.md"
LONGEST = 80
"""Characters of a sentence in help."""
UNITS = (
    "row|line|column|table|file|folder|request|task|job|run|trial|process|curve|picture|page|test|option|"
    "command|step|node|machine|slide|tile|block|part"
)
BANNED = {
    r"kept here": "stored on this machine",
    r"stand(?:s|ing)? (?:for|in for)": "is, means, replaces",
    r"told|tells? (?:the|what|which|how|where|it|them)\b": "prints, shows, states",
    r"brought|brings? back": "fetched, restores",
    r"anew": "again",
    r"house|room|doors?": "a plain noun",
    r"whoever|whatever|nobody": "a plain noun",
    rf"an? (?:{UNITS}) an? (?:{UNITS})": "one row per run",
    r"likewise|as well(?! as)": "also, or nothing",
    r"(?:^|(?<=[.!?] ))(?-i:What) (?:is|are|was|it|they)\b(?![^.]*\?)": "a noun",
}
"""Patterns of words, and what to write in their place."""
PATTERN = re.compile("|".join(rf"(?<![\w-])({words})(?![\w-])" for words in BANNED), re.MULTILINE | re.IGNORECASE)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z'\"(`-]|himl |\w+\.csv )")
CODE = re.compile(r"^(?:```|~~~).*?^(?:```|~~~)|`[^`\n]*`|<!--.*?-->|\]\([^)]*\)", re.MULTILINE | re.DOTALL)
"""Parts of a page that are not prose: code, comments, addresses of links."""


def helps() -> Iterator[tuple[str, str]]:
    """Each text of help with the command and option that it belongs to."""
    for command in app_shape(typer.main.get_command(app)).walk():
        yield command.words, command.text
        yield command.words, command.summary
        for parameter in (*command.arguments, *command.options):
            yield f"{command.words} {parameter.names[0] if parameter.names else parameter.metavar}", parameter.help


def code_texts(path: Path) -> Iterator[tuple[int, str]]:
    """The line and text of each docstring, comment and string with a space in a module."""
    source = path.read_text(encoding="utf-8")
    nodes = [*ast.walk(ast.parse(source))]
    inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "1" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and " " in node.value
            and id(node) not in inside
        ):
            yield node.lineno, re.sub(r"`[^`]*`", "`1`", node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.removeprefix("# ")


def page_texts(path: Path) -> Iterator[tuple[int, str]]:
    """The line and text of each line of prose in a page."""
    text = CODE.sub(lambda found: "1" + "\n" * found[0].count("\n"), path.read_text(encoding="utf-8"))
    yield from enumerate(text.splitlines(), 1)


def banned(text: str) -> Iterator[str]:
    """Each banned word in *text*, with its remedy."""
    for found in PATTERN.finditer(text):
        yield f"'{found[0]}' (write: {[*BANNED.values()][(found.lastindex or 1) - 1]})"


def findings() -> Iterator[str]:
    """What breaks the standard, one line each."""
    for place, text in helps():
        for sentence in (each for paragraph in text.split("\n\n") for each in SENTENCE.split(paragraph)):
            if len(sentence) > LONGEST:
                yield f"{place}: {len(sentence)} characters: {sentence}"
    for path in sorted((ROOT / "himl_cli").rglob("*.py")):
        for line, text in code_texts(path):
            yield from (f"{path.relative_to(ROOT)}:{line}: {word}" for word in banned(text))
    for path in pages():
        for line, text in page_texts(path):
            yield from (f"{path.relative_to(ROOT)}:{line}: {word}" for word in banned(text))


def pages() -> list[Path]:
    """All pages but the standard. Of generated pages, the templates; those of docs/cli are made from help."""
    written = {STANDARD, *(ROOT / name for name in texts())}
    found = {
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *ROOT.glob("*/*.md.in"),
    }
    return sorted(path for path in found - written if "_build" not in path.parts)


def main() -> None:
    found = [*findings()]
    if found:
        raise SystemExit("\n".join([*found, f"{len(found)} texts differ from docs/contributing/writing.md."]))


if __name__ == "__main__":
    main()
