"""A conda file as people write it, read into what it means for a job's image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import redact
from himl_cli.services.environments.pip_lines import Kind, PipLine, parse_pip_line
from himl_cli.services.text_files import read_text

ENVIRONMENT_NAME = "himl"
"""Stands in the text for whatever name the file has: the image has one environment, at a place of its own."""

_PACKAGE = re.compile(r"(?P<channel>\S+:)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<spec>[=<>!~*\d\[].*)?")

_VERSION = re.compile(r"={0,2}(\d[\w.]*)")


@dataclass(frozen=True)
class CondaPackage:
    """One conda dependency, as written but with single spaces. `spec` is its version; `is_bare`: it says nothing but
    the name."""

    text: str
    name: str
    spec: str
    is_bare: bool = False


@dataclass(frozen=True)
class CondaFile:
    """What a conda file asks for; `path` is where it stands, for messages."""

    path: str
    channels: Sequence[str] = ()
    packages: Sequence[CondaPackage] = ()
    pip: Sequence[PipLine] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def read_conda_file(path: Path, option: str = "--conda_env") -> CondaFile:
    """The conda file at *path*. Raises BadUsage, naming the file and what is wrong, in one line."""
    text = read_text(path, option)  # before the YAML library is loaded: a missing file is the commonest mistake
    from himl_cli.services.yaml_files import parse_mapping

    content = parse_mapping(text, path)
    packages: list[CondaPackage] = []
    pip: list[PipLine] = []
    dependencies = content.get("dependencies")
    if not isinstance(dependencies, list):
        what = "has no 'dependencies'" if dependencies is None else "has 'dependencies' that are no list"
        raise BadUsage(
            f"'{path}' {what}.",
            hint="A conda file lists them below 'dependencies:', a line each that begins with '- '.",
        )
    for entry in dependencies:
        if isinstance(entry, dict):
            pip += _pip_section(entry, path)
        else:
            packages.append(parse_conda_package(entry, path))
    _check_versions(packages, path)
    return CondaFile(
        str(path), _channels(content.get("channels"), path), packages, pip, _variables(content.get("variables"), path)
    )


def _check_versions(packages: Sequence[CondaPackage], path: Path) -> None:
    """Raises BadUsage where one package is asked for in two versions at once; ranges are left to conda."""
    wanted: dict[str, str] = {}
    for package in packages:
        found = _VERSION.fullmatch(package.spec)
        if found is None:
            continue
        one, other = sorted((wanted.setdefault(package.name, found[1]), found[1]), key=len)
        if other != one and not other.startswith(f"{one}."):
            raise BadUsage(
                f"'{path}' wants {package.name} {wanted[package.name]} and {package.name} {found[1]}.",
                hint="Ask for one of them.",
            )


def parse_conda_package(entry: Any, path: Path) -> CondaPackage:
    """One entry of 'dependencies'. Raises BadUsage for what names no package."""
    if not isinstance(entry, str) or not entry.strip():
        raise BadUsage(
            f"'{path}': {entry!r} in 'dependencies' names no package.", hint="Write it as text: - python=3.11"
        )
    text = " ".join(entry.split())
    if "://" in text:
        return CondaPackage(text, text, "")
    found = _PACKAGE.fullmatch(text)
    if found is None:
        raise BadUsage(
            f"'{path}': '{redact(text)}' in 'dependencies' names no package.",
            hint="Packages of conda look like numpy=1.26; those of pip stand below '- pip:'.",
        )
    spec = re.sub(r"\s+", "", found["spec"] or "")
    return CondaPackage(text, found["name"].lower(), spec, is_bare=not spec and not found["channel"])


def conda_text(file: CondaFile) -> str:
    """*file* as the text of a conda file: the same meaning is the same text, whatever order and name the file had."""
    from himl_cli.services.yaml_files import dump_mapping

    packages = {package.text for package in file.packages}
    options = [line.text for line in file.pip if line.kind is Kind.option]
    wanted = sorted({line.text for line in file.pip if line.kind is Kind.package}, key=str.lower)
    if wanted and not any(package.name == "pip" for package in file.packages):
        packages.add("pip")
    dependencies: list[Any] = sorted(packages, key=str.lower)
    if options or wanted:
        dependencies.append({"pip": [*dict.fromkeys(options), *wanted]})
    content: dict[str, Any] = {"name": ENVIRONMENT_NAME}
    content |= {"channels": list(file.channels)} if file.channels else {}
    content |= {"dependencies": dependencies}
    content |= {"variables": dict(sorted(file.variables.items()))} if file.variables else {}
    return dump_mapping(content)


def _pip_section(entry: Mapping[Any, Any], path: Path) -> list[PipLine]:
    if list(entry) != ["pip"]:
        raise BadUsage(
            f"'{path}': {', '.join(map(repr, entry))} in 'dependencies' is no section that conda knows.",
            hint="Only 'pip:' may have a list of its own there.",
        )
    lines = entry["pip"] or []
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise BadUsage(
            f"'{path}': 'pip:' is no list of texts.",
            hint="List the packages below it, a line each that begins with '- '.",
        )
    return [
        parse_pip_line(line, f"'{path}', pip section")
        for line in lines
        if line.strip() and not line.strip().startswith("#")
    ]


def _channels(value: Any, path: Path) -> list[str]:
    entries = [value] if isinstance(value, str) else value or []
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise BadUsage(f"'{path}': 'channels' is no list of names.", hint="Write it as channels: [conda-forge]")
    return list(dict.fromkeys(entry.strip() for entry in entries))


def _variables(value: Any, path: Path) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(entry, (str, int, float)) for entry in value.values()):
        raise BadUsage(f"'{path}': 'variables' does not map names to texts.")
    return {str(key): str(entry) for key, entry in value.items()}
