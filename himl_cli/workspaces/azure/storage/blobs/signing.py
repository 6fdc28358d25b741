"""How requests to a container prove that they are allowed: a SAS in the URL, or a bearer token."""

from __future__ import annotations

import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Protocol
from urllib.parse import unquote

from himl_cli.core.processes import register_after_fork
from himl_cli.workspaces.azure.storage.blobs.refusals import RIGHT_MISSING

EARLY = 300.0  # seconds before its end that a signature is replaced
ASK_AGAIN = 60.0
_ENDS = re.compile(
    r"(?:^|[?&])se=(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:T(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.\d+)?)?(?:Z|(?P<sign>[-+ "
    r"])(?P<zone_hours>\d\d):?(?P<zone_minutes>\d\d))?)?(?:&|$)"
)
_PARTS = ("year", "month", "day", "hour", "minute", "second", "zone_hours", "zone_minutes")


@dataclass(frozen=True)
class Signature:
    """`query` goes to the end of a URL, `headers` to the request; `expires` in seconds since 1970, 0 where unknown."""

    query: str = field(default="", repr=False)
    headers: tuple[str, ...] = field(default=(), repr=False)
    expires: float = 0.0
    renew_at: float = 0.0

    @classmethod
    def of_sas(cls, sas: str) -> Signature:
        """A SAS's query string; it is replaced before its own end, a short one at half its time."""
        expires = sas_expiry(sas)
        left = expires - time.time()
        return cls(
            query=sas.lstrip("?"),
            expires=expires,
            renew_at=expires - min(EARLY, max(left, 0.0) / 2) if expires else 0.0,
        )

    @property
    def is_due(self) -> bool:
        return bool(self.renew_at) and time.time() >= self.renew_at


class Signer(ABC):
    """Signs for one container. Thread-safe; a signature is made once and renewed when its time is over, or it is
    refused."""

    sign_in: str
    """How it signs, for messages: `your own sign-in`, `the datastore's SAS token`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._signature: Signature | None = None
        self.is_unproven = False  # the signature was made in place of a refused one, and was not taken yet
        register_after_fork(self)

    @abstractmethod
    def _make(self, refused: Signature | None, code: str) -> Signature:
        """A signature; a new one after *refused*, which the service turned down with *code*, or that itself where none
        would help. Raises HimlError."""

    def current(self) -> Signature:
        """What to sign with now. Raises NotAllowed, or what else keeps it from being made."""
        signature = self._signature
        if signature is not None and not signature.is_due:
            return signature
        with self._lock:
            if self._signature is None or self._signature.is_due:
                self._signature = self._make(None, "")
            return self._signature

    def renewed(self, refused: Signature, code: str) -> bool:
        """Whether `current` gives a later signature than *refused*, so that trying again may help."""
        if code in RIGHT_MISSING:
            return False
        with self._lock:
            if self._signature is not refused:
                return True
            if self.is_unproven:  # this one was new already
                return False
            made = self._make(refused, code)
            if made is refused:
                return False
            self._signature, self.is_unproven = made, True
            return True

    @property
    def expires(self) -> float:
        """When the current signature's time is over, in seconds since 1970; 0 where that is not known."""
        return self._signature.expires if self._signature is not None else 0.0

    def after_fork(self) -> None:
        """Another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def worked(self) -> None:
        """The service took the current signature."""
        self.is_unproven = False


class SasSigner(Signer):
    """Signs with a SAS; *renew* gives another where there can be one, told the refused one's code ('' for the
    first)."""

    def __init__(self, renew: Callable[[str], str], sign_in: str = "the datastore's SAS token") -> None:
        super().__init__()
        self._renew = renew
        self.sign_in = sign_in

    @classmethod
    def fixed(cls, sas: str) -> SasSigner:
        """Signs with *sas* as long as that is valid."""
        return cls(lambda _: sas, "the SAS token")

    def _make(self, refused: Signature | None, code: str) -> Signature:
        return Signature.of_sas(self._renew(code))


class Tokens(Protocol):
    """Gives access tokens, kept and refreshed by whoever it is."""

    def get(self, scope: str) -> str: ...

    def renew(self, scope: str, rejected: str) -> str: ...


class BearerSigner(Signer):
    """Signs with access tokens for storage; *tokens* refreshes them, and is asked once a minute."""

    def __init__(self, tokens: Tokens, scope: str, sign_in: str) -> None:
        super().__init__()
        self._tokens = tokens
        self._scope = scope
        self.sign_in = sign_in

    def _make(self, refused: Signature | None, code: str) -> Signature:
        if refused is None:
            return bearer(self._tokens.get(self._scope))
        return bearer(self._tokens.renew(self._scope, refused.headers[0].rpartition(" ")[2]))


def bearer(token: str) -> Signature:
    """A token as a signature; to be asked for again in a minute, for it may be another by then."""
    return Signature(headers=(f"Authorization: Bearer {token}",), renew_at=time.time() + ASK_AGAIN)


def sas_expiry(sas: str) -> float:
    """When a SAS's time is over, in seconds since 1970; 0 where it does not say, or not understandably.

    The forms: https://learn.microsoft.com/rest/api/storageservices/formatting-datetime-values
    """
    found = _ENDS.search(unquote(sas))
    if found is None:
        return 0.0
    year, month, day, hour, minute, second, zone_hours, zone_minutes = (int(found[part] or 0) for part in _PARTS)
    ahead = timedelta(hours=zone_hours, minutes=zone_minutes) * (-1 if found["sign"] == "-" else 1)
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc) - ahead
    except (OverflowError, ValueError):
        return 0.0
    return max(0.0, moment.timestamp())
