"""Signing in to Azure. himl tries the applicable credentials in order. If all fail, the error lists every reason.

The order outside a job is below, and `user_sources` has the conditions: the service principal of himl's settings, that
of azure-identity's environment variables, workload identity, managed identity, Azure CLI, Azure Developer CLI, Azure
PowerShell, and a browser, or a device code if there is no browser.

In an Azure ML job, the run's own token gives access to the workspace's services: run history, metrics, artifacts, and
datastores with their secrets. Resource manager, and storage without a datastore's secret, require an identity. This is
the submitter's through the job's endpoint (`--identity user`), or the compute's managed one (`--identity managed`).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from himl_cli.core.errors import HimlError, NotAllowed, NotAllowedNow, ServiceFailed
from himl_cli.core.files import home_folder
from himl_cli.core.json_text import read_json
from himl_cli.core.processes import register_after_fork
from himl_cli.core.records import dataclass
from himl_cli.core.settings import PRIVATE_FILE
from himl_cli.workspaces.azure.config import CLOUDS, SIGN_IN_VARIABLES, AzureSettings, Cloud
from himl_cli.workspaces.azure.http import CONNECT_SECONDS, load_azure_core, open_http_session
from himl_cli.workspaces.azure.network_errors import is_network_error, network_error
from himl_cli.workspaces.azure.responses import as_time
from himl_cli.workspaces.azure.service_errors import STRONGER, Reason, reason_of
from himl_cli.workspaces.retry import RetryPolicy
from himl_cli.workspaces.transfer_engine.curl import get_locally

log = logging.getLogger(__name__)

AZURE_CLI = "Azure CLI"
HOW_TO_SIGN_IN = "Run 'az login', or set HIML_TENANT_ID, HIML_SERVICE_PRINCIPAL_ID and HIML_SERVICE_PRINCIPAL_PASSWORD."
# A token is replaced when it has less than this left, as in the vendor's clients. One that never had twice as much is
# replaced at half of its lifetime.
RENEW_SECONDS = 300.0


@dataclass(frozen=True)
class Token:
    """`expires` is in seconds since 1970 by this machine's clock. `credential` names the token's source in messages."""

    text: str = field(repr=False)
    expires: float
    credential: str
    obtained: float = field(default_factory=time.time)

    @property
    def renew_at(self) -> float:
        """The time of renewal: five minutes before expiry, but not before half of the lifetime is over."""
        return self.expires - min(RENEW_SECONDS, max(0.0, self.expires - self.obtained) / 2)

    def lasts(self, seconds: float = 0.0) -> bool:
        return time.time() + seconds < self.expires

    def claims(self) -> Mapping[str, Any]:
        """The token's claims, unverified, or none if it is not a JWT."""
        try:
            part = self.text.split(".")[1]
            claims = read_json(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        except (IndexError, ValueError):
            return {}
        return claims if isinstance(claims, dict) else {}

    @property
    def principal(self) -> str:
        claims = self.claims()
        names = (claims.get(name) for name in ("upn", "preferred_username", "unique_name", "appid", "oid"))
        return next((name for name in names if isinstance(name, str) and name), "")

    @property
    def tenant_id(self) -> str:
        return str(self.claims().get("tid") or "")


@dataclass(frozen=True)
class CredentialSource:
    """A way to sign in. `make` returns an azure-identity credential with `get_token(scope, claims=…)` and perhaps
    `close()`."""

    name: str
    make: Callable[[], Any] = object
    identity: str = ""  # everything that determines the account
    is_explicit: bool = False  # chosen by the user: if it fails, himl tries no other
    asks_a_person: bool = False
    unusable: str = ""  # why himl cannot try it, for the list of reasons
    settings: Mapping[str, str] = field(default_factory=dict)  # names for hints to use instead of himl's variables
    file_variable: str = ""  # the variable with the path of its file


class Chain:
    """Tokens from the first source that works, which serves all later requests. Thread-safe."""

    def __init__(self, sources: Sequence[CredentialSource], *, authority: str, hint: str = HOW_TO_SIGN_IN) -> None:
        self._sources, self._authority, self._hint = sources, authority, hint
        self._made: dict[str, Any] = {}
        self._chosen: CredentialSource | None = None
        self._lock = threading.RLock()
        register_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.RLock()
        self._made = {}

    @property
    def identity(self) -> str:
        """A digest of everything that determines the account, so that no cached token serves another account.
        Interactive sources do not count, because their tokens are cached under this digest."""
        sources = [one for one in self._sources if one.identity and not one.asks_a_person]
        parts = [self._authority, *(f"{source.name}\n{source.identity}" for source in sources)]
        return hashlib.sha256("\n\n".join(parts).encode()).hexdigest()

    def is_for_once(self, credential: str) -> bool:
        """Return whether the source is interactive, so that himl must not use it again while its token is valid."""
        return any(source.asks_a_person and source.name == credential for source in self._sources)

    def fetch(self, scope: str, *, anew: bool, claims: str = "") -> Token:
        """A token for *scope*. `anew` discards what non-interactive credentials hold in memory.

        *claims*, the JSON of a service that requires a stronger sign-in, go to the credential. One that cannot satisfy
        them ends the search. Raises NotAllowed naming the sources, ServiceFailed if himl cannot reach the sign-in
        service.
        """
        with self._lock:
            if anew:
                for source in self._sources:
                    if not source.asks_a_person and source.name in self._made:
                        getattr(self._made.pop(source.name), "close", object)()
            tried: dict[str, Reason] = {}
            for source in [self._chosen] if self._chosen else self._sources:
                token = self._ask(source, scope, claims, tried)
                if token is not None:
                    self._chosen = source
                    return token
                reason = tried[source.name]
                if source.is_explicit:
                    raise NotAllowedNow(
                        f"Sign-in as {source.name} failed: {reason.text}.", hint=reason.hint or self._hint
                    )
                if claims and reason.text == STRONGER:
                    raise NotAllowedNow(
                        f"The service requires a stronger sign-in than that by {source.name}: a second factor, or a "
                        "trusted device.",
                        hint=reason.hint,
                    )
            stronger = "No credential provides the stronger sign-in that the service requires"
            listed = ", ".join(f"{name} ({reason.text})" for name, reason in tried.items())
            special = tried.get(AZURE_CLI, Reason("")).hint  # the credential of most users
            raise NotAllowedNow(
                f"{stronger if claims else 'Not signed in to Azure'}. Tried: {listed or 'nothing'}.",
                hint=special or self._hint,
            )

    def close(self) -> None:
        with self._lock:
            for credential in self._made.values():
                getattr(credential, "close", object)()
            self._made.clear()

    def _ask(self, source: CredentialSource, scope: str, claims: str, tried: dict[str, Reason]) -> Token | None:
        if source.unusable:
            tried[source.name] = Reason(source.unusable)
            return None
        load_azure_core()
        from azure.core.exceptions import AzureError

        credential: Any = None
        try:
            if source.name not in self._made:
                self._made[source.name] = source.make()
            credential = self._made[source.name]
            given = credential.get_token(scope, claims=claims) if claims else credential.get_token(scope)
        except (AzureError, ValueError, OSError) as err:  # the latter two for malformed ids and unreadable files
            no_answer: HimlError | None = None
            status = getattr(credential, "failing_status", 0)
            if status:
                no_answer = ServiceFailed(
                    f"{urlsplit(self._authority).hostname} failed at the sign-in: it answered {status}.",
                    hint="Try again later.",
                )
            elif is_network_error(err):
                no_answer = network_error(err, self._authority)
            if source.is_explicit and no_answer is not None:
                raise no_answer from err
            log.debug("%s gave no token (%s)", source.name, type(err).__name__)
            if no_answer is not None:
                tried[source.name] = Reason(str(no_answer).rstrip("."))
            else:
                tried[source.name] = reason_of(err, source.settings, source.file_variable)
            return None
        return Token(given.token, float(given.expires_on), source.name)


# himl abandons a sign-in service that stalls after about 40 s, because the user may be waiting.
SIGN_IN = RetryPolicy(attempts=4, first=0.5, total=16.0, longest_asked=16.0, read_timeout=15.0)


class Credential:
    """A credential of azure-identity that sends requests through himl's HTTP session and records failing statuses."""

    def __init__(self, name: str, *arguments: str, policy: RetryPolicy = SIGN_IN, **options: Any) -> None:
        import azure.identity
        from azure.core.pipeline.transport import RequestsTransport

        self._session = open_http_session(policy)
        retries = {"retry_total": 0}  # the session retries
        transport = RequestsTransport(
            session=self._session, connection_timeout=CONNECT_SECONDS, read_timeout=policy.read_timeout
        )
        self._inner = getattr(azure.identity, name)(*arguments, transport=transport, **retries | options)

    @property
    def failing_status(self) -> int:
        """The status with which the sign-in service reported overload or failure, or 0."""
        return int(self._session.failing_status)

    def get_token(self, scope: str, *, claims: str | None = None) -> Any:
        self._session.failing_status = 0
        return self._inner.get_token(scope, claims=claims)

    def close(self) -> None:
        self._inner.close()
        self._session.close()


PROCESS_SECONDS = 20  # for a program that returns tokens


class AzureCli:
    """`az account get-access-token`, first for the workspace's subscription, which selects the account and the tenant.

    If the account cannot access the subscription, or `az` is old, the second request omits it, so that the service
    reports the reason.
    """

    def __init__(self, subscription_id: str, tenant_id: str) -> None:
        self._tenant_id = tenant_id
        by_tenant, by_subscription = {"tenant_id": tenant_id}, {"subscription": subscription_id}
        self._choices: list[dict[str, Any]] = [by_tenant] if tenant_id else [by_subscription, {}]

    def get_token(self, scope: str, *, claims: str | None = None) -> Any:
        """An azure-core AccessToken. Raises azure-core's ClientAuthenticationError, for *claims* with the command that
        gets them."""
        from azure.core.exceptions import ClientAuthenticationError
        from azure.identity import AzureCliCredential, CredentialUnavailableError

        if claims:  # the command names the tenant
            return AzureCliCredential(process_timeout=PROCESS_SECONDS).get_token(
                scope, claims=claims, tenant_id=self._tenant_id or None
            )
        for choice in self._choices[:-1]:
            try:
                return AzureCliCredential(process_timeout=PROCESS_SECONDS, **choice).get_token(scope)
            except ClientAuthenticationError as err:
                if isinstance(err, CredentialUnavailableError) or "AADSTS" in str(err):
                    raise
        return AzureCliCredential(process_timeout=PROCESS_SECONDS, **self._choices[-1]).get_token(scope)


def user_sources(settings: AzureSettings, cloud: Cloud, subscription_id: str) -> list[CredentialSource]:
    """The sources of tokens outside a job, in the order in which himl tries them.

    Raises NotAllowed for a service principal with missing parts.
    """
    principal = principal_source(settings, cloud)
    if principal is not None:
        return [principal]
    env, found = os.environ, [*_of_environment(cloud)]
    is_wanted = "managedidentitycredential" in env.get("AZURE_TOKEN_CREDENTIALS", "").lower()
    if is_wanted or env.get("IDENTITY_ENDPOINT") or env.get("MSI_ENDPOINT") or _is_azure_machine():
        found.append(managed_identity(env.get("AZURE_CLIENT_ID"), is_explicit=is_wanted))
    asked = [*_of_tools(settings.tenant_id, subscription_id), _of_people(settings.tenant_id, cloud)]
    return [*found, *(replace(source, settings=settings.in_files) for source in asked)]


def principal_source(settings: AzureSettings, cloud: Cloud) -> CredentialSource | None:
    """The service principal of himl's settings, or None if neither its id nor its password is set.

    Raises NotAllowed naming the missing parts.
    """
    parts = {key: getattr(settings, key) for key in SIGN_IN_VARIABLES}
    tenant_id, client_id, secret = parts.values()
    if not (client_id or secret):
        return None
    missing, place = [key for key, value in parts.items() if not value], settings.places
    if missing:
        given = " and ".join(f"{key} ({place.get(key, 'given')})" for key, value in parts.items() if value)
        raise NotAllowed(
            f"The service principal is only partly set: {given}, but no {' and no '.join(missing)}.",
            hint=f"Set {' and '.join(SIGN_IN_VARIABLES[key] for key in missing)}, or the keys in [azure] of "
            f"{PRIVATE_FILE}. Otherwise unset the rest.",
        )
    make = partial(Credential, "ClientSecretCredential", tenant_id, client_id, secret, **_authority(cloud))
    shown = client_id if len(client_id) <= 12 else f"{client_id[:8]}…"
    name = f"service principal {shown} ({place.get('service_principal_id', 'given')})"
    identity = f"{tenant_id} {client_id} {_digest(secret)}"
    return CredentialSource(name, make, identity, is_explicit=True, settings=settings.in_files)


def managed_identity(client_id: str | None, *, is_explicit: bool = False) -> CredentialSource:
    """The machine's identity, or with *client_id* the one assigned to it."""
    endpoint = os.environ.get("IDENTITY_ENDPOINT") or os.environ.get("MSI_ENDPOINT") or "metadata endpoint"
    # A metadata endpoint answers 404 and 410 while it starts.
    retries: dict[str, Any] = {"retry_total": 3, "retry_connect": 0, "retry_read": 0}
    make = partial(Credential, "ManagedIdentityCredential", client_id=client_id or None, **retries)
    identity = f"{platform.node()} {endpoint} {client_id}"  # the node, because machines share home folders
    return CredentialSource("managed identity", make, identity, is_explicit=is_explicit)


def _of_environment(cloud: Cloud) -> Iterator[CredentialSource]:
    env, certificate, token_file = os.environ, "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"
    secret = next((name for name in ("AZURE_CLIENT_SECRET", certificate) if env.get(name)), "")
    missing = [name for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID") if not env.get(name)]
    unusable = f"{' and '.join(missing)} missing" if missing else ""
    ids = f"{env.get('AZURE_TENANT_ID', '')} {env.get('AZURE_CLIENT_ID', '')}"
    if secret:
        names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", secret)
        yield CredentialSource(
            f"service principal of {secret}",
            partial(Credential, "EnvironmentCredential", **_authority(cloud)),
            f"{ids} {_digest(env[secret])}",
            is_explicit=not missing,
            unusable=unusable,
            settings=dict(zip(SIGN_IN_VARIABLES.values(), names, strict=True)),
            file_variable=certificate if secret == certificate else "",
        )
    else:
        yield CredentialSource("environment variables", unusable="not set")
    if env.get(token_file):
        make = partial(Credential, "WorkloadIdentityCredential", **_authority(cloud))
        yield CredentialSource(
            "workload identity", make, f"{ids} {env[token_file]}", unusable=unusable, file_variable=token_file
        )


def _of_tools(tenant_id: str, subscription_id: str) -> Iterator[CredentialSource]:
    def make(name: str) -> Any:
        import azure.identity

        return getattr(azure.identity, name)(tenant_id=tenant_id, process_timeout=PROCESS_SECONDS)

    def state(path: Path) -> str:
        """A digest of the file, which signing in with another account rewrites."""
        try:
            return _digest(path.read_bytes())
        except OSError:
            return "none"

    home = home_folder() or Path(os.sep)
    az_folder = Path(os.environ.get("AZURE_CONFIG_DIR") or home / ".azure")
    unusable = "" if shutil.which("az") else "not installed"
    identity = f"{subscription_id} {tenant_id} {state(az_folder / 'azureProfile.json')}"
    yield CredentialSource(AZURE_CLI, partial(AzureCli, subscription_id, tenant_id), identity, unusable=unusable)
    if shutil.which("azd"):
        azd_folder = Path(os.environ.get("AZD_CONFIG_DIR") or home / ".azd")
        identity = f"{tenant_id} {state(azd_folder / 'auth' / 'auth.json')}"
        yield CredentialSource("Azure Developer CLI", partial(make, "AzureDeveloperCliCredential"), identity)
    context = home / ".Azure" / "AzureRmContext.json"
    if context.is_file() and (shutil.which("pwsh") or shutil.which("powershell")):
        yield CredentialSource(
            "Azure PowerShell", partial(make, "AzurePowerShellCredential"), f"{tenant_id} {state(context)}"
        )


def _of_people(tenant_id: str, cloud: Cloud) -> CredentialSource:
    options = {**_authority(cloud), **({"tenant_id": tenant_id} if tenant_id else {})}

    def tell(line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def browse() -> Any:
        tell("Opening a browser to sign in to Azure.")
        return Credential("InteractiveBrowserCredential", timeout=300, **options)

    def prompt(address: str, code: str, expires: datetime) -> None:
        tell(f"To sign in, open {address} in any browser and enter the code {code}.")

    if not all(stream and not stream.closed and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        return CredentialSource("browser and device code", asks_a_person=True, unusable="no terminal")
    if _has_browser():
        return CredentialSource("browser", browse, asks_a_person=True)
    make = partial(Credential, "DeviceCodeCredential", prompt_callback=prompt, timeout=600, **options)
    return CredentialSource("device code", make, asks_a_person=True)


def _has_browser() -> bool:
    env = os.environ
    if env.get("SSH_CONNECTION") or env.get("SSH_TTY"):
        return False
    if sys.platform.startswith("linux") and not (env.get("DISPLAY") or env.get("WAYLAND_DISPLAY")):
        return False
    import webbrowser

    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _authority(cloud: Cloud) -> dict[str, Any]:
    """The options of azure-identity for the sign-in service. It must not look up a user's own one in Microsoft's
    directory, which does not list it."""
    return {
        "authority": cloud.authority,
        "disable_instance_discovery": all(cloud.authority != known.authority for known in CLOUDS.values()),
    }


def _is_azure_machine() -> bool:
    """Return whether this is an Azure virtual machine, by the chassis tag that cloud-init checks (Linux only)."""
    try:
        tag = Path("/sys/class/dmi/id/chassis_asset_tag").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False
    return tag.strip() == "7783-7084-3265-9085-8269-3286-77"


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


RUN_TOKEN = "run token"  # the scope in `Tokens` of a job's own token
OWN_TOKEN = "the job's run token"  # its name in messages


class JobIdentity(Chain):
    """The tokens of a job. *renew* requests a new run token, given the old one, and returns `(text, expires)`."""

    def __init__(self, settings: AzureSettings, cloud: Cloud, renew: Callable[[str], tuple[str, float]]) -> None:
        super().__init__(
            _job_sources(settings, cloud),
            authority=cloud.authority,
            hint="Submit the job with --identity managed or --identity user.",
        )
        self._renew = renew
        self._run_token, told = os.environ.get("AZUREML_RUN_TOKEN", ""), os.environ.get("AZUREML_RUN_TOKEN_EXPIRY", "")
        claimed = Token(self._run_token, 0, "").claims().get("exp")
        self._expires = 0.0  # if unknown
        if told.isdecimal():
            self._expires = float(told)
        elif isinstance(claimed, (int, float)):
            self._expires = float(max(0, min(claimed, 1e12)))  # a larger integer may not fit a float

    @property
    def identity(self) -> str:
        return f"{os.environ.get('AZUREML_RUN_ID', '')} {_digest(self._run_token)} {super().identity}"

    def is_for_once(self, credential: str) -> bool:
        return credential == OWN_TOKEN

    def fetch(self, scope: str, *, anew: bool, claims: str = "") -> Token:
        """The run token for the scope `RUN_TOKEN`, or a token of the job's identity. Raises NotAllowed without one."""
        if scope != RUN_TOKEN:
            return super().fetch(scope, anew=anew, claims=claims)
        token = Token(self._run_token, self._expires, OWN_TOKEN)
        if not anew and token.lasts(RENEW_SECONDS):
            return token
        try:
            self._run_token, self._expires = self._renew(token.text)
        except HimlError as err:
            if token.lasts() and not anew:
                return token
            raise NotAllowed(f"The job's run token is no longer valid, and its renewal failed ({err}).") from err
        return Token(self._run_token, self._expires, OWN_TOKEN)


def _job_sources(settings: AzureSettings, cloud: Cloud) -> list[CredentialSource]:
    principal = principal_source(settings, cloud)
    if principal is not None:
        return [principal]
    env, sources = os.environ, []
    if env.get("OBO_ENDPOINT") and env.get("AZUREML_OBO_ENABLED", "").strip().lower() not in ("", "false", "0", "no"):
        sources.append(CredentialSource("the submitter's identity", OnBehalfOf, env["OBO_ENDPOINT"]))
    is_managed = env.get("AZUREML_IDENTITY_IN_USE", "").lower() == "managed"
    client_id = env.get("DEFAULT_IDENTITY_CLIENT_ID") or (env.get("AZUREML_IDENTITY_CLIENT_ID") if is_managed else None)
    if client_id or is_managed:
        sources.append(managed_identity(client_id))
    return sources or [
        CredentialSource("the job's identity", unusable="none, and its run token gives no access to this")
    ]


class OnBehalfOf:
    """Tokens in the name of the job's submitter, from the endpoint at OBO_ENDPOINT (requested as in azure-ai-ml)."""

    def get_token(self, scope: str, *, claims: str | None = None) -> Any:
        """An azure-core AccessToken. The endpoint takes no *claims*. Raises azure-core's ClientAuthenticationError."""
        from azure.core.credentials import AccessToken
        from azure.core.exceptions import ClientAuthenticationError

        url = f"{os.environ['OBO_ENDPOINT']}?{urlencode({'resource': scope.removesuffix('/.default')})}"
        try:
            status, content = get_locally(url, seconds=30)
            if status != 200:
                raise ConnectionError(f"the endpoint answered {status}")
            given = read_json(content)
            token = given.get("access_token") or given["token"]
            if not token.isascii() or not token.isprintable():
                raise ValueError("the token is not text")
            if "expires_on" in given:
                expires = float(given["expires_on"])
            elif "expires_in" in given:
                expires = time.time() + float(given["expires_in"])
            else:
                # Raises if the value is not a time.
                expires = as_time(str(given["expiresOn"])).timestamp()  # type: ignore[union-attr]
            return AccessToken(token, int(expires))
        except (AttributeError, KeyError, OSError, OverflowError, TypeError, ValueError) as err:
            raise ClientAuthenticationError(
                message=f"the identity endpoint returned no token ({type(err).__name__})"
            ) from err
