"""Preparation of a pipeline from its JSON file, and the search for its data in a workspace."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import WORKSPACE_FOLDER
from himl_cli.core.jobs import (
    DATASTORE_NAME,
    ClusterSpec,
    ContainerSpec,
    DataSpec,
    Entry,
    EntryKind,
    EnvironmentSpec,
    JobSpec,
    PipelineSpec,
    SnapshotReport,
    StepOutput,
    StepSpec,
    check_placeholders,
    is_compute_name,
)
from himl_cli.core.records import dataclass
from himl_cli.core.sweeps import PLACEHOLDER, SEARCH_SPACE, SWEPT, SweepSpec, with_search_space
from himl_cli.core.text import did_you_mean
from himl_cli.services.submission.data import bring_inputs
from himl_cli.services.submission.git import changes_of, with_untracked
from himl_cli.services.submission.pipeline_file import (
    CLUSTER,
    MPI_STEP,
    PipelineFile,
    Step,
    pipeline_variables,
    read_pipeline,
    step_files,
)
from himl_cli.services.submission.request import (
    SubmitRequest,
    beside_file,
    check_names,
    check_values,
    command_line,
    job_of_options,
    refuse,
    target_path,
    without_idle_options,
)
from himl_cli.services.submission.snapshot import ignored_remarks, take_snapshot
from himl_cli.services.submission.sweeps import (
    MOST_TRIALS_ON_AZURE,
    SWEEP_KINDS,
    copies_remarks,
    goal_remarks,
    primary_tags,
    requested_sweep,
    single_sweep_option,
    sweep_arguments,
    sweep_remarks,
    sweep_text,
    with_seed,
)
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.workspaces.base import BlobStore, CloudWorkspace, FolderWorkspace, Workspace
from himl_cli.workspaces.engine_modules import label_of

INPUT = "input_data"  # the key of a step's input, and the script's argument without dashes
# The argument in DeepSeismic's documents, and the one that its program passes
_INPUT_ARGUMENTS = re.compile(r"""["'](--input(?:[_-]data)?)["']""")
INPUT_NAMES = ("input_datareference_name", "input_dataset_name")


@dataclass(frozen=True)
class DataInput:
    """An input of a step that is not the output of another step: its field in the file, and its name.

    With `is_folder`, it is a folder of a datastore, and `datastores` are possible names of the datastore, the likeliest
    first. Otherwise, it is a dataset.
    """

    field: str
    name: str
    is_folder: bool = False
    datastores: Sequence[str] = ()


@dataclass(frozen=True)
class PreparedPipeline:
    """A pipeline, the reports on its snapshots, and remarks to show before it starts.

    `data` are the unresolved inputs by the keys of their steps. Their folders are in `container`, if it is known.
    `cluster` is the cluster to create if it does not exist. With None, it must exist. `shown` is the file's name in
    messages. `changes` is the diff of the code against its commit.
    """

    shown: str
    spec: PipelineSpec
    reports: Sequence[SnapshotReport]
    remarks: Sequence[str] = ()
    data: Mapping[str, DataInput] = field(default_factory=dict)
    container: ContainerSpec | None = None
    cluster: ClusterSpec | None = None
    changes: bytes = b""

    @property
    def folders(self) -> dict[str, DataInput]:
        return {key: item for key, item in self.data.items() if item.is_folder}


def prepare_pipeline(
    request: SubmitRequest, env: Mapping[str, str] = os.environ, *, creates_cluster: bool = False
) -> PreparedPipeline:
    """Check the request and list the snapshots, without network access or changes to files. Raises BadUsage, with the
    step and the key."""
    path = target_path(request)
    variables = pipeline_variables(path.parent, request.cwd, env)
    remarks = []
    if request.cluster is None and variables.cluster:
        request = replace(request, cluster=variables.cluster)
        if request.on_azure:
            source = variables.sources.get(CLUSTER, "")
            place = f"the variable {CLUSTER}" if source == "variable" else f"{CLUSTER} in '{source}'"
            remarks.append(f"Cluster: '{variables.cluster}', from {place}. To use this machine, add --cluster local.")
    request, file_remarks = beside_file(request, ["pipeline"], "a pipeline file")
    check_values(request)
    request, idle_remarks = without_idle_options(request)
    sweep = pipeline_sweep(request)
    file = read_pipeline(path, str(request.target))
    swept = {SWEPT: sweep_text(sweep)} if sweep else primary_tags(request)
    common, naming_remarks = job_of_options(request, path.with_suffix(".py").name, path.parent, env, swept)
    common = replace(common, sweep=sweep)
    if request.on_azure:
        check_names(common, request.tags)
    reads, implied = _outputs_read(file)
    maker = _StepMaker(file, request, common)
    steps: list[StepSpec] = []
    for step in _in_order(file, reads):  # each step waits for the previous one
        steps.append(maker.step(step, reads.get(step.key), [before.key for before in steps[-1:]]))
    reports = list(maker.snapshots.values())
    remarks += [*idle_remarks, *file_remarks, *naming_remarks]
    if sweep is not None:
        remarks += [*sweep_remarks(sweep), *goal_remarks(sweep, request)]
        remarks += [f"{name} is an argument of {', '.join(keys)}." for name, keys in maker.takers().items()]
        if not request.on_azure:
            remarks += copies_remarks(sweep, sum(step.job.snapshot.size for step in steps), request)
    remarks += [
        f"{key} names no input, so it reads the output of {output.step}, the step before it."
        for key, output in implied.items()
    ]
    remarks += maker.remarks
    remarks += [f"{', '.join(keys)}: {text}" for text, keys in maker.shared_remarks.items()]
    tags = with_untracked(common.tags, request.tags, reports)
    changes = changes_of(tags, reports)
    prepared = PreparedPipeline(
        str(request.target),
        PipelineSpec(
            experiment=common.experiment,
            steps=steps,
            display_name=request.display_name,
            description=request.description,
            cluster=request.on_azure,
            default_datastore=request.default_datastore,
            command=command_line(request),
        ).with_tags(tags),
        reports,
        [*remarks, *ignored_remarks(reports), *changes.remarks],
        maker.data,
        changes=changes.text,
    )
    if request.on_azure and prepared.folders:
        readers = [step for step in file.steps if step.key in prepared.folders]
        # In DeepSeismic, this field has the name of the datastore
        names = [step.input_dataset_name for step in (*readers, file.steps[0])]
        named = next(filter(DATASTORE_NAME.fullmatch, names), "")
        prepared = replace(prepared, container=variables.container(named))
    if request.on_azure and creates_cluster:
        largest = max(steps, key=lambda step: step.job.nodes)
        cluster = variables.cluster_spec(request.on_azure, largest.job.nodes, largest.key)
        prepared = replace(prepared, cluster=cluster)
    return prepared


def pipeline_sweep(request: SubmitRequest) -> SweepSpec | None:
    """The sweep of the options, in which each trial is a pipeline, or None for a single pipeline. himl draws the values
    on this machine, even for pipelines on a cluster. Raises BadUsage."""
    if not any(map(request.is_typed, SWEEP_KINDS)):  # a sweep in the settings is for scripts
        request = request.without(*SWEEP_KINDS)
    request = single_sweep_option(request)
    spec = requested_sweep(replace(request, cluster=None))
    if spec is None:
        return None
    if request.queue is not None:
        hint = "Run it on this machine, with --cluster local, or submit the pipelines one by one."
        raise BadUsage(f"A sweep of pipelines cannot run on {label_of(request.engine)}.", hint=hint)
    if request.on_azure:
        at_once = "does not apply to pipelines on Azure ML, because himl submits them all at once"
        here = "Omit it, or run the sweep on this machine: --cluster local"
        most, trials = MOST_TRIALS_ON_AZURE, spec.max_trials
        limit = f"The sweep has {trials:,} pipelines. The limit is {most:,}."
        refuse(
            "",
            (spec.sampling == "bayesian", f"--sampling bayesian {at_once}.", "Use --sampling random, or grid."),
            (spec.early_stop is not None, f"--early_stop {at_once}.", here),
            (request.is_typed("max_concurrent"), f"--max_concurrent {spec.max_concurrent} {at_once}.", here),
            (trials > most, limit, f"Use --max_trials {most}."),
        )
        spec = replace(spec, max_concurrent=None)
    return with_seed(spec, on_azure=False)


@dataclass(frozen=True)
class _StepMaker:
    """Creates the jobs for the steps of one file. It collects snapshots by folder, unresolved data, and remarks, those
    on several steps with their keys."""

    file: PipelineFile
    request: SubmitRequest
    common: JobSpec
    data: dict[str, DataInput] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    shared_remarks: dict[str, list[str]] = field(default_factory=dict)
    snapshots: dict[Path, SnapshotReport] = field(default_factory=dict)

    def takers(self) -> dict[str, list[str]]:
        """The steps that use each hyperparameter. Raises BadUsage for one that no step uses."""
        space = self.common.sweep.space if self.common.sweep else ()
        found = {name: [step.key for step in self.file.steps if _takes(step, name)] for name in space}
        for name, keys in found.items():
            if not keys:
                where = f"--{name} or ${{{{{SEARCH_SPACE}.{name}}}}}"
                raise BadUsage(
                    f"'{self.file.shown}': no step uses the hyperparameter '{name}': none has {where} as an argument.",
                    hint=f'Add it to the arguments of a step: "arguments": ["--{name}", "0"]',
                )
        return found

    def _with_values(self, step: Step) -> list[str]:
        """The arguments of *step*, followed by the values of the hyperparameters that it names as `--NAME`."""
        sweep = self.common.sweep
        taken = {name: found for name, found in sweep.space.items() if _takes(step, name)} if sweep else {}
        counts = sweep_arguments(self.request) if taken else ()
        return with_search_space([*step.arguments, *counts], taken)

    def step(self, step: Step, source: StepOutput | None, waits_for: Sequence[str]) -> StepSpec:
        """The job of *step*, which reads the output *source*. Raises BadUsage, with step and key."""
        folder, script, requirements = step_files(self.file, step, self.request.cwd)
        data = DataSpec(INPUT, source.output) if source else self._data(step)
        outputs = [DataSpec(output_key(step.output), "")] if step.output else []
        arguments = self._with_values(step)
        if data:
            names = set(_INPUT_ARGUMENTS.findall((folder / script).read_text("utf-8", "replace")))
            arguments += [argument := "--input" if names == {"--input"} else "--input_data", f"${{{{inputs.{INPUT}}}}}"]
            if argument == "--input":
                self.remarks.append(f"{step.key}: the input is --input, as '{step.script}' has no --input_data.")
        arguments += [text for output in outputs for text in ("--output", f"${{{{outputs.{output.key}}}}}")]
        on_azure, is_mpi = bool(self.common.cluster), step.type == MPI_STEP
        if data and on_azure:
            data = replace(data, mode="mount")  # as in DeepSeismic
        if folder not in self.snapshots:
            report = take_snapshot(folder, self.request.ignored_folders, self.request.include_secret)
            self.snapshots[folder] = report
        report = self.snapshots[folder]
        if script not in report.snapshot.files:
            hint = f"Check '{folder / report.ignore_file}'."
            raise self.file.wrong(step.key, "script", f"'{step.script}' is excluded from the snapshot.", hint=hint)
        job = replace(
            self.common,
            entry=Entry(EntryKind.script, script),
            snapshot=report.snapshot,
            arguments=arguments,
            distribution="mpi" if is_mpi else "" if on_azure else "pytorch",
            processes=step.processes_per_node if is_mpi else None,
            nodes=step.node_count if is_mpi else 1,
            display_name=step.name,
            inputs=[data] if data else [],
            outputs=outputs,
            environment=self._environment(step, folder, script, requirements),
        )
        try:
            check_placeholders(job)
        except BadUsage as err:
            is_swept = SEARCH_SPACE in str(err)
            hint = err.hint if is_swept else "himl adds --input_data (or --input) and --output."
            raise self.file.wrong(step.key, "arguments", f"{err}", hint=hint) from err
        idle = [*step.passed_over]
        idle += [name for name in ("node_count", "processes_per_node") if not is_mpi and getattr(step, name) > 1]
        idle += ["input_datareference_path"] if source and step.input_datareference_path else []
        if idle:
            self.remarks.append(f"{step.key}: ignored, because it does not apply to this step: {', '.join(idle)}.")
        if not (on_azure or job.engine) and job.nodes > 1:
            self.remarks.append(f"{step.key}: 1 node instead of {job.nodes} on this machine.")
        return StepSpec(step.key, step.name, job, {INPUT: source} if source else {}, waits_for)

    def _data(self, step: Step) -> DataSpec | None:
        """The input of a step that reads no other step's output, or None. Raises BadUsage for a path outside the
        datastore."""
        for key in ("input_datareference_path", *reversed(INPUT_NAMES)):
            name = getattr(step, key)
            if ".." in re.split(r"[/\\]", name):
                what = f"'{name}' is outside the datastore."
                raise self.file.wrong(step.key, key, what, hint="Name a folder inside it.")
            if name and key in INPUT_NAMES:
                self.data.setdefault(step.key, DataInput(key, name))
            elif name:
                names = (step.input_dataset_name, step.input_datareference_name, self.file.steps[0].input_dataset_name)
                self.data[step.key] = DataInput(key, name, True, [*dict.fromkeys(filter(None, names))])
        found = self.data.get(step.key)
        if found is None:
            return None
        return DataSpec(INPUT, found.name.strip("/") or "/" if found.is_folder else found.name)

    def _environment(self, step: Step, folder: Path, script: str, requirements: Path | None) -> EnvironmentSpec | None:
        """The environment of the step, else of the options, else of a conda file beside the script. On this machine, it
        is stored for another submission if the file states it, and None otherwise."""
        is_here = not self.request.on_azure
        if is_here and not (step.requirements or step.base_image):
            return None
        from himl_cli.services.submission.environment import choose_environment, folders_up_to
        from himl_cli.services.submission.environment_checks import environment_remarks

        own = replace(
            self.request,
            conda_env=() if step.requirements else self.request.conda_env,
            requirements=str(requirements) if requirements else self.request.requirements,
            lock=None if step.requirements else self.request.lock,
            environment=None if step.requirements or step.base_image else self.request.environment,
            docker_image=step.base_image or self.request.docker_image,
        )
        try:
            place = (folder / script).parent
            spec, remarks = choose_environment(own, place, folder, may_be_bare=True)
        except BadUsage as err:
            if is_here:
                return None
            text = str(err).replace("--requirements", "'requirements'").replace("--docker_image", "'base_image'")
            raise self.file.wrong(step.key, "", text, hint=err.hint) from err
        for remark in (
            () if is_here else [*remarks, *environment_remarks(spec, folder / script, folders_up_to(place, folder))]
        ):
            self.shared_remarks.setdefault(remark, []).append(step.key)
        return spec


def _takes(step: Step, name: str) -> bool:
    """Whether the arguments of *step* use the hyperparameter."""
    placeholders = (found for argument in step.arguments for found in PLACEHOLDER.finditer(argument))
    is_named = any(argument.partition("=")[0] == f"--{name}" for argument in step.arguments)
    return is_named or any(found[1] == SEARCH_SPACE and found[2] == name for found in placeholders)


def output_key(name: str) -> str:
    """The name of an output as a valid key for variables and placeholders."""
    key = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{key}" if key[0].isdigit() else key


def _outputs_read(file: PipelineFile) -> tuple[dict[str, StepOutput], dict[str, StepOutput]]:
    """The output that each step reads, by the step's key, and the subset that the file implies.

    As in DeepSeismic, a step that names no input reads the output of the step before it in the file, if there is one
    and if that would not create a cycle. Raises BadUsage.
    """
    made: dict[str, StepOutput] = {}
    names: dict[str, str] = {}
    for step in filter(lambda each: each.output, file.steps):
        output = StepOutput(step.key, output_key(step.output))
        other = names.setdefault(output.output, step.output)
        if step.output in made:
            what, hint = f"is already an output of {made[step.output].step}.", "Give each output a different name."
            raise file.wrong(step.key, "output", f"'{step.output}' {what}", hint=hint)
        if other != step.output:
            what, hint = f"and '{other}' have the same variable name.", "Use only letters, digits and _."
            raise file.wrong(step.key, "output", f"'{step.output}' {what}", hint=hint)
        made[step.output] = output
    reads: dict[str, StepOutput] = {}
    for step in file.steps:
        given = [*dict.fromkeys(getattr(step, name) for name in INPUT_NAMES if getattr(step, name) in made)]
        if len(given) > 1:
            what = f"'{given[1]}' and 'input_datareference_name' '{given[0]}' are two outputs."
            raise file.wrong(step.key, "input_dataset_name", what, hint="Name only one of them.")
        if given:
            reads[step.key] = made[given[0]]
    implied: dict[str, StepOutput] = {}
    for before, step in zip(file.steps, file.steps[1:], strict=False):
        names_none = not (step.input_datareference_name or step.input_dataset_name or step.input_datareference_path)
        # The previous step, and the steps that it reads from, directly or indirectly
        sources = [before.key]
        while sources[-1] in reads and reads[sources[-1]].step not in sources:
            sources.append(reads[sources[-1]].step)
        if names_none and before.output and step.key not in sources:
            implied[step.key] = reads[step.key] = made[before.output]
    return reads, implied


def topological_order(keys: Sequence[str], waits: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """*keys*, reordered so that each follows those that it *waits* for, or a cycle, in which each waits for the next
    and the last for the first. One of the two lists is empty."""
    done: dict[str, None] = {}
    for start in keys:
        path = [start]
        while path:
            ahead = next((key for key in waits.get(path[-1], ()) if key not in done), None)
            if ahead is None:
                done[path.pop()] = None
            elif ahead in path:
                return [], path[path.index(ahead) :]
            else:
                path.append(ahead)
    return list(done), []


def _in_order(file: PipelineFile, reads: Mapping[str, StepOutput]) -> Sequence[Step]:
    """The steps, reordered so that each follows the one that it reads from. Raises BadUsage for a cycle, with its
    steps."""
    steps = {step.key: step for step in file.steps}
    order, cycle = topological_order(list(steps), {key: [output.step] for key, output in reads.items()})
    if cycle:
        first, read = steps[cycle[0]], steps[cycle[1 % len(cycle)]]
        key = next(name for name in INPUT_NAMES if getattr(first, name) == read.output)
        what = f"creates a cycle: {' <- '.join([*cycle, cycle[0]])}."
        hint = "Each step reads the output of the next one. Change the input of one of them."
        if first is read:
            what = f"names '{first.output}', the step's own output."
            hint = "Name data that exists, or the output of another step."
        raise file.wrong(first.key, key, what, hint=hint)
    return [steps[key] for key in order]


# Data of the pipeline in its workspace


def resolve_on_azure(prepared: PreparedPipeline, workspace: Workspace, notify: Notify) -> PipelineSpec:
    """The pipeline with a datastore for each folder that a step reads, in a workspace with clusters. Datasets are
    resolved at submission.

    As in DeepSeismic, the datastore is the one that the step names, if it exists. Otherwise, it is the container of
    the variables, which himl registers as a datastore if necessary. Raises the errors of these requests.
    """
    if not prepared.folders:
        return prepared.spec
    known = [store.name for store in workspace.datastores()]
    if prepared.container is None or not isinstance(workspace, CloudWorkspace):
        default = prepared.spec.default_datastore or next(iter(known), None)
        return _with_datastores(prepared, default, known)
    folders = prepared.folders.values()
    named = [next((name for name in item.datastores if name in known), "") for item in folders]
    for name in dict.fromkeys(filter(None, named)):
        notify(Notice(f"Using datastore '{name}' from the file instead of the container in BLOB_CONTAINER_NAME."))
    other = "" if all(named) else workspace.ensure_datastore(prepared.container, notify=notify)
    return _with_datastores(prepared, other, known)


def with_named_datastores(prepared: PreparedPipeline) -> PipelineSpec:
    """The pipeline with the datastores that the file names, without a check that they exist. Sends no request."""
    name = prepared.container.name if prepared.container else ""
    return _with_datastores(prepared, name or prepared.spec.default_datastore, () if name else None)


def _with_datastores(
    prepared: PreparedPipeline, default: str | None, known: Sequence[str] | None = None
) -> PipelineSpec:
    """The pipeline in which each folder is in its first datastore that is *known* (with None, all are known), else in
    *default*."""

    def changed(step: StepSpec) -> StepSpec:
        item = prepared.folders.get(step.key)
        if item is None:
            return step
        name = next((name for name in item.datastores if known is None or name in known), default)
        return replace(step, job=replace(step.job, inputs=[replace(step.job.inputs[0], datastore=name)]))

    return replace(prepared.spec, steps=[changed(step) for step in prepared.spec.steps])


def resolve_locally(
    prepared: PreparedPipeline, local: FolderWorkspace, azure: Callable[[], Workspace | None], notify: Notify
) -> PipelineSpec:
    """The pipeline with a local folder for each input that is data: of a local datastore, else downloaded from the
    workspace of *azure*.

    For every step but the first, a folder that does not exist is created with a notice, because a previous step may
    fill it. Raises NotFound, with the step and the key, and the errors of the download.
    """
    spec, known = prepared.spec, {store.name: store.location for store in local.datastores()}

    def resolve(key: str, item: DataInput, job: JobSpec) -> JobSpec:
        wanted = job.inputs[0]
        named = next((name for name in item.datastores if name in known), None)
        stored = replace(job, inputs=[replace(wanted, datastore=named)])
        default = job.default_datastore if job.default_datastore in known else None
        if local.input_folder(stored.inputs[0], default) is not None:
            return stored
        workspace, outputs = azure(), [output.key for step in spec.steps for output in step.job.outputs]
        near = "" if item.is_folder else did_you_mean(item.name, outputs)
        try:
            if workspace is None:
                raise _nowhere(item, known)
            if item.is_folder:
                stores = [store.name for store in workspace.datastores()]
                other = spec.default_datastore or next(iter(stores), None)
                wanted = replace(wanted, datastore=next((name for name in item.datastores if name in stores), other))
            return bring_inputs(replace(job, inputs=[wanted]), local, azure, notify)
        except NotFound as err:
            store = named or default or next(iter(known), None)
            if not item.is_folder or store is None or key == spec.steps[0].key:
                raise NotFound(f"'{prepared.shown}', {key}: '{item.field}' {err}", hint=near or err.hint) from err
        folder = Path(known[store]) / wanted.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise disk_error(err, f"{key}: cannot create the folder '{folder}'") from err
        notify(Notice(f"{key}: created the empty folder '{folder}' as input. A previous step must fill it."))
        return replace(job, inputs=[replace(job.inputs[0], local=str(folder))])

    steps = [
        replace(step, job=resolve(step.key, prepared.data[step.key], step.job)) if step.key in prepared.data else step
        for step in spec.steps
    ]
    return replace(spec, steps=steps)


def _nowhere(item: DataInput, known: Mapping[str, str]) -> NotFound:
    parents = (parent for path in known.values() for parent in Path(path).parents)
    home = next((parent for parent in parents if parent.name == WORKSPACE_FOLDER), None)
    first = "" if home is None or home.is_dir() else "himl init --local, then "
    where = "which is neither the output of a step nor local data."
    where = "but no local datastore has that folder." if item.is_folder else where
    hint = f"Upload the data: {first}himl datastore upload FOLDER {item.name}"
    return NotFound(f"names '{item.name}', {where}", hint=hint)


def bring_to_steps(
    spec: PipelineSpec,
    local: FolderWorkspace,
    azure: Callable[[], Workspace | None],
    notify: Notify,
    open_address: Callable[[str], BlobStore],
) -> PipelineSpec:
    """The pipeline with a local folder for each input that is data. Raises the errors of `bring_inputs`."""
    steps = []
    for step in spec.steps:
        data = [item for item in step.job.inputs if item.key not in step.takes]
        resolved = bring_inputs(replace(step.job, inputs=data), local, azure, notify, open_address)
        found = {item.key: item for item in resolved.inputs}
        inputs = [found.get(item.key, item) for item in step.job.inputs]
        steps.append(replace(step, job=replace(resolved, inputs=inputs)))
    return replace(spec, steps=steps)


def check_cluster(prepared: PreparedPipeline, workspace: Workspace) -> None:
    """Check that the pipeline's cluster exists or will be created, before himl registers a container in vain. Raises
    NotFound and the errors of the workspace."""
    name = prepared.spec.cluster
    is_needed = prepared.cluster is None and prepared.container is not None and is_compute_name(name)
    if is_needed and isinstance(workspace, CloudWorkspace) and not workspace.has_cluster(name):
        raise NotFound(
            f"No compute '{name}' in {workspace.label}.", hint="Add --create_cluster, or use another --cluster."
        )


@contextmanager
def naming_pipeline_file(prepared: PreparedPipeline) -> Iterator[None]:
    """Add the pipeline's file, and the field of an input, to errors about a step."""
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
