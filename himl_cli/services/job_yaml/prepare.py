"""A job's YAML and the options of `himl submit`, made ready: as a job that runs here, or as changes to what Azure ML is
sent."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from himl_cli.core.documents import DocumentChanges
from himl_cli.core.jobs import HERE, Entry, EntryKind, JobSpec, Snapshot, SnapshotReport
from himl_cli.core.pipelines import PipelineSpec
from himl_cli.services.git import git_facts
from himl_cli.services.interpreter import find_python
from himl_cli.services.job_yaml.command import Laid, changed_code, command_job
from himl_cli.services.job_yaml.document import COMMAND, PIPELINE, SWEEP, JobDocument, read_document
from himl_cli.services.job_yaml.pipeline import PipelineReader
from himl_cli.services.job_yaml.sweep import sweep_job
from himl_cli.services.naming import automatic_tags, choose_experiment
from himl_cli.services.snapshot import ignored_remarks, secrets_but
from himl_cli.services.submission import SubmitRequest, command_line, parse_duration
from himl_cli.services.submission.cluster_checks import shortened
from himl_cli.services.submission.place import check_place
from himl_cli.services.submission.target import check_options, file_remarks, target_path

NAMING = (
    "cluster",
    "experiment",
    "experiment_from_branch",
    "display_name",
    "description",
    "tags",
    "build",
    "env_vars",
    "include_secret",
)
COUNTING_THERE = frozenset(NAMING)
COUNTING_HERE = frozenset((*NAMING, "python", "max_run_duration", "ignored_folders", "default_datastore"))
WHAT = "a job's YAML"


@dataclass(frozen=True)
class PreparedDocument:
    """A job's YAML, checked. Here it is `job` or `pipeline`; on `cluster` it goes as the file says, but for
    `changes`."""

    document: JobDocument
    changes: DocumentChanges
    job: JobSpec | None = None
    pipeline: PipelineSpec | None = None
    reports: Sequence[SnapshotReport] = ()
    remarks: Sequence[str] = ()

    @property
    def goes_to_azure(self) -> bool:
        return self.job is None and self.pipeline is None


def prepare_document(request: SubmitRequest, env: Mapping[str, str] | None = None) -> PreparedDocument:
    """Check all that was asked for; no network, and nothing is written. Raises BadUsage naming the key."""
    path = target_path(request)
    document = read_document(path, str(request.target))
    compute = request.cluster if request.cluster is not None else document.compute
    is_here = compute in ("", HERE)
    check_options(request, COUNTING_HERE if is_here else COUNTING_THERE, WHAT)
    request = replace(request, cluster=HERE if is_here else compute)
    check_place(request)
    changes, remarks = _changes(request, document, path)
    if not is_here:
        return PreparedDocument(document, changes, remarks=remarks)
    if document.kind not in (COMMAND, SWEEP, PIPELINE):
        raise document.root.wrong(
            "type",
            f"'{document.kind}' cannot run here.",
            hint="Command, sweep and pipeline jobs can; for others name a cluster with --cluster.",
        )
    remarks += file_remarks(request, WHAT)
    if not document.compute:
        remarks.append("It names no compute and runs here; --cluster NAME runs it on Azure ML.")
    return _here(request, document, changes, remarks, os.environ if env is None else env)


def _changes(request: SubmitRequest, document: JobDocument, path: Path) -> tuple[DocumentChanges, list[str]]:
    """What counts instead of what the file says, experiment and tags worked out; and what the user should know of
    it."""
    git = git_facts(path.parent)
    asked = request.experiment or (
        None if request.experiment_from_branch else document.root.text("experiment_name") or None
    )
    experiment, said_of_it = choose_experiment(
        asked, path.with_suffix(".py").name, from_branch=request.experiment_from_branch, git=git
    )
    automatic = automatic_tags(git, request.build, command_line(request))
    own = document.root.part("tags")
    said = {key: own.text(key) for key in own.content}
    changes = DocumentChanges(
        experiment=experiment,
        display_name=request.display_name,
        description=request.description,
        tags={**(shortened(automatic) if request.on_cluster else automatic), **said, **request.tags},
        env=request.env_vars,
        cluster=request.on_cluster if request.cluster != document.compute else "",
        command=command_line(request),
        code=changed_code(document.root),
        is_secret=secrets_but(request.include_secret),
    )
    return changes, said_of_it


def _here(
    request: SubmitRequest, document: JobDocument, changes: DocumentChanges, remarks: list[str], env: Mapping[str, str]
) -> PreparedDocument:
    root = document.root
    common = JobSpec(
        experiment=changes.experiment,
        entry=Entry(EntryKind.command, ""),
        snapshot=Snapshot(root.folder, (), 0),
        python=find_python(request.python, env, Path(sys.prefix)),
        max_seconds=parse_duration(request.max_run_duration, "--max_run_duration")
        if request.max_run_duration
        else None,
        env=changes.env,
        tags=changes.tags,
        display_name=changes.display_name or root.text("display_name"),
        description=changes.description or root.text("description"),
        default_datastore=request.default_datastore,
    )
    laid = Laid(request.ignored_folders, request.include_secret)
    job: JobSpec | None = None
    pipeline: PipelineSpec | None = None
    if document.kind == PIPELINE:
        reader = PipelineReader(root, common, laid)
        pipeline = PipelineSpec(
            experiment=common.experiment,
            steps=reader.steps(),
            outputs=reader.made,
            display_name=common.display_name,
            description=common.description,
            tags=common.tags,
            default_datastore=request.default_datastore,
            command=changes.command,
        )
    else:
        job = (sweep_job if document.kind == SWEEP else command_job)(root, common, laid)
    idle = [f"Passed over, since it runs here and not on a cluster: {', '.join(laid.idle)}."] if laid.idle else []
    reports = list(laid.snapshots.values())
    return PreparedDocument(
        document, changes, job, pipeline, reports, [*remarks, *laid.remarks, *idle, *ignored_remarks(reports)]
    )
