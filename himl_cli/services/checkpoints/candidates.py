"""The checkpoints among a run's files: each is a file, or a folder that is saved as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import islice

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.runs import Metric, Run
from himl_cli.services.checkpoints.names import (
    FOLDER,
    NOT_CHECKPOINTS,
    Kind,
    ParsedName,
    Rank,
    below_folder,
    is_kept,
    parse_name,
    rank_of,
)
from himl_cli.workspaces.base import BlobStore

_FOLDER_NAME = re.compile(r".+\.ckpt|(?:last|autosave|recovery(?:_(?:epoch=)?\d+)?)(?:-v\d+)?", re.IGNORECASE)
"""Folders that are one checkpoint, as DeepSpeed's and FSDP's are; others only sort files."""
_EXPORT = re.compile(r"\.(onnx|pkl|pickle|joblib|npz|npy|h5|hdf5|keras|tflite|pb|mlmodel|engine|ts)$", re.IGNORECASE)
_CHECKPOINT = re.compile(r"\.(ckpt|pt|pth|safetensors|bin)$", re.IGNORECASE)
_MODELS = re.compile(r"\.(ckpt|pt|pth|bin|safetensors|h5|keras|pkl|joblib|npz|onnx)(/|$)")
SHOWN, LISTED = 5, 10_000  # names of files in an error, and those they are chosen from


@dataclass(frozen=True, eq=False)
class Candidate:
    """`name` is that of the file, or of the folder without a slash at its end; `attempt` the try that wrote it, 0 for
    the first."""

    name: str
    blobs: Sequence[BlobInfo]
    is_folder: bool
    attempt: int
    parsed: ParsedName = field(repr=False)

    @cached_property
    def rank(self) -> Rank | None:
        return rank_of(self.name)

    @property
    def is_recovery(self) -> bool:
        return self.rank is not None and self.rank.kind is not Kind.last

    @property
    def modified(self) -> datetime | None:
        """When the last of its files was written; None where nobody knows."""
        return max((blob.modified for blob in self.blobs if blob.modified is not None), default=None)


@dataclass(frozen=True)
class Candidates:
    """A run, its files, the checkpoints among them, and its metrics for the asking."""

    run: Run
    files: BlobStore
    found: Sequence[Candidate]
    metrics: Callable[[], Sequence[Metric]]

    @property
    def usable(self) -> Sequence[Candidate]:
        """Without what was exported beside checkpoints (`.onnx`, `.pkl`); where there is nothing else, these are the
        checkpoints."""
        beside = any(_CHECKPOINT.search(one.name) for one in self.found)
        return [one for one in self.found if one.is_folder or not beside or not _EXPORT.search(one.name)]

    def nothing(self, what: str, hint: str = "") -> NotFound:
        return not_found(self.run, what, self.files, hint)

    def ambiguous(self, what: str, found: Sequence[Candidate], hint: str = "") -> BadUsage:
        """The run has *what* (`2 checkpoints of epoch 3`), and nothing tells which of *found* is meant."""
        names = []  # `RUN:last.ckpt`, `RUN:outputs/retry_001/checkpoints/last.ckpt`, `RUN:last.ckpt/` for a folder
        for one in sorted(found, key=lambda one: one.name):
            short = one.name.removeprefix(f"{FOLDER}/")
            names.append(f"{self.run.id}:{one.name if '/' in short else short}{'/' * one.is_folder}")
        more = f" and {len(names) - 2 * SHOWN} more" if len(names) > 2 * SHOWN else ""
        hint = f"{hint} Name one: {', '.join(names[: 2 * SHOWN])}{more}".strip()
        return BadUsage(f"Run '{self.run.id}' has {what}.", hint=hint)

    def only(self, found: Sequence[Candidate], what: str, hint: str = "") -> Candidate:
        """The one of *found*, or any of them where all have one content. Raises BadUsage naming them."""
        if len(found) > 1:
            is_one = have_one_size(found)
            digests = {tuple(blob.md5 or self.files.md5(blob) for blob in one.blobs) for one in found if is_one}
            if len(digests) != 1 or None in digests.pop():
                raise self.ambiguous(f"{len(found)} checkpoints {what}", found, hint)
        return found[0]

    def have_md5s(self, found: Sequence[Candidate]) -> bool:
        """Whether the service has an MD5 of each file of *found* on record."""
        return all(blob.md5 or self.files.md5(blob) for one in found for blob in one.blobs)


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
        Candidate(name, files[name], is_folder, attempt, parse_name(below))
        for name, (is_folder, attempt, below) in sorted(facts.items())
    ]


def not_found(run: Run, what: str, files: BlobStore, hint: str = "") -> NotFound:
    """*run* has *what* (`no 'a.ckpt'`); what it has in `outputs/` is listed. *hint* stands before that."""
    existing = [*islice((blob.name for page in files.list("outputs/") for blob in page), LISTED)]
    likely = [name for name in existing if rank_of(name) or _MODELS.search(name)] or existing
    more = f" and {len(likely) - SHOWN} more" if len(likely) > SHOWN else ""
    listed = f"There are: {', '.join(likely[:SHOWN])}{more}. Name one: {run.id}:PATH"
    text = listed if likely else "It kept nothing in outputs/."
    return NotFound(f"Run '{run.id}' has {what}.", hint=f"{hint} {text}".strip())


def newest_of_each_name(found: Iterable[Candidate]) -> list[Candidate]:
    """Of those with one name (in several tries, in several versions) the newest."""
    newest: dict[str, Candidate] = {}
    for one in found:
        known = newest.setdefault(one.parsed.stem, one)
        if (one.attempt, one.parsed.version) > (known.attempt, known.parsed.version):
            newest[one.parsed.stem] = one
    return list(newest.values())


def newest_attempt(found: Sequence[Candidate]) -> list[Candidate]:
    """Those of *found* that the newest try among them wrote, in their order."""
    newest = max((one.attempt for one in found), default=0)
    return [one for one in found if one.attempt == newest]


def have_one_size(found: Sequence[Candidate]) -> bool:
    """Whether all of *found* have files of the same names within them and the same sizes, which does not prove that
    they are the same."""
    return len({tuple((blob.name[len(one.name) :], blob.size) for blob in one.blobs) for one in found}) == 1


def _folder_in(below: str) -> str:
    """The folder on the way to the file *below* that is one checkpoint, '' for none."""
    parts = below.split("/")
    for number, part in enumerate(parts[:-1]):
        if _FOLDER_NAME.fullmatch(part) and (number == 0 or part.lower().endswith(".ckpt")):
            return "/".join(parts[: number + 1])
    return ""
