"""The locations of a run's named outputs, from their assets or from the definition of the job."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from himl_cli.core.errors import NotFound
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.run_history import RunHistory
from himl_cli.workspaces.azure.run_records import RawRun
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused

DEFAULT_OUTPUT = "default"  # the output that the service adds to jobs, with their artifacts
MODELS = ("custommodel", "mlflowmodel", "tritonmodel")

OutputUri = tuple[str, bool]  # `azureml://…`, and whether it refers to one file


def is_reused(raw: RawRun) -> bool:
    """Return whether the run is a step that reused the results of another run."""
    properties: Mapping[str, Any] = raw.get("properties") or {}
    return bool(properties.get("azureml.reusedrunid")) and str(properties.get("azureml.isreused")).lower() == "true"


def find_output(
    connection: Connection, history: RunHistory, data: tuple[RawRun, Mapping[str, Any]], key: str
) -> OutputUri:
    """The location of output *key* of the run, from its *data*. Sends a request for an asset's location, and one if the
    run reused another's results.

    Raises NotFound naming the existing keys, or if the location is unknown.
    """
    raw, definition = data
    run_id = source = str(raw["runId"])
    if is_reused(raw):
        source = raw["properties"]["azureml.reusedrunid"]  # its outputs are the step's, as in the vendor's SDK
        with suppress(ServiceNotFound):  # the files may still exist, at the same location with its id
            raw, definition = history.data(source)
    with understood(connection.service("history"), "its list of outputs"):
        assets = {name: {**(asset or {})} for name, asset in (raw.get("outputs") or {}).items()}
        defined = _defined_outputs(definition, source)
    if key not in assets and key not in defined:
        raise NotFound(
            f"Run '{run_id}' has no output '{key}'; it has: {', '.join(sorted({DEFAULT_OUTPUT, *assets, *defined}))}."
        )
    asset = assets.get(key) or {}
    place = _place_of_asset(connection, asset, defined.get(key)) or defined.get(key)
    if place is not None:
        return place
    if asset.get("assetId"):
        raise NotFound(
            f"The asset '{asset['assetId']}' of this output was deleted.",
            hint="Its files may still be in their datastore.",
        )
    raise NotFound(
        f"Azure ML returned no location of output '{key}' of run '{run_id}'.",
        hint="Try again after the run has ended.",
    )


def _defined_outputs(definition: Mapping[str, Any], run_id: str) -> dict[str, OutputUri | None]:
    """The outputs in *definition* by name, or None for one without a location. *run_id* replaces its placeholder.

    Jobs and steps of pipelines have `outputData`. A pipeline's own has another spelling, and mostly no location. Batch
    scoring and steps of the older SDK have `dataReferences`, which do not distinguish outputs from inputs, except for
    those that are downloaded.
    """
    outputs, references = definition.get("outputData"), definition.get("dataReferences")
    places: dict[str, OutputUri | None] = {}

    def place(key: str, datastore: str | None, path: str | None) -> OutputUri | None:
        """*datastore* is its name, or its id, which ends in the name."""
        if not datastore or not path:
            return None
        name, path = datastore.rpartition("/")[2], _filled(path, run_id, key).lstrip("/")
        return f"azureml://datastores/{name}/paths/{path}", False

    if not isinstance(outputs, Mapping) and not references:
        for key, output in {**(definition.get("Outputs") or {}), **(definition.get("OutputBindings") or {})}.items():
            output = output or {}
            places[key] = place(key, output.get("DatastoreId"), output.get("PathOnDatastore"))
            if output.get("Uri"):
                places[key] = _filled(output["Uri"], run_id, key), False
        return places
    for key, reference in (references or {}).items():
        reference = reference or {}
        there = place(key, reference.get("dataStoreName"), reference.get("pathOnDataStore"))
        if there is not None and str(reference.get("mode")).lower() != "download":
            places[key] = there
    for key, output in (outputs or {}).items():
        location = (output or {}).get("outputLocation") or {}
        uri, path = location.get("uri") or {}, location.get("dataPath") or {}
        places[key] = place(key, path.get("datastoreName"), path.get("relativePath") or f"dataset/{run_id}/{key}")
        if uri.get("path"):
            places[key] = _filled(uri["path"], run_id, key), bool(uri.get("isFile"))
    return places


def _filled(template: str, run_id: str, key: str) -> str:
    """*template* with the placeholders of run and output replaced, as jobs (`${{name}}`), steps (`{name}`) and
    azureml-core (`{run-id}`) write them."""
    marks = {
        **dict.fromkeys(("${{name}}", "{name}", "{run-id}"), run_id),
        **dict.fromkeys(("${{output_name}}", "{output_name}", "{output-name}"), key),
    }
    for mark, value in marks.items():
        template = template.replace(mark, value)
    return template


def _place_of_asset(connection: Connection, asset: Mapping[str, Any], defined: OutputUri | None) -> OutputUri | None:
    """The asset's location, or None if the service does not have it (any more). The job's *defined* outputs determine
    whether a model is one file."""
    asset_id, kind = asset.get("assetId"), str(asset.get("type")).lower()
    if not asset_id:
        return None
    is_model = kind in MODELS or "/models/" in asset_id
    service, path = ("modelregistry", "/models") if is_model else ("data", "/dataversion")
    url = connection.service(service, f"{path}/batchGetResolvedUris")
    version = {"api-version": ApiVersion.MODELS} if is_model else None
    try:
        answer = connection.post(url, params=version, json={"values": [asset_id]}).object("asset")
    except (ServiceNotFound, ServiceRefused) as err:
        if err.status not in (400, 404):
            raise
        return None
    with understood(url, "the asset in it"):
        # The requested asset, in any spelling of its id.
        found = next(iter((answer["values"] or {}).values()), None) or {}
        place = found.get("path" if is_model else "uri")
        if not place:
            return None
        if not isinstance(place, str):
            raise TypeError("its location is not text")
        is_file = str(found.get("type") or kind).lower() == "urifile"
        return place, (defined is not None and defined[1]) if is_model else is_file
