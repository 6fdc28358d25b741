"""How the services say that they let nobody in from here: a firewall, or a private link.

The status tells nothing: 403 mostly, but the data plane says 401 to whoever comes from outside of a private link
(Azure/azure-cli-extensions#6294), and resource manager 502 (MicrosoftDocs/azure-docs#90426).
"""

from __future__ import annotations

import re

_SIGNS = re.compile(
    r"\b(PublicNetworkAccessDisabled|AccessDeniedByNetwork|IpAuthorizationFailed"
    r"|RequestDeniedByNetwork|ForbiddenByFirewall)\b"
    r"|public (network )?access is (disabled|not enabled|not permitted)|private (endpoint|link)|not allowed by (its "
    r")?firewall",
    re.IGNORECASE,
)


def says_closed(text: str) -> bool:
    """Whether *text*, codes and message of an error or its whole body, speaks of a network that is closed to us."""
    return _SIGNS.search(text) is not None
