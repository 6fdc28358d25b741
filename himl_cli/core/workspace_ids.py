"""How Azure ML workspaces are written down: their ids in addresses, and the `config.json` of one."""

from __future__ import annotations

import re
from typing import NamedTuple

HOW_TO_CONFIGURE = (
    "Put the workspace's config.json (from Studio's menu at the top right) into the project's folder, or have it "
    "written: "
    "himl init --subscription_id ID --resource_group RG --workspace_name WS."
)

WORKSPACE_ID = (
    r"subscriptions/(?P<subscription>[^/?&#]+)/resourceGroups/(?P<group>[^/?&#]+)"
    r"(?:/providers/Microsoft\.MachineLearningServices)?/workspaces/(?P<name>[^/?&#]+)"
)
"""An id in the form of resource manager or of Studio, from its first part on; to be compared without regard to case."""
_WORKSPACE_ID = re.compile(f"/{WORKSPACE_ID}", re.IGNORECASE)


class WorkspaceIds(NamedTuple):
    """A workspace's ids as they are spelled where they were read."""

    subscription: str
    group: str
    name: str

    @property
    def label(self) -> str:
        return f"{self.group}/{self.name}"

    def is_same(self, other: WorkspaceIds) -> bool:
        """Ids of Azure resources are compared without regard to case."""
        return all(one.casefold() == two.casefold() for one, two in zip(self, other, strict=True))


def parse_workspace_id(text: str) -> WorkspaceIds | None:
    """The ids in *text*: an id of resource manager, an address that holds one; None where there is none."""
    found = _WORKSPACE_ID.search(text)
    return WorkspaceIds(found["subscription"], found["group"], found["name"]) if found else None
