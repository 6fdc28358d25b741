"""Who signs in at the double, with what rights, and the tokens they get."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tests.servers.azureml.issued import issued

_SEAL = secrets.token_bytes(32)  # a token of another double, or a forged one, is not accepted


class Right(Enum):
    """What a role assignment would give on the workspace or on its storage."""

    READ = "read"
    WRITE = "write"
    SECRETS = "listSecrets"
    STORAGE_READ = "storage read"
    STORAGE_WRITE = "storage write"


@dataclass
class Principal:
    """An application with a secret. `token_seconds` is how long its next tokens live; `secret_expired` plays a secret past its date.

    `assertions` are the tokens of another platform that serve in place of the secret, each with the Unix time at which it ends.
    """

    tenant: str
    client_id: str
    secret: str
    rights: set[Right] = field(default_factory=lambda: set(Right))
    name: str = "himl test application"
    object_id: str = field(default_factory=lambda: secrets.token_hex(16))
    token_seconds: float = 86_399
    secret_expired: bool = False
    assertions: dict[str, float] = field(default_factory=dict)
    revoked_before: float = 0.0  # tokens made earlier are refused, whatever their expiry says
    claims_wanted: str = ""  # JSON; a token that was not asked for with these claims is refused with a challenge ...
    claims_wanted_by: frozenset[str] = frozenset({"GET", "POST", "PATCH", "PUT", "DELETE"})  # ... for these methods
    meets_claims: bool = True  # whether the place of sign-in gives it a token with claims

    def __post_init__(self) -> None:
        issued("password", self.secret)

    def new_assertion(self, *, seconds: float = 300) -> str:
        """A token of another platform, which this application trusts for so long."""
        assertion = issued("assertion", f"federated.{secrets.token_urlsafe(24)}.{secrets.token_urlsafe(12)}")
        self.assertions[assertion] = time.time() + seconds
        return assertion


@dataclass(frozen=True)
class Caller:
    """Who a request's token speaks for: a principal, or (with `run_token`) a job's own token for the workspace with this ARM id."""

    principal: Principal | None
    run_token_scope: str = ""

    def may(self, right: Right) -> bool:
        if self.principal is None:
            return right in (Right.READ, Right.WRITE, Right.SECRETS)  # of datastores, on the data plane: resource manager takes no run token
        return right in self.principal.rights


class TokenRefused(Exception):
    """A token that is none, or not ours, or too old; the text says which."""


def make_token(principal: Principal, audience: str, claims_asked: str = "") -> tuple[str, float]:
    """A JWT for *audience*, asked for with these claims (JSON), and the seconds it lives."""
    begun = int(time.time())
    claims = {
        "aud": audience,
        "iss": f"https://sts.windows.net/{principal.tenant}/",
        "iat": begun,
        "nbf": begun,
        "exp": int(begun + principal.token_seconds),
        "appid": principal.client_id,
        "oid": principal.object_id,
        "sub": principal.object_id,
        "tid": principal.tenant,
        "idtyp": "app",
        "ver": "1.0",
        "made": time.time(),
        "met": json.loads(claims_asked or "{}").get("access_token", {}),
    }
    return _sealed(claims), principal.token_seconds


def make_run_token(workspace_path: str, run_id: str, *, seconds: float = 3600) -> tuple[str, int]:
    """A job's own token and when it ends (Unix seconds): good on the data plane, not on ARM."""
    ends = int(time.time() + seconds)
    return _sealed({"iss": "azureml", "aud": "azureml", "scope": workspace_path, "role": "Contributor", "runid": run_id, "exp": ends}), ends


def read_token(token: str) -> dict[str, Any]:
    """The claims of a token that this double made and that is still good; TokenRefused otherwise."""
    try:
        head, body, seal = token.split(".")
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except ValueError as e:
        raise TokenRefused("The access token is not a JWT.") from e
    if not hmac.compare_digest(seal, _seal(f"{head}.{body}")):
        raise TokenRefused("The access token was not issued here.")
    if claims["exp"] <= time.time():
        raise TokenRefused("The access token has expired.")
    return claims


def _sealed(claims: dict[str, Any]) -> str:
    text = f"{_encoded({'typ': 'JWT', 'alg': 'none'})}.{_encoded(claims)}"
    return issued("token", f"{text}.{_seal(text)}")


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def _seal(text: str) -> str:
    return base64.urlsafe_b64encode(hmac.new(_SEAL, text.encode(), hashlib.sha256).digest()).decode().rstrip("=")
