"""Plans of sweeps and pipelines, with all data resolved and nothing created yet, and requests for their children."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.events import Notify
from himl_cli.core.jobs import (
    STEP,
    STEP_AFTER,
    DataSpec,
    EntryKind,
    JobSpec,
    PipelineSpec,
    StepOutput,
    StepSpec,
    StoredJob,
    check_placeholders,
    step_of_trial,
)
from himl_cli.core.runs import Run, new_run_id
from himl_cli.core.sampling import check_sampling
from himl_cli.core.sweeps import (
    HYPERPARAMETER_NAME,
    HYPERPARAMETERS,
    SEARCH_SPACE,
    TRIAL,
    Draw,
    Scalar,
    fill_command,
    filled_in,
    hyperparameters_of,
    trial_tags,
    value_text,
    values_text,
    with_search_space,
)
from himl_cli.workspaces.base import BlobStore, StoredPipeline
from himl_cli.workspaces.local.launch_request import (
    PIPELINE,
    RUN_NAME,
    LaunchRequest,
    Plan,
    PlannedJob,
    check_shell,
    job_command,
    job_from_stored_form,
    output_folder,
    plan_from_stored,
    resolve_folders,
    shown_command,
)
from himl_cli.workspaces.local.run_folder import PLAN, RECORD, RunFolder
from himl_cli.workspaces.local.staging import code_of_place, stage_files


def plan_sweep(workspace: Path, spec: JobSpec, datastore: Path, notify: Notify) -> Plan:
    """The plan of a job that is a sweep. *datastore* is the default folder of its data. Creates nothing.

    Raises the errors of a job's start, and BadUsage for sampling that needs a missing package, for a name that cannot
    be part of an environment variable (AZUREML_SWEEP_NAME), and for a value that cannot be quoted in the command line.
    """
    assert spec.sweep is not None
    check_sampling(spec.sweep)
    is_line = spec.entry.kind is EntryKind.command
    for name, found in spec.sweep.space.items():
        if not HYPERPARAMETER_NAME.fullmatch(name):
            raise BadUsage(
                f"Invalid name of a hyperparameter: '{name}'.",
                hint="Use letters, digits, '_', '-', '/' and '.', with a letter first.",
            )
        for value in found.values if found.draw is Draw.choice and is_line else ():
            if isinstance(value, str):
                _filled(spec, {**dict.fromkeys(spec.sweep.space, ""), name: value})
    check_shell(spec)
    run_id = spec.run_id or new_run_id(spec.experiment)
    inputs, _ = resolve_folders(spec, datastore, run_id, notify)
    shown = spec if is_line else replace(spec, arguments=with_search_space(spec.arguments, spec.sweep.space))
    run = Run(
        run_id,
        spec.experiment,
        display_name=spec.display_name,
        description=spec.description,
        tags=dict(spec.tags),
        command=shown_command(shown),
    )
    job = PlannedJob(spec, str(datastore), inputs, "code")
    return Plan(str(workspace / "runs" / run_id), spec.sweep.kind, run, [job])


def plan_pipeline(
    workspace: Path, spec: PipelineSpec, datastore_of: Callable[[str | None], Path], notify: Notify
) -> Plan:
    """The plan of a pipeline, or of a sweep of pipelines. *datastore_of* returns the folder of the default datastore,
    whose name may be None. Creates nothing.

    Errors start with the key of the step.
    """
    if spec.sweep is not None:
        check_sampling(spec.sweep)
    run_id = spec.run_id or new_run_id(spec.experiment)
    places: dict[tuple[Path, tuple[str, ...]], str] = {}
    jobs: list[PlannedJob] = []
    key = ""
    try:
        for step in spec.steps:
            key, job = step.key, step.job
            check_shell(job)
            datastore = datastore_of(job.default_datastore or spec.default_datastore)
            own = replace(job, inputs=[item for item in job.inputs if item.key not in step.takes])
            check_placeholders(job)
            inputs, _ = resolve_folders(replace(own, arguments=()), datastore, f"{run_id}_{key}", notify)
            place = places.setdefault((job.snapshot.root, tuple(job.snapshot.files)), f"steps/{len(places)}")
            takes = {name: (output.step, output.output) for name, output in step.takes.items()}
            jobs.append(PlannedJob(job, str(datastore), inputs, place, key, step.name, takes, list(step.after)))
        command = spec.command or f"pipeline of {len(jobs)} steps: {', '.join(job.key for job in jobs)}"
        outputs = {name: (output.step, output.output) for name, output in spec.outputs.items()}
        run = Run(
            run_id,
            spec.experiment,
            display_name=spec.display_name,
            description=spec.description,
            tags=dict(spec.tags),
            command=command,
        )
        kind = spec.sweep.kind if spec.sweep else PIPELINE
        plan = Plan(str(workspace / "runs" / run_id), kind, run, jobs, outputs=outputs)
        single = pipeline_trial(plan, 0, dict.fromkeys(spec.sweep.space, "")) if spec.sweep else plan
        for planned in single.jobs:
            key = planned.key
            job_command(step_request(single, planned))  # checks that it can quote the folders of other steps
    except HimlError as err:
        text = str(err)
        err.args = (text if text.startswith(key) else f"{key}: {text}",)
        raise
    return plan


def trial_request(plan: Plan, index: int, values: Mapping[str, Scalar]) -> LaunchRequest:
    """The request for trial *index* of a job."""
    job, texts = plan.jobs[0], {name: value_text(value) for name, value in values.items()}
    spec = replace(
        _filled(job.spec, texts),
        tags=trial_tags(job.spec.tags, index, values),
        display_name=values_text(values),
        outputs=[_trial_output(item) for item in job.spec.outputs],
        parent=plan.run.id,
        sweep=None,
        description="",
    )
    return _request(plan, plan.child_id(index), replace(job, spec=spec), texts)


def pipeline_trial(plan: Plan, index: int, values: Mapping[str, Scalar]) -> Plan:
    """The pipeline of trial *index*, which uses the files of its sweep."""
    run = replace(
        plan.run,
        id=plan.child_id(index),
        tags=trial_tags(plan.run.tags, index, values),
        display_name=values_text(values),
        parent=plan.run.id,
        description="",
    )
    folder = Path(plan.run_folder).with_name(run.id)
    jobs = [replace(job, spec=step_of_trial(job.spec, values)) for job in plan.jobs]
    return Plan(str(folder), PIPELINE, run, jobs, folder.exists(), plan.outputs, staged_in=plan.run_folder)


def step_request(plan: Plan, job: PlannedJob) -> LaunchRequest:
    """The request for a step. Its inputs exist once the steps before it are completed."""
    outputs = {each.key: job_outputs(each, plan.child_id(each)) for each in plan.jobs}
    taken = {key: outputs[step][name] for key, (step, name) in job.takes.items()}
    shared = {name: value for name, value in plan.run.tags.items() if name not in (HYPERPARAMETERS, TRIAL)}
    tags = {**shared, **job.spec.tags, STEP: job.key, STEP_AFTER: ",".join(job.after)}
    name = job.name or job.key
    spec = replace(job.spec, tags=tags, display_name=name, parent=plan.run.id, experiment=plan.run.experiment)
    return _request(plan, plan.child_id(job), replace(job, spec=spec, inputs={**job.inputs, **taken}), {})


def stage_plan(plan: Plan, folder: RunFolder, is_stopped: Callable[[], bool]) -> Plan:
    """Stage the files of the plan's jobs in its run's folder, store the plan, and return the one that starts children.
    A pipeline that is a trial uses the files of its sweep. Raises OSError, Stopped."""
    folder.user_logs.mkdir(exist_ok=plan.again)
    (folder.user_logs / "std_log.txt").touch()
    if not plan.staged_in:
        for place, spec in {job.place: job.spec for job in plan.jobs}.items():
            target = folder.path / place
            target.mkdir(parents=True)
            stage_files(spec, target, is_stopped=is_stopped)
        plan = plan.staged()
        folder.write(PLAN, {"many": plan.stored()})
    made = {job.key: job_outputs(job, plan.child_id(job)) for job in plan.jobs} if plan.outputs else {}
    outputs = {name: made[step][key] for name, (step, key) in plan.outputs.items()}
    folder.write(RECORD, {"outputs": outputs})
    return plan


def stored_job(folder: RunFolder, above: Sequence[Run]) -> StoredJob | None:
    """The job of the first run of *above*, which are that run and those above it, up to the one with the stored plan in
    *folder*. None for a pipeline, and for a run that a script or a program recorded. Raises DiskFailed."""
    stored = folder.read(PLAN)
    if "many" not in stored:
        form = stored.get("job") if len(above) == 1 else None
        return StoredJob(job_from_stored_form(form, {}), form["env_names"]) if form else None
    plan, spec, key = plan_from_stored(stored["many"], folder.path, {}), None, ""
    for run in reversed(above[:-1]):
        if STEP in run.tags:
            key = run.tags[STEP]
            request = step_request(plan, next(job for job in plan.jobs if job.key == key))
            inputs = [replace(item, local=request.inputs.get(item.key, item.local)) for item in request.spec.inputs]
            spec = replace(request.spec, inputs=inputs)
        elif values := hyperparameters_of(run.tags):
            index = int(run.tags[TRIAL])
            if plan.has_steps:
                plan = pipeline_trial(plan, index, values)
            else:
                spec = trial_request(plan, index, values).spec
        else:
            return None
    if len(above) == 1 and not plan.has_steps:
        spec = plan.jobs[0].spec
    names = next((job["spec"]["env_names"] for job in stored["many"]["jobs"] if job["key"] == key), ())
    return None if spec is None else StoredJob(spec, names)


def stored_pipeline(folder: RunFolder, above: Sequence[Run]) -> StoredPipeline | None:
    """The pipeline of the first run of *above* (see `stored_job`). None for other runs. Raises OSError, DiskFailed."""
    from himl_cli.workspaces.local.file_blobs import CodeFiles

    stored = folder.read(PLAN)
    if "many" not in stored or any(STEP in run.tags for run in above[:-1]):
        return None
    plan = plan_from_stored(stored["many"], folder.path, {})
    if not plan.has_steps:
        return None
    for run in reversed(above[:-1]):
        plan = pipeline_trial(plan, int(run.tags[TRIAL]), hyperparameters_of(run.tags))
    code: dict[Path, BlobStore] = {}
    for place in plan.places:
        code[place] = CodeFiles(folder.path, partial(code_of_place, place, folder), f"code of run '{folder.run_id}'")
    steps = []
    for job in plan.jobs:
        inputs = [replace(item, local=job.inputs.get(item.key, item.local)) for item in job.spec.inputs]
        takes = {key: StepOutput(step, output) for key, (step, output) in job.takes.items()}
        steps.append(StepSpec(job.key, job.name, replace(job.spec, inputs=inputs), takes, job.after))
    spec = PipelineSpec(
        plan.run.experiment,
        steps,
        plan.run.display_name,
        plan.run.description,
        plan.run.tags,
        command=plan.run.command,
        outputs={name: StepOutput(step, key) for name, (step, key) in plan.outputs.items()},
    )
    missing = sorted({name for job in stored["many"]["jobs"] for name in job["spec"]["env_names"]})
    return StoredPipeline(spec, missing, code)


def job_outputs(job: PlannedJob, run_id: str) -> dict[str, str]:
    """The folders of a child's outputs, by key. The submission has already checked whether they may exist."""
    folder = Path(job.datastore)
    return {item.key: str(output_folder(replace(item, overwrite=True), folder, run_id)) for item in job.spec.outputs}


def _request(plan: Plan, run_id: str, job: PlannedJob, values: Mapping[str, str]) -> LaunchRequest:
    folder, outputs = Path(plan.run_folder).with_name(run_id), job_outputs(job, run_id)
    words = (shown_command(job.spec), dict(job.inputs), outputs)
    # In a queue, the last child to end may record the end of the parent run
    spec = job.spec if job.spec.engine else replace(job.spec, webhook=None)
    return LaunchRequest(str(folder), spec, *words, again=folder.exists(), values=values)


def _trial_output(item: DataSpec) -> DataSpec:
    """A folder per trial in the requested one, so that concurrent trials do not overwrite each other's files."""
    place = item.local or item.name
    if RUN_NAME in place or not place:
        return item
    if item.local is not None:
        return replace(item, local=str(Path(item.local) / RUN_NAME))
    return replace(item, name=f"{item.name}/{RUN_NAME}")


def _filled(spec: JobSpec, values: Mapping[str, str]) -> JobSpec:
    arguments, space = list(spec.arguments), spec.sweep.space if spec.sweep else {}
    if spec.entry.kind is EntryKind.command:
        spec = replace(spec, entry=replace(spec.entry, target=fill_command(spec.entry.target, {SEARCH_SPACE: values})))
    else:
        arguments = with_search_space(arguments, space)
    return replace(spec, arguments=filled_in(arguments, values, space))
