"""Which files of the slides' cache are in use, by whichever himl."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock

from himl_cli.core.processes import ProcessLock, is_held

FOLDER = ".in-use"
_LOCK, _PINS = ".lock", ".pins"
MOST_DIGITS = 20
"""Of a size, its sign included."""


class Pins:
    """Names of files, with their sizes, that this run of himl holds: written down beside those of the others, and void
    once this process has ended.

    A name that was pinned twice has to be dropped twice. For several threads. Making it, `add` and `others` raise
    OSError.
    """

    def __init__(self, top: Path) -> None:
        self._folder = top / FOLDER
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._id = uuid.uuid4().hex
        self._lock = ProcessLock(self._path(self._id, _LOCK))
        self._lock.take()
        self._notes = self._path(self._id, _PINS)
        self._notes.touch(mode=0o600)  # after the lock: notes without a holder are those of a himl that died
        self._turn = Lock()
        self._own: dict[str, tuple[int, int]] = {}
        self._is_closed = False

    @property
    def own(self) -> dict[str, int]:
        """Sizes in bytes by name."""
        with self._turn:
            return {name: size for name, (size, _) in self._own.items()}

    def add(self, files: Mapping[str, int]) -> None:
        """Pin *files*, sizes in bytes by name, so that the others see it."""
        with self._turn:
            new = {name: size for name, size in files.items() if name not in self._own}
            self._write(f"+{size} {name}\n" for name, size in new.items())
            for name, size in files.items():
                self._own[name] = size, self._own.get(name, (0, 0))[1] + 1

    def drop(self, names: Iterable[str]) -> None:
        """Pin them once less; a name that nothing pins any more may be removed by anybody. What cannot be noted stays
        pinned for others."""
        with self._turn:
            gone = []
            for name in names:
                size, times = self._own.pop(name, (0, 0))
                if times > 1:
                    self._own[name] = size, times - 1
                elif times == 1:
                    gone.append(name)
            with suppress(OSError):
                self._write(f"- {name}\n" for name in gone)

    def _write(self, lines: Iterable[str]) -> None:
        text = "".join(lines).encode("utf-8", "surrogateescape")
        if text and not self._is_closed:
            with self._notes.open("ab") as notes:
                notes.write(text)

    def others(self) -> dict[str, int]:
        """What other runs of himl hold, as `own`. Notes of those that ended are removed."""
        held: dict[str, int] = {}
        for path in self._living():
            held |= _read(path)
        return held

    @property
    def is_alone(self) -> bool:
        """Whether no other himl uses the cache."""
        return not self._living()

    def _living(self) -> list[Path]:
        """The notes of the other runs of himl."""
        living = []
        for path in self._folder.glob(f"*{_PINS}"):
            lock = self._path(path.stem, _LOCK)
            if path == self._notes:
                continue
            if is_held(lock):
                living.append(path)
            else:
                for each in (path, lock):
                    with suppress(OSError):
                        each.unlink()
        return living

    def close(self) -> None:
        """Drop all. May be called again."""
        with self._turn:
            self._is_closed = True
            self._own.clear()
        with suppress(OSError):
            self._notes.unlink()
        self._lock.release()
        with suppress(OSError):
            self._path(self._id, _LOCK).unlink()

    def _path(self, run: str, suffix: str) -> Path:
        return self._folder / f"{run}{suffix}"


def _read(path: Path) -> dict[str, int]:
    """What the notes at *path* come to; a line that is being written does not count yet."""
    held: dict[str, int] = {}
    with suppress(FileNotFoundError):
        for line in path.read_bytes().split(b"\n")[:-1]:
            said, _, name = os.fsdecode(line).partition(" ")
            if said == "-":
                held.pop(name, None)
            elif said[1:].isdecimal() and len(said) <= MOST_DIGITS:
                held[name] = int(said[1:])
    return held
