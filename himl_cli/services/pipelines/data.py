"""The inputs of a pipeline's steps that are data, found in the workspace it runs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.file_tree import WORKSPACE_FOLDER
from himl_cli.core.jobs import DataSpec, JobSpec
from himl_cli.core.pipelines import PipelineSpec
from himl_cli.core.spelling import did_you_mean
from himl_cli.services.datasets import bring_inputs
from himl_cli.services.pipelines.prepared import DataInput, PreparedPipeline
from himl_cli.services.transfer.disk import explained
from himl_cli.workspaces.abilities import FindsDatasets
from himl_cli.workspaces.base import Workspace
from himl_cli.workspaces.job_abilities import RegistersDatastores


def find_there(prepared: PreparedPipeline, workspace: Workspace, notify: Notify) -> PipelineSpec:
    """The pipeline with the datastore of each folder that a step reads, in a workspace with clusters; datasets are
    looked up when it is sent.

    A datastore that a step calls by its name is that, as with DeepSeismic; else it is the container that was named,
    which is registered there where it is not yet. Raises what those requests raise.
    """
    folders = {key: item for key, item in prepared.data.items() if item.is_folder}
    if not folders:
        return prepared.spec
    container = prepared.container
    if container is None or not isinstance(workspace, RegistersDatastores):
        return _with_inputs(prepared.spec, _by_names(prepared.spec, folders, workspace))
    known = {store.name for store in workspace.datastores()}
    named = {key: next((name for name in item.datastores if name in known), "") for key, item in folders.items()}
    for name in dict.fromkeys(filter(None, named.values())):
        notify(Notice(f"Reads datastore '{name}', which the file names, whatever container BLOB_CONTAINER_NAME says."))
    other = "" if all(named.values()) else workspace.ensure_datastore(container, notify=notify)
    return _with_inputs(
        prepared.spec, {key: _with_datastore(_input(prepared.spec, key), name or other) for key, name in named.items()}
    )


def as_named(prepared: PreparedPipeline) -> PipelineSpec:
    """The pipeline with the datastores as the file names them, unseen: what is known without a request."""
    folders = {key: item for key, item in prepared.data.items() if item.is_folder}
    name = prepared.container.name if prepared.container else None
    spec = prepared.spec
    datastores = {key: name or next(iter(item.datastores), spec.default_datastore) for key, item in folders.items()}
    return _with_inputs(
        spec, {key: _with_datastore(_input(spec, key), datastore) for key, datastore in datastores.items()}
    )


def find_here(
    prepared: PreparedPipeline, here: FindsDatasets, azure: Callable[[], Workspace | None], notify: Notify
) -> PipelineSpec:
    """The pipeline with a folder of this machine for each input that is data: of a datastore here, else brought from
    the workspace of *azure*.

    A folder that is nowhere is made, and that is said, for all steps but the first: one before it may fill it. Raises
    NotFound naming the step and the key, and what the download raises.
    """
    known = {store.name: store.location for store in here.datastores()}
    steps = []
    for step in prepared.spec.steps:
        item = prepared.data.get(step.key)
        steps.append(
            replace(step, job=_found_here(prepared, step.key, item, step.job, here, known, azure, notify))
            if item
            else step
        )
    return replace(prepared.spec, steps=steps)


def bring_to_steps(
    spec: PipelineSpec, here: FindsDatasets, azure: Callable[[], Workspace | None], notify: Notify
) -> PipelineSpec:
    """The pipeline with a folder of this machine for each input that is data. Raises what `bring_inputs` raises."""
    steps = []
    for step in spec.steps:
        data = [item for item in step.job.inputs if item.key not in step.takes]
        brought = bring_inputs(replace(step.job, inputs=data), here, azure, notify)
        found = {item.key: item for item in brought.inputs}
        job = replace(
            step.job,
            inputs=[found.get(item.key, item) for item in step.job.inputs],
            default_datastore=brought.default_datastore,
        )
        steps.append(replace(step, job=job))
    return replace(spec, steps=steps)


def _found_here(
    prepared: PreparedPipeline,
    key: str,
    item: DataInput,
    job: JobSpec,
    here: FindsDatasets,
    known: Mapping[str, str],
    azure: Callable[[], Workspace | None],
    notify: Notify,
) -> JobSpec:
    wanted = job.inputs[0]
    named = next((name for name in item.datastores if name in known), None)
    at_home = replace(job, inputs=[replace(wanted, datastore=named)])
    default = job.default_datastore if job.default_datastore in known else None
    if here.input_folder(at_home.inputs[0], default) is not None:
        return at_home
    store = named or default or next(iter(known), None)
    may_be_made = item.is_folder and store is not None and key != prepared.spec.steps[0].key
    workspace = azure()
    if workspace is None:
        if may_be_made and store is not None:
            return _to_be_filled(key, job, Path(known[store]), notify)
        raise _nowhere(prepared, key, item, known)
    there = _by_names(prepared.spec, {key: item}, workspace)[key] if item.is_folder else wanted
    try:
        return bring_inputs(replace(job, inputs=[there]), here, azure, notify)
    except NotFound as err:
        if may_be_made and store is not None:
            return _to_be_filled(key, job, Path(known[store]), notify)
        raise NotFound(
            f"'{prepared.shown}', {key}: '{item.field}' {err}", hint=_outputs_like(prepared, item) or err.hint
        ) from err


def _to_be_filled(key: str, job: JobSpec, datastore: Path, notify: Notify) -> JobSpec:
    """The job with an empty folder as its input, in the folder of a datastore."""
    (wanted,) = job.inputs
    folder = datastore / wanted.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise explained(err, f"{key}: cannot make the folder '{folder}'") from err
    notify(
        Notice(f"{key}: there is no folder '{wanted.name}' yet; it is '{folder}', and a step before it has to fill it.")
    )
    return replace(job, inputs=[replace(wanted, local=str(folder))])


def _by_names(spec: PipelineSpec, folders: Mapping[str, DataInput], workspace: Workspace) -> dict[str, DataSpec]:
    """The inputs by step, each with the datastore that one of its names names, else the default one; one request for
    all."""
    known = [store.name for store in workspace.datastores()]
    default = spec.default_datastore or (known[0] if known else None)
    return {
        key: _with_datastore(_input(spec, key), next((name for name in item.datastores if name in known), default))
        for key, item in folders.items()
    }


def _input(spec: PipelineSpec, key: str) -> DataSpec:
    return next(step.job.inputs[0] for step in spec.steps if step.key == key)


def _with_datastore(item: DataSpec, name: str | None) -> DataSpec:
    return replace(item, datastore=name)


def _with_inputs(spec: PipelineSpec, inputs: Mapping[str, DataSpec]) -> PipelineSpec:
    steps = [
        replace(step, job=replace(step.job, inputs=[inputs[step.key]])) if step.key in inputs else step
        for step in spec.steps
    ]
    return replace(spec, steps=steps)


def _nowhere(prepared: PreparedPipeline, key: str, item: DataInput, known: Mapping[str, str]) -> NotFound:
    upload = f"himl datastore upload FOLDER {item.name}"
    home = next(
        (parent for path in known.values() for parent in Path(path).parents if parent.name == WORKSPACE_FOLDER), None
    )
    hint = (
        f"Put the data there: {upload}"
        if home is None or home.is_dir()
        else f"Put the data there: himl init --local, then {upload}"
    )
    if item.is_folder:
        message = (
            f"'{prepared.shown}', {key}: '{item.field}' names '{item.name}', and no datastore here has that folder."
        )
        return NotFound(message, hint=hint)
    message = (
        f"'{prepared.shown}', {key}: '{item.field}' names '{item.name}', which is neither the output of a step "
        "nor data here."
    )
    return NotFound(message, hint=_outputs_like(prepared, item) or hint)


def _outputs_like(prepared: PreparedPipeline, item: DataInput) -> str:
    """Outputs of the steps that may have been meant."""
    outputs = [output.key for step in prepared.spec.steps for output in step.job.outputs]
    return "" if item.is_folder else did_you_mean(item.name, outputs)
