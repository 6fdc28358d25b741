"""How ids and names look in messages."""

from __future__ import annotations

from collections.abc import Sequence

from himl_cli.core.blobs import listed

LONGEST = 80


def quoted(name: str) -> str:
    """*name* in quotes; of a long one its beginning."""
    return f"'{name}'" if len(name) <= LONGEST else f"'{name[: LONGEST - 1]}…'"


def some(names: Sequence[str]) -> str:
    """A few of *names* in quotes, and how many more there are."""
    return listed([quoted(name) for name in names])
