"""Starting a sweep or a pipeline: everything is looked up before anything is made, then its keeper takes over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.events import Notify
from himl_cli.core.jobs import EntryKind, JobSpec, PipelineSpec, StepSpec, check_placeholders
from himl_cli.core.runs import new_run_id
from himl_cli.core.sweeps import HYPERPARAMETER_NAME, Draw, SweepSpec, with_search_space
from himl_cli.workspaces.local.job_environment import job_command
from himl_cli.workspaces.local.jobs import check_shell, chosen_run_id, resolve_folders, shown_command
from himl_cli.workspaces.local.many.child_orders import filled, step_order
from himl_cli.workspaces.local.many.plan import PIPELINE, Plan, PlannedJob
from himl_cli.workspaces.local.many.sampling import check_sampling
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.starting import KEEPER_OF_MANY, begin


def planned_sweep(workspace: Path, spec: JobSpec, datastore: Path, notify: Notify) -> Plan:
    """The plan of a job that is a sweep; *datastore* is where its data lies unless it says otherwise. Nothing is made.

    Raises what a job's start raises, and BadUsage where the sampling needs what is not installed.
    """
    assert spec.sweep is not None
    check_sampling(spec.sweep)
    check_values(spec, spec.sweep)
    check_shell(spec)
    run_id = chosen_run_id(spec)
    folders = resolve_folders(spec, datastore, run_id, notify)
    is_line = spec.entry.kind is EntryKind.command
    whole = spec if is_line else replace(spec, arguments=with_search_space(spec.arguments, spec.sweep.space))
    tags = {**spec.tags, "run_recovery_id": f"{spec.experiment}:{run_id}"}
    job = PlannedJob(spec, shown_command(whole), str(datastore), folders.inputs, "code")
    folder = str(workspace / "runs" / run_id)
    return Plan(
        folder,
        str(workspace),
        spec.sweep.kind,
        spec.experiment,
        spec.display_name,
        spec.description,
        tags,
        job.command,
        [job],
    )


def check_values(spec: JobSpec, sweep: SweepSpec) -> None:
    """Raises BadUsage for a name that cannot be a variable's (AZUREML_SWEEP_NAME), and for a value that cannot stand
    where the command line has it."""
    for name, found in sweep.space.items():
        if not HYPERPARAMETER_NAME.fullmatch(name):
            raise BadUsage(
                f"'{name}' cannot be the name of a hyperparameter.",
                hint="It has to be letters, digits, '_', '-' and '.', a letter first.",
            )
        for value in found.values if found.draw is Draw.choice else ():
            if isinstance(value, str) and spec.entry.kind is EntryKind.command:
                filled(spec, {name: value})


def planned_pipeline(
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
            check_shell(step.job)
            datastore = datastore_of(step.job.default_datastore or spec.default_datastore)
            jobs.append(_planned_step(step, datastore, run_id, notify, places))
    folder, tags = str(workspace / "runs" / run_id), {**spec.tags, "run_recovery_id": f"{spec.experiment}:{run_id}"}
    command = spec.command or f"pipeline of {len(jobs)} steps: {', '.join(job.key for job in jobs)}"
    outputs = {name: (output.step, output.output) for name, output in spec.outputs.items()}
    plan = Plan(
        folder,
        str(workspace),
        PIPELINE,
        spec.experiment,
        spec.display_name,
        spec.description,
        tags,
        command,
        jobs,
        outputs=outputs,
    )
    for step, job in zip(spec.steps, jobs, strict=True):
        with _naming(step):
            job_command(step_order(plan, job))  # whether the folders that it takes from others can stand in it
    return plan


def launch(plan: Plan) -> None:
    """Start the keeper; returns once the run is recorded and its files are laid. Raises DiskFailed, Interrupted."""
    begin(KEEPER_OF_MANY, plan.to_json(), RunFolder(Path(plan.run_folder)))


def _planned_step(
    step: StepSpec, datastore: Path, run_id: str, notify: Notify, places: dict[tuple[Path, tuple[str, ...]], str]
) -> PlannedJob:
    job = step.job
    own = replace(job, inputs=[item for item in job.inputs if item.key not in step.takes])
    check_placeholders(job)
    folders = resolve_folders(replace(own, arguments=()), datastore, f"{run_id}_{step.key}", notify)
    snapshot = (job.snapshot.root, tuple(job.snapshot.files))
    place = places.setdefault(snapshot, f"steps/{len(places)}")
    takes = {key: (output.step, output.output) for key, output in step.takes.items()}
    return PlannedJob(
        job, shown_command(job), str(datastore), folders.inputs, place, step.key, step.name, takes, list(step.after)
    )


@contextmanager
def _naming(step: StepSpec) -> Iterator[None]:
    try:
        yield
    except HimlError as err:
        text = str(err)
        err.args = (text if text.startswith(step.key) else f"{step.key}: {text}",)
        raise
