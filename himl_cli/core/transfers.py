"""What a transfer came to, and which error that is; what a store holds, as records to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from himl_cli.core.errors import BlobChanged, DiskFailed, HimlError, IntegrityFailed, NotAllowed, ServiceFailed, TransferIncomplete

NAMED = 3


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A stored file: `size` in bytes, `md5` where it is on record, `run` where it is a run's."""

    name: str
    size: int
    modified: datetime | None
    md5: bytes | None
    run: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that cannot be kept under its name here, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that did not arrive: the error's message and its stable word."""

    name: str
    message: str
    code: str


@dataclass(frozen=True, slots=True)
class TransferResult:
    """What moved (`files`, `bytes`, wall `seconds`), what was complete before (`skipped`), and what is not as it was asked for.

    `unverified` files were complete by size and ETag only: no MD5 was known for them, or it was not to be checked.
    `differing` files are here with another content and were left as they are.
    """

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    skipped: int = 0
    unverified: int = 0
    differing: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    failed: tuple[Failure, ...] = ()

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
        )

    def as_record(self) -> dict[str, Any]:
        """The result as JSON values; `from_record` reads it back."""
        lists = {
            "differing": list(self.differing),
            "refused": [{"name": one.name, "reason": one.reason} for one in self.refused],
            "failed": [{"name": one.name, "message": one.message, "code": one.code} for one in self.failed],
        }
        numbers = {"files": self.files, "bytes": self.bytes, "seconds": round(self.seconds, 3), "skipped": self.skipped, "unverified": self.unverified}
        return {**numbers, **lists}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TransferResult:
        lists = {
            "differing": tuple(record["differing"]),
            "refused": tuple(Refused(**one) for one in record["refused"]),
            "failed": tuple(Failure(**one) for one in record["failed"]),
        }
        return cls(**{**record, **lists})

    def problem(self) -> HimlError | None:
        """The error to raise once the summary was shown: the gravest of what went wrong, or None."""
        damaged = [one.name for one in self.failed if one.code == IntegrityFailed.code]
        if damaged:
            return IntegrityFailed(f"Checksums do not match: {named(damaged)}.", hint="Nothing was written under these names; run the command again.")
        if self.failed:
            first = ("" if len(self.failed) == 1 else "First: ") + self.failed[0].message
            hint = "Run the command again: complete files are skipped, partial ones resumed."
            return _kind_of(self.failed)(f"Failed: {named([one.name for one in self.failed])}. {first}", hint=hint)
        if self.refused:
            names = named([one.name for one in self.refused])
            return TransferIncomplete(f"Left out: {names} ({self.refused[0].reason}).", hint="The other files are complete.")
        if self.differing:
            return TransferIncomplete(f"Left as they are, because they differ: {named(self.differing)}.", hint="Add --overwrite to replace them.")
        return None


def _kind_of(failed: Sequence[Failure]) -> type[HimlError]:
    """The error that stands for *failed*: a narrow one when it fits all of them."""
    codes = {one.code for one in failed}
    if all(code.startswith("disk_") for code in codes):
        return DiskFailed
    if codes == {BlobChanged.code}:
        return TransferIncomplete
    return NotAllowed if codes == {NotAllowed.code} else ServiceFailed


def named(names: Sequence[str]) -> str:
    """A few of *names*, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED]) + more
