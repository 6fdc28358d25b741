"""Signing in inside an Azure ML job: the run's own token, and the identity that the job was given, if any.

The run token opens the workspace's services: run history, metrics, artifacts, and datastores with their secrets
(`datastore_records.py`). Resource manager, and storage that is opened so, want one: the submitter's, through the
job's endpoint for that (`--identity user`), or the compute's managed one (`--identity managed`).
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from himl_cli.core.errors import HimlError, NotAllowed
from himl_cli.core.text import read_json
from himl_cli.workspaces.azure.address import Cloud
from himl_cli.workspaces.azure.config import AzureSettings
from himl_cli.workspaces.azure.credentials import Chain, Source, digest, from_principal, managed_identity
from himl_cli.workspaces.azure.responses import as_time
from himl_cli.workspaces.azure.tokens import RENEW_SECONDS, Token

RUN_TOKEN = "run token"
"""The scope by which `Tokens` is asked for the run's own token."""
OWN_TOKEN = "the job's run token"  # what messages call it
ENDPOINT_SECONDS = 30
OFF = ("", "false", "0", "no")
HOW_TO_GET_ONE = "Submit the job with --identity managed or --identity user."


class JobIdentity:
    """Tokens of a job. *renewed* asks the service for a new run token, given the old one: `(text, expires)`."""

    def __init__(self, settings: AzureSettings, cloud: Cloud, renewed: Callable[[str], tuple[str, float]]) -> None:
        self._chain = Chain(job_sources(settings, cloud), authority=cloud.authority, hint=HOW_TO_GET_ONE)
        self._renewed = renewed
        self._run_token = os.environ.get("AZUREML_RUN_TOKEN", "")

    @property
    def identity(self) -> str:
        """A digest of the run and of the identity that it runs with."""
        return f"{os.environ.get('AZUREML_RUN_ID', '')} {digest(self._run_token.encode())} {self._chain.identity}"

    def is_for_once(self, credential: str) -> bool:
        """Whether it is the run token, which the job was given."""
        return credential == OWN_TOKEN

    def fetch(self, scope: str, *, anew: bool, claims: str = "") -> Token:
        """The run token for the scope `RUN_TOKEN`, else one of the job's identity. Raises NotAllowed where it has
        none."""
        return self._own(anew) if scope == RUN_TOKEN else self._chain.fetch(scope, anew=anew, claims=claims)

    def close(self) -> None:
        """Close the identity's connections."""
        self._chain.close()

    def _own(self, anew: bool) -> Token:
        token = Token(self._run_token, _expiry(self._run_token), OWN_TOKEN)
        if not anew and token.lasts(RENEW_SECONDS):
            return token
        try:
            text, expires = self._renewed(token.text)
        except HimlError as err:
            if token.lasts() and not anew:
                return token
            raise NotAllowed(f"The job's run token is no longer accepted, and there is no new one ({err}).") from err
        self._run_token = text
        return Token(text, expires, token.credential)


def job_sources(settings: AzureSettings, cloud: Cloud) -> list[Source]:
    """The service principal that was set, else the identity that the job runs with; nothing where it has none."""
    principal = settings.service_principal()
    if principal is not None:
        return [from_principal(principal, cloud)]
    env = os.environ
    sources = []
    if env.get("OBO_ENDPOINT") and env.get("AZUREML_OBO_ENABLED", "").strip().lower() not in OFF:
        sources.append(Source("the submitter's identity", OnBehalfOf, env["OBO_ENDPOINT"]))
    is_managed = env.get("AZUREML_IDENTITY_IN_USE", "").lower() == "managed"
    client_id = env.get("DEFAULT_IDENTITY_CLIENT_ID") or (env.get("AZUREML_IDENTITY_CLIENT_ID") if is_managed else None)
    if client_id or is_managed:
        sources.append(managed_identity(client_id))
    return sources or [
        Source("the job's identity", OnBehalfOf, unusable="it runs without one; its run token does not open this")
    ]


class OnBehalfOf:
    """Tokens in the name of whoever submitted the job, from the endpoint at OBO_ENDPOINT (as azure-ai-ml asks it)."""

    def get_token(self, scope: str, *, claims: str | None = None) -> Any:
        """An azure-core AccessToken; the endpoint knows no *claims*. Raises azure-core's ClientAuthenticationError."""
        from azure.core.credentials import AccessToken
        from azure.core.exceptions import ClientAuthenticationError

        resource = scope.removesuffix("/.default")
        url = f"{os.environ['OBO_ENDPOINT']}?{urllib.parse.urlencode({'resource': resource})}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
        try:
            with opener.open(url, timeout=ENDPOINT_SECONDS) as answer:
                given = read_json(answer.read())
            token = given.get("access_token") or given["token"]
            if not token.isascii() or not token.isprintable():
                raise ValueError("the token is no text")
            if "expires_in" in given and "expires_on" not in given:
                expires = time.time() + float(given["expires_in"])
            else:
                expires = float(given["expires_on"]) if "expires_on" in given else _timestamp(str(given["expiresOn"]))
            return AccessToken(token, int(expires))
        except (AttributeError, KeyError, OSError, OverflowError, TypeError, ValueError) as err:
            raise ClientAuthenticationError(
                message=f"the endpoint for it gave no token ({type(err).__name__})"
            ) from err


def _timestamp(text: str) -> float:
    """Raises ValueError for what is no time."""
    moment = as_time(text)
    if moment is None:
        raise ValueError("expiresOn is no time")
    return moment.timestamp()


def _expiry(token: str) -> float:
    """When the run token ends: as the job is told, else as the token itself says; 0 where neither does."""
    told = os.environ.get("AZUREML_RUN_TOKEN_EXPIRY", "")
    if token == os.environ.get("AZUREML_RUN_TOKEN") and told.isdecimal():
        return float(told)
    claimed = Token(token, 0, "").claims().get("exp")
    try:
        return float(claimed) if isinstance(claimed, (int, float)) else 0.0
    except OverflowError:  # thousands of millions of years
        return 0.0
