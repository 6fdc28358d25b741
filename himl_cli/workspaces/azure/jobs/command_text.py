"""The command of a job on a cluster, as bash runs it there."""

from __future__ import annotations

import re
import shlex

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import EntryKind, JobSpec

PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs)\.([A-Za-z_]\w*)\s*\}\}")
_STARTS = {EntryKind.script: "python", EntryKind.module: "python -m", EntryKind.shell: "bash"}


def command_text(spec: JobSpec) -> str:
    """`python SCRIPT ARGUMENTS`, each of them one word for bash; `${{inputs.KEY}}` and `${{outputs.KEY}}` stay for the service to fill in.

    Raises BadUsage for a placeholder that names no input or output of the job.
    """
    target = spec.entry.target
    if target.startswith("-"):  # a script's name must not be taken for an option of the interpreter
        target = f"./{target}"
    _check_placeholders(spec)
    return " ".join([_STARTS[spec.entry.kind], shlex.quote(target), *(_word(argument) for argument in spec.arguments)])


def _word(argument: str) -> str:
    """*argument* as one word of bash; placeholders stand outside the quotes."""
    pieces: list[str] = []
    end = 0
    for found in PLACEHOLDER.finditer(argument):
        pieces += [argument[end : found.start()], f"${{{{{found[1]}.{found[2]}}}}}"]
        end = found.end()
    pieces.append(argument[end:])
    if len(pieces) == 1:
        return shlex.quote(argument)
    return "".join(piece if number % 2 else shlex.quote(piece) if piece else "" for number, piece in enumerate(pieces))


def _check_placeholders(spec: JobSpec) -> None:
    known = {"inputs": [item.key for item in spec.inputs], "outputs": [item.key for item in spec.outputs]}
    for argument in spec.arguments:
        for found in PLACEHOLDER.finditer(argument):
            keys, kind = known[found[1]], found[1][:-1]
            if found[2] not in keys:
                raise BadUsage(f"'{found[0]}' names no {kind}; there are: {', '.join(keys) or 'none'}.", hint=f"Add --{kind} {found[2]}=NAME")
