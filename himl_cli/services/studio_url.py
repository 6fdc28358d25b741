"""The workspace that an Azure ML Studio address names in its `wsid`. Pure text, no look-up."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from himl_cli.core.workspace_ids import WorkspaceIds, parse_workspace_id


def workspace_in_url(url: str) -> WorkspaceIds | None:
    """What `wsid=/subscriptions/S/resourcegroups/G/workspaces/W` (also with `/providers/…` in it) names; None for other text."""
    try:
        ids = parse_qs(urlsplit(url.strip()).query).get("wsid", [])
    except ValueError:  # brackets that are no IPv6 address
        return None
    return parse_workspace_id(f"/{ids[0].strip('/')}") if ids else None
