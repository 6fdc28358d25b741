"""The data of a pipeline's steps, looked up in the workspace it runs in, and handing the pipeline over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage, HimlError, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import WORKSPACE_FOLDER
from himl_cli.core.jobs import SERVERLESS, DataSpec, JobSpec, PipelineSpec
from himl_cli.core.runs import Run
from himl_cli.core.text import did_you_mean
from himl_cli.services.submission.data import bring_inputs
from himl_cli.services.submission.pipelines import INPUT, DataInput, PreparedPipeline
from himl_cli.services.submission.prepare import start_and_note
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.workspaces.base import CloudWorkspace, FolderWorkspace, JobRunner, Workspace


def resolve_on_cluster(prepared: PreparedPipeline, workspace: Workspace, notify: Notify) -> PipelineSpec:
    """The pipeline with the datastore of each folder that a step reads, in a workspace with clusters; datasets are
    looked up when it is sent.

    A datastore that a step calls by its name is that, as with DeepSeismic; else it is the container that was named,
    which is registered there where it is not yet. Raises what those requests raise.
    """
    folders = _folders(prepared)
    if not folders:
        return prepared.spec
    container = prepared.container
    if container is None or not isinstance(workspace, CloudWorkspace):
        return _with_datastores(prepared.spec, _datastores(prepared.spec, folders, workspace))
    known = {store.name for store in workspace.datastores()}
    named = {key: next((name for name in item.datastores if name in known), "") for key, item in folders.items()}
    for name in dict.fromkeys(filter(None, named.values())):
        notify(Notice(f"Reads datastore '{name}', which the file names, whatever container BLOB_CONTAINER_NAME says."))
    other = "" if all(named.values()) else workspace.ensure_datastore(container, notify=notify)
    return _with_datastores(prepared.spec, {key: name or other for key, name in named.items()})


def with_named_datastores(prepared: PreparedPipeline) -> PipelineSpec:
    """The pipeline with the datastores as the file names them, unseen: what is known without a request."""
    name = prepared.container.name if prepared.container else None
    default = prepared.spec.default_datastore
    datastores = {key: name or next(iter(item.datastores), default) for key, item in _folders(prepared).items()}
    return _with_datastores(prepared.spec, datastores)


def resolve_locally(
    prepared: PreparedPipeline, local: FolderWorkspace, azure: Callable[[], Workspace | None], notify: Notify
) -> PipelineSpec:
    """The pipeline with a folder of this machine for each input that is data: of a local datastore, else downloaded
    from the workspace of *azure*.

    A folder that is nowhere is made, and that is said, for all steps but the first: one before it may fill it. Raises
    NotFound naming the step and the key, and what the download raises.
    """
    known = {store.name: store.location for store in local.datastores()}

    def resolve(key: str, item: DataInput, job: JobSpec) -> JobSpec:
        wanted = job.inputs[0]
        named = next((name for name in item.datastores if name in known), None)
        stored = replace(job, inputs=[replace(wanted, datastore=named)])
        default = job.default_datastore if job.default_datastore in known else None
        if local.input_folder(stored.inputs[0], default) is not None:
            return stored
        store = named or default or next(iter(known), None)
        may_be_made = item.is_folder and store is not None and key != prepared.spec.steps[0].key
        workspace = azure()
        if workspace is None and may_be_made:
            return _with_new_folder(key, job, Path(known[str(store)]), notify)
        if workspace is None:
            raise _nowhere(prepared, key, item, known)
        if item.is_folder:
            wanted = replace(wanted, datastore=_datastores(prepared.spec, {key: item}, workspace)[key])
        try:
            return bring_inputs(replace(job, inputs=[wanted]), local, azure, notify)
        except NotFound as err:
            if may_be_made:
                return _with_new_folder(key, job, Path(known[str(store)]), notify)
            raise NotFound(
                f"'{prepared.shown}', {key}: '{item.field}' {err}", hint=_outputs_like(prepared, item) or err.hint
            ) from err

    steps = [
        replace(step, job=resolve(step.key, prepared.data[step.key], step.job)) if step.key in prepared.data else step
        for step in prepared.spec.steps
    ]
    return replace(prepared.spec, steps=steps)


def bring_to_steps(
    spec: PipelineSpec, local: FolderWorkspace, azure: Callable[[], Workspace | None], notify: Notify
) -> PipelineSpec:
    """The pipeline with a folder of this machine for each input that is data. Raises what `bring_inputs` raises."""
    steps = []
    for step in spec.steps:
        data = [item for item in step.job.inputs if item.key not in step.takes]
        resolved = bring_inputs(replace(step.job, inputs=data), local, azure, notify)
        found = {item.key: item for item in resolved.inputs}
        inputs = [found.get(item.key, item) for item in step.job.inputs]
        job = replace(step.job, inputs=inputs, default_datastore=resolved.default_datastore)
        steps.append(replace(step, job=job))
    return replace(spec, steps=steps)


def _with_new_folder(key: str, job: JobSpec, datastore: Path, notify: Notify) -> JobSpec:
    """The job with an empty folder as its input, in the folder of a datastore."""
    (wanted,) = job.inputs
    folder = datastore / wanted.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise disk_error(err, f"{key}: cannot make the folder '{folder}'") from err
    notify(
        Notice(f"{key}: there is no folder '{wanted.name}' yet; it is '{folder}', and a step before it has to fill it.")
    )
    return replace(job, inputs=[replace(wanted, local=str(folder))])


def _folders(prepared: PreparedPipeline) -> dict[str, DataInput]:
    return {key: item for key, item in prepared.data.items() if item.is_folder}


def _datastores(spec: PipelineSpec, folders: Mapping[str, DataInput], workspace: Workspace) -> dict[str, str | None]:
    """The datastore of each step's folder: one that it names, else the default one; one request for all."""
    known = [store.name for store in workspace.datastores()]
    default = spec.default_datastore or (known[0] if known else None)
    return {key: next((name for name in item.datastores if name in known), default) for key, item in folders.items()}


def _with_datastores(spec: PipelineSpec, names: Mapping[str, str | None]) -> PipelineSpec:
    def changed(item: DataSpec, key: str) -> DataSpec:
        return replace(item, datastore=names[key])

    steps = [
        replace(step, job=replace(step.job, inputs=[changed(step.job.inputs[0], step.key)]))
        if step.key in names
        else step
        for step in spec.steps
    ]
    return replace(spec, steps=steps)


def _nowhere(prepared: PreparedPipeline, key: str, item: DataInput, known: Mapping[str, str]) -> NotFound:
    parents = (parent for path in known.values() for parent in Path(path).parents)
    home = next((parent for parent in parents if parent.name == WORKSPACE_FOLDER), None)
    first = "" if home is None or home.is_dir() else "himl init --local, then "
    hint = f"Put the data there: {first}himl datastore upload FOLDER {item.name}"
    where = "and no datastore here has that folder."
    if not item.is_folder:
        where = "which is neither the output of a step nor data here."
        hint = _outputs_like(prepared, item) or hint
    return NotFound(f"'{prepared.shown}', {key}: '{item.field}' names '{item.name}', {where}", hint=hint)


def _outputs_like(prepared: PreparedPipeline, item: DataInput) -> str:
    """Outputs of the steps that may have been meant."""
    outputs = [output.key for step in prepared.spec.steps for output in step.job.outputs]
    return "" if item.is_folder else did_you_mean(item.name, outputs)


def check_cluster(prepared: PreparedPipeline, workspace: Workspace) -> None:
    """Look whether the pipeline's cluster is there, unless it is to be made, before a container is registered for
    nothing. Raises NotFound, and as the workspace does."""
    name = prepared.spec.cluster
    is_needed = prepared.cluster is None and prepared.container is not None and name.lower() != SERVERLESS
    if is_needed and isinstance(workspace, CloudWorkspace) and not workspace.has_cluster(name):
        raise NotFound(
            f"No compute '{name}' in {workspace.label}.", hint="--create_cluster makes it; --cluster names another one."
        )


@contextmanager
def naming_pipeline_file(prepared: PreparedPipeline) -> Iterator[None]:
    """Within it, errors about a step name the pipeline's file too, and the field that an input stands in."""
    try:
        yield
    except (BadUsage, NotFound) as err:
        key, colon, text = str(err).partition(": ")
        if not colon or key not in [step.key for step in prepared.spec.steps]:
            raise
        item = prepared.data.get(key)
        if item is not None:
            text = text.replace(f"Input '{INPUT}'", f"'{item.field}' '{item.name}'", 1)
        err.args = (f"'{prepared.shown}', {key}: {text}",)
        raise


def submit_pipeline(workspace: Workspace, spec: PipelineSpec, cwd: Path, notify: Notify) -> Run:
    """Start the pipeline and note it in *cwd* as the latest run. Raises what the workspace raises; nothing then
    runs."""
    if not isinstance(workspace, JobRunner):
        raise HimlError(f"{workspace.label} does not run pipelines.")
    return start_and_note(lambda: workspace.submit_pipeline(spec, notify=notify), cwd, notify)
