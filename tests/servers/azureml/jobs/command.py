"""A job's command: references to inputs, outputs, the job's name and the values of a trial, and what they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.servers.azureml.state import Json

_REFERENCE = re.compile(r"\$\{\{\s*(?:(inputs|outputs)\.(\w+)|(name))\s*\}\}")
_VALUE = re.compile(r"\$\{\{\s*search_space\.([\w.-]+)\s*\}\}")


def filled(command: str, name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """*command* with its references replaced: text for text, without any quoting, as the service does."""

    def value(found: re.Match[str]) -> str:
        return name if found[3] else (inputs if found[1] == "inputs" else outputs)[found[2]]

    return _REFERENCE.sub(value, command)


def with_values(command: str, values: Mapping[str, str]) -> str:
    """*command* with *values* in the place of a trial's hyperparameters, text for text as well."""
    return _VALUE.sub(lambda found: values[found[1]], command)


def named(text: str, name: str) -> str:
    """*text* with *name* for the job's name."""
    return _REFERENCE.sub(lambda found: name if found[3] else found[0], text)


def unknown_references(job: Json) -> list[str]:
    """References of the command to what the job does not have, as `inputs.x`."""
    known: dict[str, Mapping[str, Any]] = {"inputs": job.get("inputs") or {}, "outputs": job.get("outputs") or {}}
    command = job.get("command") or ""
    unknown = [f"{found[1]}.{found[2]}" for found in _REFERENCE.finditer(command) if found[1] and found[2] not in known[found[1]]]
    return unknown + [f"search_space.{found[1]}" for found in _VALUE.finditer(command) if found[1] not in (job.get("searchSpace") or {})]
