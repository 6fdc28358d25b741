"""Preparation of a job in Azure ML's YAML (command, sweep or pipeline), for this machine or for submission with
changes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Any

from himl_cli.core.engines import engine_address
from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import (
    DISTRIBUTIONS,
    HERE,
    SERVERLESS,
    DataSpec,
    DocumentSpec,
    Entry,
    EntryKind,
    JobSpec,
    PipelineSpec,
    Snapshot,
    SnapshotReport,
    StepOutput,
    StepSpec,
)
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import mask_document
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec, argument_names
from himl_cli.services.submission.git import changes_of, with_untracked
from himl_cli.services.submission.job_yaml_file import (
    AROUND,
    COMMAND_JOB,
    COMMAND_KEYS,
    NAMING,
    PARALLEL,
    PIPELINE_JOB,
    REMOTE_CODE,
    RUN_KEYS,
    SWEEP_JOB,
    JobDocument,
    Part,
    Values,
    command_text,
    component_at,
    component_of,
    fill,
    local_path,
    read_document,
    read_input,
    read_inputs,
    read_output,
    type_of,
    type_of_step,
    with_absolute_paths,
    with_defaults,
)
from himl_cli.services.submission.pipelines import topological_order
from himl_cli.services.submission.request import (
    MOST_NODES,
    MOST_PROCESSES,
    SubmitRequest,
    beside_file,
    check_values,
    command_line,
    job_of_options,
    refuse,
    remarks_of_azure,
    target_path,
)
from himl_cli.services.submission.snapshot import ignored_remarks, list_upload, take_snapshot
from himl_cli.services.submission.sweeps import (
    AZURE_WORDS,
    SAMPLINGS,
    check_sweep,
    checked_range,
    checked_stop,
    points_of,
    with_max_failures,
    with_seed,
)
from himl_cli.services.yaml_files import dump_mapping

SEARCH_KEYS = ("trial", "search_space", "sampling_algorithm", "objective", "early_termination", "resources")
# The keys of the file for the options that errors about sweeps name
OPTION_KEYS = {
    "--sampling": "sampling_algorithm",
    "--goal": "objective.goal",
    "--early_stop": "early_termination",
    "--max_trials": "limits.max_total_trials",
}
BY_OPTION = {
    "experiment_name": "experiment",
    "display_name": "display_name",
    "description": "description",
    "compute": "cluster",
    "settings.default_compute": "cluster",
}
NO_COMMANDS = ("spark", "data_transfer", "import")  # types of steps that a cluster cannot run
DEEPEST_PIPELINE = 10  # levels of pipelines in pipelines
PIPELINE_KEYS = (*NAMING, "inputs", "outputs", "jobs", "settings", "compute", "identity", "services", "queue_settings")
# Keys that apply to a cluster only and are ignored elsewhere
IDLE = ("environment", "identity", "services", "queue_settings", "resources")

_WARNING = """\
# 'himl submit' sends no secrets, version control and environments of the folders that this file names. Before you use
# 'az ml job create', list them in an .amlignore file of each folder.
"""
_BINDING = re.compile(
    r"\$\{\{\s*parent\.(?:inputs\.(?P<input>\w+)|outputs\.(?P<outer>\w+)"
    r"|jobs\.(?P<job>[\w-]+)\.outputs\.(?P<output>\w+))\s*\}\}"
)


@dataclass(frozen=True)
class PreparedDocument:
    """A checked job's YAML. `content` is that of the file with absolute paths and the options of the job. A local job
    is `job` or `pipeline`, one on Azure ML is `sent`. `changes` is the diff of local code against its commit."""

    content: Mapping[str, Any]
    sent: DocumentSpec
    job: JobSpec | None = None
    pipeline: PipelineSpec | None = None
    reports: Sequence[SnapshotReport] = ()
    remarks: Sequence[str] = ()
    is_queued: bool = False
    changes: bytes = b""

    @property
    def goes_to_azure(self) -> bool:
        return self.job is None and self.pipeline is None


def prepare_document(request: SubmitRequest, env: Mapping[str, str] = os.environ) -> PreparedDocument:
    """Check the request and the file, without network access or changes to files. Raises BadUsage, with the key."""
    path = target_path(request)
    for key, option in BY_OPTION.items():
        if key in request.set_values and request.is_typed(option) and request.is_typed("set_values"):
            raise BadUsage(f"--{option} and --set {key} cannot be combined.", hint="Omit one of them.")
    document = read_document(path, str(request.target), request.set_values)
    root, kind = document.root, document.kind
    cluster = request.cluster
    request = replace(request, cluster=cluster if cluster is not None else document.compute or HERE)
    is_local, is_queued = not request.on_azure, request.queue is not None
    request, file_remarks = beside_file(request, ["yaml", "yaml_local"] if is_local else ["yaml"], "a job's YAML")
    check_values(request)
    if request.experiment is None and not request.experiment_from_branch:
        request = replace(request, experiment=root.string("experiment_name") or None)
    common, remarks = job_of_options(request, path.with_suffix(".py").name, path.parent, env, has_snapshot=is_local)
    named = root.part("tags")
    for key in filter(lambda key: not isinstance(key, str), root.content.get("tags") or ()):
        raise named.wrong(str(key), "must be text.", hint="Put the name of the tag in quotes.")
    own_tags = {key: named.string(key) for key in named.content}
    common = replace(common, tags={**common.tags, **mask_document({**own_tags, **request.tags})})
    content, changes = _changed(document, request, common, cluster)
    remarks += changes
    list_files = partial(list_upload, include_secret=request.include_secret)
    sent = DocumentSpec(path, dump_mapping(content), common.experiment, list_files, command_line(request))
    prepared = PreparedDocument(content, sent, remarks=remarks, is_queued=is_queued)
    if not is_local:
        remarks += remarks_of_azure(request)
        return prepared
    remarks += file_remarks
    if not document.compute and not is_queued:
        remarks.append("It names no compute, so it runs on this machine. To use Azure ML, add --cluster NAME.")
    common = replace(common, display_name=content.get("display_name", ""), description=content.get("description") or "")
    reader = _JobReader(request, common)
    refuse(
        "--max_failures ",
        (kind != SWEEP_JOB and request.is_typed("max_failures"), "applies to sweeps only.", "Omit it."),
    )
    if kind == COMMAND_JOB:
        root.check_keys(COMMAND_KEYS)
        prepared = replace(prepared, job=reader.command(root, common, read_inputs(root.part("inputs")), root))
    elif kind == SWEEP_JOB:
        prepared = replace(prepared, job=reader.sweep(root))
    elif kind == PIPELINE_JOB:
        prepared = replace(prepared, pipeline=replace(reader.pipeline(root), command=sent.command))
    else:
        hint = "Use a command, sweep or pipeline job, or name a cluster with --cluster."
        raise root.wrong("type", f"'{kind}' cannot run on this machine.", hint=hint)
    remarks += reader.remarks
    if reader.idle:
        remarks.append(f"Ignored, because the job runs on this machine: {', '.join(reader.idle)}.")
    reports = list(reader.snapshots.values())
    tags = with_untracked(common.tags, {**own_tags, **request.tags}, reports)
    changes_of_code = changes_of(tags, reports)
    return replace(
        prepared,
        job=prepared.job and replace(prepared.job, tags=tags),
        pipeline=prepared.pipeline and prepared.pipeline.with_tags(tags),
        reports=reports,
        remarks=[*remarks, *ignored_remarks(reports), *changes_of_code.remarks],
        changes=changes_of_code.text,
    )


def changed_yaml(prepared: PreparedDocument) -> str:
    """The file's job with absolute paths and the changes of the options, without secrets, as `--dry_run` shows it."""
    return f"{_WARNING if prepared.goes_to_azure else ''}{dump_mapping(mask_document(prepared.content))}"


def _changed(
    document: JobDocument, request: SubmitRequest, common: JobSpec, cluster: str | None
) -> tuple[dict[str, Any], list[str]]:
    """The content of the file with the options of the job and on *cluster*, and remarks. Raises BadUsage."""
    content, stays, missed, remarks = _with_options(document, request, common), list[str](), list[str](), list[str]()
    if request.on_azure:
        from himl_cli.services.submission.environment import with_conda_files

        content = with_conda_files(content, document.path.parent, remarks)
    if cluster is not None:
        content, stays = _moved(document, content, cluster.strip().removeprefix("azureml:"), request.set_values)
    if request.env_vars:
        content = _with_variables(content, "", request.env_vars, missed)
    if name := document.root.string("name"):
        use = "is the display name of the run" if content["display_name"] == name else "is ignored"
        remarks.append(f"The file's name '{name}' {use}, because himl gives each run an id of its own.")
    if request.on_azure and "" in missed:
        hint = f"Write the variables into '{request.target}', or into the file that it names."
        raise BadUsage(f"--env_var does not apply to this {document.kind} job.", hint=hint)
    if request.on_azure and missed:
        remarks.append(f"Steps that --env_var does not apply to: {', '.join(missed)}.")
    if request.on_azure and stays:
        remarks.append(f"Steps that keep the compute of the file, not '{request.cluster}': {', '.join(stays)}.")
    return content, remarks


def _with_options(document: JobDocument, request: SubmitRequest, common: JobSpec) -> dict[str, Any]:
    """The content of the file with absolute paths and with the options of the job."""
    root = document.root
    if document.kind == PIPELINE_JOB:
        _check_steps(root)
    content = {"type": document.kind, **with_absolute_paths(root)}
    content.pop("name", None)
    content |= {
        "experiment_name": common.experiment,
        "display_name": request.display_name or root.string("display_name") or root.string("name"),
        "description": request.description or root.string("description"),
        "tags": dict(common.tags),
    }
    default = root.part("settings").text("default_compute")
    # azure-ai-ml requires the prefix here, but not for other compute targets
    if request.on_azure and default not in ("", SERVERLESS) and not default.startswith("azureml:"):
        content["settings"] = {**content["settings"], "default_compute": f"azureml:{default}"}
    return {key: value for key, value in content.items() if value != ""}


def _check_steps(root: Part) -> None:
    """Raise BadUsage if a pipeline or one of its steps is empty, and for a component's file that is not valid YAML."""
    jobs = root.part("jobs")
    if not jobs.content:
        raise root.wrong("jobs", "is missing.")
    for key in jobs.content:
        if not jobs.part(key).content:
            raise jobs.wrong(key, "is empty.")
        component_of(jobs.part(key))


def _moved(
    document: JobDocument, content: Mapping[str, Any], cluster: str, changes: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """*content* on *cluster*, except steps whose compute target is among the *changes* of `--set`, and the other steps
    that stay on other compute targets, by their keys."""
    moved, stays = {key: value for key, value in content.items() if key != "compute"}, list[str]()
    is_plain = cluster in (HERE, SERVERLESS) or engine_address(cluster) is not None
    compute = cluster if is_plain else f"azureml:{cluster}"
    if document.kind != PIPELINE_JOB:
        return {**moved, **({} if cluster == SERVERLESS else {"compute": compute})}, stays
    jobs = document.root.part("jobs")
    steps = {key: jobs.part(key) for key in jobs.content}
    for key, step in steps.items():
        stays += _computes_below(step, key)
        if (kind := type_of_step(step)) in NO_COMMANDS and step.content.get("compute"):
            stays.append(f"{key} ({kind})")
        elif f"jobs.{key}.compute" not in changes:
            moved["jobs"][key].pop("compute", None)
    moved["settings"] = {**document.root.part("settings").content, "default_compute": compute}
    return moved, stays


def _computes_below(step: Part, shown: str) -> list[str]:
    """The steps that name their own compute targets in the pipeline component of *step*, by their dotted keys."""
    component, found = component_of(step), list[str]()
    if component is None:
        is_stored = type_of(step) == PIPELINE_JOB and step.content.get("component")
        return [f"{shown} (steps of its stored pipeline that name their own)"] if is_stored else []
    jobs = component.part("jobs")
    for key in jobs.content if shown.count(".") < DEEPEST_PIPELINE else ():
        found += [f"{shown}.{key}"] if jobs.part(key).content.get("compute") else []
        found += _computes_below(jobs.part(key), f"{shown}.{key}")
    return found


def _with_variables(content: Mapping[str, Any], key: str, env: Mapping[str, str], missed: list[str]) -> dict[str, Any]:
    """The job or the step *content* of *key* with the environment variables *env*. Adds the keys of steps that have no
    variables to *missed*, and an empty key for a job."""
    kind, steps = content.get("type") or COMMAND_JOB, content.get("jobs")
    if kind == PIPELINE_JOB and not key and isinstance(steps, Mapping):
        return {**content, "jobs": {name: _with_variables(step, name, env, missed) for name, step in steps.items()}}
    if kind == SWEEP_JOB and isinstance(content.get("trial"), Mapping):
        return {**content, "trial": _with_variables(content["trial"], key, env, missed)}
    if kind not in (COMMAND_JOB, PARALLEL, "automl"):
        missed.append(key)
        return dict(content)
    given = content.get("environment_variables") or {}
    return {**content, "environment_variables": {**given, **env} if isinstance(given, Mapping) else given}


@dataclass(frozen=True)
class _JobReader:
    """Reads local jobs from one file. It collects `snapshots` by folder, `idle` keys that apply to a cluster only, and
    `remarks`. Methods raise BadUsage, with the key."""

    request: SubmitRequest
    common: JobSpec
    snapshots: dict[Path, SnapshotReport] = field(default_factory=dict)
    idle: dict[str, None] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def command(
        self, part: Part, common: JobSpec, values: Values, outputs_of: Part, space: Collection[str] = ()
    ) -> JobSpec:
        """The job with the command, code and ranks of *part*, the *values* of its inputs, the outputs and limits of
        *outputs_of*, and the hyperparameters in *space*."""
        outputs = outputs_of.part("outputs")
        text = command_text(part, values, list(outputs.content), space)
        nodes = part.part("resources").count("instance_count", most=MOST_NODES) or 1
        if nodes > 1:
            self.remarks.append(f"'{part.prefix}resources.instance_count': 1 node instead of {nodes} on this machine.")
        processes, distribution, ranks = None, "pytorch", part.part("distribution")
        if ranks.content:
            distribution = ranks.text("type").lower()
            if distribution not in DISTRIBUTIONS:
                hint = f"Use one of: {', '.join(DISTRIBUTIONS)}."
                raise ranks.wrong("type", f"'{distribution}' is not available on this machine.", hint=hint)
            processes = ranks.count("process_count_per_instance", most=MOST_PROCESSES) or 1
        self._note_idle(part)
        self._note_idle(outputs_of)
        environment = None
        if given := part.content.get("environment"):
            from himl_cli.services.submission.environment import stated_environment

            environment = stated_environment(given, part.folder)
        return replace(
            common,
            environment=environment,
            entry=Entry(EntryKind.command, text),
            snapshot=self._snapshot(part),
            processes=processes,
            distribution=distribution,
            max_seconds=common.max_seconds or outputs_of.part("limits").seconds("timeout"),
            env={**_variables(part, values), **common.env},
            inputs=[value for value in values.values() if isinstance(value, DataSpec)],
            outputs=[read_output(outputs, key) for key in outputs.content],
        )

    def _note_idle(self, part: Part) -> None:
        for key in filter(part.content.get, IDLE):
            given = part.content.get(key)
            names = [f"{key}.{name}" for name in given] if key == "resources" and isinstance(given, Mapping) else [key]
            self.idle.update(dict.fromkeys(name for name in names if name != "resources.instance_count"))

    def _snapshot(self, part: Part) -> Snapshot:
        code = part.text("code")
        if not code:
            return Snapshot(part.folder, (), 0)
        if code.startswith(REMOTE_CODE):
            raise part.wrong("code", f"'{code}' is not available on this machine.", hint="Name a local folder.")
        folder = local_path(part, code)
        # Unlike Path.is_dir, os.path.isdir accepts a name that is invalid in the file system
        if not os.path.isdir(folder):
            raise part.wrong("code", f"'{code}' is not a folder.", hint=f"The path is relative to '{part.folder}'.")
        folder = folder.resolve()
        if folder not in self.snapshots:
            self.snapshots[folder] = take_snapshot(folder, self.request.ignored_folders, self.request.include_secret)
        return self.snapshots[folder].snapshot

    def sweep(self, part: Part) -> JobSpec:
        """The job with its sweep."""
        part.check_keys((*NAMING, *AROUND, *SEARCH_KEYS))
        trial = component_at(part, "trial")
        trial.check_keys((*NAMING, *RUN_KEYS, "inputs", "outputs", "is_deterministic"))
        sweep = with_max_failures(_sweep(part), self.request)
        values = with_defaults(trial, read_inputs(part.part("inputs")))
        job = self.command(trial, replace(self.common, sweep=sweep), values, part, sweep.space)
        limits = part.part("limits")
        if limits.content.get("timeout") is not None:
            self.idle["limits.timeout"] = None
        return replace(job, max_seconds=self.common.max_seconds or limits.seconds("trial_timeout"))

    def pipeline(self, part: Part) -> PipelineSpec:
        """The pipeline, with its steps in a possible order of execution."""
        part.check_keys(PIPELINE_KEYS)
        jobs, given, outer = part.part("jobs"), read_inputs(part.part("inputs")), part.part("outputs")
        self._note_idle(part)
        seen: dict[str, str] = {}
        for key in jobs.content:
            # A key is part of the name of a run's folder, so it must be valid on every system
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,254}", key):
                hint = "Use letters, digits, '_' and '-', and begin with a letter or '_'."
                raise jobs.wrong(key, "is not a valid key for a job.", hint=hint)
            twin = seen.setdefault(key.lower(), key)
            if twin != key:
                what = f"and '{twin}' differ only in capital letters."
                raise jobs.wrong(key, what, hint="Rename one of them.")
        made: dict[str, StepOutput] = {}
        steps = {key: self._step(key, jobs.part(key), given, outer, made) for key in jobs.content}
        for key, name, source in ((step.key, *item) for step in steps.values() for item in step.takes.items()):
            inputs = jobs.part(key).part("inputs")
            if source.step not in steps:
                what = f"names the job '{source.step}', which does not exist."
                raise inputs.wrong(name, what, hint=f"Use one of: {', '.join(steps)}.")
            outputs = [output.key for output in steps[source.step].job.outputs]
            if source.output not in outputs:
                what = f"names the output '{source.output}', which '{source.step}' does not have."
                raise inputs.wrong(name, what, hint=f"Its outputs are: {', '.join(outputs) or 'none'}.")
        order, cycle = topological_order(list(steps), {key: list(step.after) for key, step in steps.items()})
        if cycle:
            hint = "Each job reads an output of the next one. Change an input of one of them."
            raise jobs.wrong(cycle[0], f"creates a cycle: {' <- '.join([*cycle, cycle[0]])}.", hint=hint)
        common = self.common
        return PipelineSpec(
            experiment=common.experiment,
            steps=[steps[key] for key in order],
            outputs=made,
            display_name=common.display_name,
            description=common.description,
            tags=common.tags,
            default_datastore=common.default_datastore,
        )

    def _step(self, key: str, part: Part, given: Values, outer: Part, made: dict[str, StepOutput]) -> StepSpec:
        """The step of *key*. *given* and *outer* are the pipeline's inputs and outputs. The method adds the outputs
        that come from this step to *made*."""
        kind = type_of_step(part)
        if kind != COMMAND_JOB:
            hint = "Use a command job, or name a cluster with --cluster."
            raise part.wrong("type", f"'{kind}' cannot be a step on this machine.", hint=hint)
        part.check_keys((*COMMAND_KEYS, "component"))
        values, takes = _step_values(part.part("inputs"), given)
        component = part
        if part.content.get("component") is not None:
            component = component_at(part, "component")
            component.check_keys((*COMMAND_KEYS, "additional_includes"))
            if component.content.get("additional_includes"):
                hint = "Move the files that it names below 'code'."
                raise component.wrong("additional_includes", "is not available on this machine.", hint=hint)
            values = with_defaults(component, values)
        outputs = _step_outputs(part.part("outputs"), component.part("outputs").content, outer)
        for name, (_, outer_name) in outputs.items():
            if outer_name:
                made[outer_name] = StepOutput(key, name)
        holder = replace(component, content={**component.content, "outputs": {name: {} for name in outputs}})
        job = self.command(holder, replace(self.common, display_name=""), values, holder)
        if component is not part:  # the step's variables and limits override those of its component
            self._note_idle(part)
            env = {**job.env, **_variables(part, values), **self.common.env}
            seconds = self.common.max_seconds or part.part("limits").seconds("timeout") or job.max_seconds
            job = replace(job, env=env, max_seconds=seconds)
        name = part.string("display_name") or key
        job = replace(job, outputs=[output for output, _ in outputs.values()], display_name=name)
        return StepSpec(key, name, job, takes)


def _variables(part: Part, values: Values) -> dict[str, str]:
    """The environment variables of *part*, with the plain values of its inputs in place of their placeholders."""
    variables = part.part("environment_variables")
    literals: Values = {key: value for key, value in values.items() if isinstance(value, str)}
    found = {}
    for key, value in variables.content.items():
        shown = str(value).lower() if isinstance(value, bool) else variables.text(key)
        found[key] = fill(variables, key, shown, literals, {})
    return found


def _step_values(inputs: Part, given: Values) -> tuple[Values, dict[str, StepOutput]]:
    """The inputs of a step as plain values and data, with bindings to the pipeline's *given* inputs resolved, and the
    outputs of other steps that it reads."""
    values: Values = {}
    takes: dict[str, StepOutput] = {}
    for key, value in inputs.content.items():
        text = value.get("path") if isinstance(value, Mapping) else value
        found: DataSpec | str | None
        if not isinstance(text, str) or "${{" not in text:
            found = read_input(inputs, key)
        else:
            bound = _BINDING.fullmatch(text.strip())
            if bound is None or bound["outer"]:
                hint = "Bindings are ${{parent.inputs.KEY}} and ${{parent.jobs.JOB.outputs.KEY}}"
                raise inputs.wrong(key, f"has '{text}', which is not a valid binding.", hint=hint)
            if bound["job"]:
                takes[key] = StepOutput(bound["job"], bound["output"])
            elif bound["input"] not in given:
                names = ", ".join(sorted(given)) or "none"
                raise inputs.wrong(key, f"has '{text}', but the inputs of the pipeline are: {names}.")
            found = DataSpec(key, bound["output"]) if bound["job"] else given[bound["input"]]
        if found is not None:
            # An empty value is quoted, because without a word in its place the arguments after it would shift
            values[key] = replace(found, key=key) if isinstance(found, DataSpec) else found or "''"
    return values, takes


def _step_outputs(outputs: Part, declared: Collection[str], outer: Part) -> dict[str, tuple[DataSpec, str]]:
    """The outputs of a step by key, each with the key of the pipeline's *outer* output that it is bound to, if any. An
    output is in the folder that it or the outer output names, else in a new folder."""
    found = {key: (DataSpec(key, ""), "") for key in declared if key not in outputs.content}
    for key, value in outputs.content.items():
        text = value.get("path") if isinstance(value, Mapping) else value
        bound = _BINDING.fullmatch(text.strip()) if isinstance(text, str) else None
        if bound is None:
            found[key] = (read_output(outputs, key), "")
        elif bound["outer"] and bound["outer"] in outer.content:
            found[key] = (replace(read_output(outer, bound["outer"]), key=key), bound["outer"])
        else:
            hint = f"Its outputs are: {', '.join(outer.content) or 'none'}."
            raise outputs.wrong(key, f"has '{text}', which is not an output of the pipeline.", hint=hint)
    return found


# Sweeps


def _sweep(part: Part) -> SweepSpec:
    space = part.part("search_space")
    if not space.content:
        raise part.wrong("search_space", "is missing.")
    ranges = {name: _range(space.part(name), f"'{part.shown}': '{space.prefix}{name}'") for name in space.content}
    objective, limits = part.part("objective"), part.part("limits")
    limits.check_keys(("max_total_trials", "max_concurrent_trials", "timeout", "trial_timeout"))
    sampling, seed = _sampling(part)
    most = limits.count("max_total_trials")
    if most is None and sampling != "grid":
        raise limits.wrong("max_total_trials", "is missing.", hint="Only a grid ends without a limit.")
    points = points_of(ranges.values()) if sampling == "grid" else 0
    spec = SweepSpec(
        space=ranges,
        sampling=sampling,
        max_trials=min(filter(None, (most, points)), default=1),
        max_concurrent=limits.count("max_concurrent_trials"),
        primary_metric=objective.text("primary_metric"),
        goal=objective.text("goal").lower(),
        early_stop=_early_stop(part.part("early_termination")),
        seed=seed,
    )
    for key in ("primary_metric", "goal"):
        if not getattr(spec, key):
            raise objective.wrong(key, "is missing.")
    try:
        check_sweep(spec, on_azure=False)
    except BadUsage as err:
        message, hint = str(err), err.hint
        for option, key in OPTION_KEYS.items():
            message, hint = message.replace(option, f"'{key}'"), hint.replace(option, f"{key}:")
        raise BadUsage(f"'{part.shown}': {message}", hint=hint) from err
    return with_seed(spec, on_azure=False)


def _range(part: Part, where: str) -> SearchRange:
    word, known = part.text("type").lower(), [draw.value for draw in Draw]
    if word not in known:
        raise part.wrong("type", f"cannot be '{word}'.", hint=f"Use one of: {', '.join(known)}.")
    draw = Draw(word)
    if draw is Draw.choice:
        values = part.content.get("values")
        if not isinstance(values, list) or not all(isinstance(value, (str, int, float)) for value in values):
            raise part.wrong("values", "must be a list of plain values.")
        return checked_range(SearchRange(draw, values), where)
    names = argument_names(draw)
    part.check_keys(("type", *names))
    numbers = {name: part.number(name) for name in names}
    for name, number in numbers.items():
        if number is None:
            raise part.wrong(name, "is missing.")
    return checked_range(SearchRange(draw, [number for number in numbers.values() if number is not None]), where)


def _sampling(part: Part) -> tuple[str, int | None]:
    if isinstance(part.content.get("sampling_algorithm"), str):
        word, seed = part.text("sampling_algorithm"), None
    else:
        algorithm = part.part("sampling_algorithm")
        algorithm.check_keys(("type", "seed", "rule", "logbase"))
        word, seed = algorithm.text("type"), algorithm.number("seed")
        if algorithm.text("rule").lower() == "sobol":
            hint = "Omit it, or name a cluster with --cluster."
            raise algorithm.wrong("rule", "cannot be 'sobol' on this machine.", hint=hint)
    if word.lower() not in SAMPLINGS:
        what = f"cannot be '{word}'." if word else "is missing."
        raise part.wrong("sampling_algorithm", what, hint=f"Use one of: {', '.join(SAMPLINGS)}.")
    return word.lower(), int(seed) if seed is not None else None


def _early_stop(part: Part) -> EarlyStop | None:
    if not part.content:
        return None
    slacks, counts = (
        ("slack_factor", "slack_amount"),
        ("evaluation_interval", "delay_evaluation", "truncation_percentage"),
    )
    part.check_keys(("type", *slacks, *counts))
    word = part.text("type").lower()
    numbers = {name: number for name in (*slacks, *counts) if (number := part.number(name))}
    numbers |= {name: int(numbers[name]) for name in counts if name in numbers}
    # `numbers` has integers for the counts
    stop = EarlyStop(AZURE_WORDS.get(word, word), **numbers)  # type: ignore[arg-type]
    return checked_stop(stop, f"'{part.shown}': 'early_termination'")
