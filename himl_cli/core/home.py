"""Paths that begin with the home folder of a user."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.errors import NotFound


def in_home(text: str | Path, what: str = "file") -> Path:
    """The path *text* with its home folder in place of `~` or `~user`. Raises NotFound for a *what* in the home folder of nobody."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise NotFound(f"There is no {what} '{text}': no such user has a home folder here.", hint="Write ./~ for a name that begins so.") from None
