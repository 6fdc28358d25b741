"""From a pipeline's JSON file to a pipeline that a workspace can run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from himl_cli.core.errors import BadUsage, HimlError, NotFound
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.files import WORKSPACE_FOLDER
from himl_cli.core.jobs import (
    DATASTORE_NAME,
    SERVERLESS,
    ClusterSpec,
    ContainerSpec,
    DataSpec,
    Entry,
    EntryKind,
    EnvironmentSpec,
    JobSpec,
    PipelineSpec,
    Snapshot,
    SnapshotReport,
    StepOutput,
    StepSpec,
    check_placeholders,
)
from himl_cli.core.runs import Run
from himl_cli.core.text import did_you_mean
from himl_cli.services.naming import FILE_NAME, automatic_tags, choose_experiment, git_facts, write_latest_run
from himl_cli.services.runs.logs import watching
from himl_cli.services.submission.data import bring_inputs
from himl_cli.services.submission.entry import find_python
from himl_cli.services.submission.pipeline_file import (
    MPI_STEP,
    PipelineFile,
    PipelineVariables,
    Step,
    StepFiles,
    pipeline_variables,
    read_pipeline,
    step_files,
)
from himl_cli.services.submission.prepare import check_names, command_line, shortened
from himl_cli.services.submission.request import (
    SubmitRequest,
    check_options,
    check_place,
    check_size,
    file_remarks,
    parse_duration,
    place_remarks,
    settled,
    target_path,
)
from himl_cli.services.submission.snapshot import ignored_remarks, take_snapshot
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.workspaces.base import CloudWorkspace, FolderWorkspace, JobRunner, Workspace

INPUT = "input_data"
"""The key of a step's input: with dashes before it the argument that its script gets."""


@dataclass(frozen=True)
class DataInput:
    """The input of a step that is no other's output: the field of the file that names it, and that name.

    `is_folder`: it is a folder of a datastore, which may be called by one of `datastores`, the likeliest first; else a
    dataset.
    """

    field: str
    name: str
    is_folder: bool = False
    datastores: Sequence[str] = ()


@dataclass(frozen=True)
class PreparedPipeline:
    """The pipeline, the snapshots that are sent with it, and what the user should know beforehand, a sentence each.

    `data` are the inputs that are yet to be found, by the keys of their steps; folders are looked for in `container`
    where that is known. `cluster` is the cluster to make where there is none of that name; None: it has to exist.
    `shown` is what messages call the file.
    """

    shown: str
    spec: PipelineSpec
    reports: Sequence[SnapshotReport]
    remarks: Sequence[str] = ()
    data: Mapping[str, DataInput] = field(default_factory=dict)
    container: ContainerSpec | None = None
    cluster: ClusterSpec | None = None


INPUT_NAMES = ("input_datareference_name", "input_dataset_name")


def output_key(name: str) -> str:
    """The name of an output as variables and placeholders take it; the same name is the same key."""
    key = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{key}" if key[0].isdigit() else key


def makers(file: PipelineFile) -> dict[str, str]:
    """The key of the step that makes each output, by the output's name. Raises BadUsage where two make the same."""
    made: dict[str, str] = {}
    keys: dict[str, str] = {}
    for step in file.steps:
        if not step.output:
            continue
        if step.output in made:
            raise file.wrong(
                step.key,
                "output",
                f"'{step.output}' is made by {made[step.output]} already.",
                hint="Give each output a name of its own.",
            )
        other = keys.setdefault(output_key(step.output), step.output)
        if other != step.output:
            raise file.wrong(
                step.key,
                "output",
                f"'{step.output}' and '{other}' are the same name to variables.",
                hint="Use letters, digits and _.",
            )
        made[step.output] = step.key
    return made


def output_read(file: PipelineFile, step: Step, made: Mapping[str, str]) -> StepOutput | None:
    """The output that feeds *step*; None where its input is data. Raises BadUsage where it names outputs of two
    steps."""
    found = {name: getattr(step, name) for name in INPUT_NAMES if getattr(step, name) in made}
    if len(set(found.values())) > 1:
        first, second = found.values()
        raise file.wrong(
            step.key,
            "input_dataset_name",
            f"'{second}' and 'input_datareference_name' '{first}' are two outputs.",
            hint="A step reads one of them.",
        )
    output = next(iter(found.values()), None)
    return StepOutput(made[output], output_key(output)) if output is not None else None


def passed_on(file: PipelineFile, reads: Mapping[str, StepOutput]) -> dict[str, StepOutput]:
    """What steps that name no input read, as in DeepSeismic: the output of the step before them in the file, if it
    makes one.

    Not where that step waits, by what others read (*reads* has what the file says), for the step itself.
    """
    found: dict[str, StepOutput] = {}
    for before, step in zip(file.steps, file.steps[1:], strict=False):
        names_none = not (step.input_datareference_name or step.input_dataset_name or step.input_datareference_path)
        if names_none and before.output and not _waits_for(before.key, step.key, {**reads, **found}):
            found[step.key] = StepOutput(before.key, output_key(before.output))
    return found


def _waits_for(step: str, other: str, reads: Mapping[str, StepOutput]) -> bool:
    """Whether *step* reads from *other*, be it by steps in between."""
    seen: set[str] = set()
    while step in reads and step not in seen:
        seen.add(step)
        step = reads[step].step
        if step == other:
            return True
    return False


def in_order(file: PipelineFile, reads: Mapping[str, StepOutput]) -> Sequence[Step]:
    """The steps so that each comes behind the one it reads from, else as in the file. Raises BadUsage for a cycle,
    naming its steps."""
    steps = {step.key: step for step in file.steps}
    try:
        return [steps[key] for key in data_order(list(steps), {key: [output.step] for key, output in reads.items()})]
    except CycleFound as err:
        raise _cycle(file, steps, err.way) from None


class CycleFound(Exception):
    """Steps of which each waits for the next, and the last for the first, are in `way`."""

    def __init__(self, way: Sequence[str]) -> None:
        super().__init__(" <- ".join([*way, way[0]]))
        self.way = way


def data_order(keys: Sequence[str], waits: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """*keys* so that each comes behind those that it *waits* for, else as they are. Raises CycleFound."""
    done: dict[str, None] = {}
    for start in keys:
        way = [start]
        while way:
            current = way[-1]
            ahead = next((key for key in waits.get(current, ()) if key not in done), None)
            if ahead is None:
                done[way.pop()] = None
            elif ahead in way:
                raise CycleFound(way[way.index(ahead) :])
            else:
                way.append(ahead)
    return list(done)


def _cycle(file: PipelineFile, steps: Mapping[str, Step], way: Sequence[str]) -> BadUsage:
    """The error about steps of which each reads from the next, and the last from the first."""
    first, read = steps[way[0]], steps[way[1] if len(way) > 1 else way[0]]
    key = next(name for name in INPUT_NAMES if getattr(first, name) == read.output)
    if len(way) == 1:
        return file.wrong(
            first.key,
            key,
            f"names '{first.output}', the step's own output.",
            hint="Name data that exists, or the output of another step.",
        )
    round_trip = " <- ".join([*way, way[0]])
    return file.wrong(
        first.key,
        key,
        f"closes a cycle: {round_trip}.",
        hint="Each reads what the next makes; one of them has to read other data.",
    )


class StepMaker:
    """Makes jobs of the steps of one file; what it notices on the way is in `remarks`, data to be found in `data`."""

    def __init__(self, file: PipelineFile, request: SubmitRequest, common: JobSpec) -> None:
        self.file = file
        self.request = request
        self.common = common
        self.remarks: list[str] = []
        self._noted: dict[str, tuple[int, list[str]]] = {}
        self.data: dict[str, DataInput] = {}
        self._snapshots: dict[Path, SnapshotReport] = {}

    @property
    def reports(self) -> Sequence[SnapshotReport]:
        return list(self._snapshots.values())

    def steps(self) -> Sequence[StepSpec]:
        """All steps, each to run behind the one before it: in the file's order, unless their data wants another. Raises
        BadUsage naming step and key."""
        made = makers(self.file)
        reads = {
            step.key: output for step in self.file.steps if (output := output_read(self.file, step, made)) is not None
        }
        implied = passed_on(self.file, reads)
        reads |= implied
        ordered = in_order(self.file, reads)
        self.remarks += [
            f"{key} names no input, so it reads what {output.step}, the step before it, makes (--input_data)."
            for key, output in implied.items()
        ]
        before = [None, *(step.key for step in ordered)]
        return [self._step(step, reads, [last] if last else []) for step, last in zip(ordered, before, strict=False)]

    def _step(self, step: Step, reads: Mapping[str, StepOutput], waits_for: Sequence[str]) -> StepSpec:
        files = step_files(self.file, step, self.request.cwd)
        source = reads.get(step.key)
        data = DataSpec(INPUT, source.output) if source else self._data(step)
        outputs = [DataSpec(output_key(step.output), "")] if step.output else []
        arguments = [*step.arguments, *(("--input_data", f"${{{{inputs.{INPUT}}}}}") if data else ())]
        arguments += [text for output in outputs for text in ("--output", f"${{{{outputs.{output.key}}}}}")]
        is_mpi = step.type == MPI_STEP
        job = replace(
            self.common,
            entry=Entry(EntryKind.script, files.script),
            snapshot=self._snapshot(step, files).snapshot,
            arguments=arguments,
            distribution="mpi" if is_mpi else "" if self.common.cluster else "pytorch",
            processes=step.processes_per_node if is_mpi else None,
            nodes=step.node_count if is_mpi else 1,
            display_name=step.name,
            inputs=[self._mounted(data)] if data else [],
            outputs=outputs,
            environment=self._environment(step, files) if self.common.cluster else None,
        )
        self._check(step, job)
        return StepSpec(step.key, step.name, job, {INPUT: source} if source else {}, waits_for)

    def _data(self, step: Step) -> DataSpec | None:
        """The input of a step that reads no other's output; None where it has none."""
        self._check_inside(step)
        if step.input_datareference_path:
            names = (step.input_dataset_name, step.input_datareference_name, self.file.steps[0].input_dataset_name)
            datastores = [*dict.fromkeys(name for name in names if name)]
            self.data[step.key] = DataInput("input_datareference_path", step.input_datareference_path, True, datastores)
            return DataSpec(INPUT, step.input_datareference_path.strip("/") or "/")
        field = next((name for name in ("input_dataset_name", "input_datareference_name") if getattr(step, name)), None)
        if field is None:
            return None
        self.data[step.key] = DataInput(field, getattr(step, field))
        return DataSpec(INPUT, getattr(step, field))

    def _check_inside(self, step: Step) -> None:
        """Raises BadUsage for data that would lie outside its datastore."""
        for key in ("input_datareference_path", "input_dataset_name", "input_datareference_name"):
            if ".." in re.split(r"[/\\]", getattr(step, key)):
                raise self.file.wrong(
                    step.key, key, f"'{getattr(step, key)}' leaves the datastore.", hint="Name a folder inside it."
                )

    def _mounted(self, item: DataSpec) -> DataSpec:
        """The input as DeepSeismic's steps had it on a cluster: mounted."""
        return replace(item, mode="mount") if self.common.cluster else item

    def _snapshot(self, step: Step, files: StepFiles) -> SnapshotReport:
        if files.source not in self._snapshots:
            self._snapshots[files.source] = take_snapshot(
                files.source, self.request.ignored_folders, self.request.include_secret
            )
        report = self._snapshots[files.source]
        if files.script not in report.snapshot.files:
            raise self.file.wrong(
                step.key,
                "script",
                f"'{step.script}' is left out of the snapshot.",
                hint=f"Look in '{files.source / report.ignore_file}'.",
            )
        return report

    def _note(self, key: str, text: str) -> None:
        """A remark about the step; what holds for several is said once, with their names."""
        place, keys = self._noted.setdefault(text, (len(self.remarks), []))
        keys.append(key)
        self.remarks[place : place + 1] = [f"{', '.join(keys)}: {text}"]

    def _environment(self, step: Step, files: StepFiles) -> EnvironmentSpec:
        """The step's own environment, else the one of the options, else that of a conda file beside the script."""
        from himl_cli.services.submission.environment import EnvironmentRequest, environment_spec

        def note(event: Event) -> None:
            if isinstance(event, Notice):
                self._note(step.key, event.text)

        asked = self.request
        wanted = EnvironmentRequest(
            asked.cwd,
            () if step.requirements else asked.conda_env,
            str(files.requirements) if files.requirements else asked.requirements,
            None if step.requirements or step.base_image else asked.environment,
            step.base_image or asked.docker_image,
            asked.pip_extra_index_url,
            asked.private_wheel,
            may_be_bare=True,
        )
        try:
            return environment_spec(wanted, (files.source / files.script).parent, files.source, note)
        except BadUsage as err:
            told = str(err).replace("--requirements", "'requirements'").replace("--docker_image", "'base_image'")
            raise self.file.wrong(step.key, "", told, hint=err.hint) from err

    def _check(self, step: Step, job: JobSpec) -> None:
        """Refuse placeholders that name nothing, and say what is passed over."""
        try:
            check_placeholders(job)
        except BadUsage as err:
            raise self.file.wrong(
                step.key, "arguments", f"{err}", hint="--input_data and --output are added by themselves."
            ) from err
        idle = [*step.passed_over]
        if job.processes is None:
            idle += [name for name in ("node_count", "processes_per_node") if getattr(step, name) > 1]
        if step.input_datareference_path and step.key not in self.data:
            idle.append("input_datareference_path")
        if idle:
            self.remarks.append(f"{step.key}: passed over, since it has no meaning for this step: {', '.join(idle)}.")
        if not job.cluster and job.nodes > 1:
            self.remarks.append(f"{step.key}: one node here in place of {job.nodes}.")


COUNTING = frozenset(
    {
        *(
            "cluster",
            "create_cluster",
            "python",
            "max_run_duration",
            "shm_size",
            "docker_args",
            "identity",
            "default_datastore",
        ),
        *("ignored_folders", "include_secret"),
        *(
            "conda_env",
            "requirements",
            "environment",
            "docker_image",
            "pip_extra_index_url",
            "private_wheel",
            "env_vars",
        ),
        *("experiment", "experiment_from_branch", "display_name", "description", "tags", "build"),
    }
)
"""Options that count for a pipeline: for all of its steps, the environment's for those that name none."""
WHAT = "a pipeline file"


def prepare_pipeline(
    request: SubmitRequest, env: Mapping[str, str] | None = None, *, creates_cluster: bool = False
) -> PreparedPipeline:
    """Check all that was asked for and list the snapshots; no network, and nothing is written. Raises BadUsage naming
    the step and the key."""
    env = os.environ if env is None else env
    check_options(request, COUNTING, WHAT)
    path = target_path(request)
    variables = pipeline_variables(path.parent, request.cwd, env)
    request, remarks = _placed(request, variables)
    check_place(request)
    remarks += [*place_remarks(request), *file_remarks(request, WHAT)]
    request = settled(request)
    file = read_pipeline(path, str(request.target))
    common = _common(request, path, remarks, env)
    maker = StepMaker(file, request, common)
    steps = maker.steps()
    spec = PipelineSpec(
        experiment=common.experiment,
        steps=steps,
        display_name=request.display_name,
        description=request.description,
        tags=common.tags,
        cluster=request.on_cluster,
        default_datastore=request.default_datastore,
        command=command_line(request),
    )
    largest = max(steps, key=lambda step: step.job.nodes)
    return PreparedPipeline(
        str(request.target),
        spec,
        maker.reports,
        [*remarks, *maker.remarks, *ignored_remarks(maker.reports)],
        maker.data,
        _container(file, variables, maker.data) if request.on_cluster else None,
        variables.cluster_spec(request.on_cluster, largest.job.nodes, largest.key)
        if creates_cluster and request.on_cluster
        else None,
    )


def _placed(request: SubmitRequest, variables: PipelineVariables) -> tuple[SubmitRequest, list[str]]:
    """The request with the cluster of `.env` where no other place was named, and that this is so."""
    if request.cluster is not None or not variables.cluster:
        return request, []
    where = f"Goes to cluster '{variables.cluster}', by {variables.place_of_cluster()}; --cluster local runs it here."
    placed = replace(request, cluster=variables.cluster)
    return placed, [where] if placed.on_cluster else []


def _common(request: SubmitRequest, path: Path, remarks: list[str], env: Mapping[str, str]) -> JobSpec:
    """What all steps share, as a job that runs nothing yet. Raises BadUsage."""
    git = git_facts(path.parent)
    experiment, said_of_it = choose_experiment(
        request.experiment, path.with_suffix(".py").name, from_branch=request.experiment_from_branch, git=git
    )
    remarks += said_of_it
    automatic = automatic_tags(git, request.build, command_line(request))
    common = JobSpec(
        experiment=experiment,
        entry=Entry(EntryKind.script, ""),
        snapshot=Snapshot(path.parent, (), 0),
        python="" if request.on_cluster else find_python(request.python, env, Path(sys.prefix)),
        max_seconds=parse_duration(request.max_run_duration, "--max_run_duration")
        if request.max_run_duration
        else None,
        env=request.env_vars,
        tags={**(shortened(automatic) if request.on_cluster else automatic), **request.tags},
        display_name=request.display_name,
        description=request.description,
        default_datastore=request.default_datastore,
    )
    if not request.on_cluster:
        return common
    there = replace(
        common,
        cluster=request.on_cluster,
        shm_size=check_size("--shm_size", request.shm_size),
        docker_args=request.docker_args,
        identity=request.identity,
    )
    check_names(there, request.tags)
    return there


def _container(file: PipelineFile, variables: PipelineVariables, data: Mapping[str, DataInput]) -> ContainerSpec | None:
    """The container of `.env`, where a step reads a folder of it; called as DeepSeismic called it where it is
    registered."""
    readers = [step for step in file.steps if step.key in data and data[step.key].is_folder]
    names = [
        step.input_dataset_name
        for step in (*readers, file.steps[0])
        if DATASTORE_NAME.fullmatch(step.input_dataset_name)
    ]
    return variables.container(names[0] if names else "") if readers else None


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
    if container is None or not isinstance(workspace, CloudWorkspace):
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
    prepared: PreparedPipeline, here: FolderWorkspace, azure: Callable[[], Workspace | None], notify: Notify
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
    spec: PipelineSpec, here: FolderWorkspace, azure: Callable[[], Workspace | None], notify: Notify
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
    here: FolderWorkspace,
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
        raise disk_error(err, f"{key}: cannot make the folder '{folder}'") from err
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


def check_cluster(prepared: PreparedPipeline, workspace: Workspace) -> None:
    """Look whether the pipeline's cluster is there, unless it is to be made, before a container is registered for
    nothing.

    Raises NotFound, and as the workspace does.
    """
    if not isinstance(workspace, CloudWorkspace):
        return
    name = prepared.spec.cluster
    if (
        prepared.cluster is None
        and prepared.container is not None
        and name.lower() != SERVERLESS
        and not workspace.has_cluster(name)
    ):
        raise NotFound(
            f"No compute '{name}' in {workspace.label}.", hint="--create_cluster makes it; --cluster names another one."
        )


@contextmanager
def in_words_of_the_file(prepared: PreparedPipeline) -> Iterator[None]:
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
    pipelines = workspace
    return noted(lambda: pipelines.submit_pipeline(spec, notify=notify), cwd, notify)


def noted(start: Callable[[], Run], cwd: Path, notify: Notify) -> Run:
    """What *start* started, noted in *cwd* as the latest run. Raises Interrupted, naming the run, once there is one."""
    run = start()
    with watching(run.id):
        try:
            write_latest_run(cwd, run)
        except OSError as err:
            notify(Notice(f"Could not write {FILE_NAME} in '{cwd}': {err.strerror}."))
    return run
