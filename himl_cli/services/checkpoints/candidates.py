"""The checkpoints among a run's files: each is a file, or a folder that is saved as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from himl_cli.core.blobs import BlobInfo
from himl_cli.services.checkpoints.names import FOLDER, Kind, Rank, below_folder, is_kept, rank_of
from himl_cli.services.checkpoints.telling import NOT_CHECKPOINTS, Telling, read_name
from himl_cli.workspaces.base import BlobStore

_FOLDER_NAME = re.compile(r".+\.ckpt|(?:last|autosave|recovery(?:_(?:epoch=)?\d+)?)(?:-v\d+)?", re.IGNORECASE)
"""Folders that are one checkpoint, as DeepSpeed's and FSDP's are; others only sort files."""

_EXPORT = re.compile(r"\.(onnx|pkl|pickle|joblib|npz|npy|h5|hdf5|keras|tflite|pb|mlmodel|engine|ts)$", re.IGNORECASE)
_CHECKPOINT = re.compile(r"\.(ckpt|pt|pth|safetensors|bin)$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Candidate:
    """`name` is that of the file, or of the folder without a slash at its end; `attempt` the try that wrote it, 0 for
    the first."""

    name: str
    blobs: Sequence[BlobInfo]
    is_folder: bool
    attempt: int
    told: Telling = field(repr=False)

    @cached_property
    def rank(self) -> Rank | None:
        return rank_of(self.name)

    @property
    def modified(self) -> datetime | None:
        """When the last of its files was written; None where nobody knows."""
        return max((blob.modified for blob in self.blobs if blob.modified is not None), default=None)

    @property
    def newness(self) -> tuple[int, int]:
        """Grows with the tries and Lightning's versions of one name."""
        return self.attempt, self.told.version


def candidates_of(blobs: Iterable[BlobInfo]) -> list[Candidate]:
    """The checkpoints among *blobs*, sorted by name."""
    files: dict[str, list[BlobInfo]] = {}
    facts: dict[str, tuple[bool, int, str]] = {}
    for blob in blobs:
        found = below_folder(blob.name)
        if found is None or not found[1] or blob.name.endswith("/") or not is_kept(found[1]):
            continue
        attempt, below = found
        unit = _folder_in(below)
        if not unit and NOT_CHECKPOINTS.search(below):
            continue
        name = blob.name[: len(blob.name) - len(below)] + unit if unit else blob.name
        files.setdefault(name, []).append(blob)
        facts[name] = (bool(unit), attempt, unit or below)
    return [
        Candidate(name, files[name], is_folder, attempt, read_name(below))
        for name, (is_folder, attempt, below) in sorted(facts.items())
    ]


def reference(run_id: str, candidate: Candidate) -> str:
    """How to name the checkpoint to himl: `RUN:last.ckpt`, `RUN:outputs/retry_001/checkpoints/last.ckpt`,
    `RUN:last.ckpt/` for a folder."""
    short = candidate.name.removeprefix(f"{FOLDER}/")
    return f"{run_id}:{candidate.name if '/' in short else short}{'/' * candidate.is_folder}"


def is_recovery(candidate: Candidate) -> bool:
    return candidate.rank is not None and candidate.rank.kind is not Kind.last


def without_exports(found: Sequence[Candidate]) -> list[Candidate]:
    """*found* without what was exported beside checkpoints (`.onnx`, `.pkl`); where there is nothing else, these are
    the checkpoints."""
    beside = any(_CHECKPOINT.search(one.name) for one in found)
    return [one for one in found if one.is_folder or not beside or not _EXPORT.search(one.name)]


def newest_of_each_name(found: Iterable[Candidate]) -> list[Candidate]:
    """Of those with one name (in several tries, in several versions) the newest."""
    newest: dict[str, Candidate] = {}
    for one in found:
        known = newest.get(one.told.stem)
        if known is None or one.newness > known.newness:
            newest[one.told.stem] = one
    return list(newest.values())


def newest_try(found: Sequence[Candidate]) -> list[Candidate]:
    """Those of *found* that the newest try among them wrote, in their order."""
    newest = max((one.attempt for one in found), default=0)
    return [one for one in found if one.attempt == newest]


def have_one_content(found: Sequence[Candidate], files: BlobStore) -> bool:
    """Whether all of *found* are the same, byte for byte, as their sizes and MD5s say; False where that is not
    known."""
    if not have_one_size(found):
        return False
    digests = {tuple(blob.md5 or files.md5(blob) for blob in one.blobs) for one in found}
    return len(digests) == 1 and None not in digests.pop()


def have_one_size(found: Sequence[Candidate]) -> bool:
    """Whether all of *found* have files of the same names within them and the same sizes, which does not prove that
    they are the same."""
    return len({tuple((_inside(one, blob), blob.size) for blob in one.blobs) for one in found}) == 1


def have_md5s(found: Sequence[Candidate], files: BlobStore) -> bool:
    """Whether the service has an MD5 of each file of *found* on record."""
    return all(blob.md5 or files.md5(blob) for one in found for blob in one.blobs)


def _inside(candidate: Candidate, blob: BlobInfo) -> str:
    """What the file is called within the checkpoint; '' for the file that is the whole of it."""
    return blob.name[len(candidate.name) :]


def _folder_in(below: str) -> str:
    """The folder on the way to the file *below* that is one checkpoint, '' for none."""
    parts = below.split("/")
    for place, part in enumerate(parts[:-1]):
        if _FOLDER_NAME.fullmatch(part) and (place == 0 or part.lower().endswith(".ckpt")):
            return "/".join(parts[: place + 1])
    return ""
