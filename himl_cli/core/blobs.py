"""Records of stored files, independent of their store, and the outcome of a transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from himl_cli.core.errors import (
    BlobChanged,
    DiskFailed,
    HimlError,
    IntegrityFailed,
    NotAllowed,
    ServiceFailed,
    TransferIncomplete,
)
from himl_cli.core.records import dataclass
from himl_cli.core.text import NAMED, listed, named

Bytes = bytes | memoryview
MOST_CHECKED = 4 << 20  # bytes of a range for which Azure Storage computes an MD5


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One stored file. `name` has `/` separators and is untrusted. `size` is in bytes, `md5` is that of the whole file
    (16 bytes) if known.

    `etag` changes whenever the content changes.
    """

    name: str
    size: int
    etag: str = ""
    md5: bytes | None = None
    modified: datetime | None = None


@dataclass(frozen=True)
class FetchRequest:
    """Bytes `offset` to `offset + length` of a blob, valid only while its ETag is `blob.etag`.

    `checked_each` is for bytes without a known MD5 of the whole. A store in Azure Storage requests this number of bytes
    at a time (`MOST_CHECKED` at most, 0: unchecked), and passes them on only if they match the checksum in the
    response. After all attempts, it fails with IntegrityFailed. The bytes wait in memory. Other stores ignore it.
    """

    blob: BlobInfo
    offset: int
    length: int
    checked_each: int = 0


@dataclass(frozen=True)
class StoreRequest:
    """Store the file at `path`, of `size` bytes, as `name`.

    `md5` is that of its content. If it is None (for large files, which are read only once), the store computes it.
    `replaces` is the ETag of the file to replace, or empty if there is none. Any other file of that name stays
    (BlobChanged). None replaces any file.
    """

    path: Path
    name: str
    size: int
    md5: bytes | None = None
    replaces: str | None = None


@dataclass(frozen=True)
class DatastoreInfo:
    """Storage in a workspace. `location` is a folder or a URL without secrets."""

    name: str
    kind: str
    location: str
    is_default: bool = False


@dataclass(frozen=True)
class Refused:
    """A file that cannot be stored under its name on this machine, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FileFailure:
    """A file that was not transferred: the error's message, its stable word, its hint, and whether the same command
    would fail again."""

    name: str
    message: str
    code: str
    hint: str = ""
    is_lasting: bool = False

    @classmethod
    def of(cls, name: str, error: HimlError) -> FileFailure:
        return cls(name, str(error), error.code, error.hint, error.is_lasting)

    @property
    def cause(self) -> str:
        """The message without the file's name, to group files with the same failure."""
        return self.message.replace(f"'{self.name}'", "it")


@dataclass(frozen=True)
class TransferResult:
    """The transferred files (`files`, `bytes`, wall `seconds`), the files that were already complete (`skipped`), and
    the others.

    `bytes` are those transferred for `files`, without bytes of an earlier, resumed transfer or discarded ones.
    `unverified` files were complete by size and ETag only, since there was no MD5 or the user disabled the check.
    `differing` local files have another content and were not changed. `note` is a message of the caller to the other
    ranks of the node.
    """

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    skipped: int = 0
    unverified: int = 0
    differing: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    failed: tuple[FileFailure, ...] = ()
    note: str = ""

    def __add__(self, other: TransferResult) -> TransferResult:
        return TransferResult(
            self.files + other.files,
            self.bytes + other.bytes,
            self.seconds + other.seconds,
            self.skipped + other.skipped,
            self.unverified + other.unverified,
            self.differing + other.differing,
            self.refused + other.refused,
            self.failed + other.failed,
            self.note or other.note,
        )

    def as_record(self) -> dict[str, Any]:
        """The result as JSON values, which `from_record` reads."""
        record = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        record["seconds"] = round(self.seconds, 3)
        return record if self.note else {key: value for key, value in record.items() if key != "note"}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TransferResult:
        lists = {
            "differing": tuple(record["differing"]),
            "refused": tuple(Refused(**one) for one in record["refused"]),
            "failed": tuple(FileFailure(**one) for one in record["failed"]),
        }
        return cls(**{**record, **lists})

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to transfer."""
        return not (self.files or self.skipped or self.differing or self.refused or self.failed)

    @property
    def is_told_by_problem(self) -> bool:
        """Whether the message of `problem` is complete: for a few files, or many with the same failure."""
        if sum(map(bool, (self.failed, self.refused, self.differing))) > 1:
            return False
        return len(causes(self.failed)) <= 1 and max(len(self.refused), len(self.differing)) <= NAMED

    def raise_problem(self) -> TransferResult:
        """Return the result if there is no problem. Raises `problem`."""
        problem = self.problem()
        if problem is not None:
            raise problem
        return self

    def problem(self, *, is_listed: bool = False) -> HimlError | None:
        """The error to raise after the summary: the most serious one, or None.

        With *is_listed* the user has seen the files and the reasons, and the error only counts them.
        """
        damaged = [one for one in self.failed if one.code == IntegrityFailed.code]
        if damaged:
            remedies = {one.hint or "Run the command again." for one in damaged}
            return IntegrityFailed(
                f"Checksums do not match: {named([one.name for one in damaged])}.",
                hint=f"himl wrote no files with these names. {' '.join(sorted(remedies))}",
            )
        found = self.failed or self.refused or self.differing
        count = f"{len(found):,} file{'' if len(found) == 1 else 's'}"
        if self.failed:
            return _failure(self.failed, f"{count} failed." if is_listed else "")
        if self.refused:
            message = f"himl left out {count if is_listed else _with_reasons(self.refused)}."
            replacing = "Add --overwrite to replace files that differ."
            return TransferIncomplete(message, hint=replacing if self.differing else "The other files are complete.")
        if self.differing:
            is_one = len(self.differing) == 1
            why = "because it differs" if is_one else "because they differ"
            incomplete = TransferIncomplete(
                f"himl did not replace {count if is_listed else named(self.differing)}, {why}.",
                hint=f"Add --overwrite to replace {'it' if is_one else 'them'}.",
            )
            incomplete.differing = self.differing
            return incomplete
        return None


def causes(failed: Sequence[FileFailure]) -> dict[str, list[FileFailure]]:
    """*failed* by cause, in the order of their first failures."""
    found: dict[str, list[FileFailure]] = {}
    for one in failed:
        found.setdefault(one.cause, []).append(one)
    return found


def _failure(failed: Sequence[FileFailure], message: str) -> HimlError:
    """The error for *failed*, of a specific type if that fits all of them. Without *message* it names the files and the
    cause, or the first of several causes."""
    first, alike, codes = failed[0], [*causes(failed)], {one.code for one in failed}
    names = named([one.name for one in failed])
    if not message and len(alike) > 1:
        message = f"Failed, for {len(alike)} reasons: {names}. First: {first.message}"
    elif not message and len(failed) > 1:
        message = f"Failed: {names}: {alike[0]}"
    elif not message:
        message = first.message if names in first.message else f"Failed: {names}. {first.message}"
    kind: type[HimlError] = ServiceFailed
    if all(code.startswith("disk_") for code in codes):
        kind = DiskFailed
    elif codes == {BlobChanged.code}:
        kind = TransferIncomplete
    elif codes == {NotAllowed.code}:
        kind = NotAllowed
    hint = first.hint if len({one.hint for one in failed}) == 1 else ""
    if not hint and all(one.is_lasting for one in failed):
        return kind(message, hint="himl transferred all other files.")
    if not hint or hint.startswith("Run the command again"):
        hint = "Run the command again. It skips complete files and resumes partial ones."
    elif kind is not NotAllowed:
        hint += " Then himl skips complete files and resumes partial ones."
    return kind(message, hint=hint)


def _with_reasons(refused: Sequence[Refused]) -> str:
    """Names of *refused*, with their common reason, or each with its own."""
    if len({one.reason for one in refused}) == 1:
        return f"{named([one.name for one in refused])} ({refused[0].reason})"
    return listed([f"'{one.name}' ({one.reason})" for one in refused])
