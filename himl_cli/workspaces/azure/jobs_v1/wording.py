"""What the job starts: a script with its arguments as ScriptRunConfig has them, or a line for the shell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from himl_cli.core.jobs import EntryKind, JobSpec
from himl_cli.workspaces.azure.jobs.command_text import PLACEHOLDER

TEMPLATES = {"inputs": "DatasetConsumptionConfig:", "outputs": "DatasetOutputConfig:"}
"""How azureml-core writes a path into the arguments of a script that is known only in the job."""
VARIABLES = {"inputs": "AZURE_ML_INPUT_", "outputs": "AZURE_ML_OUTPUT_"}
INTERPRETERS = {EntryKind.script: ("python",), EntryKind.module: ("python", "-m"), EntryKind.shell: ("bash",)}


def start_of(spec: JobSpec) -> dict[str, Any]:
    """`script` and `arguments`, or `command` (one string, for bash), as ScriptRunConfig takes them.

    The service fills a placeholder in only where it is a whole argument; within one, the shell does.
    """
    target = f"./{spec.entry.target}" if spec.entry.target.startswith("-") else spec.entry.target  # not to be taken for an option
    partly = any(PLACEHOLDER.search(text) and not PLACEHOLDER.fullmatch(text) for text in spec.arguments)
    if spec.entry.kind is EntryKind.script and not partly:
        return {"script": target, "arguments": [_as_template(text) for text in spec.arguments]}
    return {"command": _line([*INTERPRETERS[spec.entry.kind], target, *spec.arguments])}


def _as_template(text: str) -> str:
    found = PLACEHOLDER.fullmatch(text)
    return f"{TEMPLATES[found[1]]}{found[2]}" if found else text


def _line(words: Sequence[str]) -> str:
    return " ".join(_for_shell(word) for word in words)


def _for_shell(word: str) -> str:
    """*word* quoted for bash, a placeholder in it as the variable that holds the path."""
    parts: list[str] = []
    at = 0
    for found in PLACEHOLDER.finditer(word):
        parts += [shlex.quote(word[at : found.start()])] if found.start() > at else []
        parts.append(f'"${{{VARIABLES[found[1]]}{found[2]}}}"')
        at = found.end()
    return "".join([*parts, shlex.quote(word[at:])] if at < len(word) or not word else parts)
