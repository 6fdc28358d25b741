"""What himl has to know of a workspace before it can ask anything of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.places.address import WorkspaceAddress


@dataclass(frozen=True)
class WorkspaceRecord:
    """Of resource manager's answer for the workspace, what himl uses. In a job without an identity for that, what the
    job is told.

    `data_plane` is where run history and its kin answer, `https://REGION.api.azureml.ms` or a private address, without
    a slash at the end; `storage_account` is the ARM id of the workspace's own account, "" unknown.
    """

    workspace_id: str
    location: str
    data_plane: str
    tenant_id: str
    storage_account: str
    discovery_url: str

    def as_json(self) -> dict[str, str]:
        """The form in which it is kept."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> WorkspaceRecord | None:
        """The record that `as_json` made; None for anything else."""
        try:
            return cls(**{name: str(value[name]) for name in cls.__dataclass_fields__})
        except (KeyError, TypeError):
            return None

    @classmethod
    def from_arm(cls, answer: Any, address: WorkspaceAddress) -> WorkspaceRecord:
        """From `GET {workspace}`. `data_plane` is empty where the answer does not tell it: discovery has to be asked.

        Raises ServiceFailed for an answer that is no workspace.
        """
        properties = answer.get("properties") if isinstance(answer, Mapping) else None
        if not isinstance(properties, Mapping):
            raise ServiceFailed(
                f"The answer for {address.label} holds no workspace.", hint="A proxy of this network may be in between."
            )
        host = parts_of(str(properties.get("mlFlowTrackingUri") or "")).netloc
        discovery_url = str(properties.get("discoveryUrl") or "")
        if (
            discovery_url and parts_of(discovery_url).netloc != host
        ):  # behind a private link, say; the vendor's clients go by discovery
            host = ""
        return cls(
            workspace_id=str(properties.get("workspaceId") or ""),
            location=str(answer.get("location") or ""),
            data_plane=f"https://{host}" if host else "",
            tenant_id=str(properties.get("tenantId") or ""),
            storage_account=str(properties.get("storageAccount") or ""),
            discovery_url=discovery_url,
        )

    @classmethod
    def from_job(cls, tenant_id: str) -> WorkspaceRecord | None:
        """From the environment of an Azure ML job; None where that does not tell the services' address."""
        env = os.environ
        data_plane = (
            env.get("AZUREML_SERVICE_ENDPOINT") or env.get("AZUREML_RUN_HISTORY_SERVICE_ENDPOINT") or ""
        ).rstrip("/")
        if not data_plane.startswith("https://"):
            return None
        return cls(
            workspace_id=env.get("AZUREML_WORKSPACE_ID", ""),
            location=_region_of(parts_of(data_plane).hostname or ""),
            data_plane=data_plane,
            tenant_id=tenant_id,
            storage_account="",
            discovery_url=env.get("AZUREML_DISCOVERY_SERVICE_ENDPOINT", ""),
        )


def _region_of(host: str) -> str:
    """`eastus` of `eastus.api.azureml.ms`, and of `GUID.workspace.eastus.api.azureml.ms`, the address within a private
    network."""
    labels = host.split(".")
    return labels[labels.index("api") - 1] if "api" in labels[1:] else labels[0]
