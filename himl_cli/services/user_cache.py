"""The folders of this user's cache that himl keeps copies in."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.services.transfer.local_files import disk_error


def cache_of(name: str, use: str, hint: str) -> Path:
    """The cache's folder *name*, made for this user only. Raises BadUsage, saying for what *use* there is none, for a
    user without a home; DiskFailed."""
    import platformdirs

    try:
        root = platformdirs.user_cache_path("himl", appauthor=False) / name
    except RuntimeError:
        raise BadUsage(f"There is no folder {use}: this user has no home folder.", hint=hint) from None
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise disk_error(err, f"Cannot make himl's cache folder '{root}'") from err
    return root
