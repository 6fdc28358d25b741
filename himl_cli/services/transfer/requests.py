"""What a transfer is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from himl_cli.services.transfer.filters import Filters

WORKERS = 32


@dataclass(frozen=True)
class DownloadRequest:
    """Files of a store into `folder`, below its subfolder `under`.

    `strip_prefix` drops the folders of the prefix from the names; `overwrite` replaces files here that differ; without
    `validate` no MD5 is computed, and files here are compared by size. Names that begin with one of `logs` are of logs
    of a service that never have an MD5: nobody is told that they could not be checked.
    """

    folder: Path
    filters: Filters = field(default_factory=Filters)
    under: str = ""
    strip_prefix: bool = False
    overwrite: bool = False
    validate: bool = True
    workers: int = WORKERS
    logs: tuple[str, ...] = ()

    def target(self, name: str) -> str:
        """The name that blob *name* gets below `folder`."""
        kept = _without_folders(name, self.filters.prefix) if self.strip_prefix else name
        return f"{self.under}/{kept}" if self.under else kept

    @property
    def may_fall_together(self) -> bool:
        """Whether two names may get one target: a prefix that ends within a name drops more of some names than of
        others."""
        return self.strip_prefix and self.filters.prefix != "" and not self.filters.prefix.endswith("/")


@dataclass(frozen=True)
class UploadRequest:
    """The contents of the folder `local` (or that one file) to `prefix`; the prefix of `filters` is not used.

    Without `validate`, files that the store has already are compared by size only.
    """

    local: Path
    prefix: str = ""
    filters: Filters = field(default_factory=Filters)
    overwrite: bool = False
    validate: bool = True
    workers: int = WORKERS


def _without_folders(name: str, prefix: str) -> str:
    """*name* without the folder that *prefix* is, or lies in."""
    folder = prefix.rstrip("/") + "/"
    if name.startswith(folder):
        return name[len(folder) :]
    return name[prefix.rfind("/") + 1 :]
