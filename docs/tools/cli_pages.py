"""The pages of docs/cli, made from the commands themselves and from the types of their documents.

`python -m docs.tools.cli_pages` writes them; with `--check` it ends with 1 where one is not what it would be.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main

from himl_cli.app import app
from himl_cli.commands.agents import documents
from himl_cli.commands.completion import app_shape
from himl_cli.core.command_shape import CommandShape, ParameterShape
from himl_cli.render.forms import json_schema

FOLDER = Path(__file__).parents[1] / "cli"
WRITTEN = "<!-- Written by `python -m docs.tools.cli_pages` from the commands: change those. -->"
GUIDES = {
    "submit": "submit.md",
    "runs aggregate": "many-runs.md",
    "tb": "tensorboard.md",
    "ui": "ui.md",
    "checkpoint": "checkpoints.md",
    "datastore": "datasets.md",
    "montage": "montage.md",
    "tiles": "tiles.md",
    "dsa": "dsa.md",
    "init": "azure-set-up.md",
    "workspace": "azure.md",
    "doctor": "doctor.md",
    "completion": "completion.md",
}
"""The guide of a command, or of all commands of a group."""
WORLDS = {
    "submit": "azure prelude=stopped",
    "tb": "here until=http://",
    "ui": "here until=http://",
    "runs attach": "azure not=ssh",
    "runs cancel": "here prelude=running",
    "runs delete": "here answer=y",
    "checkpoint": "azure",
    "datastore": "azure",
    "montage": "slides",
    "tiles": "slides",
    "doctor": "azure",
    "dsa": "dsa",
}
"""Where tests run the examples of a command, or of a group; others run `here`."""
EDGES = re.compile(r"^([('\"]*)(.*?)([)'\".,;:!?]*)$")
CODE = re.compile(r"[*_<>\[\]|$=\\{}]|^-{1,2}\w|^--$|\w\(")
"""Words of help that are code: options, file names, patterns, placeholders."""


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    shape = app_shape(typer.main.get_command(app))
    return {f"{page_name(command)}.md": page(command) for command in shape.walk()} | {"schemas.md": schema_page()}


def page_name(command: CommandShape) -> str:
    """`runs-list` of `himl runs list`; the program itself is the index."""
    return "-".join(command.path[1:]) or "index"


def page(command: CommandShape) -> str:
    """The page of *command*."""
    title = command.words if len(command.path) > 1 else "Commands"
    parts = [WRITTEN, f"# {title}", prose(command.text), f"```text\n{command.usage}\n```", *examples(command), *children(command), *arguments(command)]
    for panel, options in panels(command).items():
        if panel != "Arguments":
            parts += [f"## {panel}", option_table(options)]
    return "\n\n".join([*parts, *remarks(command)]) + "\n"


def examples(command: CommandShape) -> Iterator[str]:
    """The examples of its help, words beside a command as a comment."""
    rows = [re.split(r" {3,}", line, maxsplit=1) for line in command.examples]
    width = max((len(row[0]) for row in rows), default=0)
    if rows:
        lines = [f"{row[0]:<{width}}  # {row[1]}" if len(row) > 1 else row[0] for row in rows]
        yield "\n".join([f"<!-- run: {_of(WORLDS, command) or 'here'} -->", "```sh", *lines, "```"])


def children(command: CommandShape) -> Iterator[str]:
    """The commands below it, a table a heading of help, and their pages for Sphinx."""
    headings = list(dict.fromkeys(child.panel for child in command.children))
    for heading in headings:
        rows = [(f"[{child.words}]({page_name(child)}.md)", prose(child.summary)) for child in command.children if child.panel == heading]
        yield f"## {heading}"
        yield table(("command", "what it does"), rows)
    if command.children:
        more = ["schemas"] if len(command.path) == 1 else []
        yield "\n".join(["```{toctree}", ":hidden:", "", *map(page_name, command.children), *more, "```"])


def arguments(command: CommandShape) -> Iterator[str]:
    """What stands plain on the command line, and the options that stand in for it."""
    rows = [(f"`{argument.metavar}`", prose(argument.help)) for argument in command.arguments]
    rows += [(option_name(option), prose(option.help)) for option in panels(command).get("Arguments", [])]
    if rows:
        yield "## Arguments"
        yield table(("argument", "what it is"), rows)


def panels(command: CommandShape) -> dict[str, list[ParameterShape]]:
    """The options by heading, in the order of help."""
    found: dict[str, list[ParameterShape]] = {}
    for option in command.options:
        found.setdefault(option.panel, []).append(option)
    return found


def option_table(options: Sequence[ParameterShape]) -> str:
    """A row an option; defaults where there are any."""
    rows = [(option_name(option), prose(option.help) + (" May be repeated." if option.repeats else ""), _default(option)) for option in options]
    if any(default for *_, default in rows):
        return table(("option", "what it does", "default"), rows)
    return table(("option", "what it does"), [row[:2] for row in rows])


def option_name(option: ParameterShape) -> str:
    """Its names, with its metavar behind the long one."""
    names = [f"{name} {option.metavar}" if name == option.long_name else name for name in (*option.names, *option.off_names)]
    return ", ".join(code(name.strip()) for name in names)


def remarks(command: CommandShape) -> Iterator[str]:
    """What holds for many options at once, and where to read on."""
    settable = next((option for option in command.options if option.variable and option.takes_value), None)
    if settable is not None:
        yield (
            f"Each option can also be set by a variable, `{settable.variable}` for `{settable.long_name}`, and under `[submit]` in `himl.toml`. "
            "The command line wins over variables, variables over files."
        )
    old = [f"`{name}` (`{option.long_name}`)" for option in command.options for name in option.old_names]
    if old:
        yield f"hi-ml's names of options are understood as well: {', '.join(old)}."
    guide = _of(GUIDES, command)
    seen = [f"[{name}](../{name})" for name in (guide, "scripts.md") if name]
    if len(command.path) == 1:
        yield "Exit codes: [scripts.md](../scripts.md). JSON documents: [schemas.md](schemas.md)."
        return
    name = " ".join(command.path[1:])
    if name in documents():
        kind = _kind(json_schema(name, *documents()[name])).replace("](#", "](schemas.md#")
        yield f"The document of `--json`: {kind}."
    yield f"See also: {', '.join(seen)}; [all commands](index.md)."


def schema_page() -> str:
    """The documents that commands print with `--json`, and the fields of the objects in them."""
    schemas = {name: json_schema(name, *kinds) for name, kinds in documents().items()}
    objects = {name: part for schema in schemas.values() for name, part in schema.get("$defs", {}).items()}
    parts = [
        WRITTEN,
        "# JSON documents",
        "This page lists what each command prints with `--json`. `himl schema COMMAND` prints the JSON Schema of it. Later versions may add fields.",
        table(("command", "document"), [(code("stderr" if name == "error" else f"himl {name}"), _kind(schema)) for name, schema in schemas.items()]),
    ]
    for name, part in objects.items():
        parts += [f"## {name}", prose(part.get("description", ""))]
        if "enum" in part:
            parts.append(f"One of {_kind(part)}.")
            continue
        fields = [(code(field), _kind(each) + ("" if field in part["required"] else ", optional"), each) for field, each in part["properties"].items()]
        parts.append(table(("field", "type", "meaning"), [(field, kind, prose(_meaning(each))) for field, kind, each in fields]))
    return "\n\n".join(filter(None, parts)) + "\n"


def _kind(schema: Mapping[str, Any]) -> str:
    """The type in words, with links to the objects."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_kind, schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(code(word) for word in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_kind(schema['items'])}"
    inside = schema.get("additionalProperties")
    return f"object of {_kind(inside)}" if inside else schema.get("type", "any value")


def _meaning(schema: Mapping[str, Any]) -> str:
    """The description, which the one of several types that is not null may have."""
    return next((each["description"] for each in (schema, *schema.get("anyOf", ())) if "description" in each), "")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; bars inside cells are escaped."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (heads, *rows)]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("---" for _ in heads), *lines[1:]))


def prose(text: str) -> str:
    """Help as Markdown: what would be read as markup is code."""
    return "\n\n".join(" ".join(map(_word, paragraph.split(" "))) for paragraph in text.split("\n\n"))


def code(text: str) -> str:
    """As code; nothing stays nothing."""
    return f"`{text}`" if text else ""


def _word(word: str) -> str:
    match = EDGES.match(word)
    if match is None or "`" in word:
        return word
    before, inner, after = match.groups()
    if inner.count("(") > inner.count(")") and after.startswith(")"):
        inner, after = f"{inner})", after[1:]
    return f"{before}`{inner}`{after}" if CODE.search(inner) else word


def _default(option: ParameterShape) -> str:
    return prose(option.default) if " " in option.default else code(option.default)


def _of(table_of: Mapping[str, str], command: CommandShape) -> str:
    """What *table_of* has for the command, else for its group."""
    words = command.path[1:]
    return next((table_of[name] for name in (" ".join(words), *words[:1]) if name in table_of), "")


def stale(folder: Path) -> list[str]:
    """The pages in *folder* that are missing, left over, or not what they would be."""
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    wanted = pages()
    return sorted(name for name in {*there, *wanted} if there.get(name) != wanted.get(name))


def write(folder: Path) -> None:
    """Write all pages, and remove those of commands that are no more."""
    folder.mkdir(exist_ok=True)
    wanted = pages()
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.tools.cli_pages", description="Write the pages of docs/cli.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page is not what it would be")
    if parser.parse_args().check:
        differing = stale(FOLDER)
        if differing:
            raise SystemExit(f"Not what the commands say: {', '.join(f'docs/cli/{name}' for name in differing)}. Write them: python -m docs.tools.cli_pages")
    else:
        write(FOLDER)


if __name__ == "__main__":
    main()
