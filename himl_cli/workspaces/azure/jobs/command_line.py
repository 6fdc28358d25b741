"""The command of a job as bash runs it on a cluster: links to inputs, copies of files, the script, and what is kept of
what it wrote."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import (
    PLACEHOLDER,
    SEARCH_SPACE,
    DataSpec,
    Draw,
    EntryKind,
    JobSpec,
    check_placeholders,
    with_search_space,
)

# How the names of the variables begin in which a job finds its inputs, and a trial its values
INPUT_VARIABLE, SWEEP_VARIABLE = "AZURE_ML_INPUT_", "AZUREML_SWEEP_"
_STARTS = {EntryKind.script: ("python",), EntryKind.module: ("python", "-m"), EntryKind.shell: ("bash",)}
_RANK = "${LOCAL_RANK:-${OMPI_COMM_WORLD_LOCAL_RANK:-0}}"


def command_line(spec: JobSpec) -> str:
    """The command as it is sent: links to inputs, copies of files, the script (`script_line`), what it keeps.

    Raises BadUsage for a placeholder that names no input or output of the job, and for links that cannot be.
    """
    line = script_line(spec)
    return _link_commands(spec) + copy_commands(spec.brought) + (_keeping(spec.keep, line) if spec.keep else line)


def _keeping(globs: Sequence[str], line: str) -> str:
    """*line*, and once it has ended copies of what it wrote outside of `outputs/` and `logs/` and *globs* match, which
    bash reads as `core.files.Globs` does. The exit code is that of *line*."""
    folders = [f"{glob}**" if glob.endswith("/") else glob for glob in globs]
    wholes = [glob[1:] if glob.startswith("/") else f"**/{glob}" for glob in folders]
    patterns = [re.sub(r"[^\w./*?\[\]!^-]", lambda found: shlex.quote(found[0]), glob) for glob in wholes]
    copying = 'case "$f" in outputs/*|logs/*) ;; *) [ ! -f "$f" ] || [ ! "$f" -nt "$himl_start" ]'
    copying += ' || [ -e "outputs/$f" ] || cp --parents -- "$f" outputs/;; esac'
    loop = f"for f in {' '.join(patterns)}; do {copying}; done"
    only_first = f'[ "{_RANK}" != 0 ] || ( shopt -s globstar nullglob dotglob; mkdir -p outputs; {loop} )'
    return f"himl_start=$(mktemp); ( {line}\n); himl_exit=$?; {only_first}; exit $himl_exit"


def script_line(spec: JobSpec) -> str:
    """`python SCRIPT ARGUMENTS`, each of them one word for bash; `${{inputs.KEY}}`, `${{outputs.KEY}}` and a trial's
    values stay for the service to fill in.

    An input that has a target is named by that. Raises BadUsage for a placeholder that names no input, output or
    hyperparameter of the job.
    """
    check_placeholders(spec)
    targets, sweep = _targets(spec.inputs), spec.sweep

    def fill(kind: str, key: str) -> str:
        if kind == SEARCH_SPACE and sweep is not None:
            # mostly the placeholder. The service is said to put `$AZUREML_SWEEP_NAME` in its place, not the value's
            # text, so that no quotes round it are right for each value; where a choice needs them, the variable itself
            # stands in them, which takes them all
            space = sweep.space[key]
            texts = [value for value in space.values if isinstance(value, str)] if space.draw is Draw.choice else []
            is_plain = all(text and shlex.quote(text) == text for text in texts)
            return f"${{{{{SEARCH_SPACE}.{key}}}}}" if is_plain else f'"${SWEEP_VARIABLE}{key}"'
        target = targets.get(key) if kind == "inputs" else None
        return f"${{{{{kind}.{key}}}}}" if target is None else shlex.quote(target)

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
    return f"./{spec.entry.target}" if spec.entry.target.startswith("-") else spec.entry.target


def _link_commands(spec: JobSpec) -> str:
    """Commands that make each of the inputs' targets a link to its input, and what the input's variable says.

    All ranks of a node do it, maybe at once: making a link either works or finds one (`-n`: and does not go into it).
    What is there and is something else stays as it is, and the job fails with a word in its log.

    Raises BadUsage for targets that cannot be links of their own: one within another, or where the snapshot has files
    already.
    """
    targets, text = _targets(spec.inputs), ""
    for (one, path), (other, other_path) in combinations(targets.items(), 2):
        if _is_within(path, other_path) or _is_within(other_path, path):
            raise BadUsage(
                f"The inputs '{one}' and '{other}' cannot lie at '{path}' and '{other_path}': one would be inside the "
                "other."
            )
    for key, target in targets.items():
        reason = ""
        if target == ".":
            reason = "target=. is refused: the data would cover the script's own folder."
        elif not target.startswith("/") and any(_is_within(name, target) for name in spec.snapshot.files):
            reason = f"target={target} is refused: the snapshot has files of its own there."
        if reason:
            raise BadUsage(f"Input '{key}': {reason}", hint="Name another folder.")
        source = f'"${{{{inputs.{key}}}}}"'
        link, parent = shlex.quote(target), shlex.quote(posixpath.dirname(target) or ".")
        complaint = shlex.quote(
            f"himl: the input {key} cannot lie at {target}: something else is there, or nothing may be written there."
        )
        text += (
            f"[ -e {link} ] || {{ mkdir -p {parent} && ln -sn {source} {link}; }} 2>/dev/null || true; "
            f"[ {link} -ef {source} ] || {{ echo {complaint} >&2; exit 1; }}; "
            f"export {INPUT_VARIABLE}{key}={link}; "
        )
    return text


def copy_commands(files: Mapping[str, str]) -> str:
    """Commands that copy each of *files*, by its place, out of an input: one rank of a node does, the others wait.

    What is there stays, since it is another try's: a job that was pre-empted goes on from what it had reached. A copy
    takes its name once it is whole. A place that ends with a slash is a folder: all files of its source go there, in
    one command, however many they are; finding them or copying one may fail.
    """
    text = ""
    for place, source in files.items():
        target, failing = shlex.quote(place), f"{{ echo {shlex.quote(f'himl: cannot bring {place}.')} >&2; exit 1; }}"
        if place.endswith("/"):
            copying = f'mkdir -p "${{t%/*}}" && cp {_source(source)}"$f" "$t.part" && mv "$t.part" "$t" || exit 1'
            each = _by_one_rank('"$t"', copying)
            loop = f'while IFS= read -r -d "" f; do f="${{f#./}}"; t={target}"$f"; {each}done'
            found = f"( cd {_source(source)} && find . -type f -print0 )"
            text += f"( set -o pipefail; {found} | {loop} ) || {failing}; "
        else:
            folder, part = shlex.quote(posixpath.dirname(place) or "."), shlex.quote(f"{place}.part")
            copying = f"mkdir -p {folder} && cp {_source(source)} {part} && mv {part} {target} || {failing}"
            text += _by_one_rank(target, copying)
    return text


def _by_one_rank(target: str, copying: str) -> str:
    waiting = f"until [ -e {target} ]; do sleep 1; done"
    return f'if [ ! -e {target} ]; then if [ "{_RANK}" = 0 ]; then {copying}; else {waiting}; fi; fi; '


def _source(source: str) -> str:
    found = PLACEHOLDER.search(source)
    return shlex.quote(source) if found is None else f'"{found[0]}"{shlex.quote(source[found.end() :])}'


def _targets(inputs: Iterable[DataSpec]) -> dict[str, str]:
    """By key, where the inputs that have a `target=` are to lie: an absolute path, or one from the working folder of
    the script; none that could be taken for an option."""
    paths = {item.key: posixpath.normpath(item.target) for item in inputs if item.target}
    return {key: f"./{path}" if path.startswith("-") else path for key, path in paths.items()}


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _word(argument: str, fill: Callable[[str, str], str]) -> str:
    pieces: list[str] = []
    end, kind = 0, ""
    for found in PLACEHOLDER.finditer(argument):
        pieces += [_quoted(argument[end : found.start()], kind), fill(found[1], found[2])]
        end, kind = found.end(), found[1]
    return "".join([*pieces, _quoted(argument[end:], kind)]) or "''"


def _quoted(text: str, before: str) -> str:
    """*text* quoted for bash; nothing for nothing, which stands beside something.

    *before* is the kind of the placeholder before it: for a trial's value the service puts the name of a variable,
    which must not go on with *text*.
    """
    continues = before == SEARCH_SPACE and (text[:1] == "_" or text[:1].isalnum())
    return f"'{text}'" if continues and shlex.quote(text) == text else shlex.quote(text) if text else ""
