"""The double's certificates: of an authority of its own, good ones and bad ones."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import trustme

from tests.servers.azureml.faults import BadCertificate
from tests.servers.azureml.hosts import CERTIFIED

DAY = timedelta(days=1)


class Certificates:
    """`good` is for all hosts that the double plays."""

    def __init__(self) -> None:
        self._authority = trustme.CA()
        self._bad: dict[str, ssl.SSLContext] = {}
        self.good = _context(self._authority, CERTIFIED)

    def write(self, path: Path) -> None:
        """What clients have to trust, as a PEM file."""
        self._authority.cert_pem.write_to_path(path)

    def bad(self, fault: BadCertificate) -> ssl.SSLContext:
        """One that clients have to refuse for the reason that *fault* names."""
        if fault.kind not in self._bad:
            self._bad[fault.kind] = self._make(fault.kind)
        return self._bad[fault.kind]

    def _make(self, kind: str) -> ssl.SSLContext:
        now = datetime.now(timezone.utc)
        if kind == "untrusted":
            return _context(trustme.CA(), CERTIFIED)
        if kind == "expired":
            return _context(self._authority, CERTIFIED, not_before=now - 2 * DAY, not_after=now - DAY)
        if kind == "early":
            return _context(self._authority, CERTIFIED, not_before=now + DAY, not_after=now + 2 * DAY)
        return _context(self._authority, ("other.himl.invalid",))


def _context(authority: trustme.CA, names: tuple[str, ...], **validity: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **validity).configure_cert(context)
    return context
