"""A job's command: references to inputs, outputs and the job's name, and what they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.servers.azureml.state import Json

_REFERENCE = re.compile(r"\$\{\{\s*(?:(inputs|outputs)\.(\w+)|(name))\s*\}\}")


def filled(command: str, name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """*command* with its references replaced: text for text, without any quoting, as the service does."""

    def value(found: re.Match[str]) -> str:
        return name if found[3] else (inputs if found[1] == "inputs" else outputs)[found[2]]

    return _REFERENCE.sub(value, command)


def unknown_references(job: Json) -> list[str]:
    """References of the command to what the job does not have, as `inputs.x`."""
    known: dict[str, Mapping[str, Any]] = {"inputs": job.get("inputs") or {}, "outputs": job.get("outputs") or {}}
    return [f"{found[1]}.{found[2]}" for found in _REFERENCE.finditer(job.get("command") or "") if found[1] and found[2] not in known[found[1]]]
