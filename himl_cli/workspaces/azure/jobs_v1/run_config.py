"""The ScriptRunConfig for a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import SERVERLESS, EntryKind, JobSpec
from himl_cli.core.sweeps import PLACEHOLDER
from himl_cli.workspaces.azure.jobs.code_upload import folder_for
from himl_cli.workspaces.azure.jobs.command_text import command_text
from himl_cli.workspaces.azure.jobs.registered_environments import ELSEWHERE
from himl_cli.workspaces.azure.jobs_v1.hyperdrive import check_sweep
from himl_cli.workspaces.azure.jobs_v1.wording import start_of
from himl_cli.workspaces.azure.runs.limits import limit_of

_OPTIONS = {"jupyterlab": "jupyter", "ssh": "ssh_key", "tensorboard": "tensorboard_logs"}


def check_possible(spec: JobSpec) -> None:
    """Raises BadUsage for what azureml-core cannot do, for placeholders that name no data, and for files that storage
    cannot hold."""
    command_text(spec)
    folder_for(spec.snapshot)
    if spec.sweep is not None:
        check_sweep(spec)
    if spec.environment is not None and spec.environment.name.startswith(ELSEWHERE):
        raise BadUsage(
            f"--environment {spec.environment.name}: not with --sdk v1.",
            hint="Name one of the workspace, or leave --sdk v1 out.",
        )
    if spec.entry.kind is EntryKind.command and PLACEHOLDER.search(spec.entry.target):
        raise BadUsage(
            "--command: with --sdk v1 it holds no placeholders.",
            hint="Write them as arguments behind --, or leave --sdk v1 out.",
        )
    late = {**spec.services, "instance_type": spec.instance_type, "resources_properties": spec.resource_properties}
    for name in (name for name, value in late.items() if value or name in spec.services):
        raise BadUsage(f"--{_OPTIONS.get(name, name)}: not with --sdk v1.", hint="Leave one of them out.")
    if spec.identity is not None:
        raise BadUsage(f"--identity {spec.identity}: not with --sdk v1.", hint="Leave --sdk v1 out.")
    if spec.cluster.lower() == SERVERLESS:
        raise BadUsage("--cluster serverless: not with --sdk v1.", hint="Name a cluster, or leave --sdk v1 out.")


def script_run_config(
    spec: JobSpec, folder: Path, environment: Any, inputs: dict[str, Any], outputs: dict[str, Any]
) -> Any:
    """An `azureml.core.ScriptRunConfig` that runs *spec* from the files in *folder*."""
    from azureml.core import ScriptRunConfig
    from azureml.core.runconfig import DockerConfiguration

    limit = {} if spec.max_seconds is None else {"max_run_duration_seconds": limit_of(spec.max_seconds)}
    shm = {"shm_size": spec.shm_size} if spec.shm_size else {}
    config = ScriptRunConfig(
        source_directory=str(folder),
        compute_target=spec.cluster,
        environment=environment,
        distributed_job_config=_distribution(spec),
        docker_runtime_config=DockerConfiguration(use_docker=True, arguments=list(spec.docker_args), **shm),
        **limit,
        **start_of(spec),
    )
    config.run_config.environment_variables = dict(spec.env)
    config.run_config.data = inputs
    config.run_config.output_data = outputs
    return config


def _distribution(spec: JobSpec) -> Any:
    """MpiConfiguration, PyTorchConfiguration (whose number of processes is that of all nodes together), or None for a
    plain process."""
    from azureml.core.runconfig import MpiConfiguration, PyTorchConfiguration

    processes = spec.processes or 1
    if spec.distribution == "mpi":
        return MpiConfiguration(process_count_per_node=processes, node_count=spec.nodes)
    if spec.distribution == "pytorch":
        return PyTorchConfiguration(process_count=processes * spec.nodes, node_count=spec.nodes)
    return None
