"""The workspace that an Azure ML Studio address names in its `wsid`. Pure text, no look-up."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit


class StudioWorkspace(NamedTuple):
    """A workspace's ids as the address spells them."""

    subscription: str
    group: str
    name: str

    @property
    def label(self) -> str:
        return f"{self.group}/{self.name}"

    def is_same(self, other: StudioWorkspace) -> bool:
        """Ids of Azure resources are compared without regard to case."""
        return all(one.casefold() == two.casefold() for one, two in zip(self, other, strict=True))


def workspace_in_url(url: str) -> StudioWorkspace | None:
    """What `wsid=/subscriptions/S/resourcegroups/G/workspaces/W` (also with `/providers/…` in it) names; None for other text."""
    try:
        ids = parse_qs(urlsplit(url.strip()).query).get("wsid", [])
    except ValueError:  # brackets that are no IPv6 address
        return None
    parts = ids[0].strip("/").split("/") if ids else []
    values = {key.lower(): value for key, value in zip(parts[::2], parts[1::2], strict=False)}
    names = [values.get(key, "") for key in ("subscriptions", "resourcegroups", "workspaces")]
    return StudioWorkspace(*names) if all(names) else None
