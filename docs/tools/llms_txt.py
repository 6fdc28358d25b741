"""Write `llms.txt` (https://llmstxt.org) to the built documentation: a summary of himl, and a line per page and
command.

The lines come from docs/index.md and from the help of the program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from sphinx.application import Sphinx

from docs.tools.cli_pages import page_name
from himl_cli.app import app as program
from himl_cli.commands.completion import app_shape

ENTRY = re.compile(r"^- \[(?P<title>[^]]+)\]\((?P<page>[^)]+)\.md\)(?P<text>[^\n]*(?:\n  [^\n]*)*)", re.MULTILINE)
"""An item of a list in index.md: a page and its description, which may continue on indented lines."""


def llms_txt(index: str) -> str:
    """Return the text of `llms.txt`. *index* is the text of docs/index.md."""
    return "\n".join(_lines(index)) + "\n"


def _lines(index: str) -> Iterator[str]:
    shape = app_shape(typer.main.get_command(program))
    yield from ("# himl", "", f"> {shape.summary}")
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        entries = [*ENTRY.finditer(section)]
        if entries:
            yield from ("", f"## {section.splitlines()[0]}", "")
        for entry in entries:
            text = " ".join(entry["text"].lstrip(":,").split())
            yield f"- [{entry['title']}]({entry['page']}.html){f': {text}' if text else ''}"
    yield from ("", "## Command reference", "")
    for command in shape.walk():
        if not command.children:
            yield f"- [{command.words}](cli/{page_name(command)}.html): {command.summary}"


def write(app: Sphinx, error: Exception | None) -> None:
    """Write `llms.txt` beside the pages."""
    if error is None and app.builder.format == "html":
        text = llms_txt((Path(app.srcdir) / "index.md").read_text(encoding="utf-8"))
        (Path(app.outdir) / "llms.txt").write_text(text, encoding="utf-8", newline="\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
