"""A requirements file of pip as a conda file, with the Python that the project uses here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import redact
from himl_cli.services.environments.conda_file import CondaFile, CondaPackage
from himl_cli.services.environments.pip_lines import PipLine, parse_pip_line
from himl_cli.services.environments.project_python import python_version
from himl_cli.services.text_files import read_text

CHANNEL = "conda-forge"
"""Where the Python of such an environment comes from; free for everybody, which conda's own channel is not."""

_COMMENT = re.compile(r"(^|\s)#.*$")
_INCLUDE = re.compile(r"(?:-r|--requirement)(?:\s*=\s*|\s*)(\S.*)")
_CONSTRAINT = re.compile(r"(?:-c|--constraint)\b.*")


def requirements_as_conda(path: Path, script_folder: Path, root: Path, env: Mapping[str, str]) -> CondaFile:
    """The file's packages, those of the files that it includes, and the project's Python version. Raises BadUsage
    naming file and line."""
    return replace(python_alone(script_folder, root, env), path=str(path), pip=list(_lines(path, "--requirements", ())))


def python_alone(script_folder: Path, root: Path, env: Mapping[str, str]) -> CondaFile:
    """The project's Python version and pip, and no package."""
    version = python_version(script_folder, root, env)
    packages = [
        CondaPackage(f"python={version}", "python", f"={version}"),
        CondaPackage("pip", "pip", "", is_bare=True),
    ]
    return CondaFile(str(root), [CHANNEL], packages, [])


def _lines(path: Path, option: str, above: tuple[Path, ...]) -> Iterator[PipLine]:
    text = read_text(path, option)
    if path.resolve() in above:
        raise BadUsage(f"'{above[-1]}' includes '{path}', which includes it.", hint="Remove one of the two '-r' lines.")
    for number, line in _logical_lines(text):
        where = f"'{path}', line {number}"
        if included := _INCLUDE.fullmatch(line):
            yield from _lines(path.parent / included[1].strip(), where, (*above, path.resolve()))
        elif _CONSTRAINT.fullmatch(line):
            raise BadUsage(
                f"{where}: '{redact(line)}' cannot be sent, since the image's build sees no second file.",
                hint="Write the versions into the requirements themselves, for example with 'pip freeze' or "
                "'pip-compile'.",
            )
        else:
            yield parse_pip_line(line, where)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, those that a backslash goes on with joined; each with its number from 1."""
    pending, started = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        started = started if pending else number
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):
            pending += raw[:-1] + " "
            continue
        line = _COMMENT.sub("", pending + raw).strip()
        pending = ""
        if line:
            yield started, line
    if pending.strip():
        yield started, _COMMENT.sub("", pending).strip()
