"""Addresses of Azure ML workspaces, the clouds that they lie in, and the versions of the services that are asked."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from urllib.parse import quote

from himl_cli.core.errors import BadUsage
from himl_cli.core.text import did_you_mean

CLOUD_VARIABLE = "AZUREML_CURRENT_CLOUD"  # the vendor's SDKs read it too


class ApiVersion:
    """The versions of routes that himl asks for: resource manager's where nothing else is said, stable ones as in
    Azure/azure-rest-api-specs."""

    JOBS = WORKSPACES = ENVIRONMENTS = COMPUTES = DATASTORES = "2024-10-01"
    CODES = DATA = "2023-04-01"  # as azure-ai-ml asks for them
    DATASTORE_SECRETS = "2025-12-01"  # the one in which the vendor's SDK lets a secret expire
    ENDPOINTS = "2015-01-01"  # resource manager's page about the cloud
    STORAGE = "2023-11-03"  # `x-ms-version`: tells names that XML cannot hold, and takes bearer tokens
    MODELS = "1.0.0"  # the registry of models, as azure-ai-ml asks it


@dataclass(frozen=True)
class Cloud:
    """Addresses of one cloud, without a slash at the end; scopes are what tokens are asked for."""

    name: str
    resource_manager: str
    authority: str
    storage_suffix: str
    studio: str
    data_plane_suffix: str  # hosts of the Azure ML services end with it: eastus.api.azureml.ms

    @property
    def management_scope(self) -> str:
        """The scope of resource manager, which the Azure ML services accept as well."""
        return f"{self.resource_manager}/.default"

    @property
    def jobs_scope(self) -> str:
        """The scope of the token that a job runs with which acts as the user who sent it."""
        return f"https://ml.azure.{self.studio.rpartition('.')[2]}/.default"

    @property
    def storage_scope(self) -> str:
        return "https://storage.azure.com/.default"


PUBLIC = Cloud(
    name="AzureCloud",
    resource_manager="https://management.azure.com",
    authority="https://login.microsoftonline.com",
    storage_suffix="core.windows.net",
    studio="https://ml.azure.com",
    data_plane_suffix=".api.azureml.ms",
)
US_GOVERNMENT = Cloud(
    name="AzureUSGovernment",
    resource_manager="https://management.usgovcloudapi.net",
    authority="https://login.microsoftonline.us",
    storage_suffix="core.usgovcloudapi.net",
    studio="https://ml.azure.us",
    data_plane_suffix=".api.ml.azure.us",
)
CHINA = Cloud(
    name="AzureChinaCloud",
    resource_manager="https://management.chinacloudapi.cn",
    authority="https://login.chinacloudapi.cn",
    storage_suffix="core.chinacloudapi.cn",
    studio="https://studio.ml.azure.cn",
    data_plane_suffix=".api.ml.azure.cn",
)
CLOUDS = {cloud.name.lower(): cloud for cloud in (PUBLIC, US_GOVERNMENT, CHINA)}


def current_cloud(name: str | None = None) -> Cloud:
    """The cloud called *name*, else the one of AZUREML_CURRENT_CLOUD, else the public one.

    AZURE_AUTHORITY_HOST, which azure-identity reads too, replaces the place of sign-in. Raises BadUsage for a name that
    is none.
    """
    chosen = name or os.environ.get(CLOUD_VARIABLE, "")
    cloud = CLOUDS.get(chosen.lower()) if chosen else PUBLIC
    if cloud is None:
        known = [one.name for one in CLOUDS.values()]
        where = "" if name else f" ({CLOUD_VARIABLE})"
        raise BadUsage(
            f"'{chosen}'{where} is no cloud that himl knows.",
            hint=did_you_mean(chosen, known) or f"There are {', '.join(known)}.",
        )
    authority = os.environ.get("AZURE_AUTHORITY_HOST", "").strip().rstrip("/")
    if not authority:
        return cloud
    return replace(cloud, authority=authority if "://" in authority else f"https://{authority}")


# `WorkspaceAddress.source` of the workspace that the Azure ML job which we are in belongs to.
JOB_SOURCE = "the job's environment"


@dataclass(frozen=True)
class WorkspaceAddress:
    """A workspace in a cloud, and where that was read (`source`: a file, the HIML_* variables, `JOB_SOURCE`)."""

    subscription_id: str
    resource_group: str
    name: str
    cloud: Cloud
    source: str

    @property
    def path(self) -> str:
        """The workspace's id in resource manager: `/subscriptions/…/workspaces/NAME`."""
        group = f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
        return f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{self.name}"

    @property
    def label(self) -> str:
        return f"workspace {self.resource_group}/{self.name}"

    def studio_url(self, page: str = "", tenant_id: str = "") -> str:
        """A page of the workspace in Studio, by its path (`runs/ID`, parts quoted)."""
        group = f"/subscriptions/{self.subscription_id}/resourcegroups/{self.resource_group}"  # as Studio writes it
        place = f"{group}/workspaces/{self.name}"
        tenant = f"&tid={quote(tenant_id, safe='')}" if tenant_id else ""
        return f"{self.cloud.studio}/{page}?wsid={quote(place)}{tenant}"
