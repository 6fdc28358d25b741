"""Conda files and requirements files, read into what they mean for the image of a job."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import redact
from himl_cli.services.text_files import read_text

ENVIRONMENT_NAME = "himl"
"""Stands in the text for whatever name the file has: the image has one environment, at a place of its own."""
CHANNEL = "conda-forge"
"""Where the Python of an environment without a conda file comes from; free for everybody, which conda's own channel is
not."""
ONLY_ELSEWHERE = "The environment's image is built elsewhere and sees only what an index or a repository offers."

_CONDA = re.compile(r"(?P<channel>\S+:)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<spec>[=<>!~*\d\[].*)?")
_CONDA_VERSION = re.compile(r"={0,2}(\d[\w.]*)")
_OPTION = re.compile(r"(-[a-z]|--[a-z-]+)(?:\s*=\s*|\s+|(?<=^-[a-z])(?=\S)|$)(.*)", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(?P<extras>\[[^\]]*\])?\s*(?P<spec>[^;]*?)\s*"
    r"(?:;\s*(?P<marker>.*))?"
)
_PATH = re.compile(r"[.~/\\]|[A-Za-z]:[\\/]|file:", re.IGNORECASE)
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_COMMENT = re.compile(r"(^|\s)#.*$")
_INCLUDE = re.compile(r"(?:-r|--requirement)(?:\s*=\s*|\s*)(\S.*)")
_CONSTRAINT = re.compile(r"(?:-c|--constraint)\b.*")
_PYTHON_VERSION = re.compile(r"(\d+\.\d+)(?:\.\d+)?")
_IN_VENV = re.compile(r"^\s*version(?:_info)?\s*=\s*(\d+\.\d+)", re.MULTILINE)
_IN_CONDA = re.compile(r"python-(\d+\.\d+)\.\d.*\.json")


@dataclass(frozen=True)
class Requirement:
    """One line of a file: a package of conda or pip, or (`is_option`) an option of pip, as written but with single
    spaces.

    `key` says what it is about: a package, of pip with its marker, or an option that may be given once; empty where
    nothing can contradict it. `spec` is what it says of that. `is_bare`: it says nothing but the package's name.
    """

    text: str
    key: str = ""
    spec: str = ""
    is_bare: bool = False
    is_option: bool = False


@dataclass(frozen=True)
class CondaFile:
    """What a conda file asks for; `path` is where it stands, for messages."""

    path: str
    channels: Sequence[str] = ()
    packages: Sequence[Requirement] = ()
    pip: Sequence[Requirement] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def read_conda_file(path: Path, option: str = "--conda_env") -> CondaFile:
    """The conda file at *path*. Raises BadUsage, naming the file and what is wrong, in one line."""
    text = read_text(path, option)  # before the YAML library is loaded: a missing file is the commonest mistake
    from himl_cli.services.yaml_files import parse_mapping

    content = parse_mapping(text, path)
    packages: list[Requirement] = []
    pip: list[Requirement] = []
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
    channels, variables = content.get("channels") or [], content.get("variables") or {}
    channels = [channels] if isinstance(channels, str) else channels
    if not isinstance(channels, list) or not all(isinstance(entry, str) for entry in channels):
        raise BadUsage(f"'{path}': 'channels' is no list of names.", hint="Write it as channels: [conda-forge]")
    if not isinstance(variables, dict) or not all(isinstance(entry, (str, int, float)) for entry in variables.values()):
        raise BadUsage(f"'{path}': 'variables' does not map names to texts.")
    names = list(dict.fromkeys(entry.strip() for entry in channels))
    return CondaFile(str(path), names, packages, pip, {str(key): str(entry) for key, entry in variables.items()})


def _check_versions(packages: Sequence[Requirement], path: Path) -> None:
    """Raises BadUsage where one package is asked for in two versions at once; ranges are left to conda."""
    wanted: dict[str, str] = {}
    for package in packages:
        found = _CONDA_VERSION.fullmatch(package.spec)
        if found is None:
            continue
        one, other = sorted((wanted.setdefault(package.key, found[1]), found[1]), key=len)
        if other != one and not other.startswith(f"{one}."):
            raise BadUsage(
                f"'{path}' wants {package.key} {wanted[package.key]} and {package.key} {found[1]}.",
                hint="Ask for one of them.",
            )


def parse_conda_package(entry: Any, path: Path) -> Requirement:
    """One entry of 'dependencies'. Raises BadUsage for what names no package."""
    text = " ".join(entry.split()) if isinstance(entry, str) else ""
    if "://" in text:
        return Requirement(text, text)
    found = _CONDA.fullmatch(text)
    if found is None:
        raise BadUsage(
            f"'{path}': {redact(repr(entry))} in 'dependencies' names no package.",
            hint="Write packages of conda as text, - numpy=1.26; those of pip stand below '- pip:'.",
        )
    spec = re.sub(r"\s+", "", found["spec"] or "")
    return Requirement(text, found["name"].lower(), spec, is_bare=not spec and not found["channel"])


def _pip_section(entry: Mapping[Any, Any], path: Path) -> list[Requirement]:
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
    given = [line for line in lines if line.strip() and not line.strip().startswith("#")]
    return [parse_pip_line(line, f"'{path}', pip section") for line in given]


def parse_pip_line(line: str, where: str) -> Requirement:
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
        return _pip_option(text, where)
    target = text.split(" @ ")[-1]
    bare = re.split(r"[;\[]", target)[0].strip().lower()
    is_local = "://" not in target and ("/" in bare or "\\" in bare or bare.endswith(_ARCHIVES))
    if _PATH.match(target) or is_local:
        is_wheel = text.split(";")[0].strip().lower().endswith(".whl")
        hint = (
            "Give the wheel with --private_wheel."
            if is_wheel
            else f"{ONLY_ELSEWHERE} Give a wheel with --private_wheel."
        )
        raise BadUsage(f"{where}: '{redact(text)}' is a path on this machine.", hint=hint)
    found = _NAMED.fullmatch(text)
    if found is None or "://" in text.split("@")[0]:
        return Requirement(text)
    spec = re.sub(r"\s+", "", found["spec"])
    marker = re.sub(r"\s+", " ", found["marker"] or "").replace('"', "'")
    key = re.sub(r"[-_.]+", "-", found["name"]).lower() + (f"; {marker}" if marker else "")
    return Requirement(text, key, spec, is_bare=not spec and not found["extras"])


def _pip_option(text: str, where: str) -> Requirement:
    found = _OPTION.fullmatch(text)
    name, value = (found[1], found[2].strip()) if found else (text, "")
    if name in ("-r", "--requirement", "-c", "--constraint"):
        raise BadUsage(
            f"{where}: '{redact(text)}' reads another file, which is not there when the image is built.",
            hint="List the packages themselves.",
        )
    is_project = name in ("-e", "--editable") and "+" not in value.split("://")[0]
    if is_project or (name in ("-f", "--find-links") and "://" not in value):
        own_code = "The job's own code comes with its snapshot and needs no installing; give other packages as a wheel "
        hint = f"{own_code}with --private_wheel." if is_project else "Give a wheel with --private_wheel."
        raise BadUsage(f"{where}: '{redact(text)}' is a path on this machine.", hint=hint)
    if name in ("-i", "--index-url"):
        return Requirement(f"--index-url {value}", "--index-url", value, is_option=True)
    return Requirement(f"--extra-index-url {value}" if name == "--extra-index-url" else text, is_option=True)


def conda_text(file: CondaFile) -> str:
    """*file* as the text of a conda file: the same meaning is the same text, whatever order and name the file had."""
    from himl_cli.services.yaml_files import dump_mapping

    packages = {package.text for package in file.packages}
    options = [line.text for line in file.pip if line.is_option]
    wanted = sorted({line.text for line in file.pip if not line.is_option}, key=str.lower)
    if wanted and not any(package.key == "pip" for package in file.packages):
        packages.add("pip")
    dependencies: list[Any] = sorted(packages, key=str.lower)
    if options or wanted:
        dependencies.append({"pip": [*dict.fromkeys(options), *wanted]})
    content: dict[str, Any] = {"name": ENVIRONMENT_NAME}
    content |= {"channels": list(file.channels)} if file.channels else {}
    content |= {"dependencies": dependencies}
    content |= {"variables": dict(sorted(file.variables.items()))} if file.variables else {}
    return dump_mapping(content)


def merge(files: Sequence[CondaFile]) -> CondaFile:
    """Channels in the order in which they first stand, dependencies and pip lines of all files, each once.

    A bare name gives way to one with a version. Raises BadUsage naming both files where two say different things of a
    package, an index, or a variable; what one file says twice is left to conda and pip.
    """
    channels = dict.fromkeys(channel for file in files for channel in file.channels)
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
        _united([(file.path, file.packages) for file in files]),
        _united([(file.path, file.pip) for file in files]),
        {name: value for name, (value, _) in variables.items()},
    )


def _united(files: Sequence[tuple[str, Sequence[Requirement]]]) -> list[Requirement]:
    first: dict[str, tuple[set[str], str]] = {}
    for path, lines in files:
        specs: dict[str, set[str]] = {}
        for line in lines:
            if line.key and line.spec:  # bare names say nothing
                specs.setdefault(line.key, set()).add(line.spec)
        for key, found in specs.items():
            known, known_path = first.setdefault(key, (found, path))
            if known != found:
                both = [
                    f"'{at}' wants {' '.join([key, *sorted(each)])}"
                    for at, each in ((known_path, known), (path, found))
                ]
                raise BadUsage(
                    f"Two conda files do not agree: {redact(', '.join(both))}.",
                    hint="Ask for the same in both, or for a version in one of them only.",
                )
    return [line for _, lines in files for line in lines if not (line.is_bare and line.key in first)]


# Without a conda file


def requirements_as_conda(path: Path, script_folder: Path, root: Path, env: Mapping[str, str]) -> CondaFile:
    """The file's packages, those of the files that it includes, and the project's Python version. Raises BadUsage
    naming file and line."""
    lines = list(_requirements(path, "--requirements", ()))
    return replace(python_alone(script_folder, root, env), path=str(path), pip=lines)


def python_alone(script_folder: Path, root: Path, env: Mapping[str, str]) -> CondaFile:
    """The project's Python version and pip, and no package."""
    version = python_version(script_folder, root, env)
    python = Requirement(f"python={version}", "python", f"={version}")
    return CondaFile(str(root), [CHANNEL], [python, Requirement("pip", "pip", is_bare=True)])


def _requirements(path: Path, option: str, above: tuple[Path, ...]) -> Iterator[Requirement]:
    text = read_text(path, option)
    if path.resolve() in above:
        raise BadUsage(f"'{above[-1]}' includes '{path}', which includes it.", hint="Remove one of the two '-r' lines.")
    pending, started = "", 0
    for number, raw in enumerate([*text.splitlines(), ""], start=1):
        started = started if pending else number
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):  # the next line goes on with it
            pending += raw[:-1] + " "
            continue
        line, pending = _COMMENT.sub("", pending + raw).strip(), ""
        where = f"'{path}', line {started}"
        if included := _INCLUDE.fullmatch(line):
            yield from _requirements(path.parent / included[1].strip(), where, (*above, path.resolve()))
        elif _CONSTRAINT.fullmatch(line):
            raise BadUsage(
                f"{where}: '{redact(line)}' cannot be sent, since the image's build sees no second file.",
                hint="Write the versions into the requirements themselves, for example with 'pip freeze' or "
                "'pip-compile'.",
            )
        elif line:
            yield parse_pip_line(line, where)


def python_version(start: Path, root: Path, env: Mapping[str, str]) -> str:
    """`3.11`: by the nearest `.python-version` from *start* up to *root*, else by the active environment, else by
    himl's own Python; none is started."""
    for folder in folders_up_to(start, root):
        for line in _read(folder / ".python-version").splitlines():
            if named := _PYTHON_VERSION.fullmatch(line.strip()):
                return named[1]
    if env.get("VIRTUAL_ENV") and (found := _IN_VENV.search(_read(Path(env["VIRTUAL_ENV"], "pyvenv.cfg")))):
        return found[1]
    if env.get("CONDA_PREFIX"):
        names = sorted(path.name for path in Path(env["CONDA_PREFIX"], "conda-meta").glob("python-3*.json"))
        if match := next(filter(None, map(_IN_CONDA.fullmatch, names)), None):
            return match[1]
    return f"{sys.version_info.major}.{sys.version_info.minor}"


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
