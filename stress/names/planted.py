"""What somebody plants in the folder that files come to: links that lead out of it, under names that himl will write."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.files import STATE_NAME
from himl_cli.services.transfer.local_files import part_name, short_hash
from himl_cli.services.transfer.state import MARK_SIGNS

VICTIM, SECRET = "victim", b"somebody's own"
INSIDE = f"{VICTIM}/deep/file.bin"
"""The file that comes where something is planted."""


@dataclass(frozen=True)
class Outside:
    """A folder with a file that is nobody's business, and a pipe: whoever opens that waits for ever."""

    folder: Path

    @property
    def cache(self) -> Path:
        """himl's cache of the case, on the same disk as all else."""
        return self.folder.parent.parent / "home" / "xdg_cache_home" / "himl"

    def make(self) -> None:
        self.folder.mkdir()
        (self.folder / "secret.txt").write_bytes(SECRET)
        (self.folder / "empty").write_bytes(b"")
        (self.folder / "deep").mkdir()
        os.mkfifo(self.folder / "pipe")

    def some(self, dice: random.Random) -> Path:
        """A file that is there, one that is not, or the pipe."""
        return self.folder / dice.choice(["secret.txt", "empty", "new.txt", "pipe"])


Plant = Callable[[Path, str, Outside, random.Random, bytes], None]
"""In the folder where himl keeps what it remembers, for the file of a name below it and its content."""


def _link(path: Path, to: Path, dice: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to if dice.random() < 0.5 else os.path.relpath(to, path.parent))


def folder(root: Path, name: str, outside: Outside, dice: random.Random, content: bytes) -> None:
    """One of the folders on the way is a link."""
    above = [part for part in Path(name).parents if VICTIM in part.parts]
    _link(root / dice.choice(above), outside.folder, dice)


def file(root: Path, name: str, outside: Outside, dice: random.Random, content: bytes) -> None:
    """The file is a link, at times to one with the very bytes that come."""
    if dice.random() < 0.25:
        (outside.folder / "same.bin").write_bytes(content)
        _link(root / name, outside.folder / "same.bin", dice)
    else:
        _link(root / name, outside.some(dice), dice)


def part(root: Path, name: str, outside: Outside, dice: random.Random, content: bytes) -> None:
    """The name that the file has while it comes is a link."""
    path = root / name
    mark = short_hash(f"\n{outside.cache / 'transfers'}")[:MARK_SIGNS]
    _link(path.with_name(part_name(path.name, mark)), outside.some(dice), dice)


def state(root: Path, name: str, outside: Outside, dice: random.Random, content: bytes) -> None:
    """The file in which earlier versions remembered what they had is a link, or what SQLite put beside it."""
    _link(root / f"{STATE_NAME}.db{dice.choice(['', '', '-journal', '-wal', '-shm'])}", outside.some(dice), dice)


def lock(root: Path, name: str, outside: Outside, dice: random.Random, content: bytes) -> None:
    _link(root / f"{STATE_NAME}.lock", outside.some(dice), dice)


PLANTS: Sequence[tuple[str, Plant, frozenset[str]]] = (
    ("link-folder", folder, frozenset({"datastore", "download", "tb", "checkpoint"})),
    ("link-file", file, frozenset({"datastore", "download", "tb", "checkpoint"})),
    ("link-part", part, frozenset({"datastore", "download", "checkpoint"})),
    ("link-state", state, frozenset({"datastore", "download", "checkpoint"})),
    ("link-lock", lock, frozenset({"datastore", "download", "checkpoint"})),
)
"""By the name of the kind, with the commands that meet it."""
