"""Requests to a Girder server, the base of every Digital Slide Archive: JSON in, JSON out, himl's errors.

Routes and answers are those of Girder 3 to 5, as a server documents them at `/api/v1`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from himl_cli import __version__
from himl_cli.core.errors import BadUsage, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.json_text import NotJson, read_valid_json
from himl_cli.core.redaction import is_address, parts_of, shown
from himl_cli.workspaces.azure.http import open_http_session
from himl_cli.workspaces.azure.network_errors import network_error
from himl_cli.workspaces.azure.responses import one_line
from himl_cli.workspaces.retry import CONTROL_PLANE, is_transient

log = logging.getLogger(__name__)

# A server stores some thousand elements per second before it answers
WRITE_SECONDS = 600.0
MAKE_A_KEY = "Create a key in the archive, under your name, 'My account', 'API keys', and allow all actions."


class GirderClient:
    """Signs in with an API key at the first request. `host` is the server's name in messages.

    It follows no redirects, so that neither key nor token reaches another host. The key goes only to a server that
    answers as Girder does.
    """

    def __init__(self, address: str, key: str) -> None:
        """*address* is that of the start page, or of any page or route below it. Raises BadUsage, and NotAllowed
        without a *key*. Sends no request."""
        parts = parts_of(address)
        if not is_address(address) or not parts.hostname:
            raise BadUsage(
                f"'{shown(address)}' is not the address of a Digital Slide Archive.",
                hint="Use the form https://HOST with --url or DSA_URL.",
            )
        if not key.strip():
            raise NotAllowed("DSA_API_KEY is not set.", hint=f"{MAKE_A_KEY} Set DSA_API_KEY to it.")
        self.host, self.is_encrypted = parts.hostname, parts.scheme.lower() == "https"
        self.address = re.split(r"/(?:api(?:/v\d+)?|static)(?:/|$)", shown(address))[0].rstrip("/")
        self._key, self._token = key.strip(), ""
        self._sessions: dict[bool, Any] = {}

    def request(self, method: str, route: str, *, json: Any = None, repeats: bool = True, **params: str | int) -> Any:
        """The JSON answer of `/api/v1/ROUTE`. Retries transient failures, unless *repeats* is False.

        Raises NotAllowed for 401 and 403, NotFound if the server is not Girder, ServiceFailed for all other failures,
        with `is_lasting` for a refusal.
        """
        if not self._token:
            self._token = self._sign_in()
        return self._send(method, route, json=json, repeats=repeats, params=params)

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()

    def _sign_in(self) -> str:
        version = self._send("GET", "system/version")
        if not isinstance(version, Mapping) or "release" not in version:
            raise self._is_none()
        try:
            answer = self._send("POST", "api_key/token", form={"key": self._key})
        except ServiceFailed as err:
            if not err.is_lasting:
                raise
            raise NotAllowed(f"{self.host} does not accept the key in DSA_API_KEY.", hint=MAKE_A_KEY) from err
        token = answer.get("authToken", {}).get("token") if isinstance(answer, Mapping) else None
        if not isinstance(token, str):
            raise self._is_none()
        return token

    def _send(
        self,
        method: str,
        route: str,
        *,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        repeats: bool = True,
    ) -> Any:
        if repeats not in self._sessions:
            once = replace(CONTROL_PLANE, attempts=1, read_timeout=WRITE_SECONDS)
            self._sessions[repeats] = open_http_session(CONTROL_PLANE if repeats else once)
        url = f"{self.address}/api/v1/{route}"
        headers = {"User-Agent": f"himl/{__version__}", "Accept": "application/json"}
        if self._token:
            headers["Girder-Token"] = self._token
        from requests import RequestException

        try:
            answer = self._sessions[repeats].request(method, url, headers=headers, params=params, json=json, data=form)
        except RequestException as err:
            raise network_error(err, url) from err
        status = answer.status_code
        log.debug("%s %s -> %d", method, url, status)
        if 300 <= status < 400:
            target = shown(answer.headers.get("location", "")) or "nowhere"
            raise ServiceFailed(
                f"{self.host} redirects requests to {target}, to which himl does not send its credentials.",
                hint="If that is the archive, use its address with --url.",
            )
        try:
            found = read_valid_json(answer.content) if answer.content.strip() else None
        except NotJson as err:
            if status < 500:
                raise self._is_none() from err
            found = None
        if status < 400:
            return found
        said = found.get("message") if isinstance(found, Mapping) else ""
        details = f" ({one_line(said).rstrip('.')})" if isinstance(said, str) and said else ""
        if status in (401, 403):
            raise NotAllowed(
                f"{self.host} does not allow {method} /{route} with the key in DSA_API_KEY{details}.",
                hint="Ask for write access to the slide's folder. The key must allow all actions.",
            )
        failed = "failed at" if status >= 500 else "refused"
        error = ServiceFailed(f"{self.host} {failed} {method} /{route}: {status}{details}.")
        error.is_lasting = not is_transient(status)
        error.hint = "" if error.is_lasting else "Try again later."
        raise error

    def _is_none(self) -> NotFound:
        hint = "Use the address of its start page with --url, such as https://dsa.example.org."
        return NotFound(f"No Digital Slide Archive at {self.address}.", hint=hint)
