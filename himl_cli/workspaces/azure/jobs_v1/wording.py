"""What the job starts: a script with its arguments as ScriptRunConfig has them, or a line for the shell."""

from __future__ import annotations

from typing import Any

from himl_cli.core.jobs import EntryKind, JobSpec
from himl_cli.core.sweeps import PLACEHOLDER
from himl_cli.workspaces.azure.jobs.command_text import script_name, shell_line
from himl_cli.workspaces.azure.jobs_v1.hyperdrive import without_values

TEMPLATES = {"inputs": "DatasetConsumptionConfig:", "outputs": "DatasetOutputConfig:"}
"""How azureml-core writes a path into the arguments of a script that is known only in the job."""
PREFIXES = {"inputs": "AZURE_ML_INPUT_", "outputs": "AZURE_ML_OUTPUT_"}
"""How the variables of paths begin in other jobs; in those of azureml-core they are called as the data, or have a
prefix of their own."""


def start_of(spec: JobSpec) -> dict[str, Any]:
    """`script` and `arguments`, or `command` (one string, for bash), as ScriptRunConfig takes them.

    The service fills a placeholder in only where it is a whole argument; within one, the shell does.
    """
    arguments = spec.arguments if spec.sweep is None else without_values(spec.arguments)
    partly = any(PLACEHOLDER.search(text) and not PLACEHOLDER.fullmatch(text) for text in arguments)
    if spec.entry.kind is EntryKind.script and not partly and not spec.python:
        return {"script": script_name(spec), "arguments": [_as_template(text) for text in arguments]}
    return {"command": shell_line(spec, _path)}


def _as_template(text: str) -> str:
    found = PLACEHOLDER.fullmatch(text)
    return f"{TEMPLATES[found[1]]}{found[2]}" if found else text


def _path(kind: str, key: str) -> str:
    """What the shell puts the path of an input or output in for: the first of its variables that is set. Where none is,
    the job fails and says so."""
    return (
        f'"${{{PREFIXES[kind]}{key}:-${{AZUREML_DATAREFERENCE_{key}:-${{{key}:?the job does not tell where its '
        f'{kind[:-1]} lies}}}}}}"'
    )
