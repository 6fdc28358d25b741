"""An answer with an error status, whichever of the services' forms its body has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.requests.challenge import claims_of

LONGEST_MESSAGE = 200  # of the service's own words that are shown
LONGEST_READ = 20_000


@dataclass(frozen=True)
class Failure:
    """`url` without its query; `body` as JSON where it was, else as text; `headers` have lower-case names.

    Bodies: resource manager's `{"error": {code, message, additionalInfo: [{type: InnerError, …}]}}`; the Azure ML
    services' `{"error": {code, message, innerError: {code, innerError}}, "correlation": …}`; MLflow's `{error_code,
    message}`.
    """

    method: str
    url: str
    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or self.url

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.url).path)

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """All error codes, the innermost first."""
        return tuple(reversed(list(_codes(self._error))))

    @property
    def code(self) -> str:
        """The innermost error code, or nothing."""
        return self.codes[0] if self.codes else ""

    @cached_property
    def message(self) -> str:
        """What the service says, redacted, no more of it than LONGEST_READ; HTML pages count as silence."""
        text = self._error.get("message") if isinstance(self.body, Mapping) else self.body
        return redact(text[:LONGEST_READ]) if isinstance(text, str) and not text.lstrip().startswith("<") else ""

    @property
    def in_brackets(self) -> str:
        """` (CODE: first line of the message)`, as much of it as there is."""
        line = (self.message.strip().splitlines() or [""])[0].rstrip(". ")
        line = line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…"
        told = ": ".join(filter(None, [self.code, line]))
        return f" ({told})" if told else ""

    @property
    def retry_after(self) -> str:
        """Seconds, or a date, as the service wrote them."""
        return self.headers.get("retry-after", "")

    @property
    def request_id(self) -> str:
        """The id under which the service logged the request; the Azure ML services tell it in the body only."""
        correlation = self.body.get("correlation") if isinstance(self.body, Mapping) else None
        told = correlation.get("request") if isinstance(correlation, Mapping) else None
        in_body = redact(told) if isinstance(told, str) else ""
        return self.headers.get("x-ms-request-id") or self.headers.get("x-ms-correlation-request-id") or in_body

    @property
    def claims(self) -> str:
        """The claims that the service wants a token to have and this one lacks; mostly nothing."""
        return claims_of(self.headers)

    @property
    def tenant_wanted(self) -> str:
        """The tenant that the message (`must match the tenant 'https://sts…/TENANT/'`) or the challenge names, or
        nothing."""
        in_message = re.search(r"match the tenant 'https://[^/']+/([\w.-]+)", self.message)
        found = in_message or re.search(
            r'authorization_uri="https://[^/"]+/([\w.-]+)', self.headers.get("www-authenticate", "")
        )
        return found[1] if found else ""

    @property
    def _error(self) -> Mapping[str, Any]:
        if not isinstance(self.body, Mapping):
            return {}
        inner = self.body.get("error")
        return inner if isinstance(inner, Mapping) else self.body


def _codes(error: Any) -> Iterator[str]:
    """Codes from the outermost to the innermost."""
    if not isinstance(error, Mapping):
        return
    code = error.get("code") or error.get("error_code")
    if isinstance(code, str) and code:
        yield code
    extras = error.get("additionalInfo")
    for extra in extras if isinstance(extras, list) else ():
        if isinstance(extra, Mapping) and extra.get("type") == "InnerError" and isinstance(extra.get("info"), Mapping):
            yield from _codes(extra["info"].get("value"))
    yield from _codes(error.get("innerError") or error.get("innererror"))
