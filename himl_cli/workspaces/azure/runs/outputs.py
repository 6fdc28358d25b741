"""Where the named outputs of a run lie: on a datastore, beside its artifacts' own place.

A run tells its outputs as assets, data or models, whose place the service of that kind knows. Runs of the older SDK,
and runs that have not ended, tell them in the definition of the job only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from himl_cli.core.errors import NotFound
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.runs.history import RunData, RunHistory
from himl_cli.workspaces.azure.runs.output_places import OutputPlace, defined_places

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
    with understood(connection.history(), "what it tells of outputs"):
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
    url = connection.model_registry(f"/models{RESOLVED}") if is_model else connection.data(f"/dataversion{RESOLVED}")
    version = {"api-version": api_versions.MODELS} if is_model else None
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
