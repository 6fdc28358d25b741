"""The lines of pip in conda files and requirements files, as the image of a job can install them: with the lines of
included files, with constraints, and with the requirements of a project in the snapshot in its place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import is_address, redact
from himl_cli.core.text import did_you_mean, read_text
from himl_cli.services.submission.lock_files import HASH, normal_name, parse_toml

_OPTION = re.compile(r"(-[a-z]|--[a-z-]+)(?:\s*=\s*|\s+|(?<=^-[a-z])(?=\S)|$)(.*)", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(?P<extras>\[[^\]]*\])?\s*(?P<spec>[^;]*?)\s*"
    r"(?:;\s*(?P<marker>.*))?"
)
_PATH = re.compile(r"[.~/\\]|[A-Za-z]:[\\/]|(?:\w+\+)?file:", re.IGNORECASE)
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2")
_INCLUDED = re.compile(r"(?P<option>-[rc]|--requirement|--constraint)(?:\s*=\s*|\s*)(?P<path>\S.*)")
_PROJECT = re.compile(
    r"(?:(?:-e|--editable)(?:\s*=\s*|\s*)(?!\w+\+)|(?=\.))(?P<path>[^\[;#]+?)/*(?:\[(?P<extras>[^\]]*)\])?"
)


@dataclass(frozen=True)
class Requirement:
    """One line of a file: a conda or pip package, or (`is_option`) an option of pip, as written but with single spaces.

    `key` identifies the subject: a package, with its marker for pip, or an option that may occur once. It is empty if
    no other line can contradict this one. `spec` is the value for that subject. `is_bare` marks a package without a
    version.
    """

    text: str
    key: str = ""
    spec: str = ""
    is_bare: bool = False
    is_option: bool = False


class PipLines:
    """The lines of pip of one file and of those that it includes, for a snapshot of *root*.

    `lines` are for pip, and `limits` are constraints. `sources` are the folders of projects in the snapshot, by their
    names, and `unread` such projects that do not list their requirements.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self.lines: list[Requirement] = []
        self.limits: list[Requirement] = []
        self.sources: dict[str, Path] = {}
        self.unread: list[str] = []

    def read(self, path: Path, option: str, above: tuple[Path, ...] = (), *, is_limit: bool = False) -> None:
        """Add the lines of the requirements file *path*, which *option* names. Raises BadUsage, with the file and
        line."""
        try:
            text = read_text(path, option)
        except BadUsage as err:
            if above and isinstance(err.__cause__, FileNotFoundError):
                err.hint = f"Paths in '{above[-1].name}' are relative to its folder."
            raise
        if path.resolve() in above:
            raise BadUsage(
                f"'{above[-1]}' includes '{path}', which includes it.", hint="Remove one of the two '-r' lines."
            )
        pending, started = "", 0
        for number, raw in enumerate([*text.splitlines(), ""], start=1):
            started = started if pending else number
            if raw.endswith("\\") and not raw.lstrip().startswith("#"):  # the next line continues it
                pending += raw[:-1] + " "
                continue
            line, pending = pending + raw, ""
            self.add(line, f"'{path}', line {started}", path, above, is_limit=is_limit)

    def add(self, text: str, where: str, file: Path, above: tuple[Path, ...] = (), *, is_limit: bool = False) -> None:
        """Add one line of *file*, and what it includes. Raises BadUsage, with *where* first."""
        line = re.sub(r"(^|\s)#.*$", "", text).strip()
        included, project = _INCLUDED.fullmatch(line), _PROJECT.fullmatch(line)
        named = file.parent / project["path"].strip("\"' ") if project else None
        # Unlike Path.is_dir, os.path.isdir accepts a name that is invalid in the file system
        folder = named.resolve() if named is not None and os.path.isdir(named) else None
        if included and not is_address(included["path"]):
            is_limit = is_limit or included["option"].startswith(("-c", "--c"))
            self.read(file.parent / included["path"].strip("\"' "), where, (*above, file.resolve()), is_limit=is_limit)
        elif project and folder is not None and folder.is_relative_to(self._root):
            extras = [name.strip() for name in (project["extras"] or "").split(",") if name.strip()]
            try:
                self._add_project(folder, extras, where, (*above, file.resolve()))
            except (AttributeError, TypeError) as err:
                raise BadUsage(f"{where}: '{folder / 'pyproject.toml'}' is damaged: {err}.") from err
        elif line:
            found = parse_pip_line(line, where)
            (self.limits if is_limit and not found.is_option else self.lines).append(found)

    def _add_project(self, folder: Path, extras: Sequence[str], where: str, above: tuple[Path, ...]) -> None:
        """Add the packages that the project in *folder* requires, also for its *extras*."""
        path = folder / "pyproject.toml"
        if not any((folder / name).is_file() for name in (path.name, "setup.py", "setup.cfg")):
            raise BadUsage(
                f"{where}: '{folder}' is not a project, because it has no {path.name}.",
                hint="The job has the code of the snapshot. Omit the line.",
            )
        content = parse_toml(path, "valid TOML") if path.is_file() else {}
        project, computed = _table(content, "project"), _table(content, "tool", "setuptools", "dynamic", "dependencies")
        name, known = str(project.get("name") or folder.name), _table(project, "optional-dependencies")
        self.sources[name] = folder
        dynamic, files = project.get("dynamic") or (), computed.get("file") or ()
        is_listed = "dependencies" not in dynamic or files
        if not project or not is_listed or (extras and "optional-dependencies" in dynamic):
            self.unread.append(name)
            return
        for file in [files] if isinstance(files, str) else files:
            self.read(folder / str(file), where, above)
        known = {"": project.get("dependencies"), **{normal_name(extra): needs for extra, needs in known.items()}}
        pending = ["", *map(normal_name, extras)]
        for extra in pending:  # grows
            if extra not in known:
                raise BadUsage(
                    f"{where}: '{path}' has no extra '{extra}'.", hint=did_you_mean(extra, [*filter(None, known)])
                )
            for need in map(str, known.pop(extra) or ()):
                own = re.fullmatch(r"(?P<name>[\w.-]+)\s*\[(?P<extras>[^\]]*)\]\s*", need)
                if own and normal_name(own["name"]) == normal_name(name):
                    pending += [normal_name(each.strip()) for each in own["extras"].split(",")]
                else:
                    self.add(need, f"'{path}'", path, above)
            known[extra] = ()

    def limit(self) -> None:
        """Apply the constraints to the packages of `lines`. `limits` keeps the others, which need a file of pip. If all
        packages have hashes, constraints add nothing."""
        packages = [line for line in self.lines if not line.is_option]
        if packages and all(HASH in line.text for line in packages):
            self.limits.clear()
        rest = []
        for limit in self.limits:
            found = [line.key.partition(";")[0] == limit.key != "" and HASH not in line.text for line in self.lines]
            if not any(found) or not limit.spec or HASH in limit.text:
                rest.append(limit)
                continue
            self.lines = [
                _limited(line, limit) if is_it else line for line, is_it in zip(self.lines, found, strict=True)
            ]
        self.limits = rest


def _limited(line: Requirement, limit: Requirement) -> Requirement:
    named = _NAMED.fullmatch(line.text)
    if named is None or limit.spec in line.spec.split(","):
        return line
    spec = ",".join(filter(None, (line.spec.strip("()"), limit.spec)))
    marker = f"; {named['marker']}" if named["marker"] else ""
    return parse_pip_line(f"{named['name']}{named['extras'] or ''}{spec}{marker}", "")


def _table(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        found = content.get(name)
        content = found if isinstance(found, dict) else {}
    return dict(content)


def parse_pip_line(line: str, where: str) -> Requirement:
    """One line of pip, without its comment. Raises BadUsage, with *where* first, for a line that cannot work where the
    image is built."""
    text = " ".join(line.split())
    if unset := re.search(r"\$\{([A-Z0-9_]+)\}", text):
        raise BadUsage(
            f"{where}: ${{{unset[1]}}} is not set where the environment's image is built.",
            hint="Write its value, or name an index with --pip_extra_index_url.",
        )
    option, target = _OPTION.fullmatch(text), text.split(" @ ")[-1]
    name, value = (option[1], option[2].strip()) if option else ("", "")
    hint = "Pass a wheel with --private_wheel."
    if text.startswith("-"):
        is_project = name in ("-e", "--editable") and "+" not in value.split("://")[0]
        is_path = is_project or (name in ("-f", "--find-links") and "://" not in value)
        if is_project:
            hint = "Name a project in the snapshot (-e .). For other packages, pass a wheel with --private_wheel."
    else:
        bare = re.split(r"[;\[]", target)[0].strip().lower()
        is_path = "://" not in target and ("/" in bare or "\\" in bare or bare.endswith(_ARCHIVES))
        is_path = is_path or _PATH.match(target) is not None
        elsewhere = "The image is built elsewhere, from packages of an index or a repository."
        is_wheel = text.split(";")[0].strip().lower().endswith(".whl")
        hint = "Pass the wheel with --private_wheel." if is_wheel else f"{elsewhere} {hint}"
    if is_path:
        raise BadUsage(f"{where}: '{redact(text)}' is a path on this machine.", hint=hint)
    if name in ("-i", "--index-url"):
        return Requirement(f"--index-url {value}", "--index-url", value, is_option=True)
    if text.startswith("-"):
        return Requirement(f"--extra-index-url {value}" if name == "--extra-index-url" else text, is_option=True)
    found = _NAMED.fullmatch(text)
    if found is None or "://" in text.split("@")[0]:
        return Requirement(text)
    spec = re.sub(r"\s+", "", found["spec"])
    marker = re.sub(r"\s+", " ", found["marker"] or "").replace('"', "'")
    key = re.sub(r"[-_.]+", "-", found["name"]).lower() + (f"; {marker}" if marker else "")
    return Requirement(text, key, spec, is_bare=not spec and not found["extras"])
