"""Jobs by azureml-core, the vendor's deprecated SDK: what `--sdk v1` submits, a ScriptRunConfig or the HyperDriveConfig
round it. Reading such runs is the work of other packages."""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotFound
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.installation import install_command
from himl_cli.core.jobs import SERVERLESS, DataSpec, EntryKind, EnvironmentSpec, JobSpec, Snapshot
from himl_cli.core.processes import terminations
from himl_cli.core.redaction import mask_arguments, parts_of
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sweeps import PLACEHOLDER, SEARCH_SPACE, SweepSpec
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.cache import LONGEST_SECONDS
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.body import early_stop_fields, job_tags, max_concurrent, search_space
from himl_cli.workspaces.azure.jobs.code import JobCode, folder_for
from himl_cli.workspaces.azure.jobs.command_line import command_line, script_line, script_name, shell_line
from himl_cli.workspaces.azure.jobs.computes import check_compute
from himl_cli.workspaces.azure.jobs.create import azure_run_id, before_creation, lookup_hint, note_nothing_runs
from himl_cli.workspaces.azure.jobs.data_assets import (
    FILE,
    LATEST,
    JobInput,
    JobOutput,
    resolve_inputs,
    resolve_outputs,
)
from himl_cli.workspaces.azure.jobs.environments import (
    ELSEWHERE,
    context_digest,
    context_files,
    environment_id,
    upload_context,
)
from himl_cli.workspaces.azure.jobs.v1_sdk import (
    EXTRA,
    is_installed,
    quiet_sdk,
    require_sdk,
    sdk_errors,
    sdk_workspace,
    staged,
)
from himl_cli.workspaces.azure.runs.history import RunHistory
from himl_cli.workspaces.azure.runs.records import limit_of, limit_properties, studio_url
from himl_cli.workspaces.azure.service_errors import ServiceNotFound
from himl_cli.workspaces.azure.storage.datastores import Datastores

SNAPSHOTS = "snapshots_v1"
DEPRECATED = (
    "--sdk v1 uses azureml-core, which is deprecated and no longer maintained; without the option the job "
    "goes by azure-ai-ml."
)
SUBMITTED = "Interrupted; the job {} was submitted already."
MOST_AT_ONCE = 100
"""Trials at a time that the service takes; without a number the SDK sends that of all trials."""
ARGUMENTS = {"inputs": "DatasetConsumptionConfig:", "outputs": "DatasetOutputConfig:"}
"""How azureml-core writes a path into the arguments of a script that is known only in the job."""
PREFIXES = {"inputs": "AZURE_ML_INPUT_", "outputs": "AZURE_ML_OUTPUT_"}
"""How the variables of paths begin in other jobs; in those of azureml-core they are called as the data, or have a
prefix of their own."""
MECHANISMS = {"ro_mount": "mount", "download": "download", "rw_mount": "mount", "upload": "upload"}
_OTHERWISE = "Leave --sdk v1 out."
_OPTIONS = {"jupyterlab": "jupyter", "ssh": "ssh_key", "tensorboard": "tensorboard_logs"}


def submit_v1(connection: Connection, datastores: Datastores, spec: JobSpec, notify: Notify) -> Run:
    """Submit *spec* and give the run, by what is known here: the run history may not tell of it yet. Raises HimlError;
    nothing then runs, unless it says so.

    BadUsage comes first and without a request: azureml-core is missing, or cannot do what is asked for. Then NotFound
    for what is not there, before anything is uploaded.
    """
    require_sdk()
    _check_possible(spec)
    notify(Notice(DEPRECATED))
    run_id, image = azure_run_id(spec.experiment), spec.environment or EnvironmentSpec()
    with before_creation():
        tenant_id = connection.record().tenant_id
        check_compute(connection, spec.cluster, spec.nodes, notify)
        default, is_sweep = spec.default_datastore, spec.sweep is not None
        inputs = resolve_inputs(connection, datastores, spec.inputs, default, notify)
        outputs = resolve_outputs(connection, datastores, spec.outputs, default, notify, are_of_trials=is_sweep)
        definition: Mapping[str, Any] | None = None
        if image.name:  # asked by himl itself: azureml-core tries once, and raises what tells nobody why
            environment_id(connection, image.name, image.version)  # raises
            below = "" if image.version in (None, LATEST) else f"/versions/{quote(str(image.version), safe='')}"
            url = connection.service("environment", f"/environments/{quote(image.name, safe='')}{below}")
            definition = connection.rest.get_object(url, "environment")
        context = image.context if isinstance(image.context, str) else ""
        if isinstance(image.context, Snapshot):
            files = context_files(image)
            context = upload_context(connection, datastores, files, context_digest(files))
    with terminations():
        with _checked_afterwards(connection, run_id, notify):
            remarks: list[Event] = []  # for later: nothing is printed within
            with staged(spec.snapshot) as folder, quiet_sdk(), sdk_errors(connection):
                from azureml.core import Experiment

                workspace = sdk_workspace(connection)
                environment = _environment(workspace, image, definition, context, remarks.append)
                config = _script_run_config(spec, folder, environment)
                config.run_config.data = {item.key: _input(connection, item, inputs[item.key]) for item in spec.inputs}
                config.run_config.output_data = {
                    item.key: _output(outputs[item.key], overwrite=item.overwrite) for item in spec.outputs
                }
                experiment = Experiment(workspace, spec.experiment)
                if spec.sweep is None:
                    run = experiment.submit(config, run_id=run_id)
                else:
                    run = experiment.submit(_hyperdrive_config(spec.sweep, config, run_id))
                snapshot_id = str(run.properties.get("ContentSnapshotId") or "")
            # azureml-core sends what differs from the last job's snapshot, and nothing where nothing does
            key = connection.key("snapshot of the last job")
            if snapshot_id and connection.kept.get(SNAPSHOTS, key) == snapshot_id:
                remarks.append(Notice(JobCode.unchanged))
            connection.kept.put(SNAPSHOTS, key, snapshot_id, seconds=LONGEST_SECONDS)
            for remark in remarks:
                notify(remark)
        _describe(connection, spec, run_id, notify)
    return Run(
        id=run_id,
        experiment=spec.experiment,
        status=RunStatus.queued,
        created=datetime.now(timezone.utc),
        display_name=spec.display_name,
        description=spec.description,
        tags={name: spec.tags[name] for name in sorted(spec.tags)},
        command=script_line(replace(spec, arguments=mask_arguments(spec.arguments))),
        workspace=connection.address.label,
        url=studio_url(run_id, connection.address, tenant_id),
    )


def _check_possible(spec: JobSpec) -> None:
    """Raises BadUsage for what azureml-core cannot do, for placeholders that name no data, and for files that storage
    cannot hold."""
    command_line(spec)
    folder_for(spec.snapshot)
    if spec.sweep is not None:
        _check_sweep(spec)
    refused: dict[str, bool] = {
        f"--environment {spec.environment.name if spec.environment else ''}": spec.environment is not None
        and spec.environment.name.startswith(ELSEWHERE),
        **{f"--{_OPTIONS.get(name, name)}": True for name in spec.services},
        "--instance_type": bool(spec.instance_type),
        f"--job_tier {spec.job_tier}": spec.job_tier is not None,
        "--resources_properties": bool(spec.resource_properties),
        f"--identity {spec.identity}": spec.identity is not None,
        "--cluster serverless": spec.cluster.lower() == SERVERLESS,
    }
    for option in (option for option, is_given in refused.items() if is_given):
        hint = "Name a cluster, or leave --sdk v1 out." if "serverless" in option else _OTHERWISE
        raise BadUsage(f"{option}: not with --sdk v1.", hint=hint)
    if spec.entry.kind is EntryKind.command and PLACEHOLDER.search(spec.entry.target):
        raise BadUsage(
            "--command: with --sdk v1 it holds no placeholders.",
            hint="Write them as arguments behind --, or leave --sdk v1 out.",
        )


def _check_sweep(spec: JobSpec) -> None:
    """Raises BadUsage where azureml-train-core is missing, and for trials that HyperDrive cannot start: it adds `--NAME
    VALUE` to a script's arguments."""
    if not is_installed("azureml.train.hyperdrive"):
        raise BadUsage(
            "A sweep with --sdk v1 needs azureml-train-core, which is not installed.",
            hint=f"Install it: {install_command(EXTRA)}",
        )
    if spec.entry.kind is not EntryKind.script:
        raise BadUsage("With --sdk v1 a sweep runs a Python script, and no module or shell script.", hint=_OTHERWISE)
    for text in _without_values(spec.arguments):
        rule = ""
        if PLACEHOLDER.search(text) and not PLACEHOLDER.fullmatch(text):
            rule = "the arguments of a sweep hold folders of data as whole words only"
        elif f"{SEARCH_SPACE}." in text:
            rule = "a hyperparameter is given to the script as --NAME, and in no other way"
        if rule:
            raise BadUsage(f"'{text}': with --sdk v1 {rule}.", hint=_OTHERWISE)


def _without_values(arguments: Sequence[str]) -> list[str]:
    """*arguments* without those that say what HyperDrive adds by itself: `--NAME ${{search_space.NAME}}`, as two words
    or with `=`."""
    text = "\0".join(["", *arguments])
    own = rf"\0--(\S+?)[=\0]\$\{{\{{\s*{SEARCH_SPACE}\.\1\s*\}}\}}(?=\0|$)"
    return re.sub(own, "", text).split("\0")[1:]


def _script_run_config(spec: JobSpec, folder: Path, environment: Any) -> Any:
    """An `azureml.core.ScriptRunConfig` that runs *spec* from the files in *folder*: a script with its arguments, or a
    line for the shell.

    The service fills a placeholder in only where it is a whole argument; within one, the shell does.
    """
    from azureml.core import ScriptRunConfig
    from azureml.core.runconfig import DockerConfiguration, MpiConfiguration, PyTorchConfiguration

    def as_variable(kind: str, key: str) -> str:
        """The first of the path's variables that is set. Where none is, the job fails and says so."""
        missing = f"the job does not tell where its {kind[:-1]} lies"
        return f'"${{{PREFIXES[kind]}{key}:-${{AZUREML_DATAREFERENCE_{key}:-${{{key}:?{missing}}}}}}}"'

    arguments = spec.arguments if spec.sweep is None else _without_values(spec.arguments)
    is_within = any(PLACEHOLDER.search(text) and not PLACEHOLDER.fullmatch(text) for text in arguments)
    options: dict[str, Any] = {}
    if spec.entry.kind is EntryKind.script and not is_within and not spec.python:
        words = [PLACEHOLDER.sub(lambda found: f"{ARGUMENTS[found[1]]}{found[2]}", text) for text in arguments]
        options |= {"script": script_name(spec), "arguments": words}
    else:
        options["command"] = shell_line(spec, as_variable)
    if spec.max_seconds is not None:
        options["max_run_duration_seconds"] = limit_of(spec.max_seconds)
    processes = spec.processes or 1
    if spec.distribution == "mpi":
        options["distributed_job_config"] = MpiConfiguration(processes, spec.nodes)
    elif spec.distribution == "pytorch":  # its number of processes is that of all nodes together
        count = processes * spec.nodes
        options["distributed_job_config"] = PyTorchConfiguration(process_count=count, node_count=spec.nodes)
    shm = {"shm_size": spec.shm_size} if spec.shm_size else {}
    config = ScriptRunConfig(
        source_directory=str(folder),
        compute_target=spec.cluster,
        environment=environment,
        docker_runtime_config=DockerConfiguration(use_docker=True, arguments=list(spec.docker_args), **shm),
        **options,
    )
    config.run_config.environment_variables = dict(spec.env)
    return config


def _hyperdrive_config(sweep: SweepSpec, trial: Any, run_id: str) -> Any:
    """The `azureml.train.hyperdrive.HyperDriveConfig` that runs *trial*, a ScriptRunConfig, as *sweep* says."""
    from azureml.train import hyperdrive as sdk

    samplings = {
        "grid": sdk.GridParameterSampling,
        "random": sdk.RandomParameterSampling,
        "bayesian": sdk.BayesianParameterSampling,
    }
    policies = {
        "bandit": sdk.BanditPolicy,
        "median": sdk.MedianStoppingPolicy,
        "truncation": sdk.TruncationSelectionPolicy,
    }
    policy = policies[sweep.early_stop.policy](**early_stop_fields(sweep.early_stop)) if sweep.early_stop else None
    limit = {} if sweep.max_seconds is None else {"max_duration_minutes": max(1, math.ceil(sweep.max_seconds / 60))}
    return sdk.HyperDriveConfig(
        run_config=trial,
        hyperparameter_sampling=samplings[sweep.sampling](
            {name: search_space(one) for name, one in sweep.space.items()}
        ),
        policy=policy,
        primary_metric_name=sweep.primary_metric,
        primary_metric_goal=sdk.PrimaryMetricGoal.from_str(sweep.goal),
        max_total_runs=sweep.max_trials,
        max_concurrent_runs=max_concurrent(sweep) or min(sweep.max_trials, MOST_AT_ONCE),
        custom_run_id=run_id,
        **limit,
    )


def _input(connection: Connection, item: DataSpec, given: JobInput) -> Any:
    """The `azureml.core.runconfig.Data`; a request where it is a registered asset.

    Data are named by where they lie, which the service takes for the old and the new kind of data assets alike, but for
    a table, which is more than a place; azureml-core's own classes for datasets need another package with native parts
    that is not maintained either.
    """
    from azureml.core.runconfig import Data, DataLocation, Dataset, Uri

    found, uri = re.fullmatch(r".*/data/([^/]+)/versions/([^/]+)/?", given.path, re.IGNORECASE), given.path
    if found is not None and given.type == "mltable":
        location = DataLocation(dataset=Dataset(dataset_name=found[1], dataset_version=found[2]))
    else:
        if found is not None:
            url = connection.arm(f"/data/{found[1]}/versions/{found[2]}")
            record = connection.rest.get_object(url, "data", params={"api-version": ApiVersion.DATA})
            uri = str((record.get("properties") or {}).get("dataUri") or "")
        if not uri:
            raise NotFound(f"Azure ML does not tell where the data '{item.name}' lie.")
        location = DataLocation(uri=Uri(uri, is_file=given.type == FILE))
    return Data(
        data_location=location,
        mechanism=MECHANISMS[given.mode],
        environment_variable_name=item.key,
        path_on_compute=item.target,
    )


def _output(given: JobOutput, *, overwrite: bool) -> Any:
    """The `azureml.core.runconfig.OutputData`; *overwrite*: files that are there already may be replaced."""
    from azureml.core import runconfig as sdk

    found, mechanism = re.fullmatch(r"azureml://datastores/([^/]+)/paths/(.*)", given.path), MECHANISMS[given.mode]
    assert found is not None, given.path
    registration = sdk.RegistrationOptions(
        given.asset_name, dataset_registration_options=sdk.DatasetRegistrationOptions(None)
    )
    options = sdk.OutputOptions(
        registration_options=registration,
        upload_options=sdk.UploadOptions(overwrite, None) if mechanism == "upload" else None,
        mount_options=sdk.MountOptions() if mechanism == "mount" else None,
    )
    location = sdk.DataLocation(data_path=sdk.DataPath(found[1], found[2].rstrip("/")))
    return sdk.OutputData(output_location=location, mechanism=mechanism, additional_options=options)


def _environment(
    workspace: Any, spec: EnvironmentSpec, definition: Mapping[str, Any] | None, context: str, notify: Notify
) -> Any:
    """The `azureml.core.Environment` for *spec*, whose *definition* is given where the workspace has it; *context* is
    where it is built from: in a storage account, or in a repository of git.

    Private wheels are uploaded to *workspace*; *notify* hears of each that is not. Raises what azureml-core raises.
    """
    from azureml.core import Environment
    from azureml.core.environment import DockerBuildContext
    from azureml.exceptions import UserErrorException

    if definition is not None:
        return Environment._deserialize_and_add_to_object(dict(definition))
    if context:
        kinds = DockerBuildContext.LocationType
        kind = kinds.Git if parts_of(context).path.endswith(".git") else kinds.StorageAccount
        name = f"himl-{_digest(f'{context} {spec.dockerfile}')}"
        return Environment.from_docker_build_context(name, DockerBuildContext(kind, context, spec.dockerfile))
    wheels = {}
    for path in spec.wheels:
        add = partial(Environment.add_private_pip_wheel, workspace, str(path))
        try:
            wheels[path.name] = str(add(exist_ok=False))
        except UserErrorException:  # it has one file of a name, and does not tell whether that is the same
            notify(
                Notice(
                    f"A private wheel '{path.name}' is in the workspace already, and is used as it is there; a changed "
                    "one needs a new version."
                )
            )
            wheels[path.name] = str(add(exist_ok=True))
    # the same for the same packages, so that the service finds the image that it built before
    name = f"himl-{_digest(chr(0).join([spec.image, spec.conda, *(path.name for path in spec.wheels)]))}"
    if spec.conda:
        with tempfile.TemporaryDirectory(prefix="himl-conda-", ignore_cleanup_errors=True) as folder:
            file = Path(folder) / "conda.yml"
            file.write_text(with_wheels(spec.conda, wheels), encoding="utf-8")
            environment = Environment.from_conda_specification(name, str(file))
    else:
        environment = Environment(name)
        environment.python.user_managed_dependencies = True
    environment.docker.base_image = spec.image
    environment.environment_variables = {}  # azureml-core begins with an example
    return environment


def with_wheels(conda: str, wheels: Mapping[str, str]) -> str:
    """The conda file *conda* with the addresses of private wheels in place of their file names. Raises BadUsage where
    one is not asked for."""
    if not wheels:
        return conda
    import yaml

    document = yaml.safe_load(conda)
    left = dict(wheels)
    for part in document.get("dependencies") or []:
        if isinstance(part, dict):
            part["pip"] = [left.pop(PurePosixPath(str(line)).name, line) for line in part.get("pip") or []]
    if left:
        raise BadUsage(f"The conda file does not install the private wheel {', '.join(left)}.")
    return str(yaml.safe_dump(document, sort_keys=False))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def _checked_afterwards(connection: Connection, run_id: str, notify: Notify) -> Iterator[None]:
    """Within it, the run *run_id* is made, by requests of which any may fail once the job has started: the service may
    have carried out what it did not answer.

    A failure counts only where there is no such run; where there is one, the job was submitted, and *notify* hears what
    failed. An interruption always ends in Interrupted, which says whether the job runs.
    """
    try:
        yield
    except KeyboardInterrupt as err:
        is_known = _exists(connection, run_id)
        text, hint = "Interrupted; no job was submitted.", ""
        if is_known is None:
            text = f"Interrupted; it is not known whether the job {run_id} was submitted."
            hint = f"See: himl runs show {run_id}"
        elif is_known:
            text, hint = SUBMITTED.format(run_id), f"To stop it: himl runs cancel {run_id}"
        raise Interrupted(text, hint=hint) from err
    except HimlError as err:
        is_known = _exists(connection, run_id)
        if is_known:
            notify(Notice(f"The job was submitted, but then: {err}"))
            return
        if is_known is None:
            err.hint = f"{err.hint} {lookup_hint(run_id)}".strip()
        else:
            note_nothing_runs(err)
        raise


def _exists(connection: Connection, run_id: str) -> bool | None:
    """Whether the run is there; None where that cannot be found out."""
    try:
        RunHistory(connection).get(run_id)
    except ServiceNotFound:
        return False
    except HimlError:
        return None
    return True


def _describe(connection: Connection, spec: JobSpec, run_id: str, notify: Notify) -> None:
    """Give the run its names and tags, which a ScriptRunConfig cannot hold. The job runs by now: a failure is only
    told."""
    names = {"displayName": spec.display_name, "description": spec.description}
    change = {
        "runId": run_id,
        "tags": {**job_tags(spec), "run_recovery_id": f"{spec.experiment}:{run_id}"},
        "properties": limit_properties(spec.max_seconds if spec.sweep is None else None),
        **{name: text for name, text in names.items() if text},
    }
    url = connection.service("history", f"/experiments/{quote(spec.experiment, safe='')}/runs/{quote(run_id, safe='')}")
    try:
        connection.rest.patch(url, json=change)
    except KeyboardInterrupt as err:
        raise Interrupted(SUBMITTED.format(run_id), hint=f"To stop it: himl runs cancel {run_id}") from err
    except HimlError as err:
        notify(Notice(f"The job was submitted without its tags: {err}"))
