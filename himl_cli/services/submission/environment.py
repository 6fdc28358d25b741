"""The Python environment of a job on a cluster: which one it is, by options and files. Makes no request."""

from __future__ import annotations

import ast
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import home_folder
from himl_cli.core.installation import PACKAGE, environment_hint
from himl_cli.core.jobs import DOCKERFILE, EnvironmentSpec, secrets_text
from himl_cli.core.redaction import is_address, redact
from himl_cli.services.submission.conda import (
    CondaFile,
    Requirement,
    conda_text,
    folders_up_to,
    merge,
    python_alone,
    read_conda_file,
    requirements_as_conda,
)
from himl_cli.services.submission.request import MADE_FROM_FILES, SubmitRequest
from himl_cli.services.submission.snapshot import take_snapshot

DEFAULT_IMAGE = "mcr.microsoft.com/azureml/openmpi5.0-cuda12.4-ubuntu22.04:20260901.v1"
"""Azure ML's own base image with MPI, CUDA and conda; it runs on machines without a GPU too. Pinned, so that an
environment stays what it was."""
CONDA_NAMES = ("environment.yml", "environment.yaml")
NEAR_NAMES = ("requirements.txt", "conda.yml", "conda.yaml", "conda_dependencies.yml", "env.yml", "env.yaml")
MODULE = "himl_cli"
OLDEST_PYTHON = (3, 10)
"""As `requires-python` of himl-cli has it."""

_REGISTERED = re.compile(r"(?:azureml:)?(?P<name>[A-Za-z0-9][\w.-]{0,254})(?:[:@](?P<version>[A-Za-z0-9][\w.-]*))?")
_ELSEWHERE = re.compile(
    r"(?:azureml:)?(?P<id>(?:azureml://registries/[\w.-]+"
    r"|/subscriptions/[^\s?#]+/workspaces/[\w.-]+)/environments/[\w.-]+/(?:versions|labels)/[\w.-]+)",
    re.IGNORECASE,
)
"""An environment of a registry, or one by its id in resource manager."""
_IMAGE = re.compile(r"[a-z0-9]([\w.:-]*[A-Za-z0-9])?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
_WHEEL = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[\w.]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9_.!+]+)(?:-(?P<build>\d[\w.]*))?"
    r"-(?P<python>[A-Za-z0-9_.]+)-(?P<abi>[A-Za-z0-9_.]+)-(?P<platform>[A-Za-z0-9_.]+)\.whl"
)
_PYTHON = re.compile(r"^\s*-\s*[\"']?python\s*={1,3}\s*(\d+)\.(\d+)", re.MULTILINE)


def choose_environment(
    request: SubmitRequest,
    script_folder: Path,
    root: Path,
    env: Mapping[str, str] | None = None,
    *,
    may_be_bare: bool = False,
) -> tuple[EnvironmentSpec, list[str]]:
    """The environment of the options, else that of the nearest conda file from *script_folder* up to the snapshot's
    *root*, and remarks on what was chosen.

    With *may_be_bare* Python and pip are enough where nothing says what it is. Raises BadUsage for a file that is
    missing or cannot be used, for options that contradict each other, and, naming the options, where nothing says what
    the environment is.
    """
    _check_together(request)
    if request.environment is not None:
        return _registered(request.environment), []
    if request.build_context or request.dockerfile:
        return _from_dockerfile(request, request.build_context, request.dockerfile)
    image = DEFAULT_IMAGE if request.docker_image is None else request.docker_image.strip()
    if not _IMAGE.fullmatch(image):
        raise BadUsage(
            f"--docker_image '{redact(str(request.docker_image))}' is no name of an image.",
            hint=f"It looks like {DEFAULT_IMAGE}",
        )
    folders = folders_up_to(script_folder, root)
    env = os.environ if env is None else env
    found = next((folder / name for folder in folders for name in CONDA_NAMES if (folder / name).is_file()), None)
    remarks = []
    if request.conda_env:
        described = merge([read_conda_file(request.cwd / name) for name in dict.fromkeys(request.conda_env)])
    elif request.requirements:
        described = requirements_as_conda(request.cwd / request.requirements, script_folder, root, env)
        python = described.packages[0].text
        remarks.append(f"Environment of the job: {python} and the packages of '{request.requirements}'.")
    elif found is not None:
        remarks.append(f"Environment of the job: '{found}'.")
        described = merge([read_conda_file(found)])
    elif may_be_bare and request.docker_image is None:
        described = python_alone(script_folder, root, env)
        python = described.packages[0].text
        remarks.append(f"Nothing says which packages it needs, so its environment is {python} and pip alone.")
    else:
        return _image_alone(request, image, folders), []
    wheel = _wheel(request.cwd / request.private_wheel) if request.private_wheel else None
    conda = conda_text(_with_additions(described, request.pip_extra_index_url, wheel))
    return EnvironmentSpec(image=image, conda=conda, wheels=(wheel,) if wheel else ()), remarks


def _check_together(request: SubmitRequest) -> None:
    given = [f"--{name}" for name in MADE_FROM_FILES if getattr(request, name)]
    if request.environment is not None and given:
        raise BadUsage(
            f"--environment and {given[0]} were both given.",
            hint="A registered environment is used as it is; give either it or what to make one from.",
        )
    other = "--environment" if request.environment is not None else next(iter(given), "")
    if other and (request.build_context or request.dockerfile):
        raise BadUsage(
            f"{'--build_context' if request.build_context else '--dockerfile'} and {other} were both given.",
            hint="The Dockerfile says all that is in the image; leave one of them out.",
        )
    if request.conda_env and request.requirements:
        raise BadUsage(
            "--conda_env and --requirements were both given.",
            hint="List the requirements in the conda file, below '- pip:'.",
        )


def _registered(text: str) -> EnvironmentSpec:
    elsewhere = _ELSEWHERE.fullmatch(text.strip())
    if elsewhere is not None:
        return EnvironmentSpec(name=elsewhere["id"])
    found = _REGISTERED.fullmatch(text.strip())
    if found is None:
        raise BadUsage(
            f"--environment '{text}' is no name of an environment.",
            hint="Write NAME or NAME:VERSION, of one that is registered in the workspace, or "
            "azureml://registries/REGISTRY/environments/NAME/versions/VERSION",
        )
    version = found["version"]
    return EnvironmentSpec(name=found["name"], version=None if version in (None, "latest") else version)


def _from_dockerfile(
    request: SubmitRequest, context: str | None, dockerfile: str | None
) -> tuple[EnvironmentSpec, list[str]]:
    """The image that *dockerfile* makes, in the folder or at the address *context*: by default `Dockerfile`, and the
    folder that it lies in."""
    file = dockerfile or DOCKERFILE
    if context and is_address(context):
        return EnvironmentSpec(context=context.strip(), dockerfile=file), []
    cwd = request.cwd
    folder = (cwd / context if context else (cwd / file).parent).resolve()
    if not context and folder in (folder.parent, home_folder()):
        raise BadUsage(
            f"The image would be built from all of '{folder}'.",
            hint="Name the folder that is meant: --build_context DIR",
        )
    if not folder.is_dir():
        raise BadUsage(
            f"--build_context '{context}' is no folder."
            if context
            else f"There is no file --dockerfile '{dockerfile}'."
        )
    found = next((path for path in (folder / file, cwd / file) if path.is_file()), None)
    if found is None:
        raise BadUsage(
            f"There is no '{file}' in '{folder}'.", hint="Name it with --dockerfile FILE, a path in the folder."
        )
    found = found.parent.resolve() / found.name
    if not found.is_relative_to(folder):
        raise BadUsage(
            f"--dockerfile '{dockerfile}' lies outside of --build_context '{context}'.",
            hint="Give a --build_context that holds it.",
        )
    report = take_snapshot(folder, (), request.include_secret)
    name = found.relative_to(folder).as_posix()
    if name not in report.snapshot.files:
        raise BadUsage(
            f"'{name}' is left out of the build context '{folder}'.", hint=f"Look in its {report.ignore_file}."
        )
    remarks = [f"Build context '{folder}': {secrets_text(report.secrets)}"] if report.secrets else []
    return EnvironmentSpec(context=report.snapshot, dockerfile=name), remarks


def _image_alone(request: SubmitRequest, image: str, folders: Sequence[Path]) -> EnvironmentSpec:
    """The image as it is, for lack of a conda file in *folders*. Raises BadUsage where no image was named, or something
    is to be installed in it."""
    if request.docker_image is None:
        near = next((folder / name for folder in folders for name in NEAR_NAMES if (folder / name).is_file()), None)
        start = "Give"
        if near:
            option = "--requirements" if near.suffix == ".txt" else "--conda_env"
            shown = os.path.relpath(near, request.cwd) if near.is_relative_to(request.cwd) else near
            start = f"There is one to name: {option} {shown}. Else"
        raise BadUsage(
            f"Nothing says which packages the job needs: no {CONDA_NAMES[0]} from the script's folder up to "
            f"'{folders[-1]}'.",
            hint=f"{start} --conda_env FILE, --requirements FILE, --environment NAME, --build_context DIR, or "
            "--docker_image IMAGE alone.",
        )
    for name in ("pip_extra_index_url", "private_wheel"):
        if getattr(request, name):
            raise BadUsage(
                f"--{name} needs an environment to install into, and --docker_image alone is used as it is.",
                hint="Add --conda_env FILE or --requirements FILE.",
            )
    return EnvironmentSpec(image=image)


def _with_additions(described: CondaFile, index: str | None, wheel: Path | None) -> CondaFile:
    pip = list(described.pip)
    if index:
        if not re.fullmatch(r"https?://[^\s]+", index.strip()):
            raise BadUsage(
                f"--pip_extra_index_url '{redact(index.strip())}' is no address of an index.",
                hint="It looks like https://INDEX.example/simple/",
            )
        pip.append(Requirement(f"--extra-index-url {index.strip()}", is_option=True))
    return replace(described, pip=[*pip, Requirement(wheel.name)] if wheel else pip)


def _wheel(path: Path) -> Path:
    """*path*, a wheel that can be installed on Linux. Raises BadUsage."""
    if not path.is_file():
        raise BadUsage(
            f"--private_wheel: there is no file '{path}'.",
            hint="Build one with 'python -m build --wheel', then name the file in dist/.",
        )
    named = _WHEEL.fullmatch(path.name)
    if named is None or not zipfile.is_zipfile(path):
        raise BadUsage(
            f"--private_wheel: '{path.name}' is no wheel that pip could install.",
            hint="Give the file as it was built, with its name: NAME-VERSION-py3-none-any.whl",
        )
    if not any(tag.startswith(("any", "linux", "manylinux")) for tag in named["platform"].split(".")):
        raise BadUsage(
            f"--private_wheel: '{path.name}' is for another system ({named['platform']}); jobs run on Linux.",
            hint="Build the wheel on Linux.",
        )
    return path.resolve()


def environment_remarks(spec: EnvironmentSpec, entry_file: Path | None) -> list[str]:
    """A warning where *entry_file* imports himl_cli and the environment lacks himl-cli, and where that would go into
    too old a Python.

    Nothing is said of environments that only their image knows: registered ones, and images without a conda file.
    """
    if not spec.conda or entry_file is None:
        return []
    if not holds_package(spec):
        missing = f"imports {MODULE}, and its environment lacks {PACKAGE}: {environment_hint()}."
        return [f"warning: '{entry_file.name}' {missing}"] if imports_himl(entry_file) else []
    found = _PYTHON.search(spec.conda)
    if found is None or (int(found[1]), int(found[2])) >= OLDEST_PYTHON:
        return []
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return [
        f"warning: the environment has Python {found[1]}.{found[2]}, and {PACKAGE} needs {oldest} at least: its image "
        "cannot be built."
    ]


def holds_package(spec: EnvironmentSpec) -> bool:
    """Whether the conda file, or a private wheel, brings himl-cli."""
    texts = [*spec.conda.splitlines(), *(wheel.name for wheel in spec.wheels)]
    return any(re.search(rf"\b{PACKAGE}\b", re.sub(r"[_.]", "-", text.lower())) for text in texts)


def imports_himl(path: Path) -> bool:
    """Whether the Python file imports himl_cli anywhere. False for what cannot be read or parsed: the job will say so
    itself."""
    try:
        content = path.read_bytes()
        if MODULE.encode() not in content or path.suffix != ".py":
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in a script Python tells when it runs
            tree = ast.parse(content)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
    return any(name.split(".")[0] == MODULE for name in names)
