"""Generate the pages of docs/cli from the commands and from the types of their JSON documents.

`scripts/generate` writes the pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer.main

from docs.tools import json_documents
from himl_cli.app import app
from himl_cli.commands.completion import app_shape
from himl_cli.core.command_shape import CommandShape, ParameterShape

WRITTEN = "<!-- `scripts/generate` makes this page from the commands. Manual changes are lost. -->"
GUIDES = {
    "submit": "submit.md",
    "runs diff": "many-runs.md",
    "runs export": "many-runs.md",
    "runs import": "many-runs.md",
    "runs code": "many-runs.md",
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
    "gc": "submit-reference.md",
    "completion": "completion.md",
}
"""The guide of a command, or of all commands of a group."""
WORLDS = {
    "submit": "azure prelude=stopped",
    "tb": "here until=http://",
    "ui": "here until=http://",
    "runs attach": "azure not=ssh",
    "runs cancel": "here prelude=running",
    "runs code": "here prelude=submitted",
    "runs delete": "here answer=y",
    "runs import": "here prelude=exported",
    "checkpoint": "azure",
    "datastore": "azure",
    "montage": "slides",
    "tiles": "slides",
    "doctor": "azure",
    "dsa": "dsa",
}
"""The environment in which tests run the examples of a command or a group. The default is `here`."""
EDGES = re.compile(r"^([('\"]*)(.*?)([)'\".,;:!?]*)$")
CODE = re.compile(r"[*_<>\[\]|$=\\{}]|^-{1,2}\w|^--$|\w\(")
"""Words of help that are code: options, file names, patterns, placeholders."""


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    shape = app_shape(typer.main.get_command(app))
    return {f"{page_name(command)}.md": page(command) for command in shape.walk()} | {"schemas.md": schema_page()}


def page_name(command: CommandShape) -> str:
    """Return the name of a page without its ending: `runs-list` for `himl runs list`, `index` for the program
    itself.
    """
    return "-".join(command.path[1:]) or "index"


def page(command: CommandShape) -> str:
    """Return the page of *command*."""
    title = command.words if len(command.path) > 1 else "Commands"
    parts = [
        WRITTEN,
        f"# {title}",
        prose(command.text),
        f"```text\n{command.usage}\n```",
        *examples(command),
        *children(command),
        *arguments(command),
    ]
    for panel, options in panels(command).items():
        if panel != "Arguments":
            parts += [f"## {panel}", option_table(options)]
    return "\n\n".join([*parts, *remarks(command)]) + "\n"


def examples(command: CommandShape) -> Iterator[str]:
    """Yield the examples of the help as a code block, with remarks as comments."""
    rows = [re.split(r" {3,}", line, maxsplit=1) for line in command.examples]
    width = max((len(row[0]) for row in rows), default=0)
    if rows:
        lines = [f"{row[0]:<{width}}  # {row[1]}" if len(row) > 1 else row[0] for row in rows]
        yield "\n".join([f"<!-- run: {_of(WORLDS, command) or 'here'} -->", "```sh", *lines, "```"])


def children(command: CommandShape) -> Iterator[str]:
    """Yield a table of subcommands per heading of the help, and their pages for Sphinx."""
    headings = list(dict.fromkeys(child.panel for child in command.children))
    for heading in headings:
        rows = [
            (f"[{child.words}]({page_name(child)}.md)", prose(child.summary))
            for child in command.children
            if child.panel == heading
        ]
        yield f"## {heading}"
        yield table(("command", "description"), rows)
    if command.children:
        more = ["schemas"] if len(command.path) == 1 else []
        yield "\n".join(
            ["<!-- sphinx", "```{toctree}", ":hidden:", "", *map(page_name, command.children), *more, "```", "-->"]
        )


def arguments(command: CommandShape) -> Iterator[str]:
    """Yield the table of arguments and of the options that replace them."""
    rows = [(f"`{argument.metavar}`", prose(argument.help)) for argument in command.arguments]
    rows += [(option_name(option), prose(option.help)) for option in panels(command).get("Arguments", [])]
    if rows:
        yield "## Arguments"
        yield table(("argument", "description"), rows)


def panels(command: CommandShape) -> dict[str, list[ParameterShape]]:
    """Return the options by heading, in the order of the help."""
    found: dict[str, list[ParameterShape]] = {}
    for option in command.options:
        found.setdefault(option.panel, []).append(option)
    return found


def option_table(options: Sequence[ParameterShape]) -> str:
    """Return a table with a row per option, and a column of defaults if any option has one."""
    rows = [
        (option_name(option), prose(option.help) + (" May be repeated." if option.repeats else ""), _default(option))
        for option in options
    ]
    if any(default for *_, default in rows):
        return table(("option", "description", "default"), rows)
    return table(("option", "description"), [row[:2] for row in rows])


def option_name(option: ParameterShape) -> str:
    """Return the names of the option, with its metavar after the long name."""
    names = [
        f"{name} {option.metavar}" if name == option.long_name else name for name in (*option.names, *option.off_names)
    ]
    return ", ".join(code(name.strip()) for name in names)


def remarks(command: CommandShape) -> Iterator[str]:
    """Yield the remarks about settings and old names, and the links at the end of a page."""
    settable = next(
        (
            option
            for option in command.options
            if option.variable and option.takes_value and option.long_name.startswith("--")
        ),
        None,
    )
    if settable is not None:
        yield (
            f"You can also set each option with an environment variable, such as `{settable.variable}` for "
            f"`{settable.long_name}`, and under `[submit]` in "
            "`himl.toml`. The command line takes precedence over environment variables, and these over files."
        )
    old = [f"`{name}` (`{option.long_name}`)" for option in command.options for name in option.old_names]
    if old:
        yield f"himl also accepts the option names of hi-ml: {', '.join(old)}."
    guide = _of(GUIDES, command)
    seen = [f"[{name}](../{name})" for name in (guide, "scripts.md") if name]
    if len(command.path) == 1:
        yield "Exit codes: [scripts.md](../scripts.md). JSON documents: [schemas.md](schemas.md)."
        return
    name = " ".join(command.path[1:])
    if name in json_documents.DOCUMENTS:
        kind = _kind(json_documents.schemas()[name]).replace("](#", "](schemas.md#")
        yield f"With `--json`, the command prints one document: {kind}."
    yield f"See also: {', '.join(seen)}, [all commands](index.md)."


def schema_page() -> str:
    """Return the page of the documents that commands print with `--json`, with the fields of their objects."""
    schemas = json_documents.schemas()
    objects = {name: part for schema in schemas.values() for name, part in schema.get("$defs", {}).items()}
    parts = [
        WRITTEN,
        "# JSON documents",
        "This page lists the documents that commands print with `--json`. `himl schema COMMAND` prints the "
        "JSON Schema of one. Later versions may add fields.",
        table(
            ("command", "document"),
            [
                (code("stderr" if name == "error" else f"himl {name}"), _kind(schema))
                for name, schema in schemas.items()
            ],
        ),
    ]
    for name, part in objects.items():
        parts += [f"## {name}", prose(part.get("description", ""))]
        if "enum" in part:
            parts.append(f"One of {_kind(part)}.")
            continue
        fields = [
            (code(field), _kind(each) + ("" if field in part["required"] else ", optional"), each)
            for field, each in part["properties"].items()
        ]
        parts.append(
            table(("field", "type", "meaning"), [(field, kind, prose(_meaning(each))) for field, kind, each in fields])
        )
    return "\n\n".join(filter(None, parts)) + "\n"


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type in words, with links to the objects."""
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
    """Return the description, which may belong to the non-null type of a union."""
    return next((each["description"] for each in (schema, *schema.get("anyOf", ())) if "description" in each), "")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. Bars inside cells are escaped."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (heads, *rows)]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("---" for _ in heads), *lines[1:]))


def prose(text: str) -> str:
    """Return help text as Markdown, with words that contain markup as code."""
    return "\n\n".join(" ".join(map(_word, paragraph.split(" "))) for paragraph in text.split("\n\n"))


def code(text: str) -> str:
    """Return *text* as code, or an empty text unchanged."""
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
    """Return the entry of *table_of* for the command, else for its group."""
    words = command.path[1:]
    return next((table_of[name] for name in (" ".join(words), *words[:1]) if name in table_of), "")
