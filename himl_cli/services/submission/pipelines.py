"""From a pipeline's JSON file to a pipeline that a workspace can run, but for its data."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
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
)
from himl_cli.services.submission.pipeline_file import (
    CLUSTER,
    MPI_STEP,
    PipelineFile,
    Step,
    StepFiles,
    pipeline_variables,
    read_pipeline,
    step_files,
)
from himl_cli.services.submission.prepare import check_names, command_line, job_of_options
from himl_cli.services.submission.request import (
    SubmitRequest,
    beside_file,
    check_values,
    target_path,
    without_idle_options,
)
from himl_cli.services.submission.snapshot import ignored_remarks, take_snapshot

INPUT = "input_data"
"""The key of a step's input: with dashes before it the argument that its script gets."""
INPUT_NAMES = ("input_datareference_name", "input_dataset_name")


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


def prepare_pipeline(
    request: SubmitRequest, env: Mapping[str, str] | None = None, *, creates_cluster: bool = False
) -> PreparedPipeline:
    """Check all that was asked for and list the snapshots; no network, and nothing is written. Raises BadUsage naming
    the step and the key."""
    env = os.environ if env is None else env
    path = target_path(request)
    variables = pipeline_variables(path.parent, request.cwd, env)
    remarks = []
    if request.cluster is None and variables.cluster:
        request = replace(request, cluster=variables.cluster)
        if request.on_cluster:
            source = variables.sources.get(CLUSTER, "")
            place = f"the variable {CLUSTER}" if source == "variable" else f"{CLUSTER} in '{source}'"
            remarks.append(f"Goes to cluster '{variables.cluster}', by {place}; --cluster local runs it here.")
    request, file_remarks = beside_file(request, ["pipeline"], "a pipeline file")
    check_values(request)
    request, idle_remarks = without_idle_options(request)
    file = read_pipeline(path, str(request.target))
    common, naming_remarks = job_of_options(request, path.with_suffix(".py").name, path.parent, env)
    if request.on_cluster:
        check_names(common, request.tags)
    maker = _StepMaker(file, request, common)
    steps = maker.steps()
    reports = list(maker.snapshots.values())
    largest = max(steps, key=lambda step: step.job.nodes)
    readers = [step for step in file.steps if step.key in maker.data and maker.data[step.key].is_folder]
    names = [step.input_dataset_name for step in (*readers, file.steps[0])]  # DeepSeismic called the datastore so
    named = next(filter(DATASTORE_NAME.fullmatch, names), "")
    return PreparedPipeline(
        str(request.target),
        PipelineSpec(
            experiment=common.experiment,
            steps=steps,
            display_name=request.display_name,
            description=request.description,
            tags=common.tags,
            cluster=request.on_cluster,
            default_datastore=request.default_datastore,
            command=command_line(request),
        ),
        reports,
        [*remarks, *idle_remarks, *file_remarks, *naming_remarks, *maker.remarks, *ignored_remarks(reports)],
        maker.data,
        container=variables.container(named) if request.on_cluster and readers else None,
        cluster=variables.cluster_spec(request.on_cluster, largest.job.nodes, largest.key)
        if creates_cluster and request.on_cluster
        else None,
    )


class _StepMaker:
    """Makes jobs of the steps of one file; what it notices on the way is in `remarks`, data to be found in `data`."""

    def __init__(self, file: PipelineFile, request: SubmitRequest, common: JobSpec) -> None:
        self.file = file
        self.request = request
        self.common = common
        self.data: dict[str, DataInput] = {}
        self._remarks: list[str] = []
        self._environment_remarks: dict[str, list[str]] = {}
        self.snapshots: dict[Path, SnapshotReport] = {}

    @property
    def remarks(self) -> Sequence[str]:
        """What holds for several steps is said once, with their names."""
        shared = [f"{', '.join(keys)}: {text}" for text, keys in self._environment_remarks.items()]
        return [*self._remarks, *shared]

    def steps(self) -> Sequence[StepSpec]:
        """All steps, each to run behind the one before it: in the file's order, unless their data wants another. Raises
        BadUsage naming step and key."""
        reads, implied = _outputs_read(self.file)
        ordered = _in_order(self.file, reads)
        self._remarks += [
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
        on_cluster, is_mpi = bool(self.common.cluster), step.type == MPI_STEP
        if data and on_cluster:
            data = replace(data, mode="mount")  # as DeepSeismic's steps had it
        job = replace(
            self.common,
            entry=Entry(EntryKind.script, files.script),
            snapshot=self._snapshot(step, files).snapshot,
            arguments=arguments,
            distribution="mpi" if is_mpi else "" if on_cluster else "pytorch",
            processes=step.processes_per_node if is_mpi else None,
            nodes=step.node_count if is_mpi else 1,
            display_name=step.name,
            inputs=[data] if data else [],
            outputs=outputs,
            environment=self._environment(step, files) if on_cluster else None,
        )
        try:
            check_placeholders(job)
        except BadUsage as err:
            hint = "--input_data and --output are added by themselves."
            raise self.file.wrong(step.key, "arguments", f"{err}", hint=hint) from err
        self._note_idle(step, job)
        return StepSpec(step.key, step.name, job, {INPUT: source} if source else {}, waits_for)

    def _data(self, step: Step) -> DataSpec | None:
        """The input of a step that reads no other's output; None where it has none. Raises BadUsage for data that would
        lie outside its datastore."""
        for key in ("input_datareference_path", *INPUT_NAMES):
            if ".." in re.split(r"[/\\]", getattr(step, key)):
                raise self.file.wrong(
                    step.key, key, f"'{getattr(step, key)}' leaves the datastore.", hint="Name a folder inside it."
                )
        path = step.input_datareference_path
        if path:
            names = (step.input_dataset_name, step.input_datareference_name, self.file.steps[0].input_dataset_name)
            datastores = [*dict.fromkeys(filter(None, names))]
            self.data[step.key] = DataInput("input_datareference_path", path, True, datastores)
            return DataSpec(INPUT, path.strip("/") or "/")
        for key in reversed(INPUT_NAMES):
            if getattr(step, key):
                self.data[step.key] = DataInput(key, getattr(step, key))
                return DataSpec(INPUT, getattr(step, key))
        return None

    def _snapshot(self, step: Step, files: StepFiles) -> SnapshotReport:
        report = self.snapshots.get(files.source)
        if report is None:
            report = take_snapshot(files.source, self.request.ignored_folders, self.request.include_secret)
            self.snapshots[files.source] = report
        if files.script not in report.snapshot.files:
            hint = f"Look in '{files.source / report.ignore_file}'."
            raise self.file.wrong(step.key, "script", f"'{step.script}' is left out of the snapshot.", hint=hint)
        return report

    def _environment(self, step: Step, files: StepFiles) -> EnvironmentSpec:
        """The step's own environment, else the one of the options, else that of a conda file beside the script."""
        from himl_cli.services.submission.environment import choose_environment

        own = replace(
            self.request,
            conda_env=() if step.requirements else self.request.conda_env,
            requirements=str(files.requirements) if files.requirements else self.request.requirements,
            environment=None if step.requirements or step.base_image else self.request.environment,
            docker_image=step.base_image or self.request.docker_image,
        )
        try:
            spec, remarks = choose_environment(
                own, (files.source / files.script).parent, files.source, may_be_bare=True
            )
        except BadUsage as err:
            text = str(err).replace("--requirements", "'requirements'").replace("--docker_image", "'base_image'")
            raise self.file.wrong(step.key, "", text, hint=err.hint) from err
        for remark in remarks:
            self._environment_remarks.setdefault(remark, []).append(step.key)
        return spec

    def _note_idle(self, step: Step, job: JobSpec) -> None:
        idle = [*step.passed_over]
        if job.processes is None:
            idle += [name for name in ("node_count", "processes_per_node") if getattr(step, name) > 1]
        if step.input_datareference_path and step.key not in self.data:
            idle.append("input_datareference_path")
        if idle:
            self._remarks.append(f"{step.key}: passed over, since it has no meaning for this step: {', '.join(idle)}.")
        if not job.cluster and job.nodes > 1:
            self._remarks.append(f"{step.key}: one node here in place of {job.nodes}.")


def output_key(name: str) -> str:
    """The name of an output as variables and placeholders take it; the same name is the same key."""
    key = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{key}" if key[0].isdigit() else key


def _outputs_read(file: PipelineFile) -> tuple[dict[str, StepOutput], dict[str, StepOutput]]:
    """The output that each step reads, by the step's key; and those of them that the file does not name.

    These are, as in DeepSeismic, of steps that name no input: they read the output of the step before them in the file,
    if it makes one and does not itself wait, by what others read, for the step. Raises BadUsage.
    """
    made: dict[str, str] = {}
    keys: dict[str, str] = {}
    for step in filter(lambda each: each.output, file.steps):
        other = keys.setdefault(output_key(step.output), step.output)
        if step.output in made:
            what, hint = f"is made by {made[step.output]} already.", "Give each output a name of its own."
            raise file.wrong(step.key, "output", f"'{step.output}' {what}", hint=hint)
        if other != step.output:
            what, hint = f"and '{other}' are the same name to variables.", "Use letters, digits and _."
            raise file.wrong(step.key, "output", f"'{step.output}' {what}", hint=hint)
        made[step.output] = step.key
    reads: dict[str, StepOutput] = {}
    for step in file.steps:
        names = [*dict.fromkeys(getattr(step, name) for name in INPUT_NAMES if getattr(step, name) in made)]
        if len(names) > 1:
            raise file.wrong(
                step.key,
                "input_dataset_name",
                f"'{names[1]}' and 'input_datareference_name' '{names[0]}' are two outputs.",
                hint="A step reads one of them.",
            )
        if names:
            reads[step.key] = StepOutput(made[names[0]], output_key(names[0]))
    implied: dict[str, StepOutput] = {}
    for before, step in zip(file.steps, file.steps[1:], strict=False):
        names_none = not (step.input_datareference_name or step.input_dataset_name or step.input_datareference_path)
        if names_none and before.output and not _waits_for(before.key, step.key, {**reads, **implied}):
            implied[step.key] = StepOutput(before.key, output_key(before.output))
    return reads | implied, implied


def _waits_for(step: str, other: str, reads: Mapping[str, StepOutput]) -> bool:
    """Whether *step* reads from *other*, be it by steps in between."""
    seen: set[str] = set()
    while step in reads and step not in seen:
        seen.add(step)
        step = reads[step].step
        if step == other:
            return True
    return False


class CycleFound(Exception):
    """Steps of which each waits for the next, and the last for the first, are in `path`."""

    def __init__(self, path: Sequence[str]) -> None:
        super().__init__(" <- ".join([*path, path[0]]))
        self.path = path


def topological_order(keys: Sequence[str], waits: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """*keys* so that each comes behind those that it *waits* for, else as they are. Raises CycleFound."""
    done: dict[str, None] = {}
    for start in keys:
        path = [start]
        while path:
            ahead = next((key for key in waits.get(path[-1], ()) if key not in done), None)
            if ahead is None:
                done[path.pop()] = None
            elif ahead in path:
                raise CycleFound(path[path.index(ahead) :])
            else:
                path.append(ahead)
    return list(done)


def _in_order(file: PipelineFile, reads: Mapping[str, StepOutput]) -> Sequence[Step]:
    """The steps so that each comes behind the one it reads from, else as in the file. Raises BadUsage for a cycle,
    naming its steps."""
    steps = {step.key: step for step in file.steps}
    try:
        order = topological_order(list(steps), {key: [output.step] for key, output in reads.items()})
    except CycleFound as err:
        first, read = steps[err.path[0]], steps[err.path[1 % len(err.path)]]
        key = next(name for name in INPUT_NAMES if getattr(first, name) == read.output)
        if first is read:
            what = f"names '{first.output}', the step's own output."
            hint = "Name data that exists, or the output of another step."
        else:
            what = f"closes a cycle: {err}."
            hint = "Each reads what the next makes; one of them has to read other data."
        raise file.wrong(first.key, key, what, hint=hint) from None
    return [steps[key] for key in order]
