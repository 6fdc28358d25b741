"""What the service refuses when a job is submitted: names that it does not take, and references to what is not there."""

from __future__ import annotations

import re
from typing import Any

from tests.servers.azureml.answers import ServiceError, bad_request, not_found
from tests.servers.azureml.jobs.command import unknown_references
from tests.servers.azureml.jobs.durations import seconds_of
from tests.servers.azureml.jobs.pipelines.graph import check_pipeline
from tests.servers.azureml.jobs.places import data_version, names_data_version
from tests.servers.azureml.jobs.sweeps.checks import check_sweep
from tests.servers.azureml.state import Json, Workspace

CURATED = "AzureML-"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-_]{0,254}")
_EXPERIMENT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,255}")
_SIZE = re.compile(r"[1-9]\d*[bkmg]", re.IGNORECASE)
_ALLOWED = "it has to begin with a letter or a digit and to hold letters, digits, '-' and '_' only."
_ENVIRONMENT = re.compile(r"(?:.*/environments/([^/]+)/(versions|labels)/([^/]+)|(?:azureml:)?([^:@/]+)([:@])([^:@/]+))", re.IGNORECASE)
_FIXED_OF_ALL = ("jobType", "experimentName", "computeId", "inputs", "outputs", "limits", "identity", "queueSettings")
_FIXED = {
    "Command": (*_FIXED_OF_ALL, "command", "codeId", "environmentId", "distribution", "resources", "environmentVariables"),
    "Sweep": (*_FIXED_OF_ALL, "searchSpace", "samplingAlgorithm", "objective", "earlyTermination", "trial"),
}
"""Fields of a job that do not change; of other types that is not known."""


def check_new_job(workspace: Workspace, name: str, kind: str, properties: Json) -> None:
    """Raises ServiceError."""
    if not _NAME.fullmatch(name):
        raise bad_request(f"The job name '{name}' is not valid: {_ALLOWED}")
    experiment = properties.get("experimentName")
    if experiment:
        check_experiment(experiment)
    if kind == "Command":
        _check_command(properties)
    if kind == "Sweep":
        check_sweep(properties)
    if kind == "Pipeline":
        check_pipeline(workspace, properties)
    _check_compute(workspace, properties.get("computeId"), kind)
    trial = properties.get("trial") or {}
    check_code(workspace, properties.get("codeId") or trial.get("codeId"))
    check_environment(workspace, properties.get("environmentId") or trial.get("environmentId"))
    for given in (properties.get("inputs") or {}).values():
        _check_data(workspace, str(given.get("uri") or ""))


def check_experiment(name: str) -> None:
    """Raises ServiceError, in the service's words."""
    if not _EXPERIMENT.fullmatch(name):
        raise bad_request(
            "Experiment name must be 1-256 characters, start with a letter or a number, "
            f"and can only contain letters, numbers, underscores, and dashes: '{name}'."
        )


def check_change(document: Json, properties: Json) -> None:
    """Of a command job or a sweep that is there only name and notes may change. Raises ServiceError 400.

    So also where the very request that made it is sent again: what the service added to the job then seems to be taken away.
    """
    if any(_told(properties.get(field)) != _told(document[field]) for field in _FIXED.get(document["jobType"], ())):
        raise ServiceError(
            400,
            "UserError",
            "A job with this name already exists. If you are trying to submit a new job, use a different name. If you are trying to update "
            "an existing job, its settings cannot be changed. Only description, tags, displayName, properties, and isArchived can be updated.",
            inner="JobPropertyImmutable",
        )


def _told(value: Any) -> Any:
    """*value* without what is null in it, at any depth: a client may leave that out."""
    if isinstance(value, dict):
        return {key: _told(one) for key, one in value.items() if one is not None}
    return [_told(one) for one in value] if isinstance(value, list) else value


def _check_command(properties: Json) -> None:
    if not (properties.get("command") and properties.get("environmentId")):
        raise bad_request("A command job needs 'command' and 'environmentId'.")
    unknown = unknown_references(properties)
    if unknown:
        raise bad_request(f"The command refers to {', '.join(unknown)}, which the job does not have.")
    shm_size = (properties.get("resources") or {}).get("shmSize")
    if shm_size is not None and not _SIZE.fullmatch(shm_size):
        raise bad_request(f"resources.shmSize: '{shm_size}' is no number with a unit of b, k, m or g.")
    timeout = (properties.get("limits") or {}).get("timeout")
    try:
        if timeout is not None:
            seconds_of(timeout)
    except ValueError as e:
        raise bad_request(f"limits.timeout: {e}.") from e


def _check_compute(workspace: Workspace, compute: str | None, kind: str) -> None:
    name = (compute or "").rpartition("/")[2]
    if name and name not in workspace.computes:
        if kind == "Sweep":
            raise bad_request("Compute Not Found for run ID")
        raise ServiceError(400, "UserError", f"Unknown compute target '{name}'.", inner="BadArgument/UnknownTargetType")


def check_code(workspace: Workspace, code: str | None) -> None:
    """Raises ServiceError 404 where the code version is not there."""
    name, _, version = (code or "").rpartition("/codes/")[2].partition("/versions/")
    if code and version not in workspace.assets["codes"].get(name, {}):
        raise not_found(f"Code version {code} not found.")


def check_environment(workspace: Workspace, environment: str | None) -> None:
    """Curated ones and those of a registry are there; others have to be registered."""
    if not environment or environment.startswith("azureml://registries/"):
        return
    found = _ENVIRONMENT.fullmatch(environment)
    if found is None:
        raise bad_request(f"'{environment}' is no environment.")
    name, version = found[1] or found[4], found[3] or found[6]
    is_label = (found[2] or found[5]) in ("labels", "@")
    known = workspace.assets["environments"].get(name, {})
    if name.startswith(CURATED) or version in known or (is_label and version == "latest" and known):
        return
    asked = ("", version) if is_label else (version, "")
    raise not_found(f"No environment exists for name: {name}, version: {asked[0]}, label: {asked[1]}")


def _check_data(workspace: Workspace, uri: str) -> None:
    if names_data_version(uri) and data_version(workspace, uri) is None:
        raise not_found(f"Data version {uri.rpartition('/data/')[2]} (dataContainerName:version) not found.")
