"""A workspace and what is known of it, for people."""

from __future__ import annotations

from collections.abc import Iterator

from himl_cli.core.workspaces import WorkspaceFacts
from himl_cli.render.errors import one_line
from himl_cli.render.style import styled

LABEL = 17


def workspace_view(facts: WorkspaceFacts) -> Iterator[str]:
    """Its name and where that was read, then a line a fact. Values are never folded: they are there to be copied."""
    yield styled(one_line(facts.label), "bold")
    for name, value in {"read from": facts.source, **facts.facts}.items():
        if value:
            yield f"  {styled(_title(name).ljust(LABEL), 'dim')}  {one_line(value)}"


def _title(name: str) -> str:
    words = name.split("_")
    return " ".join([words[0].capitalize(), *(word.upper() if word in ("id", "url") else word for word in words[1:])])
