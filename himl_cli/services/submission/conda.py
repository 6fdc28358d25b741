"""Conda files and requirements files, read into what they mean for the image of a job."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import redact
from himl_cli.services.text_files import read_text

INCLUDES = ("-r", "--requirement", "-c", "--constraint")
EDITABLE = ("-e", "--editable")
INDEX_OPTIONS = ("-i", "--index-url")
ONLY_ELSEWHERE = "The environment's image is built elsewhere and sees only what an index or a repository offers."

_OPTION = re.compile(r"(-[a-z]|--[a-z-]+)(?:\s*=\s*|\s+|(?<=^-[a-z])(?=\S)|$)(.*)", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(?P<extras>\[[^\]]*\])?\s*(?P<spec>[^;]*?)\s*"
    r"(?:;\s*(?P<marker>.*))?"
)
_PATH = re.compile(r"[.~/\\]|[A-Za-z]:[\\/]|file:", re.IGNORECASE)
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


class Kind(Enum):
    option = "option"
    package = "package"


@dataclass(frozen=True)
class PipLine:
    """One line: an option of pip, or a package.

    `key` says what it is about: a package with its marker, or an option that may be given once; empty where nothing can
    contradict it. `spec` is what it says of that. `is_bare`: it says nothing but the package's name.
    """

    kind: Kind
    text: str
    key: str = ""
    spec: str = ""
    is_bare: bool = False


def parse_pip_line(line: str, where: str) -> PipLine:
    """One line of pip, without comment. Raises BadUsage beginning with *where* for what cannot work where the image is
    built."""
    text = " ".join(line.split())
    unset = _VARIABLE.search(text)
    if unset:
        raise BadUsage(
            f"{where}: ${{{unset[1]}}} is not set where the environment's image is built.",
            hint="Write the value out, or give an index with --pip_extra_index_url.",
        )
    if text.startswith("-"):
        return _option(text, where)
    if _is_path(text):
        hint = (
            "Give the wheel with --private_wheel."
            if text.split(";")[0].strip().lower().endswith(".whl")
            else f"{ONLY_ELSEWHERE} Give a wheel with --private_wheel."
        )
        raise BadUsage(f"{where}: '{redact(text)}' is a path on this machine.", hint=hint)
    found = _NAMED.fullmatch(text)
    if found is None or "://" in text.split("@")[0]:
        return PipLine(Kind.package, text)
    spec = re.sub(r"\s+", "", found["spec"])
    marker = re.sub(r"\s+", " ", found["marker"] or "").replace('"', "'")
    key = re.sub(r"[-_.]+", "-", found["name"]).lower() + (f"; {marker}" if marker else "")
    return PipLine(Kind.package, text, key, spec, is_bare=not spec and not found["extras"])


def _option(text: str, where: str) -> PipLine:
    found = _OPTION.fullmatch(text)
    name, value = (found[1], found[2].strip()) if found else (text, "")
    if name in INCLUDES:
        raise BadUsage(
            f"{where}: '{redact(text)}' reads another file, which is not there when the image is built.",
            hint="List the packages themselves.",
        )
    if name in EDITABLE and "+" not in value.split("://")[0]:
        raise BadUsage(
            f"{where}: '{redact(text)}' is a path on this machine.",
            hint="The job's own code comes with its snapshot and needs no installing; give other packages as a wheel "
            "with --private_wheel.",
        )
    if name in ("-f", "--find-links") and "://" not in value:
        raise BadUsage(
            f"{where}: '{redact(text)}' is a path on this machine.", hint="Give a wheel with --private_wheel."
        )
    if name in INDEX_OPTIONS:
        return PipLine(Kind.option, f"--index-url {value}", "--index-url", value)
    return PipLine(Kind.option, f"--extra-index-url {value}" if name == "--extra-index-url" else text)


def _is_path(text: str) -> bool:
    target = text.split(" @ ")[-1] if " @ " in text else text
    if _PATH.match(target):
        return True
    bare = re.split(r"[;\[]", target)[0].strip()
    return "://" not in target and ("/" in bare or "\\" in bare or bare.lower().endswith(_ARCHIVES))


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


_PYTHON_VERSION = re.compile(r"(\d+\.\d+)(?:\.\d+)?")
_IN_VENV = re.compile(r"^\s*version(?:_info)?\s*=\s*(\d+\.\d+)", re.MULTILINE)
_IN_CONDA = re.compile(r"python-(\d+\.\d+)\.\d.*\.json")


def python_version(start: Path, root: Path, env: Mapping[str, str]) -> str:
    """`3.11`: by the nearest `.python-version` from *start* up to *root*, else by the active environment, else by
    himl's own Python."""
    return next(_found(start, root, env), f"{sys.version_info.major}.{sys.version_info.minor}")


def _found(start: Path, root: Path, env: Mapping[str, str]) -> Iterator[str]:
    for folder in folders_up_to(start, root):
        for line in _read(folder / ".python-version").splitlines():
            if named := _PYTHON_VERSION.fullmatch(line.strip()):
                yield named[1]
    if env.get("VIRTUAL_ENV") and (said := _IN_VENV.search(_read(Path(env["VIRTUAL_ENV"], "pyvenv.cfg")))):
        yield said[1]
    if env.get("CONDA_PREFIX"):
        names = sorted(path.name for path in Path(env["CONDA_PREFIX"], "conda-meta").glob("python-3*.json"))
        yield from (match[1] for name in names if (match := _IN_CONDA.fullmatch(name)))


def folders_up_to(start: Path, root: Path) -> list[Path]:
    """*start* and the folders above it as far as *root*; *root* alone where *start* does not lie in it."""
    if not start.is_relative_to(root):
        return [root]
    return [folder for folder in (start, *start.parents) if folder.is_relative_to(root)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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
