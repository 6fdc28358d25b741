"""Plans of sweeps and pipelines: looked up before anything is made, sent to their controller through a pipe with the
jobs' variables, stored without them to resume from; and what each child is asked to run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.events import Notify
from himl_cli.core.jobs import (
    STEP,
    STEP_AFTER,
    EntryKind,
    JobSpec,
    PipelineSpec,
    StepSpec,
    check_placeholders,
)
from himl_cli.core.runs import new_run_id
from himl_cli.core.sweeps import (
    HYPERPARAMETER_NAME,
    HYPERPARAMETERS,
    PLACEHOLDER,
    SEARCH_SPACE,
    SWEPT,
    TRIAL,
    Draw,
    Scalar,
    SweepSpec,
    value_text,
    values_text,
    with_search_space,
)
from himl_cli.workspaces.local.job_data import output_folder, resolve_folders, trial_output
from himl_cli.workspaces.local.job_environment import fill_command, job_command
from himl_cli.workspaces.local.launch import check_shell, shown_command, with_recovery_id
from himl_cli.workspaces.local.launch_request import (
    Form,
    LaunchRequest,
    job_form,
    job_from_form,
    job_from_stored_form,
    shallow,
    stored_form,
)
from himl_cli.workspaces.local.sampling import check_sampling

PIPELINE = "pipeline"
LONGEST_TITLE = 60
LONGEST_KEY = 30  # in the id of a step's run: names of files end at 255 bytes


@dataclass(frozen=True)
class PlannedJob:
    """The job of a sweep's trials (its `key` is empty), or a step. Its snapshot is staged at `place` in the parent's
    folder.

    `inputs` are the folders of its inputs by key, less those in `takes`, which are outputs of other steps: key of the
    step, key of the output. `datastore` is the folder in which its outputs lie unless they say otherwise.
    """

    spec: JobSpec
    command: str
    datastore: str
    inputs: Mapping[str, str]
    place: str
    key: str = ""
    name: str = ""
    takes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    after: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The step as messages name it."""
        name = " ".join("".join(each if each.isprintable() else " " for each in self.name).split())
        name = name if len(name) <= LONGEST_TITLE else f"{name[: LONGEST_TITLE - 1]}…"
        return f"step '{self.key}'" if name in ("", self.key) else f"step '{name}' ({self.key})"


@dataclass(frozen=True)
class Plan:
    """A run whose children are jobs of their own. `kind` is `pipeline`, else what sort of sweep it is. `again`: it is
    resumed.

    `outputs` are those of a pipeline by name: key of the step, key of its output.
    """

    run_folder: str
    workspace: str
    kind: str
    experiment: str
    display_name: str
    description: str
    tags: Mapping[str, str]
    command: str
    jobs: Sequence[PlannedJob]
    again: bool = False
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        return Path(self.run_folder).name

    @property
    def sweep(self) -> SweepSpec:
        """Of a plan that is no pipeline."""
        found = self.jobs[0].spec.sweep
        assert found is not None
        return found

    def to_json(self) -> str:
        return json.dumps(self._form(job_form))

    def stored(self) -> Form:
        """The plan as a file may hold it."""
        return self._form(lambda spec: {**stored_form(spec), "files": list(spec.snapshot.files)})

    def _form(self, form_of: Callable[[JobSpec], Form]) -> Form:
        jobs = [{**shallow(job), "spec": form_of(job.spec)} for job in self.jobs]
        return {**shallow(self), "jobs": jobs}

    def staged(self) -> Plan:
        """The plan once the jobs' files lie in the run's folder: children's files are staged from there."""
        jobs = []
        for job in self.jobs:
            files = [*dict.fromkeys((*job.spec.snapshot.files, *job.spec.brought))]
            snapshot = replace(job.spec.snapshot, root=Path(self.run_folder) / job.place, files=files)
            jobs.append(replace(job, spec=replace(job.spec, snapshot=snapshot, brought={})))
        return replace(self, jobs=jobs)


def plan_from_json(text: str) -> Plan:
    form = json.loads(text)
    return Plan(**{**form, "jobs": [PlannedJob(**{**job, "spec": job_from_form(job["spec"])}) for job in form["jobs"]]})


def plan_from_stored(form: Mapping[str, Any], run_folder: Path, workspace: Path, env: Mapping[str, str]) -> Plan:
    """The plan of a file, to resume: its jobs have the variables of *env* that they had, and those that none of them
    had."""
    new = set(env) - {name for job in form["jobs"] for name in job["spec"]["env_names"]}
    jobs = []
    for job in form["jobs"]:
        spec = dict(job["spec"])
        spec["snapshot"] = {**spec["snapshot"], "files": spec.pop("files")}
        own = {name: value for name, value in env.items() if name in new or name in spec["env_names"]}
        jobs.append(PlannedJob(**{**job, "spec": job_from_stored_form(spec, own)}))
    places = {"run_folder": str(run_folder), "workspace": str(workspace)}
    return Plan(**{**form, **places, "jobs": jobs, "again": True}).staged()


def plan_sweep(workspace: Path, spec: JobSpec, datastore: Path, notify: Notify) -> Plan:
    """The plan of a job that is a sweep; *datastore* is where its data lies unless it says otherwise. Nothing is made.

    Raises what a job's start raises, and BadUsage where the sampling needs what is not installed, for a name that
    cannot be a variable's (AZUREML_SWEEP_NAME), and for a value that cannot stand where the command line has it.
    """
    assert spec.sweep is not None
    check_sampling(spec.sweep)
    is_line = spec.entry.kind is EntryKind.command
    for name, found in spec.sweep.space.items():
        if not HYPERPARAMETER_NAME.fullmatch(name):
            raise BadUsage(
                f"'{name}' cannot be the name of a hyperparameter.",
                hint="It has to be letters, digits, '_', '-' and '.', a letter first.",
            )
        for value in found.values if found.draw is Draw.choice and is_line else ():
            if isinstance(value, str):
                _filled(spec, {name: value})
    check_shell(spec)
    run_id = spec.run_id or new_run_id(spec.experiment)
    inputs, _ = resolve_folders(spec, datastore, run_id, notify)
    shown = spec if is_line else replace(spec, arguments=with_search_space(spec.arguments, spec.sweep.space))
    job = PlannedJob(spec, shown_command(shown), str(datastore), inputs, "code")
    return Plan(
        str(workspace / "runs" / run_id),
        str(workspace),
        spec.sweep.kind,
        spec.experiment,
        spec.display_name,
        spec.description,
        with_recovery_id(spec, run_id).tags,
        job.command,
        [job],
    )


def plan_pipeline(
    workspace: Path, spec: PipelineSpec, datastore_of: Callable[[str | None], Path], notify: Notify
) -> Plan:
    """The plan of a pipeline; *datastore_of* gives the folder of the default datastore, whose name may be None. Nothing
    is made.

    Errors begin with the key of the step.
    """
    run_id = spec.run_id or new_run_id(spec.experiment)
    places: dict[tuple[Path, tuple[str, ...]], str] = {}
    jobs: list[PlannedJob] = []
    for step in spec.steps:
        with _naming(step):
            job = step.job
            check_shell(job)
            datastore = datastore_of(job.default_datastore or spec.default_datastore)
            own = replace(job, inputs=[item for item in job.inputs if item.key not in step.takes])
            check_placeholders(job)
            inputs, _ = resolve_folders(replace(own, arguments=()), datastore, f"{run_id}_{step.key}", notify)
            snapshot = (job.snapshot.root, tuple(job.snapshot.files))
            place = places.setdefault(snapshot, f"steps/{len(places)}")
            takes = {key: (output.step, output.output) for key, output in step.takes.items()}
            rest = (place, step.key, step.name, takes, list(step.after))
            jobs.append(PlannedJob(job, shown_command(job), str(datastore), inputs, *rest))
    plan = Plan(
        str(workspace / "runs" / run_id),
        str(workspace),
        PIPELINE,
        spec.experiment,
        spec.display_name,
        spec.description,
        {**spec.tags, "run_recovery_id": f"{spec.experiment}:{run_id}"},
        spec.command or f"pipeline of {len(jobs)} steps: {', '.join(job.key for job in jobs)}",
        jobs,
        outputs={name: (output.step, output.output) for name, output in spec.outputs.items()},
    )
    for step, planned in zip(spec.steps, jobs, strict=True):
        with _naming(step):
            job_command(step_request(plan, planned))  # whether the folders that it takes from others can stand in it
    return plan


@contextmanager
def _naming(step: StepSpec) -> Iterator[None]:
    try:
        yield
    except HimlError as err:
        text = str(err)
        err.args = (text if text.startswith(step.key) else f"{step.key}: {text}",)
        raise


def trial_id(plan: Plan, index: int) -> str:
    return f"{plan.run_id}_{index}"


def step_id(plan: Plan, job: PlannedJob) -> str:
    key = job.key if len(job.key) <= LONGEST_KEY else f"{job.key[:LONGEST_KEY]}_{plan.jobs.index(job)}"
    return f"{plan.run_id}_{key}"


def trial_request(plan: Plan, index: int, values: Mapping[str, Scalar]) -> LaunchRequest:
    """What trial *index* runs."""
    job, texts = plan.jobs[0], {name: value_text(value) for name, value in values.items()}
    own = {name: value for name, value in job.spec.tags.items() if name != SWEPT}
    spec = replace(
        _filled(job.spec, texts),
        tags={**own, HYPERPARAMETERS: json.dumps(dict(values)), TRIAL: str(index)},
        display_name=values_text(values),
        outputs=[trial_output(item) for item in job.spec.outputs],
        parent=plan.run_id,
        sweep=None,
        description="",
    )
    return _request(plan, spec, trial_id(plan, index), job, texts)


def step_request(plan: Plan, job: PlannedJob) -> LaunchRequest:
    """What a step runs; its inputs are there once the steps before it are completed."""
    by_key = {each.key: each for each in plan.jobs}
    taken = {key: step_outputs(plan, by_key[step])[output] for key, (step, output) in job.takes.items()}
    tags = {**plan.tags, **job.spec.tags, STEP: job.key, STEP_AFTER: ",".join(job.after)}
    name = job.name or job.key
    spec = replace(job.spec, tags=tags, display_name=name, parent=plan.run_id, experiment=plan.experiment)
    return _request(plan, spec, step_id(plan, job), replace(job, inputs={**job.inputs, **taken}), {})


def step_outputs(plan: Plan, job: PlannedJob) -> dict[str, str]:
    """The folders of a step's outputs, by key."""
    return _outputs(job, job.spec, step_id(plan, job))


def _outputs(job: PlannedJob, spec: JobSpec, run_id: str) -> dict[str, str]:
    """Whether they may exist already was asked when the whole was submitted."""
    folder = Path(job.datastore)
    return {item.key: str(output_folder(replace(item, overwrite=True), folder, run_id)) for item in spec.outputs}


def _request(plan: Plan, spec: JobSpec, run_id: str, job: PlannedJob, values: Mapping[str, str]) -> LaunchRequest:
    folder, child = Path(plan.run_folder).with_name(run_id), with_recovery_id(spec, run_id)
    inputs, outputs = dict(job.inputs), _outputs(job, spec, run_id)
    return LaunchRequest(
        str(folder),
        plan.workspace,
        child,
        shown_command(child),
        inputs,
        outputs,
        again=folder.exists(),
        values=values,
    )


def _filled(spec: JobSpec, values: Mapping[str, str]) -> JobSpec:
    """The job with the values of its hyperparameters in its arguments, or in its command line."""
    arguments = list(spec.arguments)
    if spec.entry.kind is EntryKind.command:
        spec = replace(spec, entry=replace(spec.entry, target=fill_command(spec.entry.target, {SEARCH_SPACE: values})))
    else:
        arguments = with_search_space(arguments, values)

    def fill(argument: str) -> str:
        return PLACEHOLDER.sub(lambda found: values[found[2]] if found[1] == SEARCH_SPACE else found[0], argument)

    return replace(spec, arguments=[fill(argument) for argument in arguments])
