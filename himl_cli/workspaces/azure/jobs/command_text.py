"""The command of a job on a cluster, as bash runs it there."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

from himl_cli.core.jobs import EntryKind, JobSpec
from himl_cli.core.placeholders import PLACEHOLDER, check_placeholders
from himl_cli.workspaces.azure.jobs.targets import check_targets, laying_out, targets_of

_STARTS = {EntryKind.script: ("python",), EntryKind.module: ("python", "-m"), EntryKind.shell: ("bash",)}


def command_text(spec: JobSpec) -> str:
    """The command as it is sent: what lays inputs out where they were asked for, then the script (`script_text`).

    Raises BadUsage for a placeholder that names no input or output of the job, and for targets that cannot be.
    """
    check_targets(spec)
    return laying_out(targets_of(spec.inputs)) + script_text(spec)


def script_text(spec: JobSpec) -> str:
    """`python SCRIPT ARGUMENTS`, each of them one word for bash; `${{inputs.KEY}}` and `${{outputs.KEY}}` stay for the service to fill in.

    An input that has a target is named by that. Raises BadUsage for a placeholder that names no input or output of the job.
    """
    check_placeholders(spec)
    targets = targets_of(spec.inputs)
    return shell_line(spec, lambda kind, key: _folder(kind, key, targets))


def shell_line(spec: JobSpec, fill: Callable[[str, str], str]) -> str:
    """The command as a line for bash; *fill* gives what is to stand for a placeholder, from `inputs` or `outputs` and the key, quoted already."""
    return " ".join([*_STARTS[spec.entry.kind], shlex.quote(script_name(spec)), *(_word(argument, fill) for argument in spec.arguments)])


def script_name(spec: JobSpec) -> str:
    """The script or module, so written that no interpreter takes it for an option."""
    return f"./{spec.entry.target}" if spec.entry.target.startswith("-") else spec.entry.target


def _folder(kind: str, key: str, targets: Mapping[str, str]) -> str:
    target = targets.get(key) if kind == "inputs" else None
    return f"${{{{{kind}.{key}}}}}" if target is None else shlex.quote(target)


def _word(argument: str, fill: Callable[[str, str], str]) -> str:
    """*argument* as one word of bash; placeholders stand outside the quotes."""
    pieces: list[str] = []
    end = 0
    for found in PLACEHOLDER.finditer(argument):
        pieces += [_quoted(argument[end : found.start()]), fill(found[1], found[2])]
        end = found.end()
    return "".join([*pieces, _quoted(argument[end:])]) or "''"


def _quoted(text: str) -> str:
    """*text* quoted for bash; nothing for nothing, which stands beside something."""
    return shlex.quote(text) if text else ""
