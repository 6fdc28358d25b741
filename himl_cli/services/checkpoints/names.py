"""What the names of checkpoints say: of which epoch one is, and which one to go on from. Pure text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

FOLDER = "outputs/checkpoints"
LAST = "last.ckpt"

_RETRY = re.compile(r"^retry_(\d{1,18})$")
_VERSION = re.compile(r"-v(\d{1,18})$")
_NUMBER = re.compile(r"\d{1,18}")
_TEMPORARY = re.compile(r"(\.(tmp|temp|part|partial|lock|download|incomplete|swp)|~)$", re.IGNORECASE)


class Kind(IntEnum):
    """What a checkpoint is for, the less telling first: the end of a training, an autosave, a recovery checkpoint whose
    name has its epoch."""

    last = 1
    autosave = 2
    recovery = 3


@dataclass(frozen=True, order=True)
class Rank:
    """Which of two checkpoints to go on from: the greater one. `attempt` is the try that wrote it, `version`
    Lightning's `-v1`."""

    kind: Kind
    epoch: int
    attempt: int
    version: int


def rank_of(name: str, folder: str = FOLDER) -> Rank | None:
    """The rank of the file (or folder) called *name*, as a run has it; None for what is no checkpoint to go on from.

    It lies in *folder*, or, from the second try on, in the folder of the same name in `retry_001`, `retry_002`, …
    beside it. Recovery checkpoints begin with `recovery`, and the first number in their name is the epoch, as in hi-ml:
    `recovery_epoch=9.ckpt`, `recovery_9`, `recovery_epoch=9-step=90-v1.ckpt`.
    """
    attempt = _attempt(name, folder)
    base = name.rpartition("/")[2]
    if attempt is None or not is_kept(base):
        return None
    stem = base.rpartition(".")[0] or base
    plain, version = without_version(stem)
    number = _NUMBER.search(plain)
    if plain.startswith("recovery"):
        return Rank(Kind.recovery, int(number[0]) if number else -1, attempt, version)
    if plain in ("autosave", "last"):
        return Rank(Kind[plain], -1, attempt, version)
    return None


def best_first(names: Iterable[str], folder: str = FOLDER, *, least: Kind = Kind.last) -> list[str]:
    """Those of *names* that are checkpoints of the kind *least* or a more telling one, the one to go on from first."""
    ranked = [(rank, name) for name in names if (rank := rank_of(name, folder)) is not None and rank.kind >= least]
    return [name for _, name in sorted(ranked, reverse=True)]


def below_folder(name: str, folder: str = FOLDER) -> tuple[int, str] | None:
    """The try (0 for the first) that the file called *name* is of, and its name below that try's folder of checkpoints;
    None where it lies elsewhere."""
    if name.startswith(f"{folder}/"):
        return 0, name[len(folder) + 1 :]
    above, _, last = folder.rpartition("/")
    parts = (name[len(above) + 1 :] if above and name.startswith(f"{above}/") else "" if above else name).split("/", 2)
    found = _RETRY.match(parts[0]) if len(parts) == 3 and parts[1] == last else None
    return (int(found[1]), parts[2]) if found else None


def is_kept(name: str) -> bool:
    """False for the names of hidden and temporary files, whichever folder on the way is called so."""
    return not any(part.startswith(".") or _TEMPORARY.search(part) for part in name.split("/"))


def without_version(stem: str) -> tuple[str, int]:
    """*stem* without Lightning's `-v1` at its end, and that number; 0 where it has none."""
    found = _VERSION.search(stem)
    return (stem[: found.start()], int(found[1])) if found else (stem, 0)


def retry_pattern(folder: str = FOLDER) -> str:
    """The glob for the folders of later tries."""
    above, _, last = folder.rpartition("/")
    return f"{above}/retry_*/{last}" if above else f"retry_*/{last}"


def _attempt(name: str, folder: str) -> int | None:
    """Which try wrote the file, 0 for the first; None where it lies elsewhere."""
    found = below_folder(name, folder)
    return None if found is None or "/" in found[1] else found[0]
