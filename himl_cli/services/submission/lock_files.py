"""Conversion of lock files, `pylock.toml` (PEP 751) and `uv.lock`, to lines of a pip requirements file.

The lines contain the packages for a job's Python on Linux, each with the hashes of its compatible files.
pip finds the files in the indexes of the lock, so this module does not choose between wheels. pip checks the hashes of
all packages or of none.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from email.parser import HeaderParser
from importlib import import_module, metadata
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from himl_cli.core.errors import BadUsage
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import parts_of, redact
from himl_cli.core.text import listed, read_text

LOCK_NAMES = ("pylock.toml", "uv.lock")
PYPI = "https://pypi.org/simple"
# The newest glibc for which wheels are considered. pip skips those that are too new for the image.
NEWEST_GLIBC = 60
HASH = "--hash="
PACKAGING = "26.1"  # the first version of packaging with Pylock.select
_NAMED = re.compile(r"(?P<path>.*?)\s*(?:\[(?P<names>[^\[\]]*)\])?", re.DOTALL)
_EXTRA = re.compile(r"\bextra\s*(==|!=)\s*(['\"])([^'\"]*)\2")
_ALWAYS, _NEVER = "python_version >= '0'", "python_version < '0'"
_EXPORT = "himl reads pylock.toml and uv.lock. Other tools can export one: uv export, pdm export, pip lock."


@dataclass(frozen=True)
class Locked:
    """A locked package, identified by *version* and *index*, by the *address* of a file or repository, or by *place*, a
    path relative to the lock. *files* are pairs of name and hash, with an empty hash if the lock has none."""

    name: str
    version: str = ""
    index: str = ""
    address: str = ""
    place: str = ""
    is_installed: bool = True  # False for the source of a project that is not a package
    files: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Lock:
    """The part of a lock file that applies to a job.

    *lines* are for pip, options first. *sources* are the folders of packages that are not installed, because the
    snapshot contains them. *unhashed* are packages that pip cannot check, so that no line has a hash. *overridden* are
    packages for which uv overrides the requirements of others.
    """

    lines: Sequence[str]
    sources: Mapping[str, Path]
    unhashed: Sequence[str] = ()
    overridden: Sequence[str] = ()


def normal_name(name: str) -> str:
    """The name of a package in the normalized form that indexes compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def split_extras(given: str) -> tuple[str, list[str]]:
    """The path and the extras of a value such as `uv.lock[gpu,test]`."""
    found = _NAMED.fullmatch(given)
    names = (found["names"] or "") if found else ""
    return found["path"] if found else given, [name.strip() for name in names.split(",") if name.strip()]


def job_markers(python: str) -> dict[str, str]:
    """The values of environment markers in a job with *python* (`3.11`), for which conda installs the latest patch."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.99",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.99",
        "python_version": python,
        "sys_platform": "linux",
        "extra": "",
    }


def read_lock(path: Path, names: Sequence[str], python: str, start: Path, root: Path, wheel: str = "") -> Lock:
    """The lock file at *path* with the extras or dependency groups *names*, for a job that starts in *start* from a
    snapshot of *root*. The package *wheel* is omitted, because the job installs it from a private wheel.

    Raises BadUsage, in one line, for an invalid lock file, one without files for *python*, or one that needs local
    files.
    """
    content = parse_toml(path)
    if not isinstance(content.get("package"), list) and "lock-version" not in content:
        raise BadUsage(f"'{path}' is not a supported lock file.", hint=_EXPORT)
    try:
        _check_python(path, content.get("requires-python"), python)
        if "lock-version" in content:
            packages = [*_of_pylock(path, content, names, python)]
        else:
            packages = _of_uv(path, content, names, python, start)
        overridden = [str(line["name"]) for line in (content.get("manifest") or {}).get("overrides") or ()]
        return replace(_for_pip(path, packages, python, root, wheel), overridden=overridden)
    except (AttributeError, KeyError, OSError, TypeError, ValueError, RecursionError) as err:
        complaint = redact(" ".join(str(err).split()))
        raise BadUsage(
            f"'{path}' is damaged: {complaint or type(err).__name__}.", hint="Lock the project again."
        ) from err


def parse_toml(path: Path, form: str = "a lock file in TOML") -> dict[str, Any]:
    text = read_text(path, "--lock")
    try:
        content = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(text)
    except (ValueError, RecursionError) as err:
        hint = f"--requirements {path.name}" if path.suffix == ".txt" else _EXPORT
        raise BadUsage(f"'{path}' is not {form}: {' '.join(str(err).split())}.", hint=hint) from err
    return dict(content)


def _check_python(path: Path, wanted: object, python: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        versions = SpecifierSet(wanted if isinstance(wanted, str) else "")
    except InvalidSpecifier as err:
        raise BadUsage(f"'{path}': 'requires-python' must be a range of versions, not {wanted!r}.") from err
    if not versions.contains(f"{python}.99"):
        good = next((f"3.{minor}" for minor in range(8, 30) if versions.contains(f"3.{minor}.99")), "")
        raise BadUsage(
            f"'{path}' is for Python {wanted}, but the job has {python}.",
            hint=f"Write {good} into the project's .python-version." if good else "Lock the project again.",
        )


# pylock.toml


def _of_pylock(path: Path, content: Mapping[str, Any], names: Sequence[str], python: str) -> Iterator[Locked]:
    try:
        from packaging.pylock import (
            PackageArchive,
            PackageDirectory,
            PackageVcs,
            Pylock,
            PylockSelectError,
            PylockValidationError,
        )
    except ImportError as err:
        raise BadUsage(
            f"'{path}': packaging {metadata.version('packaging')} cannot read it.",
            hint=f"Update it in himl's environment: pip install 'packaging>={PACKAGING}'",
        ) from err
    try:
        lock = Pylock.from_dict(content)
        extras, groups = lock.extras or [], lock.dependency_groups or []
        _check_names(path, names, [*extras, *groups])
        chosen = lock.select(
            environment=job_markers(python),  # type: ignore[arg-type]
            tags=_tags(python),
            extras=[name for name in names if name in extras],
            dependency_groups=[*(lock.default_groups or []), *(name for name in names if name in groups)],
        )
        for package, source in chosen:
            if isinstance(source, PackageDirectory):
                yield Locked(package.name, place=source.path)
            elif isinstance(source, PackageVcs):
                url = f"{source.type}+{source.url}@{source.commit_id}" if source.url else ""
                yield Locked(package.name, address=_within(url, source.subdirectory), place=source.path or "")
            elif isinstance(source, PackageArchive):
                address, digest = _within(source.url or "", source.subdirectory), _hash(source.hashes)
                yield Locked(package.name, address=address, place=source.path or "", files=[("", digest)])
            else:
                each = [*(package.wheels or ()), *([package.sdist] if package.sdist else ())]
                files = [(one.filename, _hash(one.hashes)) for one in each]
                yield Locked(package.name, str(package.version or ""), package.index or PYPI, files=files)
    except (PylockValidationError, PylockSelectError) as err:
        raise BadUsage(f"'{path}': {redact(' '.join(str(err).split()))}.", hint="Lock the project again.") from err


def _within(address: str, folder: str | None) -> str:
    return f"{address}#subdirectory={folder}" if address and folder else address


def _hash(hashes: Mapping[str, str]) -> str:
    return next((f"{kind}:{hashes[kind]}" for kind in ("sha256", "sha384", "sha512") if kind in hashes), "")


# uv.lock


def _of_uv(path: Path, content: Mapping[str, Any], names: Sequence[str], python: str, start: Path) -> list[Locked]:
    """The packages that the project of *start* needs, directly and indirectly, by the lines whose markers are true."""
    if content.get("version") != 1:
        raise BadUsage(
            f"'{path}' has version {content.get('version')}, but himl reads version 1.",
            hint="Export it: uv export --format pylock.toml -o pylock.toml",
        )
    packages: dict[str, list[Mapping[str, Any]]] = {}
    for package in content["package"]:
        packages.setdefault(package["name"], []).append(package)
    members = _members(path, content["package"], start)
    _check_names(path, names, sorted({name for member in members for name in _parts(member)}))
    if not members:  # the lock of a script, which lists its own requirements
        members = [{"name": "", "dependencies": (content.get("manifest") or {}).get("requirements")}]
    pending: list[tuple[Mapping[str, Any], str]] = []
    # Installed projects, extras and groups, for the markers of conflicting extras
    active: set[str] = set()

    def visit(package: Mapping[str, Any], part: str = "") -> None:
        name = package["name"]
        active.update(f"{kind}-{len(name)}-{name}{'-' * bool(part)}{part}" for kind in ("project", "extra", "group"))
        pending.append((package, part))

    for member in members:
        for part in ("", *(name for name in names if name in _parts(member))):
            visit(member, part)
    environment = job_markers(python)
    chosen: dict[str, Mapping[str, Any]] = {}
    visited: set[tuple[int, str]] = set()
    while pending:
        package, part = pending.pop()
        if (id(package), part) in visited:
            continue
        visited.add((id(package), part))
        if chosen.setdefault(package["name"], package) is not package:
            both = " and ".join(sorted(str(one.get("version")) for one in (chosen[package["name"]], package)))
            raise BadUsage(
                f"'{path}' has {package['name']} {both} for one job.",
                hint=f"Choose between them with an extra: --lock '{path.name}[EXTRA]'",
            )
        for line in (_parts(package)[part] if part else package.get("dependencies")) or ():
            if _holds(line.get("marker"), environment, active):
                target = _target(packages, line)
                for each in ("", *(line.get("extra") or line.get("extras") or ())):
                    visit(target, each)
    return [_of_source(package) for name, package in chosen.items() if name]


def _parts(package: Mapping[str, Any]) -> Mapping[str, Any]:
    """The requirements of the package's extras and dependency groups, by name."""
    return {**(package.get("dev-dependencies") or {}), **(package.get("optional-dependencies") or {})}


def _members(path: Path, packages: Sequence[Mapping[str, Any]], start: Path) -> list[Mapping[str, Any]]:
    """The innermost project of the lock that contains *start*, or all projects if none does."""
    found = {}
    for package in packages:
        place = package["source"].get("editable", package["source"].get("virtual"))
        if place is not None:
            found[(path.parent / place).resolve()] = package
    around = [folder for folder in (start.resolve(), *start.resolve().parents) if folder in found]
    return [found[around[0]]] if around else list(found.values())


def _target(packages: Mapping[str, Sequence[Mapping[str, Any]]], line: Mapping[str, Any]) -> Mapping[str, Any]:
    """The package that a line of the lock refers to. The line has a version and a source only to choose among several
    packages of one name."""
    wanted = {key: line[key] for key in ("version", "source") if key in line}
    for package in packages[line["name"]]:
        if all(package.get(key) == value for key, value in wanted.items()):
            return package
    raise ValueError(f"there is no {line['name']} {wanted}")


def _holds(marker: str | None, environment: Mapping[str, str], active: Collection[str]) -> bool:
    """Whether a marker of uv is true. It may require several extras at once, unlike the markers of PEP 508."""
    from packaging.markers import Marker

    if not marker:
        return True
    plain = _EXTRA.sub(lambda one: _ALWAYS if (one[3] in active) == (one[1] == "==") else _NEVER, marker)
    return Marker(plain).evaluate(dict(environment))


def _of_source(package: Mapping[str, Any]) -> Locked:
    source, name = package["source"], package["name"]
    files = [*(package.get("wheels") or ()), *([package["sdist"]] if package.get("sdist") else ())]
    hashes = [(_file_name(one), one.get("hash") or "") for one in files]
    for kind in ("editable", "directory", "virtual", "path"):
        if kind in source:
            return Locked(name, place=source[kind], is_installed=kind != "virtual", files=hashes)
    if "git" in source:
        url, _, commit = source["git"].partition("#")
        folder = re.search(r"[?&]subdirectory=([^&]+)", url)
        place = f"git+{url.partition('?')[0]}@{commit}"
        return Locked(name, address=_within(place, unquote(folder[1]) if folder else None))
    if "url" in source:
        address = _within(source["url"], source.get("subdirectory"))
        return Locked(name, address=address, files=[("", digest) for _, digest in hashes])
    return Locked(name, package["version"], source["registry"], files=hashes)


def _file_name(file: Mapping[str, Any]) -> str:
    return str(
        file.get("filename") or PurePosixPath(unquote(parts_of(file.get("url") or file.get("path") or "").path)).name
    )


# For pip


def _check_names(path: Path, names: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        there = f"Use one of: {', '.join(known)}." if known else "It has none."
        raise BadUsage(f"'{path}' has no extra or dependency group '{unknown[0]}'.", hint=there)


def _tags(python: str) -> list[Any]:
    """The tags of wheels that are compatible with this Python in a job."""
    from packaging.tags import compatible_tags, cpython_tags

    version = tuple(map(int, python.split(".")))
    interpreter = f"cp{version[0]}{version[1]}"
    glibc = [f"manylinux_2_{minor}" for minor in range(NEWEST_GLIBC, 4, -1)]
    platforms = [f"{each}_x86_64" for each in (*glibc, "manylinux2014", "manylinux2010", "manylinux1", "linux")]
    tags = cpython_tags(version, abis=[interpreter], platforms=platforms)
    return [*tags, *compatible_tags(version, interpreter, platforms)]


def _for_pip(path: Path, packages: Sequence[Locked], python: str, root: Path, wheel: str) -> Lock:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    fitting, lines, sources, unhashed = set(_tags(python)), [], {}, []
    indexes: dict[str, None] = {}

    def fits(name: str) -> bool:
        if not name.endswith(".whl"):
            return True
        try:
            return not fitting.isdisjoint(parse_wheel_filename(name)[3])
        except InvalidWheelFilename:
            return False

    for package in sorted(packages, key=lambda each: each.name):
        if normal_name(package.name) == normal_name(wheel):
            continue
        if package.place:
            place = (path.parent / package.place).resolve()
            if place.is_file() or not place.is_relative_to(root):
                what = "a file" if place.is_file() else "a folder outside the snapshot"
                raise BadUsage(
                    f"'{path}': {package.name} is {what}, '{place}', which the job's image cannot contain.",
                    hint="Use a wheel: --private_wheel FILE. Or include its folder: --snapshot_root DIR",
                )
            if package.is_installed:
                sources[package.name] = place
            continue
        found = [digest for name, digest in package.files if fits(name)]
        if package.address:
            line = f"{package.name} @ {package.address}"
        elif found:
            line = f"{package.name}=={package.version}"
            indexes[package.index.rstrip("/")] = None
        else:
            raise BadUsage(
                f"'{path}': {package.name} {package.version} has no file for Python {python} on Linux (x86_64).",
                hint="Use another Python (.python-version), or another version of the package.",
            )
        if not found or not all(found):
            unhashed.append(package.name)
        lines.append(" ".join([line, *(f"{HASH}{digest}" for digest in sorted(set(found)) if digest)]))
    for index in indexes:
        if not re.match(r"https?://", index):
            raise BadUsage(
                f"'{path}': the index '{redact(index)}' is a local folder, which the job's image cannot read.",
                hint="Pass its package as a wheel: --private_wheel FILE",
            )
    others = [index for index in indexes if index != PYPI]
    options = [f"--extra-index-url {index}" for index in others]
    if others and PYPI not in indexes:
        options[0] = f"--index-url {others[0]}"
    return Lock([*options, *(without_hashes(lines) if unhashed else lines)], sources, unhashed)


def wheel_needs(wheel: Path, python: str) -> set[str]:
    """The packages that a wheel requires in a job with *python*, or none if its metadata are missing or invalid."""
    from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement, Requirement

    with zipfile.ZipFile(wheel) as archive:
        found = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        texts = [archive.read(name).decode(errors="replace") for name in found]
    lines = HeaderParser().parsestr(texts[0]).get_all("Requires-Dist") or () if texts else ()
    with suppress(InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName):
        needs = [Requirement(line) for line in lines]
        return {
            normal_name(one.name) for one in needs if one.marker is None or one.marker.evaluate(job_markers(python))
        }
    return set()


def without_hashes(lines: Sequence[str]) -> list[str]:
    return [re.sub(rf"\s*{HASH}\S+", "", line) for line in lines]


def lock_remarks(lock: Lock, root: Path, start: Path) -> list[str]:
    """Remarks on packages that pip does not check, and on those that scripts must import from the snapshot."""
    remarks = []
    if lock.unhashed:
        remarks.append(
            f"warning: pip cannot check {listed(lock.unhashed)} by hashes, and checks all packages or none. So the job "
            "installs the locked versions without hashes."
        )
    if lock.overridden:
        remarks.append(
            f"warning: uv overrides requirements for {listed(lock.overridden)}, but pip does not. The image may not "
            "build."
        )
    folders = {name: place / "src" if (place / "src").is_dir() else place for name, place in lock.sources.items()}
    unseen = {name: folder.relative_to(root).as_posix() for name, folder in folders.items() if folder != start}
    if unseen:
        paths = ":".join(dict.fromkeys(unseen.values()))
        remarks.append(
            f"Not installed, because the snapshot has their source: {', '.join(unseen)}. To import them, add --env_var "
            f"PYTHONPATH={paths}"
        )
    return remarks
