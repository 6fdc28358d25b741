"""A transfer's result while it is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from himl_cli.core.errors import HimlError
from himl_cli.core.transfers import Failure, Refused, TransferResult


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
        self.failed.append(Failure(name, str(error), error.code))

    def refuse(self, name: str, reason: str) -> None:
        self.refused.append(Refused(name, reason))

    def result(self, seconds: float) -> TransferResult:
        lists = (tuple(sorted(self.differing)), tuple(self.refused), tuple(self.failed))
        return TransferResult(self.files, self.bytes, seconds, self.skipped, self.unverified, *lists)
