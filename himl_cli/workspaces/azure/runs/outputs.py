"""Where the outputs of a run were meant to lie, by the definition of its job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from himl_cli.core.errors import NotFound
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.runs.history import RunData, RunHistory


@dataclass(frozen=True)
class OutputPlace:
    """An `azureml://` URI, and whether it is that of one file."""

    uri: str
    is_file: bool = False


def defined_places(definition: Mapping[str, Any], run_id: str) -> dict[str, OutputPlace | None]:
    """The outputs in *definition* by name, None where it names no place. *run_id* goes where the definition has a mark
    for it.

    Jobs and steps of pipelines have `outputData`; that of a pipeline itself is spelled in another way, and mostly names
    no place. Batch scoring and steps of the older SDK have `dataReferences`, which does not tell outputs from inputs,
    but for those that are downloaded.
    """
    outputs = definition.get("outputData")
    if isinstance(outputs, Mapping) or definition.get("dataReferences"):
        outputs = outputs or {}
        references = {
            key: _place_of_reference(one, run_id, key)
            for key, one in (definition.get("dataReferences") or {}).items()
            if one
        }
        return {key: place for key, place in references.items() if place} | {
            key: _place_of_job(output or {}, run_id, key) for key, output in outputs.items()
        }
    bound = {**(definition.get("Outputs") or {}), **(definition.get("OutputBindings") or {})}
    return {key: _place_of_pipeline(output or {}, run_id, key) for key, output in bound.items()}


def _place_of_job(output: Mapping[str, Any], run_id: str, key: str) -> OutputPlace | None:
    location: Mapping[str, Any] = output.get("outputLocation") or {}
    uri: Mapping[str, Any] = location.get("uri") or {}
    if uri.get("path"):
        return OutputPlace(_filled(uri["path"], run_id, key), bool(uri.get("isFile")))
    path: Mapping[str, Any] = location.get("dataPath") or {}
    return _in_datastore(path.get("datastoreName"), path.get("relativePath") or f"dataset/{run_id}/{key}", run_id, key)


def _place_of_reference(reference: Mapping[str, Any], run_id: str, key: str) -> OutputPlace | None:
    path = reference.get("pathOnDataStore")
    is_input = str(reference.get("mode")).lower() == "download"
    return _in_datastore(reference.get("dataStoreName"), path, run_id, key) if path and not is_input else None


def _place_of_pipeline(output: Mapping[str, Any], run_id: str, key: str) -> OutputPlace | None:
    if output.get("Uri"):
        return OutputPlace(_filled(output["Uri"], run_id, key))
    if not output.get("PathOnDatastore"):
        return None
    return _in_datastore(output.get("DatastoreId"), output["PathOnDatastore"], run_id, key)


def _in_datastore(datastore: str | None, path: str, run_id: str, key: str) -> OutputPlace | None:
    """*datastore*: its name, or its id, which ends in the name."""
    if not datastore:
        return None
    return OutputPlace(
        f"azureml://datastores/{datastore.rpartition('/')[2]}/paths/{_filled(path, run_id, key).lstrip('/')}"
    )


def _filled(template: str, run_id: str, key: str) -> str:
    """*template* with what stands for the run and the output in it, as jobs (`${{name}}`), steps (`{name}`) and
    azureml-core (`{run-id}`) write it."""
    marks = {
        "${{name}}": run_id,
        "${{output_name}}": key,
        "{name}": run_id,
        "{output_name}": key,
        "{run-id}": run_id,
        "{output-name}": key,
    }
    for mark, value in marks.items():
        template = template.replace(mark, value)
    return template


DEFAULT_OUTPUT = "default"
"""The output that the service adds to jobs: their artifacts."""
RESOLVED = "/batchGetResolvedUris"
MODELS = ("custommodel", "mlflowmodel", "tritonmodel")


def find_output(connection: Connection, history: RunHistory, data: RunData, key: str) -> OutputPlace:
    """The place of the run's output *key*; a request for the place of an asset, and one where the run reused another's
    results.

    Raises NotFound naming the keys there are, or where its place is not told.
    """
    told = _reused(history, data)
    with understood(connection.service("history"), "what it tells of outputs"):
        assets = {name: {**(asset or {})} for name, asset in (told.run.get("outputs") or {}).items()}
        defined = defined_places(told.definition, told.id)
    if key not in assets and key not in defined:
        raise NotFound(
            f"Run '{data.id}' has no output '{key}'; it has: {', '.join(sorted({DEFAULT_OUTPUT, *assets, *defined}))}."
        )
    asset = assets.get(key) or {}
    meant = defined.get(key)
    place = _place_of_asset(connection, asset, meant) or meant
    if place is not None:
        return place
    if asset.get("assetId"):
        raise NotFound(
            f"The asset '{asset['assetId']}' of this output is gone.",
            hint="It was deleted; its files may still lie on their datastore.",
        )
    raise NotFound(
        f"Azure ML does not tell where output '{key}' of run '{data.id}' lies.",
        hint="It may become known when the run has ended.",
    )


def _reused(history: RunHistory, data: RunData) -> RunData:
    """What the outputs are told by: for a step that reused the results of an earlier one, that one's data, as the
    vendor's SDK has it.

    Where the earlier run is gone its outputs can still lie there: at the same places, with its id in them.
    """
    properties: Mapping[str, Any] = data.run.get("properties") or {}
    earlier = properties.get("azureml.reusedrunid")
    if not earlier or str(properties.get("azureml.isreused")).lower() != "true":
        return data
    try:
        return history.data(earlier)
    except ServiceNotFound:
        return replace(data, id=earlier)


def _place_of_asset(connection: Connection, asset: Mapping[str, Any], meant: OutputPlace | None) -> OutputPlace | None:
    """Where the service has the asset; None where it does not know it (any more). *meant* tells whether a model is one
    file."""
    asset_id, kind = asset.get("assetId"), str(asset.get("type")).lower()
    if not asset_id:
        return None
    is_model = kind in MODELS or "/models/" in asset_id
    url = (
        connection.service("modelregistry", f"/models{RESOLVED}")
        if is_model
        else connection.service("data", f"/dataversion{RESOLVED}")
    )
    version = {"api-version": ApiVersion.MODELS} if is_model else None
    try:
        answer = connection.rest.post_object(url, "asset", params=version, json={"values": [asset_id]})
    except ServiceNotFound:
        return None
    except ServiceRefused as err:
        if err.status != 400:
            raise
        return None
    with understood(url, "the asset in it"):
        return _place_told(_only(answer), kind, meant, is_model=is_model)


def _place_told(
    found: Mapping[str, Any], kind: str, meant: OutputPlace | None, *, is_model: bool
) -> OutputPlace | None:
    """None where it is not told. Raises TypeError for what is no place."""
    place = found.get("path" if is_model else "uri")
    if not place:
        return None
    if not isinstance(place, str):
        raise TypeError("its place is no text")
    is_file = meant is not None and meant.is_file if is_model else str(found.get("type") or kind).lower() == "urifile"
    return OutputPlace(place, is_file)


def _only(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is said of the one asset that was asked for, under whatever spelling of its id."""
    return next(iter((answer["values"] or {}).values()), None) or {}
