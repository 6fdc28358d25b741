"""What a script asks for when it calls `submit_to_azure_if_needed`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from himl_cli.api.paths import PathLike
from himl_cli.api.submitting.dataset_config import DatasetConfig

Datasets = Sequence[str | DatasetConfig]
AfterSubmission = Callable[..., Any]


@dataclass(frozen=True)
class Asked:
    """The arguments of `submit_to_azure_if_needed`, by the same names; what they mean stands there."""

    compute_cluster_name: str
    instance_type: str | None
    resources_properties: Mapping[str, Any] | None
    entry_script: PathLike | None
    aml_workspace: Any | None
    workspace_config_file: PathLike | None
    ml_client: Any | None
    snapshot_root_directory: PathLike | None
    script_params: Sequence[str] | None
    conda_environment_file: PathLike | None
    build_context: Any | None
    aml_environment_name: str
    experiment_name: str | None
    environment_variables: Mapping[str, str] | None
    pip_extra_index_url: str
    private_pip_wheel_path: PathLike | None
    docker_base_image: str
    docker_shm_size: str
    ignored_folders: Sequence[PathLike] | None
    default_datastore: str
    input_datasets: Datasets | None
    output_datasets: Datasets | None
    num_nodes: int
    wait_for_completion: bool
    wait_for_completion_show_output: bool
    max_run_duration: str
    submit_to_azureml: bool | None
    tags: Mapping[str, str] | None
    after_submission: AfterSubmission | None
    hyperdrive_config: Any | None
    hyperparam_args: Mapping[str, Any] | None
    strictly_aml_v1: bool
    identity_based_auth: bool
    pytorch_processes_per_node_v2: int | None
    use_mpi_run_for_single_node_jobs: bool
    display_name: str | None
    entry_command: PathLike | None
    python_executable: str
    hyperdrive_argument_prefix: str
    exit_on_completion: bool
    vscode: bool
    ssh_key: str | None
    tensorboard_logs: PathLike | None
    jupyter: bool
