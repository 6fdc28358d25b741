"""The command of a job as bash runs it on a cluster: links to inputs, copies of files, the script, and the saving of
files that it writes."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import may_name_folder
from himl_cli.core.jobs import EntryKind, JobSpec, check_placeholders, input_targets
from himl_cli.core.sweeps import (
    PLACEHOLDER,
    SEARCH_SPACE,
    Draw,
    SearchRange,
    value_text,
    value_words,
    variable_name,
    with_search_space,
)

# Prefixes of the variables of a job's inputs, and of a trial's values.
INPUT_VARIABLE, SWEEP_VARIABLE = "AZURE_ML_INPUT_", "AZUREML_SWEEP_"
STARTS = {EntryKind.script: ("python",), EntryKind.module: ("python", "-m"), EntryKind.shell: ("bash",)}
_RANK = "${LOCAL_RANK:-${OMPI_COMM_WORLD_LOCAL_RANK:-0}}"


def command_line(spec: JobSpec) -> str:
    """The complete command: links to inputs, copies of files, the script (`script_line`), and the saving of its files.

    Raises BadUsage for a placeholder that names no input or output of the job, and for impossible links.
    """
    line = script_line(spec)
    if spec.keep:
        line = _keeping(spec.keep, line)
    if spec.brought:
        line = copy_commands(spec.brought) + line
    return link_commands(spec) + line if spec.inputs else line


def _keeping(globs: Sequence[str], line: str) -> str:
    """*line*, and after its end copies of the files that it wrote outside of `outputs/` and `logs/` and that match
    *globs*. bash reads the globs as `core.files.Globs` does. The exit code is that of *line*."""
    files = [f"{glob}**" if glob.endswith("/") else glob for glob in globs]
    below = [f"{glob}/**" for glob in filter(may_name_folder, globs)]
    wholes = [glob[1:] if glob.startswith("/") else f"**/{glob}" for glob in [*files, *below]]
    patterns = [re.sub(r"[^\w./*?\[\]!^-]", lambda found: shlex.quote(found[0]), glob) for glob in wholes]
    copying = 'case "$f" in outputs/*|logs/*) ;; *) [ ! -f "$f" ] || [ ! "$f" -nt "$himl_start" ]'
    copying += ' || [ -e "outputs/$f" ] || cp --parents -- "$f" outputs/;; esac'
    loop = f"for f in {' '.join(patterns)}; do {copying}; done"
    only_first = f'[ "{_RANK}" != 0 ] || ( shopt -s globstar nullglob dotglob; mkdir -p outputs; {loop} )'
    return f"himl_start=$(mktemp); ( {line}\n); himl_exit=$?; {only_first}; exit $himl_exit"


def script_line(spec: JobSpec) -> str:
    """`python SCRIPT ARGUMENTS`, each one word for bash. `${{inputs.KEY}}`, `${{outputs.KEY}}` and a trial's values
    stay for the service to replace.

    An input with a target is replaced by that. Raises BadUsage for a placeholder that names no input, output or
    hyperparameter of the job.
    """
    check_placeholders(spec)
    targets, sweep = input_targets(spec), spec.sweep

    def fill(kind: str, key: str) -> str:
        if kind == SEARCH_SPACE and sweep is not None:
            # Mostly the placeholder. The service is said to replace it by `$AZUREML_SWEEP_NAME`, not by the value's
            # text, so that no quotes are right for every value. If a choice needs quotes, the variable itself is
            # quoted, which works for all values.
            space = sweep.space[key]
            if space.form:
                return _words(key, space)
            texts = [value for value in space.values if isinstance(value, str)] if space.draw is Draw.choice else []
            is_plain = all(text and shlex.quote(text) == text for text in texts)
            return _placeholder(key) if is_plain else f'"${SWEEP_VARIABLE}{variable_name(key)}"'
        target = targets.get(key) if kind == "inputs" else None
        return f"${{{{{kind}.{key}}}}}" if target is None else _absolute(target)

    if sweep is None:
        return shell_line(spec, fill)
    if spec.entry.kind is EntryKind.command:
        line = PLACEHOLDER.sub(
            lambda one: _placeholder(one[2]) if one[1] == SEARCH_SPACE else one[0], spec.entry.target
        )
        return shell_line(replace(spec, entry=replace(spec.entry, target=line)), fill)
    return shell_line(replace(spec, arguments=with_search_space(spec.arguments, sweep.space)), fill)


def _placeholder(name: str) -> str:
    return f"${{{{{SEARCH_SPACE}.{variable_name(name)}}}}}"


def _words(name: str, space: SearchRange) -> str:
    """Text for bash that becomes the words of a trial's value. Raises BadUsage for words with special characters, since
    bash does not parse quotes that come from a variable."""
    words = {text: value_words(name, text, space.form) for text in map(value_text, space.values)}
    for text, each in words.items():
        if shlex.join(each) != " ".join(each):
            raise BadUsage(f"--sweep {name}: on Azure ML, '{text}' needs quotes.", hint="Use words without quotes.")
    cases = " ".join(f"{shlex.quote(text)}) printf '%s ' {' '.join(each)};;" for text, each in words.items() if each)
    return f'$(case "${SWEEP_VARIABLE}{variable_name(name)}" in {cases} esac)'


def shell_line(spec: JobSpec, fill: Callable[[str, str], str]) -> str:
    """The command as a line for bash. *fill* returns the text for a placeholder, already quoted, from its kind
    (`inputs` and so on) and key.

    A line that the user wrote stays as it is, including placeholders, because the user has quoted them. So do the words
    of *python*.
    """
    words = [_word(argument, fill) for argument in spec.arguments]
    if spec.entry.kind is EntryKind.command:
        return " ".join([spec.entry.target, *words])
    start = [spec.python or "python" if word == "python" else word for word in STARTS[spec.entry.kind]]
    return " ".join([*start, shlex.quote(script_name(spec)), *words])


def script_name(spec: JobSpec) -> str:
    return f"./{spec.entry.target}" if spec.entry.target.startswith("-") else spec.entry.target


def link_commands(spec: JobSpec) -> str:
    """Commands that make each input's target a link to the input, and set the input's variable.

    All ranks of a node run them, maybe at once. Creating a link either works or finds one (`-n` keeps it from going
    into the link). Any other existing file stays, and the job fails with a message in its log.

    Raises BadUsage as `input_targets`.
    """
    text = ""
    for key, target in input_targets(spec).items():
        source = f'"${{{{inputs.{key}}}}}"'
        link, parent = shlex.quote(target), shlex.quote(posixpath.dirname(target) or ".")
        complaint = shlex.quote(f"himl: cannot link input {key} to {target}: the path exists or is not writable.")
        text += (
            f"[ -e {link} ] || {{ mkdir -p {parent} && ln -sn {source} {link}; }} 2>/dev/null || true; "
            f"[ {link} -ef {source} ] || {{ echo {complaint} >&2; exit 1; }}; "
            f"export {INPUT_VARIABLE}{key}={_absolute(target)}; "
        )
    return text


def copy_commands(files: Mapping[str, str]) -> str:
    """Commands that copy each of *files*, by its destination, from an input. One rank per node copies, the others wait.

    An existing file stays, because it is from an earlier attempt: a preempted job continues from its progress. A copy
    gets its name when it is complete. A destination with a trailing slash is a folder: one command copies all files of
    its source there, regardless of their number. Finding or copying them may fail.
    """
    text = ""
    for place, source in files.items():
        target, failing = shlex.quote(place), f"{{ echo {shlex.quote(f'himl: cannot copy to {place}.')} >&2; exit 1; }}"
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


def _absolute(target: str) -> str:
    """The target for bash as an absolute path, which stays valid when the script changes its folder."""
    return shlex.quote(target) if target.startswith("/") else f'"$PWD"/{shlex.quote(target)}'


def _word(argument: str, fill: Callable[[str, str], str]) -> str:
    pieces: list[str] = []
    end, kind = 0, ""
    for found in PLACEHOLDER.finditer(argument):
        pieces += [_quoted(argument[end : found.start()], kind), fill(found[1], found[2])]
        end, kind = found.end(), found[1]
    return "".join([*pieces, _quoted(argument[end:], kind)]) or "''"


def _quoted(text: str, before: str) -> str:
    """*text* quoted for bash, or nothing for empty text, which is next to something else.

    *before* is the kind of the preceding placeholder. The service replaces a trial's value by the name of a variable,
    which must not continue with *text*.
    """
    continues = before == SEARCH_SPACE and (text[:1] == "_" or text[:1].isalnum())
    return f"'{text}'" if continues and shlex.quote(text) == text else shlex.quote(text) if text else ""
