"""The command of a job on a cluster, as bash runs it there."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace

from himl_cli.core.jobs import EntryKind, JobSpec, check_placeholders
from himl_cli.core.sweeps import PLACEHOLDER, SEARCH_SPACE, with_search_space
from himl_cli.workspaces.azure.jobs.brought import bringing
from himl_cli.workspaces.azure.jobs.sweeps import value_word
from himl_cli.workspaces.azure.jobs.targets import check_targets, laying_out, targets_of

_STARTS = {EntryKind.script: ("python",), EntryKind.module: ("python", "-m"), EntryKind.shell: ("bash",)}


def command_text(spec: JobSpec) -> str:
    """The command as it is sent: what lays inputs out where they were asked for and brings files, then the script
    (`script_text`).

    Raises BadUsage for a placeholder that names no input or output of the job, and for targets that cannot be.
    """
    check_targets(spec)
    return laying_out(targets_of(spec.inputs)) + bringing(spec.brought) + script_text(spec)


def script_text(spec: JobSpec) -> str:
    """`python SCRIPT ARGUMENTS`, each of them one word for bash; `${{inputs.KEY}}`, `${{outputs.KEY}}` and a trial's
    values stay for the service to fill in.

    An input that has a target is named by that. Raises BadUsage for a placeholder that names no input, output or
    hyperparameter of the job.
    """
    check_placeholders(spec)
    targets, sweep = targets_of(spec.inputs), spec.sweep

    def fill(kind: str, key: str) -> str:
        return value_word(key, sweep) if kind == SEARCH_SPACE and sweep is not None else _folder(kind, key, targets)

    if sweep is None or spec.entry.kind is EntryKind.command:
        return shell_line(spec, fill)
    return shell_line(replace(spec, arguments=with_search_space(spec.arguments, sweep.space)), fill)


def shell_line(spec: JobSpec, fill: Callable[[str, str], str]) -> str:
    """The command as a line for bash; *fill* gives what is to stand for a placeholder, from its kind (`inputs`, …) and
    the key, quoted already.

    A line that the user wrote stays as it is, placeholders too: whoever wrote it has put quotes where they belong. So
    do the words in place of `python`.
    """
    words = [_word(argument, fill) for argument in spec.arguments]
    if spec.entry.kind is EntryKind.command:
        return " ".join([spec.entry.target, *words])
    start = [spec.python or "python" if word == "python" else word for word in _STARTS[spec.entry.kind]]
    return " ".join([*start, shlex.quote(script_name(spec)), *words])


def script_name(spec: JobSpec) -> str:
    """The script or module, so written that no interpreter takes it for an option."""
    return f"./{spec.entry.target}" if spec.entry.target.startswith("-") else spec.entry.target


def _folder(kind: str, key: str, targets: Mapping[str, str]) -> str:
    target = targets.get(key) if kind == "inputs" else None
    return f"${{{{{kind}.{key}}}}}" if target is None else shlex.quote(target)


def _word(argument: str, fill: Callable[[str, str], str]) -> str:
    """*argument* as one word of bash; placeholders stand outside the quotes."""
    pieces: list[str] = []
    end, kind = 0, ""
    for found in PLACEHOLDER.finditer(argument):
        pieces += [_quoted(argument[end : found.start()], kind), fill(found[1], found[2])]
        end, kind = found.end(), found[1]
    return "".join([*pieces, _quoted(argument[end:], kind)]) or "''"


def _quoted(text: str, behind: str = "") -> str:
    """*text* quoted for bash; nothing for nothing, which stands beside something.

    It stands *behind* a placeholder of that kind: for a trial's value the service puts the name of a variable, which
    must not go on with *text*.
    """
    goes_on = behind == SEARCH_SPACE and (text[:1] == "_" or text[:1].isalnum())
    return f"'{text}'" if goes_on and shlex.quote(text) == text else shlex.quote(text) if text else ""
