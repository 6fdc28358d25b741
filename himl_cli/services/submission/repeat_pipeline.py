"""Another submission of a whole pipeline: the snapshots, steps, options and inputs of its run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notify
from himl_cli.core.jobs import Snapshot, StepSpec, check_placeholders, is_job_file
from himl_cli.core.redaction import MASK, masked_names
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import SWEPT, SweepSpec
from himl_cli.services.runs.lookup import code_changes
from himl_cli.services.submission.pipelines import PreparedPipeline
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.repeat import OF_SWEEP, Repeat, copy_code, merged_options, missing_variables
from himl_cli.services.submission.request import REQUEST_FIELDS, SubmitRequest, options_outside
from himl_cli.services.submission.sweeps import SWEEP_KINDS, sweep_text
from himl_cli.workspaces.base import FolderWorkspace, StoredPipeline, Workspace

OF_PIPELINE = ("display_name", "description")


def stored_pipeline(workspace: Workspace, run: Run) -> StoredPipeline | None:
    """The stored pipeline of *run*. None for other runs, and for a pipeline on Azure ML."""
    home = workspace.home_of(run.id)
    return home.stored_pipeline(run.id) if isinstance(home, FolderWorkspace) else None


def repeat_pipeline(
    workspace: Workspace,
    run: Run,
    stored: StoredPipeline,
    request: SubmitRequest,
    folder: Path,
    notify: Notify,
    *,
    only_args: bool,
) -> tuple[SubmitRequest, PreparedPipeline]:
    """The pipeline *stored* of *run*, with the typed options of *request*, which it also returns with the place of the
    run. The code is copied to *folder*. Raises BadUsage for options that do not apply, and for missing secrets."""
    spec, copies = stored.spec, dict[Path, Snapshot]()
    if not all(next(store.list(), ()) for store in stored.code.values()):
        raise BadUsage(f"Run '{run.id}' cannot be repeated: it has no copy of its code.", hint=_with_file(run))
    _check_options(run, spec.sweep, request, only_args=only_args)
    _check_secrets(run, stored, request)
    for number, (root, store) in enumerate(stored.code.items()):
        copies[root] = copy_code(store, None, folder / str(number), run, notify)
    sweep, typed = spec.sweep, [name for name in OF_SWEEP if request.is_typed(name)]
    changed = {name: getattr(request, name) for name in typed}
    sweep = replace(sweep, **changed) if sweep is not None and changed else sweep
    line = run.tags.get("command_line") or run.command
    request = replace(request, build={"command_line": line, **request.build})
    request = request.without(*(typed if sweep is not None else ()))
    of_steps, steps, merged = request.without(*OF_PIPELINE), list[StepSpec](), request
    for step in spec.steps:
        snapshot = copies[step.job.snapshot.root]
        old = replace(step.job, sweep=None)
        merged = merged_options(of_steps, run, old, replace(old.snapshot, root=snapshot.root))
        merged = replace(merged, ready_snapshot=snapshot)
        job = Repeat(run, merged, old, snapshot.root, b"").applied(prepare_job(merged)).spec
        # The arguments may contain placeholders of the sweep
        job = replace(job, arguments=old.arguments, distribution=old.distribution, sweep=sweep)
        check_placeholders(job)
        steps.append(replace(step, job=job))
    swept = {SWEPT: sweep_text(sweep)} if sweep is not None else {}
    again = replace(
        spec,
        experiment=steps[0].job.experiment,
        steps=steps,
        display_name=request.display_name or spec.display_name,
        description=request.description or spec.description,
    )
    again = again.with_tags({**steps[0].job.tags, **swept})
    prepared = PreparedPipeline(run.id, again, (), changes=code_changes(workspace, run))
    return replace(request, cluster=merged.cluster), prepared


def _check_options(run: Run, sweep: SweepSpec | None, request: SubmitRequest, *, only_args: bool) -> None:
    if request.arguments or only_args:
        steps = f"himl submit --from {run.id}_STEP -- --NAME VALUE"
        raise BadUsage(f"Run '{run.id}' is a pipeline, whose steps have arguments.", hint=f"To repeat one: {steps}")
    names = {field: option for option, field in REQUEST_FIELDS.items()}
    refused = [*options_outside(["pipeline"]), *SWEEP_KINDS, *(() if sweep else OF_SWEEP[:3])]
    for name in filter(request.is_typed, refused):
        what = f"--{names.get(name, name)} cannot be used with --from and the pipeline '{run.id}'."
        raise BadUsage(what, hint=_with_file(run))
    if request.on_azure:
        what = f"Pipeline '{run.id}' did not run on Azure ML, so its steps have no environment there."
        raise BadUsage(what, hint=_with_file(run, "--cluster", request.on_azure))


def _with_file(run: Run, *options: str) -> str:
    """The hint to submit the file of the pipeline."""
    file = next(filter(is_job_file, _words(run)), "FILE")
    return f"Submit its file: {shlex.join(['himl', 'submit', file, *options])}"


def _words(run: Run) -> Sequence[str]:
    try:
        return shlex.split(run.tags.get("command_line", ""))
    except ValueError:  # of another client
        return []


def _check_secrets(run: Run, stored: StoredPipeline, request: SubmitRequest) -> None:
    """Raise BadUsage for secrets that himl does not store."""
    masked: dict[str, None] = {}
    for step in stored.spec.steps:
        names = masked_names(step.job.arguments) or ["the command line"] * (MASK in step.job.entry.target)
        masked |= dict.fromkeys(f"{name} of {step.key}" for name in names)
    if masked:
        what = f"himl does not store values of run '{run.id}' that look like secrets: {', '.join(masked)}."
        raise BadUsage(what, hint=_with_file(run))
    if missing := sorted({*stored.missing} - {*request.env_vars}):
        raise missing_variables(run, missing)
