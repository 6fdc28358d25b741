"""Another submission of a whole pipeline: the snapshots, steps, options and inputs of its run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notify
from himl_cli.core.jobs import Entry, EntryKind, PipelineSpec, Snapshot, StepSpec, check_placeholders, is_job_file
from himl_cli.core.redaction import MASK, masked_names, with_given
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import SWEPT, SweepSpec
from himl_cli.services.runs.lookup import code_changes
from himl_cli.services.submission.environment import choose_environment
from himl_cli.services.submission.pipelines import PreparedPipeline
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.repeat import OF_SWEEP, Repeat, copy_code, merged_options, missing_variables
from himl_cli.services.submission.request import REQUEST_FIELDS, SubmitRequest, options_outside
from himl_cli.services.submission.sweeps import SWEEP_KINDS, sweep_text
from himl_cli.workspaces.base import StoredPipeline, Workspace

OF_PIPELINE = ("display_name", "description")


def repeat_pipeline(
    workspace: Workspace,
    run: Run,
    stored: StoredPipeline,
    request: SubmitRequest,
    given: Mapping[str, tuple[str, Sequence[str]]],
    folder: Path,
    notify: Notify,
    *,
    only_args: bool,
) -> tuple[SubmitRequest, PreparedPipeline]:
    """The pipeline *stored* of *run*, with the typed options of *request*, which it also returns with the place of the
    run. The code is copied to *folder*. Masked secrets come from the command lines and arguments *given* by the keys of
    steps. Raises BadUsage for options that do not apply, and for missing secrets."""
    spec, copies = stored.spec, dict[Path, Snapshot]()
    roots = {step.job.snapshot.root for step in spec.steps}
    if not all(root in stored.code and next(stored.code[root].list(), ()) for root in roots):
        raise BadUsage(f"Run '{run.id}' cannot be repeated: it has no copy of its code.", hint=_with_file(run))
    _check_options(run, spec.sweep, request, only_args=only_args)
    spec = replace(spec, steps=[_with_secrets(step, given.get(step.key)) for step in spec.steps])
    _check_secrets(run, spec, stored.missing, request)
    for number, (root, store) in enumerate(stored.code.items()):
        copies[root] = copy_code(store, None, folder / str(number), run, notify)
    sweep, typed = spec.sweep, [name for name in OF_SWEEP if request.is_typed(name)]
    changed = {name: getattr(request, name) for name in typed}
    sweep = replace(sweep, **changed) if sweep is not None and changed else sweep
    line = run.tags.get("command_line") or run.command
    request = replace(request, build={"command_line": line, **request.build})
    request = request.without(*(typed if sweep is not None else ()))
    steps, remarks, merged = list[StepSpec](), dict[str, list[str]](), request
    for step in spec.steps:
        snapshot = copies[step.job.snapshot.root]
        old = replace(step.job, sweep=None)
        merged = merged_options(request.without(*OF_PIPELINE), run, old, replace(old.snapshot, root=snapshot.root))
        merged = replace(merged, ready_snapshot=snapshot)
        if merged.on_azure:
            merged, found = _with_environment(merged, old.entry, snapshot.root)
            for remark in found:
                remarks.setdefault(remark, []).append(step.key)
        # Names for the check, since outputs of a step have none
        inputs, outputs = (
            [replace(item, name=item.name or "-") for item in each] for each in (old.inputs, old.outputs)
        )
        named = prepare_job(replace(merged, inputs=inputs, outputs=outputs))
        job = Repeat(run, merged, old, snapshot.root, b"").applied(named).spec
        # The arguments may contain placeholders of the sweep
        job = replace(job, arguments=old.arguments, inputs=old.inputs, outputs=old.outputs, sweep=sweep)
        job = replace(job, distribution=old.distribution or "pytorch")
        if job.cluster:
            job = replace(job, distribution=old.distribution if old.processes else "", nodes=old.nodes)
        check_placeholders(job)
        steps.append(replace(step, job=job))
    swept = {SWEPT: sweep_text(sweep)} if sweep is not None else {}
    again = replace(
        spec,
        experiment=steps[0].job.experiment,
        steps=steps,
        display_name=request.display_name or spec.display_name,
        description=request.description or spec.description,
        cluster=request.on_azure or (spec.cluster if merged.on_azure else ""),
        default_datastore=request.default_datastore
        or (spec.default_datastore if spec.cluster and merged.on_azure else None),
    )
    again = again.with_tags({**steps[0].job.tags, **swept})
    shared = [f"{', '.join(keys)}: {text}" for text, keys in remarks.items()]
    prepared = PreparedPipeline(run.id, again, (), shared, changes=code_changes(workspace, run))
    return replace(request, cluster=merged.cluster), prepared


def _with_environment(request: SubmitRequest, entry: Entry, root: Path) -> tuple[SubmitRequest, Sequence[str]]:
    """*request* with an environment for a step on Azure ML: that of its run or of the options, else as for the steps of
    a file, and remarks on the choice."""
    if request.ready_environment is not None or request.environment is not None:
        return request, ()
    place = (root / entry.target).parent if entry.kind in (EntryKind.script, EntryKind.shell) else root
    found, remarks = choose_environment(request, place, root, may_be_bare=entry.kind is not EntryKind.command)
    return replace(request, ready_environment=found), [text.replace(f"{root}{os.sep}", "") for text in remarks]


def _with_secrets(step: StepSpec, given: tuple[str, Sequence[str]] | None) -> StepSpec:
    """*step* with the command line and arguments *given* in place of those in which secrets are masked."""
    command, arguments = with_given(step.job.entry.target, step.job.arguments, given or ("", ()))
    return replace(step, job=replace(step.job, entry=replace(step.job.entry, target=command), arguments=arguments))


def _check_options(run: Run, sweep: SweepSpec | None, request: SubmitRequest, *, only_args: bool) -> None:
    if request.arguments or only_args:
        steps = f"himl submit --from {run.id}_STEP -- --NAME VALUE"
        raise BadUsage(f"Run '{run.id}' is a pipeline, whose steps have arguments.", hint=f"To repeat one: {steps}")
    names = {field: option for option, field in REQUEST_FIELDS.items()}
    refused = [*options_outside(["pipeline"]), *SWEEP_KINDS, *(() if sweep else OF_SWEEP[:3])]
    for name in filter(request.is_typed, refused):
        what = f"--{names.get(name, name)} cannot be used with --from and the pipeline '{run.id}'."
        raise BadUsage(what, hint=_with_file(run))


def _with_file(run: Run, *options: str) -> str:
    """The hint to submit the file of the pipeline."""
    file = next(filter(is_job_file, _words(run)), "FILE")
    return f"Submit its file: {shlex.join(['himl', 'submit', file, *options])}"


def _words(run: Run) -> Sequence[str]:
    try:
        return shlex.split(run.tags.get("command_line", ""))
    except ValueError:  # of another client
        return []


def _check_secrets(run: Run, spec: PipelineSpec, missing: Sequence[str], request: SubmitRequest) -> None:
    """Raise BadUsage for secrets that himl does not store and that the user did not give again."""
    masked: dict[str, None] = {}
    for step in spec.steps:
        names = masked_names(step.job.arguments) or ["the command line"] * (MASK in step.job.entry.target)
        masked |= dict.fromkeys(f"{name} of {step.key}" for name in names)
    if masked:
        what = f"himl does not store values of run '{run.id}' that look like secrets: {', '.join(masked)}."
        file = next(filter(is_job_file, _words(run)), "FILE")
        again = shlex.join(["himl", "submit", file, "--from", run.id])
        raise BadUsage(what, hint=f"Name the file that has them: {again}")
    if lacking := sorted({*missing} - {*request.env_vars}):
        raise missing_variables(run, lacking)
