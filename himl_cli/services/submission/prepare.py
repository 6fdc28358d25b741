"""Checking all that was asked for, and making the job of it."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Event, Notice
from himl_cli.core.jobs import Entry, EntryKind, EnvironmentSpec, JobSpec, Snapshot, SnapshotReport, check_placeholders
from himl_cli.core.redaction import mask_arguments, mask_line
from himl_cli.core.sweeps import SWEPT, with_search_space
from himl_cli.services.data_specs import parse_inputs, parse_outputs
from himl_cli.services.git import git_facts
from himl_cli.services.interpreter import find_python
from himl_cli.services.naming import automatic_tags, choose_experiment
from himl_cli.services.snapshot import ignored_remarks, take_snapshot
from himl_cli.services.submission.cluster_checks import check_for_cluster, check_names, services_of, shortened
from himl_cli.services.submission.entry import check_root, entry_file, find_entry, find_root, named_by
from himl_cli.services.submission.many import many_arguments, settled_many, sweep_for
from himl_cli.services.submission.place import check_place, place_remarks, settled
from himl_cli.services.submission.quantities import check_size, parse_duration
from himl_cli.services.submission.ranks import ranks_of
from himl_cli.services.submission.request import PreparedJob, SubmitRequest
from himl_cli.services.sweeps import copies_remarks, sweep_remarks, sweep_text

log = logging.getLogger(__name__)


def prepare_job(request: SubmitRequest, env: Mapping[str, str] | None = None) -> PreparedJob:
    """Check all that was asked for and list the snapshot; no network, and nothing is written. Raises BadUsage or
    NotFound."""
    check_place(request)
    remarks = place_remarks(request)
    request = settled_many(settled(request))
    sweep = sweep_for(request)
    arguments = many_arguments(request)
    if sweep and request.command:  # which may hold values itself
        arguments = with_search_space([request.command, *arguments], sweep.space)[1:]
    remarks += sweep_remarks(sweep, arguments) if sweep else []
    spec = replace(_of_options(request), arguments=arguments, sweep=sweep)
    start, root = find_root(request)
    entry = find_entry(request, start, root)
    if request.snapshot_root is None and not request.in_place:
        check_root(root, entry_file(entry, root) if request.module else start)
    spec = _with_entry(spec, request, entry, root, env if env is not None else os.environ, remarks)
    if request.on_cluster:
        spec = _for_cluster(spec, request, start, remarks)
    check_placeholders(replace(spec, arguments=[*spec.arguments, request.command or ""]))
    if request.is_told_to_azure:
        check_names(spec, request.tags)
    report = None if request.in_place else _snapshot(request, entry, root)
    remarks += ignored_remarks([report]) if report else []
    if report and spec.sweep and not request.on_cluster:
        remarks += copies_remarks(spec.sweep, report.snapshot.size)
    return PreparedJob(replace(spec, snapshot=report.snapshot) if report else spec, report, remarks, request.checkpoint)


def _of_options(request: SubmitRequest) -> JobSpec:
    """What the options alone say of the job; what is run, and from which files, is yet to be found."""
    max_seconds = parse_duration(request.max_run_duration, "--max_run_duration") if request.max_run_duration else None
    distribution, processes = ranks_of(request)
    return JobSpec(
        experiment="",
        entry=Entry(EntryKind.script, ""),
        snapshot=Snapshot(request.cwd, (), 0),
        in_place=request.in_place,
        processes=processes,
        distribution=distribution,
        max_seconds=max_seconds,
        env=request.env_vars,
        display_name=request.display_name,
        description=request.description,
        inputs=parse_inputs(request.inputs),
        outputs=parse_outputs(request.outputs),
        default_datastore=request.default_datastore,
    )


def _with_entry(
    spec: JobSpec, request: SubmitRequest, entry: Entry, root: Path, env: Mapping[str, str], remarks: list[str]
) -> JobSpec:
    """The job with what follows from its script and its project; what was decided on the way is added to *remarks*."""
    if request.on_cluster:
        python = "" if request.python_executable == "python" else request.python_executable
    else:
        python = find_python(request.python, env, Path(sys.prefix))
    git = git_facts(root)
    log.debug("entry %s, snapshot root %s, interpreter %s, git %s", entry, root, python, git)
    experiment, said_of_it = choose_experiment(
        request.experiment, named_by(entry), from_branch=request.experiment_from_branch, git=git
    )
    remarks += said_of_it
    said = {SWEPT: sweep_text(spec.sweep)} if spec.sweep else {}
    tags = {**automatic_tags(git, request.build, command_line(request)), **said, **request.tags}
    return replace(spec, experiment=experiment, entry=entry, snapshot=Snapshot(root, (), 0), python=python, tags=tags)


def command_line(request: SubmitRequest) -> str:
    """What was run, as the user would type it, secrets masked."""
    what = (
        ["-m", request.module]
        if request.module
        else ["--command", mask_line(request.command)]
        if request.command
        else [str(request.target)]
    )
    return shlex.join([*what, *mask_arguments(request.arguments)])


def _for_cluster(spec: JobSpec, request: SubmitRequest, start: Path, remarks: list[str]) -> JobSpec:
    """The job with what counts on a cluster only; what was decided on the way is added to *remarks*."""
    there = replace(
        spec,
        tags={**shortened(spec.tags), **request.tags},
        cluster=request.on_cluster,
        nodes=request.num_nodes,
        instance_type=request.instance_type or "",
        resource_properties=request.resource_properties or {},
        shm_size=check_size("--shm_size", request.shm_size),
        docker_args=request.docker_args,
        identity=request.identity,
        services={} if spec.sweep else services_of(request),
        sdk=request.sdk,
    )
    idle = [
        f"--{name}"
        for name in ("vscode", "jupyter", "ssh_key", "tensorboard_logs")
        if spec.sweep and request.is_typed(name)
    ]
    remarks += (
        [f"Passed over, since Azure ML offers it in single jobs only, and this is many: {', '.join(idle)}."]
        if idle
        else []
    )
    check_for_cluster(there, request.tags)
    environment = _environment(request, start, spec.snapshot.root, remarks)
    from himl_cli.services.environments.remarks import MODULE, environment_remarks

    file = entry_file(spec.entry, spec.snapshot.root)
    remarks += environment_remarks(environment, file)
    if (
        spec.entry.kind is EntryKind.module and file is None and spec.entry.target != MODULE
    ):  # else the environment is spoken of
        remarks.append(
            f"Module '{spec.entry.target}' is not in '{spec.snapshot.root}': the job needs it in its environment."
        )
    return replace(there, environment=environment)


def _environment(request: SubmitRequest, start: Path, root: Path, remarks: list[str]) -> EnvironmentSpec:
    from himl_cli.services.environments.choose import EnvironmentRequest, environment_spec

    def note(event: Event) -> None:
        if isinstance(event, Notice):
            remarks.append(event.text)

    wanted = EnvironmentRequest(
        request.cwd,
        request.conda_env,
        request.requirements,
        request.environment,
        request.docker_image,
        request.pip_extra_index_url,
        request.private_wheel,
        build_context=request.build_context,
        dockerfile=request.dockerfile,
        include_secret=request.include_secret,
    )
    return environment_spec(wanted, start.parent if request.target else start, root, note)


def _snapshot(request: SubmitRequest, entry: Entry, root: Path) -> SnapshotReport:
    report = take_snapshot(root, request.ignored_folders, request.include_secret)
    if entry.kind in (EntryKind.script, EntryKind.shell) and entry.target not in report.snapshot.files:
        downloaded = next((folder for folder in report.downloads if entry.target.startswith(f"{folder}/")), None)
        why = (
            f"himl downloaded files to '{downloaded}'; move the script"
            if downloaded
            else f"Look in its {report.ignore_file}"
        )
        raise BadUsage(
            f"'{entry.target}' is left out of the snapshot of '{root}'.",
            hint=f"{why}, or give another --snapshot_root.",
        )
    return report
