"""Secrets that must not be seen in logs, errors and settings."""

from __future__ import annotations

import re
from collections.abc import Sequence

MASK = "***"

_SECRETS = re.compile(
    r"""(?P<keep>
        [?&](?:sig|sv_sig|signature|token|access_token|code|client_secret)=        # a signed link
      | (?:AccountKey|SharedAccessSignature|SharedAccessKey)=                      # a connection string
      | \b(?:Bearer|Basic)\s+                                                      # an Authorization header
      | \b[\w-]*(?:password|passwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token|(?<![a-z])token)["']?\s*[=:]\s*["']?   # name=value
      | ://[^/\s:@]+:(?=[^/\s@]+@)                                                 # user:password@host
    )(?P<secret>[^\s"'&;@]+)""",
    re.VERBOSE | re.IGNORECASE,
)
_USER_IN_URL = re.compile(r"(https?://)[^/\s'\"]+@", re.IGNORECASE)
_SECRET_OPTION = re.compile(
    r"passw(or)?d|passphrase|pwd|secret|token(?!s|iz)|credential|(api|account|access|shared|private)[_-]?key|\bsas\b|connection[_-]?string"
    r"|(^|[-_])(pass|auth|pat)$",
    re.IGNORECASE,
)
_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*")


def redact(text: str) -> str:
    """*text* with the values of signatures, keys, passwords and tokens replaced by `***`."""
    text = _USER_IN_URL.sub(rf"\1{MASK}@", text)
    return _JWT.sub(MASK, _SECRETS.sub(lambda found: found["keep"] + MASK, text))


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line's arguments with secrets masked: by shape, and whatever follows an option with a secret's name."""
    shown: list[str] = []
    follows_secret = False
    for argument in arguments:
        is_option = argument.startswith("-")
        name, equals, _ = argument.partition("=")
        if follows_secret and not argument.startswith("--"):
            shown.append(MASK)
        elif is_option and equals and _SECRET_OPTION.search(name):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(redact(argument))
        follows_secret = is_option and not equals and _SECRET_OPTION.search(argument) is not None
    return shown
