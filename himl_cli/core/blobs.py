"""Stored files as records, whatever keeps them, and what a transfer of them came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from himl_cli.core.text import NAMED, listed, named

MOST_CHECKED = 4 << 20  # bytes of a range for which Azure Storage computes an MD5


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One stored file. `name` has `/` separators and is untrusted; `size` in bytes; `md5` of the whole (16 bytes) where
    known.

    `etag` changes whenever the content changes.
    """

    name: str
    size: int
    etag: str = ""
    md5: bytes | None = None
    modified: datetime | None = None


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Bytes `offset` to `offset + length` of a blob; valid only while its ETag is `blob.etag`.

    `checked_each` is for bytes of which no MD5 of the whole is known: a store in Azure Storage asks for so many at a
    time (`MOST_CHECKED` at most; 0: unchecked) and hands on only what has the checksum that the service told with it;
    it fails with IntegrityFailed where that is so in no try. So many wait in memory. Other stores pass it over.
    """

    blob: BlobInfo
    offset: int
    length: int
    checked_each: int = 0


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """Store the file at `path`, of `size` bytes, as `name`.

    `md5` is that of its content; where it is None (large files, which are to be read once only), whoever stores the
    file computes it. `replaces` is the ETag of what has the name, empty where nothing has: anything else there is left
    as it is (BlobChanged). None replaces whatever is there.
    """

    path: Path
    name: str
    size: int
    md5: bytes | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class DatastoreInfo:
    """A place for data in a workspace; `location` is a folder or a URL without secrets."""

    name: str
    kind: str
    location: str
    is_default: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that cannot be kept under its name here, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that did not arrive: the error's message, its stable word and its hint."""

    name: str
    message: str
    code: str
    hint: str = ""

    @property
    def cause(self) -> str:
        """The message without the file's name, so that files that failed alike can be told so."""
        return self.message.replace(f"'{self.name}'", "it")


@dataclass(frozen=True, slots=True)
class TransferResult:
    """What arrived (`files`, `bytes`, wall `seconds`), what was complete before (`skipped`), and what is not as it was
    asked for.

    `bytes` are those that were moved for `files`: not what came before and was only resumed, not what had to be thrown
    away. `unverified` files were complete by size and ETag only: no MD5 was known for them, or it was not to be
    checked. `differing` files are here with another content and were left as they are. `note` is what whoever asked for
    the transfer has to say of it to the other ranks of the node.
    """

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    skipped: int = 0
    unverified: int = 0
    differing: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    failed: tuple[Failure, ...] = ()
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
        """The result as JSON values; `from_record` reads it back."""
        record = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        record["seconds"] = round(self.seconds, 3)
        return record if self.note else {key: value for key, value in record.items() if key != "note"}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TransferResult:
        lists = {
            "differing": tuple(record["differing"]),
            "refused": tuple(Refused(**one) for one in record["refused"]),
            "failed": tuple(Failure(**one) for one in record["failed"]),
        }
        return cls(**{**record, **lists})

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing at all to move."""
        return not (self.files or self.skipped or self.differing or self.refused or self.failed)

    @property
    def is_told_by_problem(self) -> bool:
        """Whether the words of `problem` leave nothing out: a few files, or many that failed alike."""
        if sum(map(bool, (self.failed, self.refused, self.differing))) > 1:
            return False
        return len(causes(self.failed)) <= 1 and max(len(self.refused), len(self.differing)) <= NAMED

    def raise_problem(self) -> TransferResult:
        """The result itself where nothing went wrong. Raises `problem`."""
        problem = self.problem()
        if problem is not None:
            raise problem
        return self

    def problem(self, *, is_listed: bool = False) -> HimlError | None:
        """The error to raise once the summary was shown: the gravest of what went wrong, or None.

        With *is_listed* the user has seen which files these are, and why: the error only counts them.
        """
        damaged = [one.name for one in self.failed if one.code == IntegrityFailed.code]
        if damaged:
            return IntegrityFailed(
                f"Checksums do not match: {named(damaged)}.",
                hint="Nothing was written under these names; run the command again.",
            )
        found = self.failed or self.refused or self.differing
        count = f"{len(found):,} file{'' if len(found) == 1 else 's'}"
        if self.failed:
            return _failure(self.failed, f"{count} failed." if is_listed else "")
        if self.refused:
            message = f"{count} left out." if is_listed else f"Left out: {_with_reasons(self.refused)}."
            return TransferIncomplete(message, hint="The other files are complete.")
        if self.differing:
            is_one = len(self.differing) == 1
            left = "left as it is, because it differs" if is_one else "left as they are, because they differ"
            incomplete = TransferIncomplete(
                f"{count}: {left}." if is_listed else f"{left.capitalize()}: {named(self.differing)}.",
                hint=f"Add --overwrite to replace {'it' if is_one else 'them'}.",
            )
            incomplete.differing = self.differing
            return incomplete
        return None


def causes(failed: Sequence[Failure]) -> dict[str, list[Failure]]:
    """*failed* by their causes, the first one first."""
    found: dict[str, list[Failure]] = {}
    for one in failed:
        found.setdefault(one.cause, []).append(one)
    return found


def _failure(failed: Sequence[Failure], message: str) -> HimlError:
    """The error that stands for *failed*, a narrow one when it fits all of them; without *message* it says which files
    these are and why, of several causes the first."""
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
    if not hint or hint.startswith("Run the command again"):
        hint = "Run the command again: complete files are skipped, partial ones resumed."
    elif kind is not NotAllowed:
        hint += " Complete files are skipped then, partial ones resumed."
    return kind(message, hint=hint)


def _with_reasons(refused: Sequence[Refused]) -> str:
    """Names of *refused*, with the reason they share, or each with its own."""
    if len({one.reason for one in refused}) == 1:
        return f"{named([one.name for one in refused])} ({refused[0].reason})"
    return listed([f"'{one.name}' ({one.reason})" for one in refused])
