"""Where the named outputs of a run lie, and where the definition of its job puts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from himl_cli.core.errors import NotFound
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.runs.history import RunData, RunHistory
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused


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
    outputs, references = definition.get("outputData"), definition.get("dataReferences")
    places: dict[str, OutputPlace | None] = {}
    if not isinstance(outputs, Mapping) and not references:
        for key, output in {**(definition.get("Outputs") or {}), **(definition.get("OutputBindings") or {})}.items():
            uri, path = (output or {}).get("Uri"), (output or {}).get("PathOnDatastore")
            if uri:
                places[key] = OutputPlace(_filled(uri, run_id, key))
            else:
                places[key] = _in_datastore(output.get("DatastoreId"), path, run_id, key) if path else None
        return places
    for key, reference in (references or {}).items():
        path = (reference or {}).get("pathOnDataStore")
        if path and str(reference.get("mode")).lower() != "download":
            places[key] = _in_datastore(reference.get("dataStoreName"), path, run_id, key)
    places = {key: place for key, place in places.items() if place}
    for key, output in (outputs or {}).items():
        location = (output or {}).get("outputLocation") or {}
        told, path = location.get("uri") or {}, location.get("dataPath") or {}
        if told.get("path"):
            places[key] = OutputPlace(_filled(told["path"], run_id, key), bool(told.get("isFile")))
        else:
            relative = path.get("relativePath") or f"dataset/{run_id}/{key}"
            places[key] = _in_datastore(path.get("datastoreName"), relative, run_id, key)
    return places


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
        **dict.fromkeys(("${{name}}", "{name}", "{run-id}"), run_id),
        **dict.fromkeys(("${{output_name}}", "{output_name}", "{output-name}"), key),
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
        # The one asset that was asked for, under whatever spelling of its id
        found = next(iter((answer["values"] or {}).values()), None) or {}
        place = found.get("path" if is_model else "uri")
        if not place:
            return None
        if not isinstance(place, str):
            raise TypeError("its place is no text")
        is_file = str(found.get("type") or kind).lower() == "urifile"
        return OutputPlace(place, (meant is not None and meant.is_file) if is_model else is_file)
