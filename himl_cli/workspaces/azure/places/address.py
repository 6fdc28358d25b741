"""Which Azure ML workspace is meant."""

from __future__ import annotations

import re
from dataclasses import dataclass

from himl_cli.workspaces.azure.places.clouds import Cloud

JOB_SOURCE = "the job's environment"
"""`WorkspaceAddress.source` of the workspace that the Azure ML job which we are in belongs to."""

_WORKSPACE_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"(?:/providers/Microsoft\.MachineLearningServices)?/workspaces/(?P<name>[^/?&#]+)",
    re.IGNORECASE,
)


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
        return f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}/providers/Microsoft.MachineLearningServices/workspaces/{self.name}"

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"workspace {self.resource_group}/{self.name}"

    @property
    def is_job(self) -> bool:
        """Whether it is the workspace of the Azure ML job that we are in."""
        return self.source == JOB_SOURCE


def parse_workspace_id(text: str) -> tuple[str, str, str] | None:
    """Subscription, resource group and name in an ARM id, or in a Studio URL's `wsid`; None where there is none."""
    found = _WORKSPACE_ID.search(text)
    return (found["subscription"], found["group"], found["name"]) if found else None
