"""Submission through azureml-core, the vendor's deprecated SDK: the ScriptRunConfig and HyperDriveConfig of `--sdk v1`.
Other packages read such runs. `sdk_v1` of the workspace is the only entry.

azureml-core is optional. himl imports it in functions, silences it, signs it in with its own credentials, and
translates its exceptions into a HimlError.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, Interrupted, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, Starting
from himl_cli.core.installation import install_command
from himl_cli.core.jobs import (
    DOCKERFILE,
    DataSpec,
    EntryKind,
    EnvironmentSpec,
    JobSpec,
    Snapshot,
    is_compute_name,
)
from himl_cli.core.redaction import mask_arguments, parts_of, redact
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.signals import terminations
from himl_cli.core.sweeps import PLACEHOLDER, SEARCH_SPACE, SweepSpec
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.assets import ELSEWHERE, JobCode, JobEnvironment, environment_id, folder_for
from himl_cli.workspaces.azure.jobs.body import (
    early_stop_fields,
    job_tags,
    max_concurrent,
    search_space,
)
from himl_cli.workspaces.azure.jobs.command_line import command_line, script_line, script_name, shell_line
from himl_cli.workspaces.azure.jobs.computes import check_compute
from himl_cli.workspaces.azure.jobs.data_assets import FILE, LATEST, JobData, resolve_inputs, resolve_outputs
from himl_cli.workspaces.azure.jobs.job_submission import (
    azure_run_id,
    before_creation,
    created_job,
    lookup_hint,
    note_nothing_runs,
)
from himl_cli.workspaces.azure.jobs.sdk import response_of, restored_variables, silenced
from himl_cli.workspaces.azure.network_errors import causes_of, is_network_error, network_error
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.run_history import RunHistory
from himl_cli.workspaces.azure.run_records import limit_of, limit_properties, studio_url
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, refusal
from himl_cli.workspaces.azure.storage.datastores import Datastores

log = logging.getLogger(__name__)

SNAPSHOTS = "snapshots_v1"
# azureml-core's prefix for a path in a script's arguments that is known only in the job.
ARGUMENTS = {"inputs": "DatasetConsumptionConfig:", "outputs": "DatasetOutputConfig:"}
# Prefixes of path variables in other jobs. azureml-core uses the data's name, or its own prefix.
PREFIXES = {"inputs": "AZURE_ML_INPUT_", "outputs": "AZURE_ML_OUTPUT_"}
MECHANISMS = {"ro_mount": "mount", "download": "download", "rw_mount": "mount", "upload": "upload"}
VARIABLES = {
    "AML_SNAPSHOT_NO_FILE_LIMIT": "1",  # disables azureml-core's limit of 2,000 files
    "HBI_WORKSPACE_JOB": "true",  # disables azureml-telemetry
}
_OTHERWISE = "Omit --sdk v1."


def require_package(module: str) -> None:
    """Raise BadUsage with the install command if *module* of azureml-core is missing. Imports nothing of it."""
    try:
        is_installed = find_spec(module) is not None
    except ModuleNotFoundError:  # there is no azureml package at all
        is_installed = False
    if not is_installed:
        is_sweep = module != "azureml.core"
        needs = "A sweep with --sdk v1 needs azureml-train-core" if is_sweep else "--sdk v1 needs azureml-core"
        raise BadUsage(f"{needs}, which is not installed.", hint=f"Install it: {install_command('v1')}")


def sdk_run(connection: Connection, run_id: str) -> Any:
    """The `azureml.core.Run` of *run_id*, with himl's sign-in. Raises NotFound, and as `Connection`."""
    with quiet_sdk(), sdk_errors(connection):
        from azureml.core import Run as SdkRun

        return SdkRun.get(_workspace(connection), run_id)


def submit(connection: Connection, datastores: Datastores, spec: JobSpec, notify: Notify) -> Run:
    """Submit *spec* and return the run from local knowledge, because the run history may lag behind. Raises HimlError.
    Unless the error says otherwise, no job was created.

    BadUsage comes first, without a request, if azureml-core cannot submit such a job. NotFound for missing resources
    comes before any upload.
    """
    _check_possible(spec)
    notify(
        Notice(
            "--sdk v1 uses azureml-core, which is deprecated and no longer maintained. Without it, himl uses "
            "azure-ai-ml's requests."
        )
    )
    run_id, image, context = azure_run_id(spec.experiment), spec.environment or EnvironmentSpec(), ""
    with before_creation():
        tenant_id = connection.record().tenant_id
        check_compute(connection, spec.cluster, spec.nodes, notify)
        default, is_sweep = spec.default_datastore, spec.sweep is not None
        inputs = resolve_inputs(connection, datastores, spec.inputs, default, notify)
        outputs = resolve_outputs(connection, datastores, spec.outputs, default, notify, are_of_trials=is_sweep)
        if image.name:  # requested before azureml-core does, whose error gives no reason
            environment_id(connection, image.name, image.version)  # raises
        if isinstance(image.context, str):
            context = image.context
        elif image.context or image.beside:
            context = JobEnvironment(connection, datastores, image).upload(notify)
    with terminations():
        try:
            with _staged(spec.snapshot) as folder, quiet_sdk(), sdk_errors(connection):
                from azureml.core import Experiment

                workspace = _workspace(connection)
                environment = _environment(workspace, image, context)
                config = _script_run_config(spec, folder, environment)
                run_config = config.run_config
                run_config.data = {item.key: _input(connection, item, inputs[item.key]) for item in spec.inputs}
                run_config.output_data = {
                    item.key: _output(outputs[item.key], overwrite=item.overwrite) for item in spec.outputs
                }
                experiment = Experiment(workspace, spec.experiment)
                notify(Starting(run_id))
                if spec.sweep is None:
                    run = experiment.submit(config, run_id=run_id)
                else:
                    run = experiment.submit(_hyperdrive_config(spec.sweep, config, run_id))
                snapshot_id = str(run.properties.get("ContentSnapshotId") or "")
            # azureml-core uploads only the difference from the last job's snapshot.
            key = connection.key("snapshot of the last job")
            if snapshot_id and connection.kept.get(SNAPSHOTS, key) == snapshot_id:
                notify(Notice(JobCode.unchanged))
            connection.kept.put(SNAPSHOTS, key, snapshot_id)
        except (KeyboardInterrupt, HimlError) as err:
            _check_submitted(connection, run_id, err, notify)
        with created_job(run_id):
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


def _check_submitted(connection: Connection, run_id: str, err: BaseException, notify: Notify) -> None:
    """Handle *err* for run *run_id*. Several requests create it, and any may fail after the job has started, because
    the service may have carried out a request without responding.

    A failure counts only if the run does not exist. Otherwise the job was submitted, and *notify* receives the failure.
    An interruption always raises Interrupted, which states whether the job runs.
    """
    is_known: bool | None = True
    try:
        RunHistory(connection).get(run_id)
    except ServiceNotFound:
        is_known = False
    except HimlError:
        is_known = None
    if isinstance(err, HimlError):
        if is_known:
            notify(Notice(f"The job was submitted, but a later request failed: {err}"))
            return
        if is_known is None:
            err.hint = f"{err.hint} {lookup_hint(run_id)}".strip()
        else:
            note_nothing_runs(err)
        raise err
    if is_known is None:
        raise Interrupted(
            f"Interrupted. It is unknown whether job '{run_id}' was submitted.", hint=lookup_hint(run_id)
        ) from err
    if not is_known:
        raise Interrupted("Interrupted. No job was submitted.") from err
    with created_job(run_id):
        raise err


def _describe(connection: Connection, spec: JobSpec, run_id: str, notify: Notify) -> None:
    """Set the run's names and tags, which a ScriptRunConfig cannot contain. The job is running, so a failure is only a
    Notice."""
    names = {"displayName": spec.display_name, "description": spec.description}
    change = {
        "runId": run_id,
        "tags": {**job_tags(spec), "run_recovery_id": f"{spec.experiment}:{run_id}"},
        "properties": limit_properties(spec.max_seconds if spec.sweep is None else None),
        **{name: text for name, text in names.items() if text},
    }
    path = f"/experiments/{quote(spec.experiment, safe='')}/runs/{quote(run_id, safe='')}"
    try:
        connection.patch(connection.service("history", path), json=change)
    except HimlError as err:
        notify(Notice(f"The job was submitted without its tags: {err}"))


def _check_possible(spec: JobSpec) -> None:
    command_line(spec)
    folder_for(spec.snapshot)
    if spec.sweep is not None:
        _check_sweep(spec)
    environment = spec.environment.name if spec.environment else ""
    services = {"jupyterlab": "jupyter", "ssh": "ssh_key", "tensorboard": "tensorboard_logs"}
    refused = {
        f"--environment {environment}": environment.startswith(ELSEWHERE),
        **{f"--{services.get(name, name)}": True for name in spec.services},
        "--instance_type": bool(spec.instance_type),
        f"--job_tier {spec.job_tier}": spec.job_tier is not None,
        "--resources_properties": bool(spec.resource_properties),
        f"--identity {spec.identity}": spec.identity is not None,
        f"--cluster {spec.cluster}": not is_compute_name(spec.cluster),
    }
    for option in (option for option, is_given in refused.items() if is_given):
        hint = "Name a cluster, or omit --sdk v1." if "--cluster" in option else _OTHERWISE
        raise BadUsage(f"--sdk v1 does not support {option}.", hint=hint)
    if spec.entry.kind is EntryKind.command and PLACEHOLDER.search(spec.entry.target):
        raise BadUsage(
            "With --sdk v1, --command must not contain placeholders.",
            hint="Write them as arguments after --, or omit --sdk v1.",
        )


def _check_sweep(spec: JobSpec) -> None:
    """Raise BadUsage if azureml-train-core is missing, and for trials that HyperDrive cannot start. HyperDrive adds
    `--NAME VALUE` to a script's arguments."""
    require_package("azureml.train.hyperdrive")
    if spec.entry.kind is not EntryKind.script:
        raise BadUsage("With --sdk v1, a sweep must run a Python script (no module or shell script).", hint=_OTHERWISE)
    for name, found in spec.sweep.space.items() if spec.sweep else ():
        if found.form:
            rule = f"a script gets each hyperparameter as --NAME VALUE, so '{name}' cannot be a switch or several words"
            raise BadUsage(f"With --sdk v1, {rule}.", hint=_OTHERWISE)
    for text in _without_values(spec.arguments):
        rule = ""
        if PLACEHOLDER.search(text) and not PLACEHOLDER.fullmatch(text):
            rule = "placeholders of data must be whole arguments of a sweep"
        elif f"{SEARCH_SPACE}." in text:
            rule = "a hyperparameter must be passed as --NAME"
        if rule:
            raise BadUsage(f"'{text}': with --sdk v1, {rule}.", hint=_OTHERWISE)


def _without_values(arguments: Sequence[str]) -> list[str]:
    """*arguments* without those that HyperDrive adds, `--NAME ${{search_space.NAME}}`, as two words or with `=`."""
    own = rf"\0--(\S+?)[=\0]\$\{{\{{\s*{SEARCH_SPACE}\.\1\s*\}}\}}(?=\0|$)"
    return re.sub(own, "", "\0".join(["", *arguments])).split("\0")[1:]


def _script_run_config(spec: JobSpec, folder: Path, environment: Any) -> Any:
    """An `azureml.core.ScriptRunConfig` that runs *spec* from the files in *folder*: a script with its arguments, or a
    shell command.

    The service replaces a placeholder only if it is a whole argument. The shell replaces one within an argument.
    """
    from azureml.core import ScriptRunConfig
    from azureml.core.runconfig import DockerConfiguration, MpiConfiguration, PyTorchConfiguration

    def as_variable(kind: str, key: str) -> str:
        missing = f"the job has no path of this {kind[:-1]}"
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
    elif spec.distribution == "pytorch":  # its number of processes is the total of all nodes
        options["distributed_job_config"] = PyTorchConfiguration(
            process_count=processes * spec.nodes, node_count=spec.nodes
        )
    shm = {"shm_size": spec.shm_size} if spec.shm_size else {}
    docker = DockerConfiguration(use_docker=True, arguments=list(spec.docker_args), **shm)
    config = ScriptRunConfig(
        source_directory=str(folder),
        compute_target=spec.cluster,
        environment=environment,
        docker_runtime_config=docker,
        **options,
    )
    config.run_config.environment_variables = dict(spec.env)
    return config


def _hyperdrive_config(sweep: SweepSpec, trial: Any, run_id: str) -> Any:
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
    space = {name: search_space(one) for name, one in sweep.space.items()}
    return sdk.HyperDriveConfig(
        run_config=trial,
        hyperparameter_sampling=samplings[sweep.sampling](space),
        policy=policy,
        primary_metric_name=sweep.primary_metric,
        primary_metric_goal=sdk.PrimaryMetricGoal.from_str(sweep.goal),
        max_total_runs=sweep.max_trials,
        # The service accepts at most 100 at a time. Without a number, the SDK sends the number of all trials.
        max_concurrent_runs=max_concurrent(sweep) or min(sweep.max_trials, 100),
        custom_run_id=run_id,
        **limit,
    )


def _input(connection: Connection, item: DataSpec, given: JobData) -> Any:
    """The `azureml.core.runconfig.Data`. Sends a request for a registered asset.

    Data are named by their location, which the service accepts for old and new data assets alike. A table is named by
    its asset, because it is more than a location. azureml-core's dataset classes need another unmaintained package.
    """
    from azureml.core.runconfig import Data, DataLocation, Dataset, Uri

    found, uri = re.fullmatch(r".*/data/([^/]+)/versions/([^/]+)/?", given.path, re.IGNORECASE), given.path
    if found is not None and given.type == "mltable":
        location = DataLocation(dataset=Dataset(dataset_name=found[1], dataset_version=found[2]))
    else:
        if found is not None:
            url = connection.arm(f"/data/{found[1]}/versions/{found[2]}")
            record = connection.get(url, params={"api-version": ApiVersion.DATA}).object("data")
            with understood(url, "the data asset"):
                uri = str((record.get("properties") or {}).get("dataUri") or "")
        if not uri:
            raise NotFound(f"Azure ML returned no location of the data '{item.name}'.")
        location = DataLocation(uri=Uri(uri, is_file=given.type == FILE))
    return Data(
        data_location=location,
        mechanism=MECHANISMS[given.mode],
        environment_variable_name=item.key,
        path_on_compute=item.target,
    )


def _output(given: JobData, *, overwrite: bool) -> Any:
    from azureml.core import runconfig as sdk

    found, mechanism = re.fullmatch(r"azureml://datastores/([^/]+)/paths/(.*)", given.path), MECHANISMS[given.mode]
    assert found is not None, given.path
    nothing = sdk.DatasetRegistrationOptions(None)
    options = sdk.OutputOptions(
        registration_options=sdk.RegistrationOptions(given.asset_name, dataset_registration_options=nothing),
        upload_options=sdk.UploadOptions(overwrite, None) if mechanism == "upload" else None,
        mount_options=sdk.MountOptions() if mechanism == "mount" else None,
    )
    location = sdk.DataLocation(data_path=sdk.DataPath(found[1], found[2].rstrip("/")))
    return sdk.OutputData(output_location=location, mechanism=mechanism, additional_options=options)


def _environment(workspace: Any, spec: EnvironmentSpec, context: str) -> Any:
    from azureml.core.environment import DockerBuildContext, Environment

    if spec.name:
        return Environment.get(workspace, spec.name, None if spec.version == LATEST else spec.version)
    # The same contents get the same name, so that the service finds the image that it built before.
    contents = f"{context} {spec.dockerfile}" if context else f"{spec.image}\0{spec.conda}"
    name = f"himl-{hashlib.sha256(contents.encode()).hexdigest()[:16]}"
    if context:
        kinds = DockerBuildContext.LocationType
        kind = kinds.Git if parts_of(context).path.endswith(".git") else kinds.StorageAccount
        return Environment.from_docker_build_context(
            name, DockerBuildContext(kind, context, spec.dockerfile or DOCKERFILE)
        )
    if spec.conda:
        with tempfile.TemporaryDirectory(prefix="himl-conda-", ignore_cleanup_errors=True) as folder:
            file = Path(folder) / "conda.yml"
            file.write_text(spec.conda, encoding="utf-8")
            environment = Environment.from_conda_specification(name, str(file))
    else:
        environment = Environment(name)
        environment.python.user_managed_dependencies = True
    environment.docker.base_image = spec.image
    environment.environment_variables = {}  # azureml-core's default has an example
    return environment


def _workspace(connection: Connection) -> Any:
    from azureml.core import Workspace
    from azureml.core.authentication import TokenAuthentication

    address, cloud = connection.address, connection.address.cloud
    auth = TokenAuthentication(lambda audience: connection.tokens.get(cloud.management_scope), cloud=cloud.name)
    return Workspace(address.subscription_id, address.resource_group, address.name, auth=auth, _cloud=cloud.name)


@contextmanager
def _staged(snapshot: Snapshot) -> Iterator[Path]:
    """A temporary folder with the snapshot's files (hard links if the disk supports them). azureml-core needs a folder,
    and would apply the ignore files at its root again, without those of subfolders, which may include files again.
    Raises DiskFailed."""
    with tempfile.TemporaryDirectory(prefix="himl-snapshot-", ignore_cleanup_errors=True) as folder:
        try:
            for name in set(snapshot.files).difference((".amlignore", ".gitignore")):
                # Resolved, because a relative link to a link would be invalid in the other folder.
                source, target = (snapshot.root / name).resolve(), Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source, target)
                except OSError:
                    shutil.copyfile(source, target)
        except OSError as err:
            raise DiskFailed(f"Cannot copy the snapshot: {err.strerror or err}: '{err.filename}'.") from err
        yield Path(folder)


@contextmanager
def quiet_sdk() -> Iterator[None]:
    """A context that sends azureml-core's output to himl's debug log, discards its warnings and logs, and lifts its
    limit on snapshots (300 MB, where himl only warns)."""
    printed = io.StringIO()
    try:
        with silenced("azureml"), restored_variables(*VARIABLES), redirect_stdout(printed), redirect_stderr(printed):
            os.environ.update(VARIABLES)
            from azureml._restclient import snapshots_client

            snapshots_client.SNAPSHOT_MAX_SIZE_BYTES = 1 << 40
            yield
    finally:
        if printed.getvalue().strip():
            log.debug("azureml-core printed: %s", redact(printed.getvalue().strip()))


@contextmanager
def sdk_errors(connection: Connection) -> Iterator[None]:
    """A context that translates azureml-core's exceptions into a HimlError. himl's own errors pass through."""
    from azure.core.exceptions import AzureError
    from azureml.exceptions import AzureMLException, UserErrorException
    from msrest.exceptions import ClientException, HttpOperationError
    from requests import RequestException

    try:
        yield
    except (AzureError, AzureMLException, ClientException, RequestException, OSError) as err:
        chain = causes_of(err)
        inner = next((one for one in chain if isinstance(one, HimlError)), None)
        if inner is not None:  # himl's failed sign-in, which azureml-core requested and wrapped
            raise inner from err
        response = next(filter(None, map(response_of, chain)), None)
        if response is not None:
            credential = connection.tokens.credential_for(connection.address.cloud.management_scope)
            raise refusal(response, connection.address, credential) from err
        if is_network_error(err):
            raise network_error(err, connection.record().data_plane) from err
        if isinstance(err, OSError) and not isinstance(err, RequestException):
            raise DiskFailed(
                f"azureml-core cannot use a file: {err.strerror or err}: '{err.filename}'.",
                hint="Check the folder ~/.azureml, which azureml-core uses.",
            ) from err
        line = redact(" ".join(str(getattr(err, "message", "") or err).split())[:300])
        # None if it is not loaded.
        hyperdrive: Any = sys.modules.get("azureml.train.hyperdrive.exceptions")
        users = (UserErrorException, *([hyperdrive.HyperDriveConfigException] if hyperdrive else ()))
        if isinstance(err, users) and not isinstance(err, HttpOperationError):
            raise BadUsage(f"azureml-core rejected the job: {line}") from err
        raise ServiceFailed(
            f"azureml-core failed: {line}",
            hint="Try again, or omit --sdk v1.",
        ) from err
