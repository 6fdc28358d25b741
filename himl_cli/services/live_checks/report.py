"""The report of the live checks: its records, the masking of names and secrets in it, and its files.

Only text that comes from the service or from this machine is masked. Texts of himl itself contain no names.
"""

from __future__ import annotations

import getpass
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import field
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from himl_cli import __version__
from himl_cli.core.errors import BadUsage
from himl_cli.core.files import write_atomic
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.workspaces.base import Exchange

FORMAT = 1
JSON_FILE, REPORT_PAGE = "himl-live.json", "himl-live.md"
LONGEST = 400  # characters of one finding

# Members of responses whose values identify a user or a resource, with the kind of the value
_IDENTIFYING = {
    "accountName": "storage account",
    "containerName": "container",
    "fileShareName": "file share",
    "userName": "user",
    "createdBy": "user",
    "lastModifiedBy": "user",
    "upn": "user",
}
_GUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_URL = re.compile(r"(?P<scheme>[a-z]+)://(?P<host>[^\s/'\"?)]+)(?P<rest>[^\s'\")]*)", re.IGNORECASE)
_HOST = re.compile(
    r"\b[\w-]+(?:\.[\w-]+)*\.(?:azureml\.(?:ms|net)|windows\.net|azure\.(?:com|net|us)|azurecr\.io|"
    r"microsoftonline\.(?:com|us))\b",
    re.IGNORECASE,
)
# Parts of Azure's hosts that are the same for all users
_LABELS = re.compile(
    "api|workspace|blob|dfs|file|core|windows|net|azureml|ms|management|azure|com|us|experiments|notebooks|ml|login|"
    "microsoftonline|azurecr|io|nodes|privatelink|cert"
)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IP = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")
_LONG = re.compile(r"(?<![A-Za-z0-9+=])(?=[A-Za-z+=]*\d)[A-Za-z0-9+=]{30,}")  # digests, keys and parts of tokens


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


# Users of images and containers. Such a name identifies no one, and is a word of the report
USUAL_USERS = frozenset(["user", "root", "admin", "ubuntu", "debian", "azureuser", "runner", "vscode", "jovyan"])


class Mask:
    """Replaces names and secrets by their kinds: `<workspace>`, `<user>`, `<id>`. It collects names in responses."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names: dict[str, str] = {}
        with suppress(Exception):  # a user without a name
            if (name := getpass.getuser()) not in USUAL_USERS:
                self._add(name, "user")
        self._add(str(Path.home()), "home")
        self._add(platform.node(), "machine")
        for name, kind in names.items():
            self._add(name, kind)

    def _add(self, name: str, kind: str) -> None:
        if len(name) > 1:
            self._names.setdefault(name, kind)

    def learn(self, body: Any) -> None:
        """Collect the identifying names in a response."""
        if isinstance(body, Mapping):
            properties = body.get("properties")
            if isinstance(properties, Mapping) and "datastoreType" in properties:
                self._add(str(body.get("name")), "datastore")
            for key, value in body.items():
                if key in _IDENTIFYING and isinstance(value, str):
                    if not _LABELS.fullmatch(value):  # `azureml` is the container of every workspace
                        self._add(value, _IDENTIFYING[key])
                else:
                    self.learn(value)
        elif isinstance(body, list):
            for item in body:
                self.learn(item)

    def __call__(self, text: str) -> str:
        """*text* in one line, without names and secrets."""
        text = _URL.sub(self._address, redact(" ".join(text.split())))
        text = _HOST.sub(lambda found: _host(found[0]), text)
        text = _EMAIL.sub("<user>", _GUID.sub("<id>", self._without_names(text)))
        text = _IP.sub("<address>", _LONG.sub("<digest>", text))
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

    def _without_names(self, text: str) -> str:
        for name in sorted(self._names, key=len, reverse=True):
            word = re.escape(name)
            # A short name may be part of a word
            pattern = word if len(name) > 6 else rf"(?<![A-Za-z0-9]){word}(?![A-Za-z0-9])"
            text = re.sub(pattern, f"<{self._names[name]}>", text, flags=re.IGNORECASE)
        return text

    def _address(self, found: re.Match[str]) -> str:
        return f"{found['scheme']}://{_host(found['host'])}{'/…' if found['rest'] else ''}"


def _host(host: str) -> str:
    """*host* with its own labels masked: `<…>.api.azureml.ms`."""
    return ".".join(label if _LABELS.fullmatch(label.lower()) else "<…>" for label in host.split("."))


def request_lines(exchanges: Iterable[Exchange], mask: Mask, jobs: Iterable[str]) -> Iterator[str]:
    """A line per request: `GET history /runs/<run> -> 200`."""
    for one in exchanges:
        path = one.path
        for run_id in sorted(jobs, key=len, reverse=True):
            path = path.replace(run_id, "<run>")
        yield mask(f"{one.method} {one.service} {path} -> {one.status}")
