"""The report of the live checks: its records and its files. `masking` removes names and secrets."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path

import msgspec

from himl_cli import __version__
from himl_cli.core.errors import BadUsage
from himl_cli.core.files import write_atomic
from himl_cli.core.records import dataclass
from himl_cli.services.transfer.local_files import disk_error

FORMAT = 1
JSON_FILE, REPORT_PAGE = "himl-live.json", "himl-live.md"


class Verdict(str, Enum):
    held = "holds"
    refuted = "does not hold"
    unchecked = "not checked"


@dataclass(frozen=True)
class Finding:
    """The verdict on an assumption, and what the service answered, or what a check of it needs."""

    verdict: Verdict
    came: str = ""


@dataclass()
class CheckRecord:
    """The findings of a check by their assumptions, its requests with their counts, and whether it reached its end."""

    findings: dict[str, Finding] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    is_complete: bool = False


@dataclass()
class Report:
    """The results of the checks by name, and what the next call needs to continue: the id of this `session`, a digest
    of its `place` (the workspace and the cluster), and the ids of its jobs. `remains` is filled by the clean-up."""

    session: str
    place: str
    format: int = FORMAT
    himl: str = __version__
    system: str = f"Python {platform.python_version()} on {platform.system()}"
    begun: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    is_finished: bool = False
    jobs: dict[str, str] = field(default_factory=dict)
    checks: dict[str, CheckRecord] = field(default_factory=dict)
    remains: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write JSON_FILE to *folder*. Raises DiskFailed."""
        _write(folder / JSON_FILE, msgspec.json.format(msgspec.json.encode(self), indent=1).decode())

    def write_page(self, folder: Path, asked: Mapping[str, str]) -> None:
        """Write PAGE to *folder*. *asked* has the question of each check, in their order. Raises DiskFailed."""
        _write(folder / REPORT_PAGE, "\n".join(_page(self, asked)))


def _write(path: Path, text: str) -> None:
    try:
        write_atomic(path, f"{text}\n")
    except OSError as err:
        raise disk_error(err, f"Cannot write '{path}'") from err


def read_report(folder: Path) -> Report | None:
    """The report of an earlier call in *folder*, or None. Raises BadUsage for a file in another form."""
    path = folder / JSON_FILE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Report) if path.exists() else None
    except (OSError, msgspec.DecodeError):
        found = Report("", "", format=0)
    if found is not None and found.format != FORMAT:
        raise BadUsage(
            f"'{JSON_FILE}' in this folder is not a report that this version of himl can continue.",
            hint="Move the file, or run the command in another folder.",
        )
    return found


def _page(report: Report, asked: Mapping[str, str]) -> Iterator[str]:
    counts = Counter(one.verdict for check in report.checks.values() for one in check.findings.values())
    yield f"# Live checks of himl {report.himl}, {report.system}, {report.begun}\n"
    yield f"Assumptions: {', '.join(f'{counts[verdict]} x {verdict.value}' for verdict in Verdict)}.\n"
    for name, question in asked.items():
        if (check := report.checks.get(name)) is not None:
            end = "" if check.is_complete else ", not complete"
            yield f"## {name}\n\n{question} ({check.seconds:.0f} s{end})\n"
            yield "| assumption | verdict | what came, or what is needed |\n|---|---|---|"
            for assumption, one in check.findings.items():
                yield f"| {assumption} | {one.verdict.value} | {_code(one.came)} |"
            yield "\n".join(["", "```text", *(f"{count}x {line}" for line, count in check.requests.items()), "```", ""])
    if report.remains:
        yield "\n".join(["## What remains in the workspace\n", *(f"- {one}" for one in report.remains)])


def _code(text: str) -> str:
    """*text* as code in a cell of Markdown's table."""
    return f"`{text.replace('`', chr(39)).replace('|', '/')}`" if text else ""
