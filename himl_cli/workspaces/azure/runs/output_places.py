"""Where the outputs of a run were meant to lie, by the definition of its job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
