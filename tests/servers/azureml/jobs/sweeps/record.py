"""What the record of a sweep says of it, as recorded: its state stands in tags and properties (wire document 2.8)."""

from __future__ import annotations

import json
from typing import Any

from tests.servers.azureml.jobs.durations import seconds_of
from tests.servers.azureml.jobs.sweeps.checks import MOST_TRIALS
from tests.servers.azureml.jobs.sweeps.space import size_of
from tests.servers.azureml.state import Json, Run, Workspace

GENERATORS = {"Random": "RANDOM", "Grid": "GRID", "Bayesian": "BayesianOptimization"}
LONGEST = "P60D"  # of a sweep that names no time
PREFIX = "_aml_system_"


def tags_of_sweep(workspace: Workspace, run: Run) -> dict[str, str]:
    """Beside the user's own. One of them is longer than all of the rest."""
    job = run.job or {}
    limits = job.get("limits") or {}
    total = limits.get("maxTotalTrials") or MOST_TRIALS
    tags: dict[str, Any] = {
        "max_concurrent_jobs": str(limits.get("maxConcurrentTrials") or total),
        "max_total_jobs": str(total),
        "max_duration_minutes": str(max(1, int(seconds_of(limits.get("timeout") or LONGEST) // 60))),
        "policy_config": _policy(job.get("earlyTermination")),
        "generator_config": _generator(job),
        "primary_metric_config": _metric(job),
        "platform_config": _platform(workspace, run),
        "resume_child_runs": "null",
        "all_jobs_generated": "false",
        "cancellation_requested": "false",
    }
    return {f"{PREFIX}{name}": value if isinstance(value, str) else _json(value) for name, value in tags.items()}


def properties_of_sweep(run: Run) -> dict[str, str]:
    job = run.job or {}
    size = size_of(job["searchSpace"])
    told = {
        "primary_metric_config": _json(_metric(job)),
        "resume_from": "null",
        "runTemplate": "HyperDrive",
        "azureml.runsource": "hyperdrive",
        "platform": "AML",
        "user_agent": "managementfrontend/228017e6e7be02bc1a1868402fb250fbc89e44f8",
    }
    return told | ({"space_size": str(size)} if size is not None else {})


def _metric(job: Json) -> Json:
    return {"name": job["objective"]["primaryMetric"], "goal": str(job["objective"]["goal"]).lower()}


def _generator(job: Json) -> Json:
    sampling = job["samplingAlgorithm"]
    kind = sampling["samplingAlgorithmType"]
    found: Json = {"name": GENERATORS[kind], "parameter_space": job["searchSpace"]}
    if kind == "Random":
        found["properties"] = {"rule": sampling.get("rule") or "Random", "logbase": sampling.get("logbase"), "seed": sampling.get("seed")}
    return found


def _policy(policy: Json | None) -> Json:
    if policy is None:
        return {"name": "Default", "properties": {}}
    names = {"slackFactor": "slack_factor", "slackAmount": "slack_amount", "truncationPercentage": "truncation_percentage"}
    own: Json = {name: policy[key] for key, name in names.items() if policy.get(key)}
    if policy["policyType"] == "TruncationSelection":
        own["exclude_finished_jobs"] = False
    when = {"evaluation_interval": policy.get("evaluationInterval") or 1, "delay_evaluation": policy.get("delayEvaluation") or 0}
    return {"name": policy["policyType"], "properties": {**when, **own}}


def _platform(workspace: Workspace, run: Run) -> Json:
    """Everything that a trial is started with; the recipe of the image, which is long, among it."""
    trial = (run.job or {})["trial"]
    recipe = "FROM docker.io/python:3.11\n" + "".join(f"RUN python -m pip install 'package-{number:03d}==1.{number}.0'\n" for number in range(160))
    environment = {"AssetId": trial.get("environmentId"), "Docker": {"BaseImage": None, "BaseDockerfile": recipe}, "EnvironmentVariables": {}}
    overrides = {
        "Script": None,
        "Command": trial["command"],
        "UseAbsolutePath": True,
        "Target": run.target,
        "NodeCount": (trial.get("resources") or {}).get("instanceCount") or 1,
        "Environment": environment,
        "History": {"OutputCollection": True, "DirectoriesToWatch": ["logs"], "EnableMLflowTracking": True},
    }
    definition = {"Overrides": overrides, "SnapshotId": run.properties.get("ContentSnapshotId"), "DisplayName": run.display_name, "Properties": {}, "Tags": {}}
    return {
        "ServiceAddress": f"https://{workspace.data_plane_host}",
        "SubscriptionId": workspace.subscription,
        "ResourceGroupName": workspace.group,
        "WorkspaceName": workspace.name,
        "ExperimentName": run.experiment.name,
        "Definition": definition,
        "ParentRunId": run.run_id,
    }


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
