"""The blobs that are moved: many small ones and a large one."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # the emulator's, known to everybody
CONTAINER = "bench"
SMALL_FILES = 2000
SMALL_SIZE = 16 << 10
LARGE_SIZE = 1 << 30
BLOCK = 1 << 20


@dataclass(frozen=True)
class Sample:
    """Files below *folder* in `small/` and `large/`; `md5s` has the base64 MD5 of each by its name."""

    folder: Path
    md5s: Mapping[str, str]

    def names(self, part: str) -> list[str]:
        return [name for name in self.md5s if name.startswith(f"{part}/")]

    def bytes(self, part: str) -> int:
        return sum((self.folder / name).stat().st_size for name in self.names(part))


def make_sample(folder: Path, *, files: int = SMALL_FILES, large: int = LARGE_SIZE) -> Sample:
    """Write the files, with bytes that do not compress and are the same each time."""
    dice = random.Random(1)
    md5s = {}
    for number in range(files):
        md5s[f"small/f{number:06d}"] = _write(folder / f"small/f{number:06d}", [dice.randbytes(SMALL_SIZE)])
    block = dice.randbytes(BLOCK)
    md5s["large/f0"] = _write(folder / "large/f0", (number.to_bytes(8, "little") + block[8:] for number in range(large // BLOCK)))
    return Sample(folder, md5s)


def _write(path: Path, pieces: Iterable[bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
    return base64.b64encode(digest.digest()).decode()
