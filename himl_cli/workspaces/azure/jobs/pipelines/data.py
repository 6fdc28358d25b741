"""What the steps of a pipeline read that no step of it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from himl_cli.core.errors import NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DataSpec, PipelineSpec, StepSpec
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.data import resolve_inputs
from himl_cli.workspaces.azure.jobs.data_folders import DataFolders
from himl_cli.workspaces.azure.jobs.forms import INPUT_MODES, JobInput
from himl_cli.workspaces.azure.jobs.pipelines.forms import FOLDER, of_step
from himl_cli.workspaces.azure.storage.datastores import Datastores

Places = dict[tuple[str, str], JobInput]
"""Inputs by the key of their step and their own."""


def own_inputs(step: StepSpec) -> list[DataSpec]:
    """The inputs of *step* that come from no other step."""
    return [item for item in step.job.inputs if item.key not in step.takes]


def step_inputs(connection: Connection, datastores: Datastores, spec: PipelineSpec, notify: Notify) -> Places:
    """What all steps read from outside, looked for once however many read it.

    With a datastore, NAME is a folder of that, whatever data asset is called so: who names both means the place. A NAME
    without any folder in it (`/`) is the whole datastore. Without one, it is looked for, and registered, as for other
    jobs. Raises NotFound naming step and input; a folder that is not there is a Notice for all steps but the first: one
    before it may make it.
    """
    found: Places = {}
    asked: dict[tuple[object, ...], tuple[str, DataSpec, str | None]] = {}
    for step in spec.steps:
        for item in own_inputs(step):
            default = step.job.default_datastore or spec.default_datastore
            if is_whole_datastore(item):
                found[step.key, item.key] = _whole_datastore(datastores, item, default)
            else:
                asked.setdefault(_meaning(item, default), (step.key, item, default))
    first = spec.steps[0].key if spec.steps else ""
    places = {
        meaning: _resolved(connection, datastores, *one, one[0] == first, notify) for meaning, one in asked.items()
    }
    for step in spec.steps:
        for item in own_inputs(step):
            if (step.key, item.key) not in found:
                place = places[_meaning(item, step.job.default_datastore or spec.default_datastore)]
                found[step.key, item.key] = replace(
                    place, mode=INPUT_MODES[item.mode or "download"], target=item.target
                )
    return found


def check_outputs(datastores: Datastores, spec: PipelineSpec) -> None:
    """Raises NotFound where a step writes to a datastore that is not there, naming those that are."""
    names = {
        item.datastore or step.job.default_datastore or spec.default_datastore
        for step in spec.steps
        for item in step.job.outputs
    }
    for name in sorted(name for name in names if name):
        datastores.find(name)


def _meaning(item: DataSpec, default: str | None) -> tuple[object, ...]:
    """What tells one input from another: with a datastore a name is a folder, without one it may be a data asset."""
    return item.name.strip("/"), item.version, item.datastore or default, bool(item.datastore)


def _resolved(
    connection: Connection,
    datastores: Datastores,
    step: str,
    item: DataSpec,
    default: str | None,
    is_first: bool,
    notify: Notify,
) -> JobInput:
    if item.datastore and item.version is None:
        return of_step(step, lambda: _folder(datastores, step, item, default, is_first, notify))
    return of_step(step, lambda: resolve_inputs(connection, datastores, [item], default, notify))[item.key]


def _folder(
    datastores: Datastores, step: str, item: DataSpec, default: str | None, is_first: bool, notify: Notify
) -> JobInput:
    folders = DataFolders(datastores, default)
    folder = folders.of(item)
    if not folders.has_files(folder):
        if is_first:
            hint = f"Put the data there: himl datastore upload FOLDER {folder.path} --datastore {folder.datastore.name}"
            raise NotFound(f"Input '{item.key}': no folder '{folder.path}' in {folder.datastore.label}.", hint=hint)
        notify(
            Notice(
                f"{step}: there is no folder '{folder.path}' in {folder.datastore.label} yet; a step before it has to "
                "make it."
            )
        )
    return JobInput(FOLDER, folder.uri, INPUT_MODES[item.mode or "download"], item.target)


def is_whole_datastore(item: DataSpec) -> bool:
    """Whether the input names no folder, so that all of its datastore is meant."""
    return not item.name.strip("/.")


def _whole_datastore(datastores: Datastores, item: DataSpec, default: str | None) -> JobInput:
    record = datastores.find(item.datastore or default)
    return JobInput(
        FOLDER, f"azureml://datastores/{record.name}/paths/", INPUT_MODES[item.mode or "download"], item.target
    )


def placeholder_inputs(spec: PipelineSpec) -> Mapping[tuple[str, str], JobInput]:
    """Inputs that were not looked for: for checks of a pipeline before the first request."""
    return {
        (step.key, item.key): JobInput(FOLDER, "", INPUT_MODES[item.mode or "download"], item.target)
        for step in spec.steps
        for item in own_inputs(step)
    }
