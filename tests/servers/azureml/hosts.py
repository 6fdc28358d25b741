"""The host names that the double plays, by cloud."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    ARM = "control plane"
    LOGIN = "identity"
    DATA = "data plane"
    BLOB = "storage"


@dataclass(frozen=True)
class Cloud:
    """One cloud's hosts; regions stand before `data_plane`, accounts before `blob`."""

    resource_manager: str
    logins: tuple[str, ...]
    data_plane: str
    blob: str
    studio: str


CLOUDS = {
    "AzureCloud": Cloud("management.azure.com", ("login.microsoftonline.com",), "api.azureml.ms", "blob.core.windows.net", "ml.azure.com"),
    "AzureUSGovernment": Cloud("management.usgovcloudapi.net", ("login.microsoftonline.us",), "api.ml.azure.us", "blob.core.usgovcloudapi.net", "ml.azure.us"),
    "AzureChinaCloud": Cloud(
        "management.chinacloudapi.cn",
        ("login.chinacloudapi.cn", "login.partner.microsoftonline.cn"),
        "api.ml.azure.cn",
        "blob.core.chinacloudapi.cn",
        "studio.ml.azure.cn",
    ),
}
_EXACT = {cloud.resource_manager: Role.ARM for cloud in CLOUDS.values()} | {login: Role.LOGIN for cloud in CLOUDS.values() for login in cloud.logins}
_BELOW = {cloud.data_plane: Role.DATA for cloud in CLOUDS.values()} | {cloud.blob: Role.BLOB for cloud in CLOUDS.values()}
CERTIFIED = (*_EXACT, *(f"*.{suffix}" for suffix in _BELOW))


def role_of(host: str) -> Role | None:
    """What the double plays under the name *host*; None for hosts that nobody plays."""
    host = host.lower()
    return _EXACT.get(host) or _BELOW.get(host.partition(".")[2])
