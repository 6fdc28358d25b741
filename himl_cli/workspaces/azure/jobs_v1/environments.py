"""The environment of a job as azureml-core has it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import EnvironmentSpec
from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.forms import LATEST
from himl_cli.workspaces.azure.jobs.registered_environments import environment_id
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound


def registered_environment(connection: Connection, name: str, version: str | None) -> Mapping[str, Any]:
    """What the workspace has under *name*, in version *version* (None: the latest). Raises NotFound naming those that
    are there.

    Asked by himl itself: azureml-core tries once, and raises what tells nobody why.
    """
    below = "" if version in (None, LATEST) else f"/versions/{quote(str(version), safe='')}"
    try:
        return connection.rest.get_object(
            connection.environment(f"/environments/{quote(name, safe='')}{below}"), "environment"
        )
    except ServiceNotFound:
        environment_id(connection, name, version)  # raises, and says what there is
        raise


def sdk_environment(
    workspace: Any, spec: EnvironmentSpec, registered: Mapping[str, Any] | None, context: str, remarks: list[str]
) -> Any:
    """The `azureml.core.Environment` for *spec*, whose definition is *registered* where the workspace has it; *context*
    is where it is built from.

    Private wheels are uploaded to *workspace*; *remarks* gets a sentence for each that is not. Raises what azureml-core
    raises.
    """
    from azureml.core import Environment

    if registered is not None:
        return Environment._deserialize_and_add_to_object(dict(registered))
    if context:
        return _built(context, spec.dockerfile)
    wheels = {path.name: _uploaded(workspace, path, remarks) for path in spec.wheels}
    name = f"himl-{_digest(spec)}"
    environment = _from_conda(name, with_wheels(spec.conda, wheels)) if spec.conda else Environment(name)
    if not spec.conda:
        environment.python.user_managed_dependencies = True
    environment.docker.base_image = spec.image
    environment.environment_variables = {}  # azureml-core begins with an example
    return environment


def _built(context: str, dockerfile: str) -> Any:
    """One whose image is built by the *dockerfile* at *context*: in a storage account, or in a repository of git."""
    from azureml.core import Environment
    from azureml.core.environment import DockerBuildContext

    kinds = DockerBuildContext.LocationType
    place = DockerBuildContext(
        kinds.Git if parts_of(context).path.endswith(".git") else kinds.StorageAccount, context, dockerfile
    )
    name = hashlib.sha256(f"{context} {dockerfile}".encode()).hexdigest()[:16]
    return Environment.from_docker_build_context(f"himl-{name}", place)


def _uploaded(workspace: Any, wheel: Path, remarks: list[str]) -> str:
    """Where the workspace has the wheel. It keeps one file of a name, and does not tell whether that is the same."""
    from azureml.core import Environment
    from azureml.exceptions import UserErrorException

    try:
        return str(Environment.add_private_pip_wheel(workspace, str(wheel), exist_ok=False))
    except UserErrorException:
        remarks.append(
            f"A private wheel '{wheel.name}' is in the workspace already, and is used as it is there; a changed one "
            "needs a new version."
        )
    return str(Environment.add_private_pip_wheel(workspace, str(wheel), exist_ok=True))


def with_wheels(conda: str, wheels: Mapping[str, str]) -> str:
    """The conda file *conda* with the addresses of private wheels in place of their file names. Raises BadUsage where
    one is not asked for."""
    if not wheels:
        return conda
    import yaml

    document = yaml.safe_load(conda)
    left = dict(wheels)
    for part in document.get("dependencies") or []:
        if isinstance(part, dict):
            part["pip"] = [left.pop(PurePosixPath(str(line)).name, line) for line in part.get("pip") or []]
    if left:
        raise BadUsage(f"The conda file does not install the private wheel {', '.join(left)}.")
    return str(yaml.safe_dump(document, sort_keys=False))


def _from_conda(name: str, conda: str) -> Any:
    from azureml.core import Environment

    with tempfile.TemporaryDirectory(prefix="himl-conda-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "conda.yml"
        file.write_text(conda, encoding="utf-8")
        return Environment.from_conda_specification(name, str(file))


def _digest(spec: EnvironmentSpec) -> str:
    """The same for the same packages, so that the service finds the image that it built before."""
    return hashlib.sha256(
        "\0".join([spec.image, spec.conda, *(path.name for path in spec.wheels)]).encode()
    ).hexdigest()[:16]
