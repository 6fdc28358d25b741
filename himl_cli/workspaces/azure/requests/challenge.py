"""Claims challenges: a 401 by which a service says that it wants a stronger sign-in, and which.

Conditional access, continuous access evaluation and the second factor that resource manager enforces for changes speak
so: https://learn.microsoft.com/entra/identity-platform/claims-challenge
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from himl_cli.core.text import read_json

_PARAMETER = re.compile(r'(?P<name>error|claims)="(?P<value>[^"]*)"')


def claims_of(headers: Mapping[str, str]) -> str:
    """The claims that an answer with these headers asks for, as JSON text for `get_token`; nothing where it asks for
    none."""
    challenge = next((value for name, value in headers.items() if name.lower() == "www-authenticate"), "")
    found = {parameter["name"]: parameter["value"] for parameter in _PARAMETER.finditer(challenge)}
    if found.get("error") != "insufficient_claims":
        return ""
    encoded = found.get("claims", "").translate(str.maketrans("-_", "+/"))
    try:
        text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
        return text if isinstance(read_json(text), dict) else ""
    except ValueError:  # no base64, no UTF-8, no JSON
        return ""
