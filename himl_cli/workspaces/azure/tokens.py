"""Access tokens: from memory, else from what himl keeps, else from the credentials; renewed in time, shared by
threads."""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from himl_cli.core.errors import HimlError
from himl_cli.core.processes import register_after_fork
from himl_cli.core.text import read_json
from himl_cli.workspaces.azure.cache import DiskCache

log = logging.getLogger(__name__)

KIND = "tokens"
RENEW_SECONDS = 300.0
"""A token is replaced when it has less than this left, as the vendor's clients do (one that never had twice as much: at
half of its life)."""


@dataclass(frozen=True)
class Token:
    """`expires` in seconds since 1970 by this machine's clock; `credential` is what messages call the one that gave
    it."""

    text: str = field(repr=False)
    expires: float
    credential: str
    obtained: float = field(default_factory=time.time)

    @property
    def renew_at(self) -> float:
        """When to get another: five minutes before its end, but not before half of its life is over."""
        return self.expires - min(RENEW_SECONDS, max(0.0, self.expires - self.obtained) / 2)

    def lasts(self, seconds: float = 0.0) -> bool:
        """Whether it is good for so much longer."""
        return time.time() + seconds < self.expires

    def claims(self) -> Mapping[str, Any]:
        """What the token says of itself, unverified; nothing where it is no JWT."""
        try:
            part = self.text.split(".")[1]
            claims = read_json(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        except (IndexError, ValueError):
            return {}
        return claims if isinstance(claims, dict) else {}


@dataclass(frozen=True)
class SignedIn:
    """Who is signed in: the credential's name, the user or application ("" unknown), the tenant, until when."""

    credential: str
    principal: str
    tenant_id: str
    expires: datetime


class Issuer(Protocol):
    """Whatever gives tokens: the chain of credentials, or a job's own identity."""

    @property
    def identity(self) -> str:
        """Who it would sign in, as a digest: a token kept for another identity is never used."""

    def is_for_once(self, credential: str) -> bool:
        """Whether the credential of this name should not be asked again while its token is good: it asks a person, or
        is a token itself."""

    def fetch(self, scope: str, *, anew: bool, claims: str = "") -> Token:
        """A token, past all caches in memory with *anew*, with these *claims* (JSON). Raises NotAllowed, or
        ServiceFailed where nobody answers."""


class Tokens:
    """One per connection. Threads share it: a token is fetched once, and the others wait for it."""

    def __init__(self, issuer: Issuer, kept: DiskCache) -> None:
        self._issuer = issuer
        self._kept = kept
        self._held: dict[str, Token] = {}
        self._lock = threading.RLock()
        register_after_fork(self)

    def after_fork(self) -> None:
        """In a forked process: a lock that may be held by a thread of the parent is not waited for."""
        self._lock = threading.RLock()

    @property
    def identity(self) -> str:
        """A digest of who is signed in, for keys of what is kept per identity."""
        return self._issuer.identity

    def get(self, scope: str) -> str:
        """A token for *scope*, good for five minutes at least where the service gives such.

        Raises NotAllowed naming the credentials that were tried, ServiceFailed where the place of sign-in is out of
        reach.
        """
        return self._token(scope).text

    def renew(self, scope: str, rejected: str, claims: str = "") -> str:
        """After a 401: get another token than the *rejected* one (unless another thread just did), with the *claims*
        that the service asked for.

        The rejected one is forgotten; but where claims are wanted that nobody can give, it stays: it may be good for
        reading.
        """
        with self._lock:
            held = self._held.get(scope)
            if held is not None and held.text != rejected:
                return held.text
            log.debug("a token for %s was rejected; getting another", scope)
            if not claims:
                self._held.pop(scope, None)
                self._kept.forget(KIND, self._key(scope))
            return self._fetched(scope, anew=True, claims=claims).text

    def credential_for(self, scope: str) -> str:
        """What messages call the credential whose token is in use."""
        held = self._held.get(scope)
        return held.credential if held is not None else "this sign-in"

    def who(self, scope: str) -> SignedIn:
        """Sign in for *scope* anew, past what is kept (unless that asked a person), and tell who that is. Raises as
        `get` does."""
        with self._lock:
            held = self._held.get(scope) or self._held_before(scope)
            is_for_once = held is not None and self._issuer.is_for_once(held.credential)
            token = self._token(scope) if is_for_once else self._fetched(scope, anew=scope in self._held)
        claims = token.claims()
        names = (claims.get(name) for name in ("upn", "preferred_username", "unique_name", "appid", "oid"))
        principal = next((name for name in names if isinstance(name, str) and name), "")
        return SignedIn(
            token.credential,
            principal,
            str(claims.get("tid") or ""),
            datetime.fromtimestamp(token.expires, tz=timezone.utc),
        )

    def _token(self, scope: str) -> Token:
        with self._lock:
            held = self._held.get(scope)
            if held is None or time.time() >= held.renew_at:
                held = self._held_before(scope) or held  # another process may have signed in meanwhile
            if held is not None and time.time() < held.renew_at:
                self._held[scope] = held
                return held
            try:
                return self._fetched(scope, anew=held is not None)
            except HimlError as err:
                if held is None or not held.lasts():
                    raise
                log.warning(
                    "the sign-in could not be renewed (%s); it is good for %d s more", err, held.expires - time.time()
                )
                return held

    def _fetched(self, scope: str, *, anew: bool, claims: str = "") -> Token:
        token = self._issuer.fetch(scope, anew=anew, claims=claims)
        log.debug("signed in by %s for %s", token.credential, scope)
        self._held[scope] = token
        value = {"token": token.text, "expires": token.expires, "credential": token.credential}
        self._kept.put(KIND, self._key(scope), value, seconds=token.renew_at - time.time())
        return token

    def _held_before(self, scope: str) -> Token | None:
        value = self._kept.get(KIND, self._key(scope)) or {}
        try:
            return Token(str(value["token"]), float(value["expires"]), str(value["credential"]))
        except (KeyError, OverflowError, TypeError, ValueError):
            return None

    def _key(self, scope: str) -> str:
        return f"{self._issuer.identity} {scope}"
