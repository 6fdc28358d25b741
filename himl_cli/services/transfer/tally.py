"""A transfer's result while it is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from himl_cli.core.blobs import Failure, Refused, TransferResult
from himl_cli.core.errors import HimlError, NotAllowed

REFUSALS = 64
"""So many files that were refused in the same words, and none that went through, settle that the rest would be refused
too."""


@dataclass(slots=True)
class Tally:
    """A result while it is counted."""

    files: int = 0
    bytes: int = 0
    skipped: int = 0
    unverified: int = 0
    differing: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def fail(self, name: str, error: HimlError) -> None:
        self.failed.append(Failure(name, str(error), error.code, error.hint))

    def check_hope(self) -> None:
        """Raises NotAllowed once it is settled that nothing is let through. Words that name their file speak of that
        one alone."""
        first = self.failed[:REFUSALS]
        if (
            self.files
            or len(first) < REFUSALS
            or {(one.code, one.message) for one in first} != {(NotAllowed.code, first[0].message)}
        ):
            return
        raise NotAllowed(
            f"{first[0].message} So it was for the first {len(self.failed)} files; the others were not tried.",
            hint=first[0].hint,
        )

    def refuse(self, name: str, reason: str) -> None:
        self.refused.append(Refused(name, reason))

    def result(self, seconds: float) -> TransferResult:
        lists = (tuple(sorted(self.differing)), tuple(self.refused), tuple(self.failed))
        return TransferResult(self.files, self.bytes, seconds, self.skipped, self.unverified, *lists)
