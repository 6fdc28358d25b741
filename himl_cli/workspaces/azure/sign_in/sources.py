"""Which credentials apply on this machine, and with what.

Nothing here waits for something that may not exist. In particular the metadata endpoint of a virtual machine, which
takes seconds to be missed on a laptop, is asked only on a machine that says it is Azure's, or where
AZURE_TOKEN_CREDENTIALS asks for it. Azure PowerShell, which takes seconds to start, is asked only where somebody signed
in with it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from himl_cli.core.files import home_folder
from himl_cli.workspaces.azure.places.clouds import CLOUDS, Cloud
from himl_cli.workspaces.azure.places.settings import AzureSettings, ServicePrincipal
from himl_cli.workspaces.azure.sign_in.credentials import AZURE_CLI, Source
from himl_cli.workspaces.azure.sign_in.people import device_code, whom_to_ask
from himl_cli.workspaces.azure.sign_in.vendor import AzureCli, Credential, tool

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
    found = [*_of_environment(cloud), *_of_machine()]
    asked = [*_of_tools(settings.tenant_id, subscription_id), *_of_people(settings.tenant_id, cloud, tell)]
    return [*found, *(replace(source, settings=settings.in_files) for source in asked)]


def from_principal(principal: ServicePrincipal, cloud: Cloud) -> Source:
    """The service principal of himl's settings."""

    def make() -> Any:
        return Credential(
            "ClientSecretCredential",
            principal.tenant_id,
            principal.client_id,
            principal.secret,
            **place_of_sign_in(cloud),
        )

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
        identity = f"{ids} {digest(env[secret].encode())}"
        make = partial(Credential, "EnvironmentCredential", **place_of_sign_in(cloud))
        names = {
            "HIML_TENANT_ID": "AZURE_TENANT_ID",
            "HIML_SERVICE_PRINCIPAL_ID": "AZURE_CLIENT_ID",
            "HIML_SERVICE_PRINCIPAL_PASSWORD": secret,
        }
        file = CERTIFICATE if secret == CERTIFICATE else ""
        yield Source(
            f"service principal of {secret}",
            make,
            identity,
            is_explicit=not missing,
            unusable=unusable,
            settings=names,
            file_variable=file,
        )
    else:
        yield Source("environment variables", _nothing, unusable="not set")
    if env.get(TOKEN_FILE):
        make = partial(Credential, "WorkloadIdentityCredential", **place_of_sign_in(cloud))
        yield Source("workload identity", make, f"{ids} {env[TOKEN_FILE]}", unusable=unusable, file_variable=TOKEN_FILE)


def _of_machine() -> Iterator[Source]:
    env = os.environ
    asked_for = "managedidentitycredential" in env.get("AZURE_TOKEN_CREDENTIALS", "").lower()
    if asked_for or env.get("IDENTITY_ENDPOINT") or env.get("MSI_ENDPOINT") or is_azure_machine():
        yield managed_identity(env.get("AZURE_CLIENT_ID"), is_explicit=asked_for)


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


def _of_people(tenant_id: str, cloud: Cloud, tell: Callable[[str], None]) -> Iterator[Source]:
    who = whom_to_ask()
    options = {**place_of_sign_in(cloud), **({"tenant_id": tenant_id} if tenant_id else {})}
    if who == "browser":

        def browse() -> Any:
            tell("Opening a browser to sign in to Azure.")
            return Credential("InteractiveBrowserCredential", timeout=300, **options)

        yield Source("browser", browse, asks_a_person=True)
    elif who == "device code":
        yield Source("device code", lambda: device_code(tell, options), asks_a_person=True)
    else:
        yield Source("browser and device code", _nothing, asks_a_person=True, unusable="no terminal")


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
