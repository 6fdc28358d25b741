"""Signing in: the credentials that apply here are tried in order, and what each one said is told when none works.

Order (`sources.py` has when each one applies): the service principal of himl's settings; the environment's, by
azure-identity's own variables; workload identity; managed identity; Azure CLI; Azure Developer CLI; Azure PowerShell;
a browser, or a device code where there is none.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from himl_cli.core.errors import HimlError, NotAllowedNow, ServiceFailed
from himl_cli.core.processes import register_after_fork
from himl_cli.workspaces.azure.sign_in.sign_in_errors import STRONGER, Reason, reason_of
from himl_cli.workspaces.azure.sign_in.tokens import Token

log = logging.getLogger(__name__)

AZURE_CLI = "Azure CLI"
HOW_TO_SIGN_IN = "Run 'az login', or set HIML_TENANT_ID, HIML_SERVICE_PRINCIPAL_ID and HIML_SERVICE_PRINCIPAL_PASSWORD."


@dataclass(frozen=True)
class Source:
    """A way to sign in. `make` gives an azure-identity credential (`get_token(scope, claims=…)`, perhaps `close()`)."""

    name: str
    make: Callable[[], Any]
    identity: str = ""  # all that decides whom it signs in
    is_explicit: bool = False  # set on purpose: when it fails, no other is tried
    asks_a_person: bool = False
    unusable: str = ""  # why it cannot be tried; then only named
    settings: Mapping[str, str] = field(default_factory=dict)  # what hints name in place of himl's variables
    file_variable: str = ""  # the variable that names the file it reads


class Tried(NamedTuple):
    """A source, and why it gave no token."""

    name: str
    reason: Reason


class Chain:
    """Gives tokens from the first source that works, and stays with that one. Safe for threads."""

    def __init__(self, sources: Sequence[Source], *, authority: str, hint: str = HOW_TO_SIGN_IN) -> None:
        self._sources = sources
        self._authority = authority
        self._hint = hint
        self._made: dict[str, Any] = {}
        self._chosen: Source | None = None
        self._lock = threading.RLock()
        register_after_fork(self)

    def after_fork(self) -> None:
        """In a forked process: the connections of the parent's credentials are left to the parent."""
        self._lock = threading.RLock()
        self._made = {}

    @property
    def identity(self) -> str:
        """A digest of what decides who is signed in. Ways that ask a person do not count: what they gave is kept for
        all of this."""
        parts = [
            self._authority,
            *(
                f"{source.name}\n{source.identity}"
                for source in self._sources
                if source.identity and not source.asks_a_person
            ),
        ]
        return hashlib.sha256("\n\n".join(parts).encode()).hexdigest()

    def is_for_once(self, credential: str) -> bool:
        """Whether the source of this name wants somebody to type or click."""
        return any(source.asks_a_person and source.name == credential for source in self._sources)

    def fetch(self, scope: str, *, anew: bool, claims: str = "") -> Token:
        """A token for *scope*; *anew* drops what the credentials hold in memory (not those that would ask a person
        again).

        *claims*, JSON of a service that wants a stronger sign-in, go to the credential; one that cannot give them ends
        the search. Raises NotAllowed naming all that were tried, ServiceFailed where the place of sign-in cannot be
        reached.
        """
        with self._lock:
            if anew:
                self._drop()
            tried: list[Tried] = []
            for source in [self._chosen] if self._chosen else self._sources:
                token = self._ask(source, scope, claims, tried)
                if token is not None:
                    self._chosen = source
                    return token
                if source.is_explicit:
                    break
                if claims and tried[-1].reason.text == STRONGER:
                    raise self._unmet(tried[-1])
            raise self._failure(
                tried,
                "Nothing here gives the stronger sign-in that the service wants"
                if claims
                else "Not signed in to Azure",
            )

    def close(self) -> None:
        """Close the credentials' connections."""
        with self._lock:
            for credential in self._made.values():
                _close(credential)
            self._made.clear()

    def _ask(self, source: Source, scope: str, claims: str, tried: list[Tried]) -> Token | None:
        from azure.core.exceptions import AzureError

        if source.unusable:
            tried.append(Tried(source.name, Reason(source.unusable)))
            return None
        credential: Any = None
        try:
            credential = self._credential(source)
            given = credential.get_token(scope, claims=claims) if claims else credential.get_token(scope)
        except (
            AzureError,
            ValueError,
            OSError,
        ) as err:  # azure-identity raises ValueError for malformed ids, OSError for files it cannot read
            no_answer = self._no_answer(err, getattr(credential, "failing_status", 0))
            if source.is_explicit and no_answer is not None:
                raise no_answer from err
            log.debug("%s gave no token: %s", source.name, type(err).__name__)
            reason = (
                reason_of(err, source.settings, source.file_variable)
                if no_answer is None
                else Reason(str(no_answer).rstrip("."))
            )
            tried.append(Tried(source.name, reason))
            return None
        return Token(given.token, float(given.expires_on), source.name)

    def _no_answer(self, err: BaseException, status: int) -> HimlError | None:
        """The error where nobody said no: the place of sign-in was out of reach, busy or failing."""
        from himl_cli.workspaces.azure.requests.unreachable import is_network_error, network_error

        if status:
            return ServiceFailed(
                f"{urlsplit(self._authority).hostname} failed at the sign-in: it answered {status}.",
                hint="Try again later.",
            )
        return network_error(err, self._authority) if is_network_error(err) else None

    def _credential(self, source: Source) -> Any:
        from himl_cli.workspaces.azure.requests.trust import silence_libraries

        silence_libraries()
        if source.name not in self._made:
            self._made[source.name] = source.make()
        return self._made[source.name]

    def _drop(self) -> None:
        for source in self._sources:
            if not source.asks_a_person and source.name in self._made:
                _close(self._made.pop(source.name))

    def _unmet(self, tried: Tried) -> HimlError:
        return NotAllowedNow(
            f"The service wants a stronger sign-in than that by {tried.name}: a second factor, or a device that the "
            "tenant trusts.",
            hint=tried.reason.hint,
        )

    def _failure(self, tried: Sequence[Tried], what: str) -> HimlError:
        explicit = next(
            (source for source in self._sources if source.is_explicit and tried and tried[-1].name == source.name), None
        )
        if explicit is not None:
            reason = tried[-1].reason
            return NotAllowedNow(f"Sign-in as {explicit.name} failed: {reason.text}.", hint=reason.hint or self._hint)
        listed = ", ".join(f"{name} ({reason.text})" for name, reason in tried)
        special = next(
            (reason.hint for name, reason in tried if name == AZURE_CLI), ""
        )  # what most people sign in with
        return NotAllowedNow(f"{what}. Tried: {listed or 'nothing'}.", hint=special or self._hint)


def _close(credential: Any) -> None:
    close = getattr(credential, "close", None)
    if close is not None:
        close()
