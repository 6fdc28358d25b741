"""A job as the service stores it: its code, its environment, and the job for another submission."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage
from himl_cli.core.installed import NOT_LISTED, RunEnvironment
from himl_cli.core.jobs import SERVERLESS, DataSpec, Entry, EntryKind, EnvironmentSpec, JobSpec, Snapshot, StoredJob
from himl_cli.core.runs import Run, own_name
from himl_cli.core.sweeps import (
    SEARCH_SPACE,
    Draw,
    EarlyStop,
    SearchRange,
    SweepSpec,
    fill_command,
    filled_in,
    hyperparameters_of,
    value_text,
)
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.body import IDENTITIES, POLICIES
from himl_cli.workspaces.azure.jobs.command_line import INPUT_VARIABLE, STARTS, command_line, link_commands
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.run_outputs import DEFAULT_OUTPUT

Properties = Mapping[str, Any]
IDENTITY_OPTIONS = {name: option for option, name in IDENTITIES.items()}
_MODES = {"ReadOnlyMount": "mount", "ReadWriteMount": "mount", "Download": "download", "Upload": "upload"}
_STOP_FIELDS = {
    "evaluation_interval": "evaluationInterval",
    "delay_evaluation": "delayEvaluation",
    "slack_factor": "slackFactor",
    "slack_amount": "slackAmount",
    "truncation_percentage": "truncationPercentage",
}


def job_properties(connection: Connection, run_id: str, parent_of: Callable[[str], str | None]) -> Properties:
    """The properties of the job, with those of each trial of a sweep. A trial without code of its own, and a nested
    run, have those of their parent, which *parent_of* returns, if that has code. Empty for a run without a job."""
    url = connection.arm(f"/jobs/{quote(run_id, safe='')}")
    job = connection.find_object(url, "job", params={"api-version": ApiVersion.JOBS}) or {}
    with understood(url, "the job"):
        found: Properties = {**(job.get("properties") or {})}
        found = {**found, **(found.get("trial") or {})}
    if not found.get("codeId") and (parent := parent_of(run_id)):
        above = job_properties(connection, parent, lambda _: None)
        return above if above.get("codeId") else found
    return found


def code_uri(connection: Connection, properties: Properties) -> str | None:
    """The address of the code of a job, with a request. None for a job without registered code."""
    record = _record(connection, str(properties.get("codeId") or ""), "codes", "code version", ApiVersion.CODES)
    return None if record is None else str(record["codeUri"])


def environment_of(connection: Connection, properties: Properties) -> RunEnvironment | None:
    """The environment of a job, with a request unless it is one of a registry. None for a run without a job."""
    identity = str(properties.get("environmentId") or "")
    if not identity:
        return None
    record = _record(connection, identity, "environments", "environment", ApiVersion.ENVIRONMENTS) or {}
    named = re.search(r"/environments/([^/]+)/(?:versions|labels)/([^/]+)$", identity)
    resources, build = properties.get("resources") or {}, record.get("build") or {}
    machine = {
        "compute": str(properties.get("computeId") or "").rpartition("/")[2],
        "instance_type": str(resources.get("instanceType") or ""),
        "nodes": str(resources.get("instanceCount") or ""),
    }
    return RunEnvironment(
        problem=NOT_LISTED,
        machine={name: value for name, value in machine.items() if value},
        name=f"{named[1]}:{named[2]}" if named else identity,
        image=str(record.get("image") or build.get("contextUri") or ""),
        conda=str(record.get("condaFile") or ""),
    )


def job_again(properties: Properties, run: Run) -> StoredJob | None:
    """The job of *run*, a trial with its values, for another submission. None for a run without a command, such as a
    pipeline."""
    command = str(properties.get("command") or "")
    inputs, outputs = properties.get("inputs") or {}, properties.get("outputs") or {}
    if not command:
        return None
    literals = {key: str(item["value"]) for key, item in inputs.items() if "value" in item}
    command = fill_command(command, {"inputs": literals}) if literals else command
    resources, found = properties.get("resources") or {}, properties.get("distribution") or {}
    targets = re.findall(rf'export {INPUT_VARIABLE}(\w+)=("\$PWD"/)?(\S+); ', command)
    places = {key: shlex.split(text)[0] for key, _, text in targets}
    spec = JobSpec(
        run.experiment,
        Entry(EntryKind.command, command),
        Snapshot(Path(), (), 0),
        display_name=own_name(run),
        description=run.description,
        tags=run.tags,
        env=properties.get("environmentVariables") or {},
        processes=found.get("processCountPerInstance"),
        distribution=str(found.get("distributionType") or "").lower(),
        inputs=[_data(key, item, places.get(key)) for key, item in inputs.items() if key not in literals],
        outputs=[_data(key, item) for key, item in outputs.items() if key != DEFAULT_OUTPUT],
        cluster=str(properties.get("computeId") or SERVERLESS).rpartition("/")[2],
        environment=EnvironmentSpec(str(properties.get("environmentId") or "")),
        max_seconds=_seconds(properties),
        nodes=int(resources.get("instanceCount") or 1),
        instance_type=str(resources.get("instanceType") or ""),
        resource_properties=resources.get("properties") or {},
        shm_size=str(resources.get("shmSize") or ""),
        docker_args=[each] if (each := resources.get("dockerArgs")) else (),
        job_tier=str((properties.get("queueSettings") or {}).get("jobTier") or "").lower() or None,
        identity=IDENTITY_OPTIONS.get(str((properties.get("identity") or {}).get("identityType"))),
        sweep=_sweep(properties),
    )
    spec = _with_arguments(spec)
    values = {name: value_text(value) for name, value in hyperparameters_of(run.tags).items()}
    if spec.sweep is not None and run.parent and values:
        whole = fill_command(spec.entry.target, {SEARCH_SPACE: values})
        arguments = filled_in(spec.arguments, values, spec.sweep.space)
        spec = replace(spec, entry=replace(spec.entry, target=whole), arguments=arguments, sweep=None)
    return StoredJob(spec)


def _with_arguments(spec: JobSpec) -> JobSpec:
    """*spec*, with its script or module and arguments in place of the command line, if himl would write the same line
    for these."""
    start = link_commands(spec)
    line = spec.entry.target.removeprefix(start)
    try:
        words = shlex.split(line)
    except ValueError:  # an unclosed quote
        return spec
    for kind, begin in STARTS.items():
        if words[: len(begin)] == [*begin] and len(words) > len(begin):
            target = words[len(begin)].removeprefix("./")
            found = replace(spec, entry=Entry(kind, target), arguments=words[len(begin) + 1 :])
            with suppress(BadUsage):
                if command_line(found) == spec.entry.target:
                    return found
    return spec


def _data(key: str, item: Properties, target: str | None = None) -> DataSpec:
    return DataSpec(key, str(item.get("uri") or ""), mode=_MODES.get(str(item.get("mode"))), target=target)


def _seconds(properties: Properties) -> float | None:
    """The limit of a job, or of each trial of a sweep, in seconds."""
    limits = properties.get("limits") or {}
    text = limits.get("trialTimeout" if "searchSpace" in properties else "timeout")
    units = {"D": 86400.0, "H": 3600.0, "M": 60.0, "S": 1.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)([DHMS])", str(text or ""))
    return sum(float(number) * units[unit] for number, unit in parts) or None


def _sweep(properties: Properties) -> SweepSpec | None:
    if "searchSpace" not in properties:
        return None
    limits, sampling = properties.get("limits") or {}, properties.get("samplingAlgorithm") or {}
    objective, stop = properties.get("objective") or {}, properties.get("earlyTermination") or {}
    space = {}
    for name, (draw, values) in properties["searchSpace"].items():
        space[name] = SearchRange(Draw(draw), tuple(values[0] if draw == Draw.choice.value else values))
    fields = {snake: stop.get(camel) for snake, camel in _STOP_FIELDS.items()}
    policies = {name: option for option, name in POLICIES.items()}
    return SweepSpec(
        space,
        str(sampling.get("samplingAlgorithmType") or "grid").lower(),
        int(limits.get("maxTotalTrials") or 1),
        limits.get("maxConcurrentTrials"),
        str(objective.get("primaryMetric") or ""),
        str(objective.get("goal") or "minimize").lower(),
        EarlyStop(policies[stop["policyType"]], **{name: each for name, each in fields.items() if each})
        if stop
        else None,
        sampling.get("seed"),
    )


def _record(connection: Connection, identity: str, kind: str, what: str, version: str) -> Properties | None:
    """The properties of the version of an asset of the workspace, by its resource id. None for another asset, and for
    one that is gone."""
    found = re.search(rf"^/subscriptions/.*/{kind}/([^/]+)/versions/([^/]+)$", identity)
    if found is None:
        return None
    url = connection.arm(f"/{kind}/{quote(found[1], safe='')}/versions/{quote(found[2], safe='')}")
    answer = connection.find_object(url, what, params={"api-version": version})
    with understood(url, f"the {what}"):
        return None if answer is None else answer["properties"]
