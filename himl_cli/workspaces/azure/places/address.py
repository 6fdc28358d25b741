"""Which Azure ML workspace is meant."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from himl_cli.workspaces.azure.places.clouds import Cloud

JOB_SOURCE = "the job's environment"
"""`WorkspaceAddress.source` of the workspace that the Azure ML job which we are in belongs to."""


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
        """What messages call it."""
        return f"workspace {self.resource_group}/{self.name}"

    def studio_url(self, page: str = "", tenant_id: str = "") -> str:
        """A page of the workspace in Studio, by its path (`runs/ID`, parts quoted)."""
        group = f"/subscriptions/{self.subscription_id}/resourcegroups/{self.resource_group}"  # as Studio writes it
        place = f"{group}/workspaces/{self.name}"
        tenant = f"&tid={quote(tenant_id, safe='')}" if tenant_id else ""
        return f"{self.cloud.studio}/{page}?wsid={quote(place)}{tenant}"

    @property
    def is_job(self) -> bool:
        """Whether it is the workspace of the Azure ML job that we are in."""
        return self.source == JOB_SOURCE
