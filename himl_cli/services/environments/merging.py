"""Several conda files as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import redact
from himl_cli.services.environments.conda_file import CondaFile, CondaPackage
from himl_cli.services.environments.pip_lines import PipLine

Line = TypeVar("Line", CondaPackage, PipLine)


def merge(files: Sequence[CondaFile]) -> CondaFile:
    """Channels in the order in which they first stand, dependencies and pip lines of all files, each once.

    A bare name gives way to one with a version. Raises BadUsage naming both files where two say different things of a
    package, an index, or a variable; what one file says twice is left to conda and pip.
    """
    channels = dict.fromkeys(channel for file in files for channel in file.channels)
    packages = _united(files, lambda file: file.packages, lambda package: package.name)
    pip = _united(files, lambda file: file.pip, lambda line: line.key)
    variables: dict[str, tuple[str, str]] = {}
    for file in files:
        for name, value in file.variables.items():
            first_value, first_file = variables.setdefault(name, (value, file.path))
            if first_value != value:
                raise BadUsage(
                    f"'{first_file}' and '{file.path}' set the variable '{name}' to different values.",
                    hint="Let one of them set it.",
                )
    return CondaFile(
        " and ".join(file.path for file in files),
        list(channels),
        packages,
        pip,
        {name: value for name, (value, _) in variables.items()},
    )


def _united(
    files: Sequence[CondaFile], lines_of: Callable[[CondaFile], Sequence[Line]], key_of: Callable[[Line], str]
) -> list[Line]:
    said: dict[str, tuple[set[str], str]] = {}
    for file in files:
        for key, specs in _specs(lines_of(file), key_of).items():
            first, first_file = said.setdefault(key, (specs, file.path))
            if first != specs:
                both = f"'{first_file}' wants {key}{_shown(first)}, '{file.path}' wants {key}{_shown(specs)}"
                raise BadUsage(
                    f"Two conda files do not agree: {redact(both)}.",
                    hint="Ask for the same in both, or for a version in one of them only.",
                )
    return [line for file in files for line in lines_of(file) if not (line.is_bare and key_of(line) in said)]


def _specs(lines: Iterable[Line], key_of: Callable[[Line], str]) -> dict[str, set[str]]:
    """What the lines of one file say of each key; bare names say nothing."""
    found: dict[str, set[str]] = {}
    for line in lines:
        if key_of(line) and line.spec:
            found.setdefault(key_of(line), set()).add(line.spec)
    return found


def _shown(specs: set[str]) -> str:
    return "".join(f" {spec}" for spec in sorted(specs))
