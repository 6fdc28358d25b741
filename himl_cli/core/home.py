"""The home folder of the user, and paths that begin with one."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.errors import NotFound


def home_folder() -> Path | None:
    """The user's home folder; None where this user has none (a container with a user id that nobody knows)."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def in_home(text: str | Path, what: str = "file") -> Path:
    """The path *text* with its home folder in place of `~` or `~user`. Raises NotFound for a *what* in the home folder
    of nobody."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise NotFound(
            f"There is no {what} '{text}': no such user has a home folder here.",
            hint="Write ./~ for a name that begins so.",
        ) from None
