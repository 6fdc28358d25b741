"""The Python environment of a job on a cluster: which one it is, by options and files. Makes no request."""

from __future__ import annotations

import ast
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import home_folder
from himl_cli.core.installing import PACKAGE, environment_hint
from himl_cli.core.jobs import DOCKERFILE, EnvironmentSpec, secrets_text
from himl_cli.core.redaction import is_address, redact
from himl_cli.services.submission.conda import (
    CondaFile,
    Kind,
    PipLine,
    conda_text,
    folders_up_to,
    merge,
    python_alone,
    read_conda_file,
    requirements_as_conda,
)
from himl_cli.services.submission.snapshot import take_snapshot

MODULE = "himl_cli"
OLDEST_PYTHON = (3, 10)
"""As `requires-python` of himl-cli has it."""

_PYTHON = re.compile(r"^\s*-\s*[\"']?python\s*={1,3}\s*(\d+)\.(\d+)", re.MULTILINE)


def environment_remarks(spec: EnvironmentSpec, entry_file: Path | None) -> Sequence[str]:
    """A warning where *entry_file* imports himl_cli and the environment lacks himl-cli, and where that would go into
    too old a Python.

    Nothing is said of environments that only their image knows: registered ones, and images without a conda file.
    """
    if not spec.conda or entry_file is None:
        return ()
    if holds_package(spec):
        return _remarks_on_python(spec.conda)
    if not imports_himl(entry_file):
        return ()
    return (
        f"warning: '{entry_file.name}' imports {MODULE}, and its environment lacks {PACKAGE}: {environment_hint()}.",
    )


def _remarks_on_python(conda: str) -> Sequence[str]:
    found = _PYTHON.search(conda)
    if found is None or (int(found[1]), int(found[2])) >= OLDEST_PYTHON:
        return ()
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return (
        f"warning: the environment has Python {found[1]}.{found[2]}, and {PACKAGE} needs {oldest} at least: its image "
        "cannot be built.",
    )


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
    return any(name.split(".")[0] == MODULE for node in ast.walk(tree) for name in _imported(node))


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[\w.]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9_.!+]+)(?:-(?P<build>\d[\w.]*))?"
    r"-(?P<python>[A-Za-z0-9_.]+)-(?P<abi>[A-Za-z0-9_.]+)-(?P<platform>[A-Za-z0-9_.]+)\.whl"
)
_RUNS_THERE = ("any", "linux", "manylinux")


def check_wheel(path: Path, shown: str) -> Path:
    """*path*, a wheel that can be installed on Linux. Raises BadUsage, saying *shown* as the user typed it."""
    if not path.is_file():
        raise BadUsage(
            f"--private_wheel: there is no file '{shown}'.",
            hint="Build one with 'python -m build --wheel', then name the file in dist/.",
        )
    if path.suffix != ".whl":
        raise BadUsage(
            f"--private_wheel: '{shown}' is no wheel.",
            hint="Its name ends in .whl; 'python -m build --wheel' makes one.",
        )
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise BadUsage(
            f"--private_wheel: '{path.name}' is no name of a wheel, so pip would not install it.",
            hint="Give it the name it was built with: NAME-VERSION-py3-none-any.whl",
        )
    if not any(tag.startswith(_RUNS_THERE) for tag in named["platform"].split(".")):
        raise BadUsage(
            f"--private_wheel: '{path.name}' is for another system ({named['platform']}); jobs run on Linux.",
            hint="Build the wheel on Linux.",
        )
    if not zipfile.is_zipfile(path):
        raise BadUsage(
            f"--private_wheel: '{shown}' is no wheel: its content is broken.", hint="Build it again, or copy it again."
        )
    return path.resolve()


DEFAULT_IMAGE = "mcr.microsoft.com/azureml/openmpi5.0-cuda12.4-ubuntu22.04:20260901.v1"
"""Azure ML's own base image with MPI, CUDA and conda; it runs on machines without a GPU too. Pinned, so that an
environment stays what it was."""

CONDA_NAMES = ("environment.yml", "environment.yaml")
NEAR_NAMES = ("requirements.txt", "conda.yml", "conda.yaml", "conda_dependencies.yml", "env.yml", "env.yaml")

_REGISTERED = re.compile(r"(?:azureml:)?(?P<name>[A-Za-z0-9][\w.-]{0,254})(?:[:@](?P<version>[A-Za-z0-9][\w.-]*))?")
_ELSEWHERE = re.compile(
    r"(?:azureml:)?(?P<id>(?:azureml://registries/[\w.-]+"
    r"|/subscriptions/[^\s?#]+/workspaces/[\w.-]+)/environments/[\w.-]+/(?:versions|labels)/[\w.-]+)",
    re.IGNORECASE,
)
"""An environment of a registry, or one by its id in resource manager."""
_IMAGE = re.compile(r"[a-z0-9]([\w.:-]*[A-Za-z0-9])?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")


@dataclass(frozen=True)
class EnvironmentRequest:
    """The options about the environment, as typed; paths are relative to `cwd`. `may_be_bare`: where nothing says what
    it is, Python and pip are enough."""

    cwd: Path
    conda_env: Sequence[str] = ()
    requirements: str | None = None
    environment: str | None = None
    docker_image: str | None = None
    pip_extra_index_url: str | None = None
    private_wheel: str | None = None
    may_be_bare: bool = False
    build_context: str | None = None
    dockerfile: str | None = None
    include_secret: Sequence[str] = ()


def environment_spec(
    request: EnvironmentRequest, script_folder: Path, root: Path, notify: Notify, env: Mapping[str, str] | None = None
) -> EnvironmentSpec:
    """The environment that was asked for, else that of the nearest conda file from *script_folder* up to the snapshot's
    *root*.

    No request is made. Raises BadUsage for a file that is missing or cannot be used, for options that contradict each
    other, and, naming the options, where nothing says what the environment is.
    """
    _check_together(request)
    if request.environment is not None:
        return _registered(request.environment)
    if request.build_context or request.dockerfile:
        return _built(request, request.build_context, request.dockerfile, notify)
    image = _image(request.docker_image)
    described = _described(request, script_folder, root, os.environ if env is None else env, notify)
    if described is None:
        return _image_alone(request, image, folders_up_to(script_folder, root))
    wheel = _wheel(request)
    return EnvironmentSpec(
        image=image, conda=conda_text(_with_additions(described, request, wheel)), wheels=(wheel,) if wheel else ()
    )


def _check_together(request: EnvironmentRequest) -> None:
    made_by = {
        "--conda_env": request.conda_env,
        "--requirements": request.requirements,
        "--docker_image": request.docker_image,
        "--pip_extra_index_url": request.pip_extra_index_url,
        "--private_wheel": request.private_wheel,
    }
    given = [option for option, value in made_by.items() if value]
    if request.environment is not None and given:
        raise BadUsage(
            f"--environment and {given[0]} were both given.",
            hint="A registered environment is used as it is; give either it or what to make one from.",
        )
    built_by = "--build_context" if request.build_context else "--dockerfile"
    other = ["--environment", *given] if request.environment is not None else given
    if other and (request.build_context or request.dockerfile):
        raise BadUsage(
            f"{built_by} and {other[0]} were both given.",
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


def _built(request: EnvironmentRequest, context: str | None, dockerfile: str | None, notify: Notify) -> EnvironmentSpec:
    """The image that *dockerfile* makes, in the folder or at the address *context*: by default `Dockerfile`, and the
    folder that it lies in."""
    if context and is_address(context):
        return EnvironmentSpec(context=context.strip(), dockerfile=dockerfile or DOCKERFILE)
    cwd = request.cwd
    folder = (cwd / context if context else (cwd / str(dockerfile)).parent).resolve()
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
    found = next(
        (path for path in (folder / (dockerfile or DOCKERFILE), cwd / (dockerfile or DOCKERFILE)) if path.is_file()),
        None,
    )
    if found is None:
        raise BadUsage(
            f"There is no '{dockerfile or DOCKERFILE}' in '{folder}'.",
            hint="Name it with --dockerfile FILE, a path in the folder.",
        )
    found = found.parent.resolve() / found.name
    if not found.is_relative_to(folder):
        raise BadUsage(
            f"--dockerfile '{dockerfile}' lies outside of --build_context '{context}'.",
            hint="Give a --build_context that holds it.",
        )
    report = take_snapshot(folder, (), request.include_secret)
    if report.secrets:
        notify(Notice(f"Build context '{folder}': {secrets_text(report.secrets)}"))
    name = found.relative_to(folder).as_posix()
    if name not in report.snapshot.files:
        raise BadUsage(
            f"'{name}' is left out of the build context '{folder}'.", hint=f"Look in its {report.ignore_file}."
        )
    return EnvironmentSpec(context=report.snapshot, dockerfile=name)


def _image(asked: str | None) -> str:
    if asked is None:
        return DEFAULT_IMAGE
    if not _IMAGE.fullmatch(asked.strip()):
        raise BadUsage(
            f"--docker_image '{redact(asked)}' is no name of an image.", hint=f"It looks like {DEFAULT_IMAGE}"
        )
    return asked.strip()


def _described(
    request: EnvironmentRequest, script_folder: Path, root: Path, env: Mapping[str, str], notify: Notify
) -> CondaFile | None:
    """What the environment is to hold, by the files that were named or found; None where there are none."""
    if request.conda_env:
        return merge([read_conda_file(request.cwd / name) for name in dict.fromkeys(request.conda_env)])
    if request.requirements:
        made = requirements_as_conda(request.cwd / request.requirements, script_folder, root, env)
        notify(Notice(f"Environment of the job: {made.packages[0].text} and the packages of '{request.requirements}'."))
        return made
    for folder in folders_up_to(script_folder, root):
        for name in CONDA_NAMES:
            if (folder / name).is_file():
                notify(Notice(f"Environment of the job: '{folder / name}'."))
                return merge([read_conda_file(folder / name)])
    if not request.may_be_bare or request.docker_image is not None:
        return None
    bare = python_alone(script_folder, root, env)
    notify(
        Notice(f"Nothing says which packages it needs, so its environment is {bare.packages[0].text} and pip alone.")
    )
    return bare


def _image_alone(request: EnvironmentRequest, image: str, folders: Sequence[Path]) -> EnvironmentSpec:
    """The image as it is, for lack of a conda file in *folders*. Raises BadUsage where no image was asked for, or
    something is to be installed in it."""
    if request.docker_image is None:
        near = next((folder / name for folder in folders for name in NEAR_NAMES if (folder / name).is_file()), None)
        found = f"There is one to name: {_option_for(near, request.cwd)}. Else" if near else "Give"
        raise BadUsage(
            f"Nothing says which packages the job needs: no {CONDA_NAMES[0]} from the script's folder up to "
            f"'{folders[-1]}'.",
            hint=f"{found} --conda_env FILE, --requirements FILE, --environment NAME, --build_context DIR, or "
            "--docker_image IMAGE alone.",
        )
    for option, value in (
        ("--pip_extra_index_url", request.pip_extra_index_url),
        ("--private_wheel", request.private_wheel),
    ):
        if value:
            raise BadUsage(
                f"{option} needs an environment to install into, and --docker_image alone is used as it is.",
                hint="Add --conda_env FILE or --requirements FILE.",
            )
    return EnvironmentSpec(image=image)


def _option_for(path: Path, cwd: Path) -> str:
    """The option that takes *path*, with the path as the user would type it."""
    shown = os.path.relpath(path, cwd) if path.is_relative_to(cwd) else str(path)
    return f"{'--requirements' if path.suffix == '.txt' else '--conda_env'} {shown}"


def _wheel(request: EnvironmentRequest) -> Path | None:
    return check_wheel(request.cwd / request.private_wheel, request.private_wheel) if request.private_wheel else None


def _with_additions(described: CondaFile, request: EnvironmentRequest, wheel: Path | None) -> CondaFile:
    pip = list(described.pip)
    if request.pip_extra_index_url:
        url = request.pip_extra_index_url.strip()
        if not re.fullmatch(r"https?://[^\s]+", url):
            raise BadUsage(
                f"--pip_extra_index_url '{redact(url)}' is no address of an index.",
                hint="It looks like https://INDEX.example/simple/",
            )
        pip.append(PipLine(Kind.option, f"--extra-index-url {url}"))
    if wheel is not None:
        pip.append(PipLine(Kind.package, wheel.name))
    return replace(described, pip=pip)
