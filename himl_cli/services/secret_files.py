"""Which files hold secrets, by their names or by their form, so that no job is sent with them."""

from __future__ import annotations

import os
import re

PRIVATE_NAMES = frozenset(
    {"himl.private.toml", ".env", ".envrc", "innereyeprivatesettings.yml", "innereyetestvariables.txt", "settings_private.yml", "settings_private.yaml"}
)
"""Names in lower case: some file systems do not tell cases apart."""
SAMPLE_ENDINGS = (".example", ".sample", ".template", ".dist", ".defaults")
YAML_ENDINGS = (".yml", ".yaml")
LARGEST_SETTINGS_FILE = 64 * 1024  # bytes

_VARIABLES = re.compile(rb"^[\"']?variables[\"']?[ \t]*:", re.MULTILINE)
_KEY = rb"(?:^[ \t]+|[{,][ \t]*)[\"']?(%s)[\"']?[ \t]*:"
_WORKSPACE_KEYS = re.compile(
    _KEY % rb"tenant_id|subscription_id|application_id|resource_group|workspace_name",
    re.MULTILINE | re.IGNORECASE,
)
_SECRET_KEYS = re.compile(
    _KEY % rb"\w*(?:application|principal|account|storage|access|client|api)_key|\w*(?:password|secret)",
    re.MULTILINE | re.IGNORECASE,
)


def is_dotenv_name(name: str) -> bool:
    """Whether a file of this name is one of environment variables: `.env`, `.env.local`, `prod.env`; not `.env.example`."""
    folded = name.casefold()
    return (folded.endswith(".env") or folded.startswith(".env.")) and not folded.endswith(SAMPLE_ENDINGS)


def may_hold_secrets(path: str, size: int) -> bool:
    """Whether the file at *path* (*size* in bytes) is one of secrets: by its name, or a YAML file in the form of InnerEye's settings."""
    name = os.path.basename(path).casefold()
    if name in PRIVATE_NAMES or is_dotenv_name(name):
        return True
    return name.endswith(YAML_ENDINGS) and size <= LARGEST_SETTINGS_FILE and _is_innereye_settings(path)


def _is_innereye_settings(path: str) -> bool:
    """Whether the file has `variables:` with a key that is a secret, or at least two that name a workspace or who signs in to it."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST_SETTINGS_FILE)
    except OSError:
        return False
    if _VARIABLES.search(content) is None:
        return False
    return _SECRET_KEYS.search(content) is not None or len({key.lower() for key in _WORKSPACE_KEYS.findall(content)}) >= 2
