"""The masking of names and secrets in the report of the live checks.

Only text that comes from the service or from this machine is masked. Texts of himl itself contain no names.
"""

from __future__ import annotations

import getpass
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from himl_cli.core.redaction import redact
from himl_cli.workspaces.base import Exchange

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
