"""The workspace that an Azure ML Studio address names in its `wsid`. Pure text, no look-up."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from himl_cli.core.workspaces import WorkspaceIds, parse_workspace_id

_STUDIO = re.compile(r"(?:^|\.)ml\.azure\.[a-z]+(?:\.[a-z]+)?$", re.IGNORECASE)


def is_studio_url(url: str) -> bool:
    """Whether *url* is a page of Azure ML Studio, in any cloud, and no file."""
    try:
        host = urlsplit(url.strip()).hostname or ""
    except ValueError:
        return False
    return _STUDIO.search(host) is not None or workspace_in_url(url) is not None


def workspace_in_url(url: str) -> WorkspaceIds | None:
    """What `wsid=/subscriptions/S/resourcegroups/G/workspaces/W` (also with `/providers/…` in it) names; None for other
    text."""
    try:
        ids = parse_qs(urlsplit(url.strip()).query).get("wsid", [])
    except ValueError:  # brackets that are no IPv6 address
        return None
    return parse_workspace_id(f"/{ids[0].strip('/')}") if ids else None
