"""What a command may leave in files: secrets in the user's own settings and (links and tokens) in himl's cache, for nobody else to read."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stress.secrets.marks import Marks

CACHE = Path("xdg_cache_home", "himl", "azure")
"""himl's cache of the services' answers, below the home folder."""
KEPT = ("token", "signature", "delegation key")
"""Kinds that lie in that cache: they end by themselves."""
LARGEST = 32 << 20


@dataclass
class Search:
    """What `files` found, and how much it looked at."""

    leaks: list[str] = field(default_factory=list)
    files: int = 0
    passed_over: int = 0
    processes: int = 0

    def look(self, what: str, content: bytes, marks: Marks, but: Collection[str] = ()) -> None:
        """Search *content*, which is *what*."""
        self.leaks += [f"{kind} in {what}" for kind in marks.found(content, but)]

    def look_at_files(self, folder: Path, home: Path, marks: Marks, own: Collection[Path]) -> None:
        """Search all files below *folder*, but those that are the user's *own*, and judge the modes in himl's cache in *home*."""
        cache = home / CACHE
        for path in files_below(folder):
            if path in own:
                continue
            what = f"the file {_short(path.relative_to(folder))}"
            try:
                if path.stat().st_size > LARGEST:
                    self.passed_over += 1
                    continue
                content = path.read_bytes()
            except FileNotFoundError:  # what goes on took it away
                continue
            self.files += 1
            is_kept = cache in path.parents
            self.look(what, content, marks, KEPT if is_kept else ())
            self.look(f"the name of {what}", os.fsencode(path.name), marks)
            if is_kept:
                self.look_at_modes(path, cache.parent)

    def look_at_modes(self, path: Path, cache: Path) -> None:
        """Let nobody but the user read *path*, nor see what lies in the folders between it and *cache*."""
        for each, most in ((path, 0o600), *((folder, 0o700) for folder in path.parents if cache in folder.parents)):
            mode = stat.S_IMODE(each.stat().st_mode)
            if mode & ~most:
                self.leaks.append(f"mode {mode:o} of {each.name}")


def files_below(folder: Path) -> Iterator[Path]:
    for above, _, names in os.walk(folder):
        for name in names:
            path = Path(above, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _short(path: Path) -> str:
    """The first three parts of a path and its name."""
    return str(path) if len(path.parts) <= 4 else f"{Path(*path.parts[:3])}/…/{path.name}"
