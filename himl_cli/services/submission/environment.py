"""The Python environment of a job on a cluster: the choice by options and files, and the translation of conda files and
requirements files for its image. Sends no requests."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import home_folder
from himl_cli.core.jobs import DOCKERFILE, LIMITS_FILE, EnvironmentSpec, secrets_text
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import is_address, redact
from himl_cli.core.text import listed, read_text
from himl_cli.services.submission.lock_files import (
    HASH,
    LOCK_NAMES,
    Lock,
    lock_remarks,
    normal_name,
    read_lock,
    split_extras,
    wheel_needs,
    without_hashes,
)
from himl_cli.services.submission.request import MADE_FROM_FILES, SubmitRequest, refuse
from himl_cli.services.submission.requirements import PipLines, Requirement, parse_pip_line
from himl_cli.services.submission.snapshot import ignored_remarks, take_snapshot

# Azure ML's base image with MPI, CUDA and conda, which also runs on machines without a GPU. The version is pinned, so
# that an environment never changes.
DEFAULT_IMAGE = "mcr.microsoft.com/azureml/openmpi5.0-cuda12.4-ubuntu22.04:20260901.v1"
CONDA_NAMES = ("environment.yml", "environment.yaml")
NEAR_NAMES = ("requirements.txt", "conda.yml", "conda.yaml", "conda_dependencies.yml", "env.yml", "env.yaml")

_UNREAD = (
    "warning: himl cannot read what {} requires, because its pyproject.toml does not list it. If the environment lacks "
    "any package, list it in the environment's file."
)
_REGISTERED = re.compile(r"(?:azureml:)?(?P<name>[A-Za-z0-9][\w.-]{0,254})(?:[:@](?P<version>[A-Za-z0-9][\w.-]*))?")
# An environment in a registry, or its id in Azure Resource Manager
_ELSEWHERE = re.compile(
    r"(?:azureml:)?(?P<id>(?:azureml://registries/[\w.-]+"
    r"|/subscriptions/[^\s?#]+/workspaces/[\w.-]+)/environments/[\w.-]+/(?:versions|labels)/[\w.-]+)",
    re.IGNORECASE,
)
_IMAGE = re.compile(r"[a-z0-9]([\w.:-]*[A-Za-z0-9])?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
_WHEEL = re.compile(
    r"[A-Za-z0-9](?:[\w.]*[A-Za-z0-9])?-[A-Za-z0-9_.!+]+(?:-\d[\w.]*)?"
    r"-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-(?P<platform>[A-Za-z0-9_.]+)\.whl"
)
_CONDA = re.compile(r"(?P<channel>\S+:)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<spec>[=<>!~*\d\[].*)?")


def choose_environment(
    request: SubmitRequest,
    script_folder: Path,
    root: Path,
    env: Mapping[str, str] = os.environ,
    *,
    may_be_bare: bool = False,
) -> tuple[EnvironmentSpec, list[str]]:
    """The environment of the options, else of the nearest conda file or lock file from *script_folder* up to the
    snapshot's *root*, and remarks on the choice.

    Within one folder, a conda file takes precedence over `pylock.toml`, and that over `uv.lock`. With an image, a lock
    file applies only if the user named it, because the image may contain all packages, and may lack conda.

    With *may_be_bare*, the default is an environment of Python and pip. Raises BadUsage for a file that is missing or
    invalid, for options that contradict each other, and, naming the options, if nothing specifies the environment.
    """

    _check_agreement(request)
    if request.environment is not None:
        return _registered(request.environment), []
    if request.build_context or request.dockerfile:
        return _from_dockerfile(request)
    image = _image_of(request)
    folders = folders_up_to(script_folder, root)
    files = [folder / name for folder in folders for name in (*CONDA_NAMES, *LOCK_NAMES) if (folder / name).is_file()]
    usable = [path for path in files if path.name in CONDA_NAMES or request.docker_image is None]
    lock = request.lock or next((str(path) for path in usable[:1] if path.name in LOCK_NAMES), "")
    nearest = next(iter(usable), None)
    remarks = []
    if request.conda_env:
        described = merge([read_conda_file(request.cwd / name, root) for name in dict.fromkeys(request.conda_env)])
    elif request.requirements:
        described = requirements_as_conda(request.cwd / request.requirements, script_folder, root, env)
        python = described.packages[0].text
        remarks.append(f"Environment of the job: {python} and the packages of '{request.requirements}'.")
    elif lock:
        described, remarks = lock_as_conda(request.cwd, lock, script_folder, root, env, request.private_wheel)
    elif nearest is not None:
        described = merge([read_conda_file(nearest, root)])
        beside = [path.name for path in files if path.parent == nearest.parent and path.name in LOCK_NAMES]
        other = f" (to use the lock file beside it, add --lock {beside[0]})" if beside else ""
        remarks.append(f"Environment of the job: '{nearest}'{other}.")
    elif may_be_bare and request.docker_image is None:
        described = _python_alone(script_folder, root, env)
        python = described.packages[0].text
        remarks.append(f"No file lists its packages, so its environment has only {python} and pip.")
    else:
        _check_image_alone(request, folders)
        if files:
            remarks.append(
                f"Ignored, because --docker_image may contain all packages: '{files[0]}'. "
                "To install it, add --lock FILE."
            )
        return EnvironmentSpec(image=image), remarks
    pip = list(described.pip)
    remarks += lock_remarks(Lock((), described.sources), root.resolve(), script_folder.resolve())
    if described.unread:
        remarks.append(_UNREAD.format(listed(described.unread)))
    if request.pip_extra_index_url:
        pip = _with_index(pip, request.pip_extra_index_url.strip())
    wheels = [_wheel(request.cwd / request.private_wheel)] if request.private_wheel else []
    pip, more = _with_wheels(replace(described, pip=pip), wheels)
    limits = "".join(f"{limit}\n" for limit in described.limits)
    if limits:
        pip = [Requirement(f"-c {LIMITS_FILE}", is_option=True), *pip]
    conda = conda_text(replace(described, pip=pip))
    return EnvironmentSpec(image=image, conda=conda, wheels=tuple(wheels), limits=limits), [*remarks, *more]


def _check_agreement(request: SubmitRequest) -> None:
    """Raise BadUsage for options that contradict each other."""

    def given(*names: str) -> str:
        return next((f"--{name}" for name in names if getattr(request, name)), "")

    registered = "--environment" if request.environment is not None else ""
    recipe, source = given("build_context", "dockerfile"), given(*MADE_FROM_FILES)
    for one, other, hint in (
        (registered, source, "himl does not change a registered environment. Omit one of them."),
        (recipe, registered or source, "The Dockerfile defines the whole image. Omit one of them."),
        (given("conda_env"), given("requirements"), "List the requirements in the conda file, below '- pip:'."),
        (given("lock"), given("conda_env", "requirements"), "A lock file lists all packages. Omit one of them."),
    ):
        if one and other:
            raise BadUsage(f"{one} and {other} cannot be combined.", hint=hint)


def _registered(asked: str) -> EnvironmentSpec:
    """The environment of the workspace or of a registry that `--environment` names. Raises BadUsage."""
    name = asked.strip()
    elsewhere, found = _ELSEWHERE.fullmatch(name), _REGISTERED.fullmatch(name)
    if elsewhere is not None:
        return EnvironmentSpec(name=elsewhere["id"])
    if found is None:
        raise BadUsage(
            f"--environment '{asked}' is not a valid name of an environment.",
            hint="Write NAME or NAME:VERSION of an environment in the workspace, or "
            "azureml://registries/REGISTRY/environments/NAME/versions/VERSION",
        )
    return EnvironmentSpec(name=found["name"], version=None if found["version"] == "latest" else found["version"])


def _image_of(request: SubmitRequest) -> str:
    """The image below the packages. Raises BadUsage for an invalid name."""
    image = DEFAULT_IMAGE if request.docker_image is None else request.docker_image.strip()
    if not _IMAGE.fullmatch(image):
        raise BadUsage(
            f"--docker_image '{redact(str(request.docker_image))}' is not a valid name of an image.",
            hint=f"Example: {DEFAULT_IMAGE}",
        )
    return image


def _from_dockerfile(request: SubmitRequest) -> tuple[EnvironmentSpec, list[str]]:
    """The environment from a Dockerfile and its build context, a folder or an address. By default, the file is
    `Dockerfile`, and the context is its folder."""
    cwd, context, file = request.cwd, request.build_context, request.dockerfile or DOCKERFILE
    if context and is_address(context):
        return EnvironmentSpec(context=context.strip(), dockerfile=file), []
    folder = (cwd / context if context else (cwd / file).parent).resolve()
    no_file = f"There is no file --dockerfile '{request.dockerfile}'."
    refuse(
        "",
        (
            not context and folder in (folder.parent, home_folder()),
            f"The build context would be all of '{folder}'.",
            "Name a smaller folder: --build_context DIR",
        ),
        (not folder.is_dir(), f"--build_context '{context}' is not a folder." if context else no_file, ""),
    )
    found = next((path for path in (folder / file, cwd / file) if path.is_file()), None)
    if found is None:
        raise BadUsage(
            f"There is no '{file}' in '{folder}'.", hint="Name it with --dockerfile FILE, a path in that folder."
        )
    found = found.parent.resolve() / found.name
    if not found.is_relative_to(folder):
        raise BadUsage(
            f"--dockerfile '{request.dockerfile}' is outside --build_context '{context}'.",
            hint="Name a --build_context that contains it.",
        )
    report = take_snapshot(folder, (), request.include_secret)
    name = found.relative_to(folder).as_posix()
    if name not in report.snapshot.files:
        raise BadUsage(
            f"'{name}' is excluded from the build context '{folder}'.",
            hint=secrets_text([name]) if name in report.secrets else f"Check its {report.ignore_file}.",
        )
    left_out = [secrets_text(report.secrets)] if report.secrets else []
    remarks = [f"Build context '{folder}': {text}" for text in (*left_out, *ignored_remarks([report]))]
    return EnvironmentSpec(context=report.snapshot, dockerfile=name), remarks


def _check_image_alone(request: SubmitRequest, folders: Sequence[Path]) -> None:
    if request.docker_image is None:
        near = next((folder / name for folder in folders for name in NEAR_NAMES if (folder / name).is_file()), None)
        start = "Add"
        if near:
            option = "--requirements" if near.suffix == ".txt" else "--conda_env"
            shown = os.path.relpath(near, request.cwd) if near.is_relative_to(request.cwd) else near
            start = f"Add {option} {shown}, or one of"
        raise BadUsage(
            f"The job has no environment: there is no {CONDA_NAMES[0]} or {LOCK_NAMES[-1]} from the script's "
            f"folder up to '{folders[-1]}'.",
            hint=f"{start} --conda_env FILE, --requirements FILE, --lock FILE, --environment NAME, --build_context "
            "DIR, or --docker_image IMAGE alone.",
        )
    for name in ("pip_extra_index_url", "private_wheel"):
        if getattr(request, name):
            raise BadUsage(
                f"--{name} has no effect on --docker_image alone, because himl installs nothing into it.",
                hint="Add --conda_env FILE, --requirements FILE or --lock FILE.",
            )


def _is_whole(wheel: Path) -> bool:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeError):
        return False


def _wheel(path: Path) -> Path:
    named = _WHEEL.fullmatch(path.name)
    platform = named["platform"] if named else "any"
    refuse(
        "--private_wheel: ",
        (
            not path.is_file(),
            f"there is no file '{path}'.",
            "Build one with 'python -m build --wheel', then name the file in dist/.",
        ),
        (
            named is None or not _is_whole(path),
            f"'{path.name}' is damaged, or not a wheel that pip can install.",
            "Build or copy it again. Use its original name: NAME-VERSION-py3-none-any.whl",
        ),
        (
            not any(tag.startswith(("any", "linux", "manylinux")) for tag in platform.split(".")),
            f"'{path.name}' is for another system ({platform}). Jobs run on Linux.",
            "Build the wheel on Linux.",
        ),
    )
    return path.resolve()


def _with_index(pip: Sequence[Requirement], index: str) -> list[Requirement]:
    """*pip* with one more index. Lines that name the same index without its credentials get them."""
    if not re.fullmatch(r"https?://[^\s]+", index):
        raise BadUsage(
            f"--pip_extra_index_url '{redact(index)}' is not the address of an index.",
            hint="Example: https://INDEX.example/simple/",
        )
    plain = re.sub(r"//[^/@]*@", "//", index).rstrip("/")
    lines = [
        replace(line, text=f"{line.text.split()[0]} {index}", spec=line.spec and index)
        if line.is_option and line.text.rstrip("/").endswith(f"index-url {plain}")
        else line
        for line in pip
    ]
    return [*lines, Requirement(f"--extra-index-url {index}", is_option=True)]


def _with_wheels(described: CondaFile, wheels: Sequence[Path]) -> tuple[list[Requirement], list[str]]:
    """The lines of pip with *wheels*, and remarks.

    pip checks the hashes of all packages or of none. So a wheel gets a hash if the other packages have hashes, and
    all lose their hashes if a wheel needs packages that are not locked.
    """
    hashed = [line for line in described.pip if HASH in line.text]
    if not hashed:
        return [*described.pip, *(Requirement(wheel.name) for wheel in wheels)], []
    for line in described.pip:
        if not line.is_option and HASH not in line.text:
            raise BadUsage(
                f"'{described.path}': '{redact(line.text)}' has no hash, but pip checks all packages or none.",
                hint="Add hashes to all of them (pip-compile --generate-hashes, uv export), or to none.",
            )
    known = {normal_name(line.key.partition(";")[0]) for line in hashed}
    named = re.search(r"\d+\.\d+", next((each.spec for each in described.packages if each.key == "python"), ""))
    python = named[0] if named else f"3.{sys.version_info.minor}"
    missing = sorted({need for wheel in wheels for need in wheel_needs(wheel, python)} - known)
    if not missing:
        digests = [hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels]
        lines = [f"{wheel.name} {HASH}sha256:{digest}" for wheel, digest in zip(wheels, digests, strict=True)]
        return [*described.pip, *map(Requirement, lines)], []
    texts = without_hashes([line.text for line in described.pip])
    plain = [replace(line, text=text) for line, text in zip(described.pip, texts, strict=True)]
    remark = (
        f"warning: '{wheels[0].name}' needs packages without hashes ({listed(missing)}). pip checks all packages or "
        "none, so himl removes the hashes of the others and keeps their versions."
    )
    return [line for line in plain if line.text != "--require-hashes"] + [
        Requirement(wheel.name) for wheel in wheels
    ], [remark]


# Conda files


@dataclass(frozen=True)
class CondaFile:
    """The content of a conda file. `path` is for messages. `limits` are constraints of pip on packages that it does not
    list. For `sources` and `unread`, see `PipLines`."""

    path: str
    channels: Sequence[str] = ()
    packages: Sequence[Requirement] = ()
    pip: Sequence[Requirement] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    limits: Sequence[str] = ()
    sources: Mapping[str, Path] = field(default_factory=dict)
    unread: Sequence[str] = ()


def read_conda_file(path: Path, root: Path | None = None) -> CondaFile:
    """The conda file at *path*, for a snapshot of *root* (default: its folder). Raises BadUsage, with the file and the
    problem in one line."""
    # Read before the YAML library is loaded, because a missing file is the commonest mistake
    text = read_text(path, "--conda_env")
    from himl_cli.services.yaml_files import parse_mapping

    content = parse_mapping(text, path)
    dependencies = content.get("dependencies")
    if not isinstance(dependencies, list):
        what = "has no 'dependencies'" if dependencies is None else "has 'dependencies' that are not a list"
        raise BadUsage(
            f"'{path}' {what}.",
            hint="List the packages below 'dependencies:', each on a line that begins with '- '.",
        )
    packages = [parse_conda_package(entry, path) for entry in dependencies if not isinstance(entry, dict)]
    pip = PipLines(root or path.parent)
    for line in (line for entry in dependencies if isinstance(entry, dict) for line in _pip_section(entry, path)):
        pip.add(line, f"'{path}', pip section", path)
    versions: dict[str, str] = {}  # finds two versions of one package, and leaves ranges to conda
    for package in packages:
        if found := re.fullmatch(r"={0,2}(\d[\w.]*)", package.spec):
            known = versions.setdefault(package.key, found[1])
            one, other = sorted((known, found[1]), key=len)
            if other != one and not other.startswith(f"{one}."):
                raise BadUsage(
                    f"'{path}' requires {package.key} {known} and {package.key} {found[1]}.", hint="Remove one of them."
                )
    channels, variables = content.get("channels") or [], content.get("variables") or {}
    channels = [channels] if isinstance(channels, str) else channels
    refuse(
        f"'{path}': ",
        (
            not isinstance(channels, list) or not all(isinstance(entry, str) for entry in channels),
            "'channels' must be a list of names.",
            "Example: channels: [conda-forge]",
        ),
        (
            not isinstance(variables, dict)
            or not all(isinstance(entry, (str, int, float)) for entry in variables.values()),
            "'variables' must map names to texts.",
            "",
        ),
    )
    names = list(dict.fromkeys(entry.strip() for entry in channels))
    texts = {str(key): str(entry) for key, entry in variables.items()}
    return with_pip(CondaFile(str(path), names, packages, variables=texts), pip)


def with_pip(file: CondaFile, pip: PipLines) -> CondaFile:
    """*file* with *pip*."""
    pip.limit()
    limits = [limit.text for limit in pip.limits]
    return replace(file, pip=pip.lines, limits=limits, sources=pip.sources, unread=pip.unread)


def parse_conda_package(entry: Any, path: Path) -> Requirement:
    """One entry of 'dependencies'. Raises BadUsage if it is not a package."""
    text = " ".join(entry.split()) if isinstance(entry, str) else ""
    if "://" in text:
        return Requirement(text, text)
    found = _CONDA.fullmatch(text)
    if found is None:
        raise BadUsage(
            f"'{path}': {redact(repr(entry))} in 'dependencies' is not a package.",
            hint="Write conda packages as '- numpy=1.26', and pip packages below '- pip:'.",
        )
    spec = re.sub(r"\s+", "", found["spec"] or "")
    return Requirement(text, found["name"].lower(), spec, is_bare=not spec and not found["channel"])


def _pip_section(entry: Mapping[Any, Any], path: Path) -> list[str]:
    if list(entry) != ["pip"]:
        raise BadUsage(
            f"'{path}': {', '.join(map(repr, entry))} in 'dependencies' is not a section of conda.",
            hint="The only section with its own list is 'pip:'.",
        )
    lines = entry["pip"] or []
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise BadUsage(
            f"'{path}': 'pip:' must be a list of texts.",
            hint="List the packages below it, each on a line that begins with '- '.",
        )
    return lines


def with_conda_files(content: Any, root: Path, remarks: list[str]) -> Any:
    """The *content* of a job's YAML in *root*. A conda file that names other files is replaced by its content with
    theirs, because the image is built without them. Adds to *remarks*. Raises BadUsage, with the file and the line."""
    if isinstance(content, list):
        return [with_conda_files(each, root, remarks) for each in content]
    if not isinstance(content, Mapping):
        return content
    found = {key: with_conda_files(each, root, remarks) for key, each in content.items()}
    given, path = found.get("conda_file"), root / "conda_file"
    if isinstance(given, str) and (root / given).is_file():
        from himl_cli.services.yaml_files import parse_mapping

        path = root / given
        given = parse_mapping(read_text(path, "conda_file"), path)
    entries = given.get("dependencies") if isinstance(given, Mapping) else None
    sections = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    lines = [line for entry in sections for line in _pip_section(entry, path)]
    if not any(re.match(r"\s*(?:-[rce]|--(?:requirement|constraint|editable)|\.)", line) for line in lines):
        return found
    pip = PipLines(root)
    for line in lines:
        pip.add(line, f"'{path}', pip section", path)
    pip.limit()
    if pip.limits:
        raise BadUsage(
            f"'{path}': constraints on packages that it does not list: {listed([one.key for one in pip.limits])}.",
            hint="List these packages, or remove their constraints.",
        )
    remarks += [f"Not installed, because the job's code has its source: {name}." for name in pip.sources]
    remarks += [_UNREAD.format(listed(pip.unread))] if pip.unread else []
    others = [entry for entry in entries or () if not isinstance(entry, dict)]
    texts = [{"pip": [line.text for line in pip.lines]}] if pip.lines else []
    return {**found, "conda_file": {**dict(given or {}), "dependencies": [*others, *texts]}}


def stated_environment(given: Any, folder: Path) -> EnvironmentSpec | None:
    """The environment of a job's YAML in *folder*: a registered one, or an image with a conda file. None for another
    form, such as a Dockerfile, and for an invalid one, which a job on this machine does not need."""
    from himl_cli.services.yaml_files import dump_mapping

    with suppress(BadUsage):
        if isinstance(given, str):
            return _registered(given)
        if isinstance(given, Mapping) and isinstance(given.get("image"), str):
            conda = with_conda_files({"conda_file": given.get("conda_file")}, folder, [])["conda_file"]
            text = dump_mapping(conda) if isinstance(conda, Mapping) else ""
            if isinstance(conda, str):
                text = read_text(folder / conda.removeprefix("file:"), "conda_file")
            return EnvironmentSpec(image=given["image"], conda=text)
    return None


def conda_text(file: CondaFile) -> str:
    """*file* as the text of a conda file, independent of its name and order, so that equal environments have equal
    texts."""
    from himl_cli.services.yaml_files import dump_mapping

    packages = {package.text for package in file.packages}
    options = [line.text for line in file.pip if line.is_option]
    wanted = sorted({line.text for line in file.pip if not line.is_option}, key=str.lower)
    if wanted and not any(package.key == "pip" for package in file.packages):
        packages.add("pip")
    dependencies: list[Any] = sorted(packages, key=str.lower)
    if options or wanted:
        dependencies.append({"pip": [*dict.fromkeys(options), *wanted]})
    content = {
        "name": "himl",  # replaces the file's name, because the image has a single environment
        "channels": list(file.channels),
        "dependencies": dependencies,
        "variables": dict(sorted(file.variables.items())),
    }
    return dump_mapping({key: value for key, value in content.items() if value or key == "dependencies"})


def merge(files: Sequence[CondaFile]) -> CondaFile:
    """The channels, dependencies and pip lines of all files, each once, with channels in their first order.

    A package with a version replaces one without. Raises BadUsage, naming both files, if two files contradict each
    other about a package, an index or a variable. Contradictions within one file are left to conda and pip.
    """
    channels = dict.fromkeys(channel for file in files for channel in file.channels)
    variables: dict[str, tuple[str, str]] = {}
    for file in files:
        for name, value in file.variables.items():
            first_value, first_file = variables.setdefault(name, (value, file.path))
            if first_value != value:
                raise BadUsage(
                    f"'{first_file}' and '{file.path}' set the variable '{name}' to different values.",
                    hint="Set it in one of them only.",
                )
    return CondaFile(
        " and ".join(file.path for file in files),
        list(channels),
        _united([(file.path, file.packages) for file in files]),
        _united([(file.path, file.pip) for file in files]),
        {name: value for name, (value, _) in variables.items()},
        [limit for file in files for limit in file.limits],
        {name: folder for file in files for name, folder in file.sources.items()},
        [name for file in files for name in file.unread],
    )


def _united(files: Sequence[tuple[str, Sequence[Requirement]]]) -> list[Requirement]:
    first: dict[str, tuple[set[str], str]] = {}
    for path, lines in files:
        specs: dict[str, set[str]] = {}
        for line in lines:
            if line.key and line.spec:  # a package without a version contradicts nothing
                specs.setdefault(line.key, set()).add(line.spec)
        for key, found in specs.items():
            known, known_path = first.setdefault(key, (found, path))
            if known != found:
                sides = ((known_path, known), (path, found))
                both = ", ".join(f"'{at}' requires {' '.join([key, *sorted(each)])}" for at, each in sides)
                raise BadUsage(
                    f"Two conda files contradict each other: {redact(both)}.",
                    hint="Use the same version in both, or a version in one of them only.",
                )
    return [line for _, lines in files for line in lines if not (line.is_bare and line.key in first)]


# Requirements files and lock files


def requirements_as_conda(path: Path, script_folder: Path, root: Path, env: Mapping[str, str]) -> CondaFile:
    """The packages of a requirements file and its included files, with the project's Python version. Raises BadUsage,
    with the file and line."""
    pip = PipLines(root)
    pip.read(path, "--requirements")
    return with_pip(replace(_python_alone(script_folder, root, env), path=str(path)), pip)


def lock_as_conda(
    cwd: Path, given: str, script_folder: Path, root: Path, env: Mapping[str, str], wheel: str | None = None
) -> tuple[CondaFile, list[str]]:
    """The packages of the lock file *given* for the project's Python version, and remarks. A private *wheel* replaces
    its package. Raises BadUsage, with the file."""
    name, extras = split_extras(given)
    path, python = cwd / name, _python_alone(script_folder, root, env)
    start, version = script_folder.resolve(), python.packages[0].spec.lstrip("=")
    own = Path(wheel).name.split("-")[0] if wheel else ""
    lock = read_lock(path, extras, version, start, root.resolve(), own)
    pip = [parse_pip_line(line, f"'{path}'") for line in lock.lines]
    count = len(pip) - sum(line.is_option for line in pip)
    remark = (
        f"Environment of the job: {python.packages[0].text} and {count:,} package{'s' * (count != 1)} of '{given}'."
    )
    return replace(python, path=str(path), pip=pip), [remark, *lock_remarks(lock, root.resolve(), start)]


def _python_alone(script_folder: Path, root: Path, env: Mapping[str, str]) -> CondaFile:
    """The project's Python version and pip, without packages, from a channel that is free for everyone."""
    version = python_version(script_folder, root, env)
    python = Requirement(f"python={version}", "python", f"={version}")
    return CondaFile(str(root), ["conda-forge"], [python, Requirement("pip", "pip", is_bare=True)])


def python_version(start: Path, root: Path, env: Mapping[str, str]) -> str:
    """The Python version (`3.11`) of the nearest `.python-version` from *start* up to *root*, else of the active
    environment, else of himl itself. Starts no interpreter."""
    files = [(folder / ".python-version", r"^\s*(\d+\.\d+)(?:\.\d+)?\s*$") for folder in folders_up_to(start, root)]
    if env.get("VIRTUAL_ENV"):
        files.append((Path(env["VIRTUAL_ENV"], "pyvenv.cfg"), r"^\s*version(?:_info)?\s*=\s*(\d+\.\d+)"))
    for path, pattern in files:
        with suppress(OSError):
            if found := re.search(pattern, path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
                return found[1]
    installed = Path(env["CONDA_PREFIX"], "conda-meta").glob("python-3*.json") if env.get("CONDA_PREFIX") else ()
    for path in sorted(installed):
        if found := re.fullmatch(r"python-(\d+\.\d+)\.\d.*\.json", path.name):
            return found[1]
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def folders_up_to(start: Path, root: Path) -> list[Path]:
    return [folder for folder in (start, *start.parents) if folder.is_relative_to(root)] or [root]
