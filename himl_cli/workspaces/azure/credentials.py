"""Signing in: the credentials that apply here are tried in order, and what each one said is told when none works.

Order (`user_sources` has when each one applies): the service principal of himl's settings; the environment's, by
azure-identity's own variables; workload identity; managed identity; Azure CLI; Azure Developer CLI; Azure PowerShell;
a browser, or a device code where there is none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from himl_cli.core.errors import HimlError, NotAllowedNow, ServiceFailed
from himl_cli.core.files import home_folder
from himl_cli.core.processes import register_after_fork
from himl_cli.workspaces.azure.address import CLOUDS, Cloud
from himl_cli.workspaces.azure.config import AzureSettings, ServicePrincipal
from himl_cli.workspaces.azure.http import silence_libraries
from himl_cli.workspaces.azure.service_errors import STRONGER, Reason, is_network_error, network_error, reason_of
from himl_cli.workspaces.azure.tokens import Token
from himl_cli.workspaces.retry import RetryPolicy

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
                for source in self._sources:
                    if not source.asks_a_person and source.name in self._made:
                        _close(self._made.pop(source.name))
            tried: list[tuple[str, Reason]] = []
            for source in [self._chosen] if self._chosen else self._sources:
                token = self._ask(source, scope, claims, tried)
                if token is not None:
                    self._chosen = source
                    return token
                if source.is_explicit:
                    break
                if claims and tried[-1][1].text == STRONGER:
                    raise NotAllowedNow(
                        f"The service wants a stronger sign-in than that by {source.name}: a second factor, or a "
                        "device that the tenant trusts.",
                        hint=tried[-1][1].hint,
                    )
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

    def _ask(self, source: Source, scope: str, claims: str, tried: list[tuple[str, Reason]]) -> Token | None:
        from azure.core.exceptions import AzureError

        if source.unusable:
            tried.append((source.name, Reason(source.unusable)))
            return None
        silence_libraries()
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
                host = urlsplit(self._authority).hostname
                message = f"{host} failed at the sign-in: it answered {status}."
                no_answer = ServiceFailed(message, hint="Try again later.")
            elif is_network_error(err):
                no_answer = network_error(err, self._authority)
            if source.is_explicit and no_answer is not None:
                raise no_answer from err
            log.debug("%s gave no token: %s", source.name, type(err).__name__)
            reason = reason_of(err, source.settings, source.file_variable)
            tried.append((source.name, reason if no_answer is None else Reason(str(no_answer).rstrip("."))))
            return None
        return Token(given.token, float(given.expires_on), source.name)

    def _failure(self, tried: Sequence[tuple[str, Reason]], what: str) -> HimlError:
        if tried and any(source.is_explicit and source.name == tried[-1][0] for source in self._sources):
            name, reason = tried[-1]
            return NotAllowedNow(f"Sign-in as {name} failed: {reason.text}.", hint=reason.hint or self._hint)
        listed = ", ".join(f"{name} ({reason.text})" for name, reason in tried)
        special = dict(tried).get(AZURE_CLI, Reason("")).hint  # what most people sign in with
        return NotAllowedNow(f"{what}. Tried: {listed or 'nothing'}.", hint=special or self._hint)


def _close(credential: Any) -> None:
    getattr(credential, "close", lambda: None)()


def tell_on_stderr(line: str) -> None:
    """Show *line* to the person at the terminal."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _has_browser() -> bool:
    if os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    import webbrowser

    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


SIGN_IN = RetryPolicy(attempts=4, first=0.5, total=16.0, longest_asked=16.0, read_timeout=15.0)
"""A place of sign-in that stalls is given up within some 40 s; somebody may be waiting for it."""


class Credential:
    """A credential of azure-identity that makes its requests as himl does, and remembers when they are not answered."""

    def __init__(self, name: str, *arguments: str, policy: RetryPolicy = SIGN_IN, **options: Any) -> None:
        """The class called *name*, with these arguments."""
        import azure.identity

        from himl_cli.workspaces.azure.transport import Transport

        self._transport = Transport(policy)
        retries = {"retry_total": 0}  # the transport tries again
        self._inner = getattr(azure.identity, name)(*arguments, transport=self._transport, **retries | options)

    @property
    def failing_status(self) -> int:
        """The status by which the place of sign-in said that it is busy or failing; 0 where it did not."""
        return self._transport.failing_status

    def get_token(self, scope: str, *, claims: str | None = None) -> Any:
        """An azure-core AccessToken, with *claims* (JSON). Raises azure-core's ClientAuthenticationError."""
        self._transport.failing_status = 0
        return self._inner.get_token(scope, claims=claims)

    def close(self) -> None:
        """Close its connections."""
        self._inner.close()
        self._transport.close()


def tool(name: str, **options: Any) -> Any:
    """A credential of azure-identity that runs a program."""
    import azure.identity

    return getattr(azure.identity, name)(**options)


class AzureCli:
    """`az account get-access-token`, first for the workspace's subscription: that picks its account and its tenant.

    An account that does not see the subscription (or an old `az`) is asked once more without it, so that the service
    can say what is wrong in its own words.
    """

    def __init__(self, subscription_id: str, tenant_id: str, seconds: int) -> None:
        self._choices: list[dict[str, Any]] = (
            [{"tenant_id": tenant_id}] if tenant_id else [{"subscription": subscription_id}, {}]
        )
        self._seconds = seconds

    def get_token(self, scope: str, *, claims: str | None = None) -> Any:
        """An azure-core AccessToken. Raises azure-core's ClientAuthenticationError; for *claims* with the command that
        gets them."""
        from azure.core.exceptions import ClientAuthenticationError
        from azure.identity import AzureCliCredential, CredentialUnavailableError

        if claims:
            tenant = self._choices[0].get("tenant_id") or None  # named in the command
            return AzureCliCredential(process_timeout=self._seconds).get_token(scope, claims=claims, tenant_id=tenant)
        for choice in self._choices[:-1]:
            try:
                return AzureCliCredential(process_timeout=self._seconds, **choice).get_token(scope)
            except CredentialUnavailableError:
                raise
            except ClientAuthenticationError as err:
                if "AADSTS" in str(err):
                    raise
        return AzureCliCredential(process_timeout=self._seconds, **self._choices[-1]).get_token(scope)


AZURE_MACHINE_TAG = "7783-7084-3265-9085-8269-3286-77"
"""The chassis tag of Azure's virtual machines, by which cloud-init knows them too."""
CERTIFICATE, TOKEN_FILE = "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"
ENVIRONMENT_SECRETS = ("AZURE_CLIENT_SECRET", CERTIFICATE)
PROCESS_SECONDS = 20


def user_sources(
    settings: AzureSettings, cloud: Cloud, subscription_id: str, tell: Callable[[str], None]
) -> list[Source]:
    """All that may sign in outside a job, in the order in which they are tried; *tell* shows a line to a person.

    Raises NotAllowed where a service principal is only partly set.
    """
    principal = settings.service_principal()
    if principal is not None:
        return [from_principal(principal, cloud)]
    env, found = os.environ, [*_of_environment(cloud)]
    is_wanted = "managedidentitycredential" in env.get("AZURE_TOKEN_CREDENTIALS", "").lower()
    if is_wanted or env.get("IDENTITY_ENDPOINT") or env.get("MSI_ENDPOINT") or is_azure_machine():
        found.append(managed_identity(env.get("AZURE_CLIENT_ID"), is_explicit=is_wanted))
    asked = [*_of_tools(settings.tenant_id, subscription_id), _of_people(settings.tenant_id, cloud, tell)]
    return [*found, *(replace(source, settings=settings.in_files) for source in asked)]


def from_principal(principal: ServicePrincipal, cloud: Cloud) -> Source:
    """The service principal of himl's settings."""

    ids = (principal.tenant_id, principal.client_id, principal.secret)
    make = partial(Credential, "ClientSecretCredential", *ids, **place_of_sign_in(cloud))
    shown = principal.client_id if len(principal.client_id) <= 12 else f"{principal.client_id[:8]}…"
    identity = f"{principal.tenant_id} {principal.client_id} {digest(principal.secret.encode())}"
    return Source(
        f"service principal {shown} ({principal.place})", make, identity, is_explicit=True, settings=principal.in_files
    )


def managed_identity(client_id: str | None, *, is_explicit: bool = False) -> Source:
    """The machine's identity, or its assigned one with *client_id*."""
    endpoint = os.environ.get("IDENTITY_ENDPOINT") or os.environ.get("MSI_ENDPOINT") or "metadata endpoint"
    statuses: dict[str, Any] = {
        "retry_total": 3,
        "retry_connect": 0,
        "retry_read": 0,
    }  # a metadata endpoint answers 404 and 410 while it starts
    make = partial(Credential, "ManagedIdentityCredential", client_id=client_id or None, **statuses)
    return Source(
        "managed identity", make, f"{platform.node()} {endpoint} {client_id}", is_explicit=is_explicit
    )  # home folders are shared


def _of_environment(cloud: Cloud) -> Iterator[Source]:
    env = os.environ
    secret = next((name for name in ENVIRONMENT_SECRETS if env.get(name)), "")
    missing = [name for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID") if not env.get(name)]
    unusable = f"{' and '.join(missing)} missing" if missing else ""
    ids = f"{env.get('AZURE_TENANT_ID', '')} {env.get('AZURE_CLIENT_ID', '')}"
    if secret:
        yield Source(
            f"service principal of {secret}",
            partial(Credential, "EnvironmentCredential", **place_of_sign_in(cloud)),
            f"{ids} {digest(env[secret].encode())}",
            is_explicit=not missing,
            unusable=unusable,
            settings={
                "HIML_TENANT_ID": "AZURE_TENANT_ID",
                "HIML_SERVICE_PRINCIPAL_ID": "AZURE_CLIENT_ID",
                "HIML_SERVICE_PRINCIPAL_PASSWORD": secret,
            },
            file_variable=CERTIFICATE if secret == CERTIFICATE else "",
        )
    else:
        yield Source("environment variables", _nothing, unusable="not set")
    if env.get(TOKEN_FILE):
        make = partial(Credential, "WorkloadIdentityCredential", **place_of_sign_in(cloud))
        yield Source("workload identity", make, f"{ids} {env[TOKEN_FILE]}", unusable=unusable, file_variable=TOKEN_FILE)


def _of_tools(tenant_id: str, subscription_id: str) -> Iterator[Source]:
    home = home_folder() or Path(os.sep)
    az_folder = Path(os.environ.get("AZURE_CONFIG_DIR") or home / ".azure")
    unusable = "" if shutil.which("az") else "not installed"
    identity = f"{subscription_id} {tenant_id} {_digest_of_file(az_folder / 'azureProfile.json')}"
    yield Source(AZURE_CLI, lambda: AzureCli(subscription_id, tenant_id, PROCESS_SECONDS), identity, unusable=unusable)
    if shutil.which("azd"):
        azd_folder = Path(os.environ.get("AZD_CONFIG_DIR") or home / ".azd")
        make = partial(tool, "AzureDeveloperCliCredential", tenant_id=tenant_id, process_timeout=PROCESS_SECONDS)
        yield Source("Azure Developer CLI", make, f"{tenant_id} {_digest_of_file(azd_folder / 'auth' / 'auth.json')}")
    context = home / ".Azure" / "AzureRmContext.json"
    if context.is_file() and (shutil.which("pwsh") or shutil.which("powershell")):
        make = partial(tool, "AzurePowerShellCredential", tenant_id=tenant_id, process_timeout=PROCESS_SECONDS)
        yield Source("Azure PowerShell", make, f"{tenant_id} {_digest_of_file(context)}")


def _of_people(tenant_id: str, cloud: Cloud, tell: Callable[[str], None]) -> Source:
    """A browser where a person is at a terminal of a desktop, a device code where the terminal is all there is."""
    options = {**place_of_sign_in(cloud), **({"tenant_id": tenant_id} if tenant_id else {})}

    def browse() -> Any:
        tell("Opening a browser to sign in to Azure.")
        return Credential("InteractiveBrowserCredential", timeout=300, **options)

    def prompt(address: str, code: str, expires: datetime) -> None:
        tell(f"To sign in, open {address} in any browser and enter the code {code}.")

    if not all(stream and not stream.closed and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        return Source("browser and device code", _nothing, asks_a_person=True, unusable="no terminal")
    if _has_browser():
        return Source("browser", browse, asks_a_person=True)
    make = partial(Credential, "DeviceCodeCredential", prompt_callback=prompt, timeout=600, **options)
    return Source("device code", make, asks_a_person=True)


def place_of_sign_in(cloud: Cloud) -> dict[str, Any]:
    """What azure-identity has to know of it: one that the user named is not looked up in Microsoft's directory, which
    cannot know it."""
    is_own = all(cloud.authority != known.authority for known in CLOUDS.values())
    return {"authority": cloud.authority, "disable_instance_discovery": is_own}


def is_azure_machine() -> bool:
    """Whether this is a virtual machine of Azure's (Linux only: elsewhere it is not looked up)."""
    if sys.platform != "linux":
        return False
    try:
        return Path("/sys/class/dmi/id/chassis_asset_tag").read_text(encoding="ascii").strip() == AZURE_MACHINE_TAG
    except (OSError, UnicodeDecodeError):
        return False


def digest(content: bytes) -> str:
    """A short name for *content* that does not tell it."""
    return hashlib.sha256(content).hexdigest()[:16]


def _digest_of_file(path: Path) -> str:
    """Changes when the file does: signing in as somebody else rewrites it."""
    try:
        return digest(path.read_bytes())
    except OSError:
        return "none"


def _nothing() -> Any:
    raise AssertionError("a source that is not usable is not made")
