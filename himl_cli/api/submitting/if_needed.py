"""hi-ml's `submit_to_azure_if_needed`: one call that makes a script run here, or sends it to Azure ML."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from himl_cli.api.multi_node import set_environment_variables_for_multi_node
from himl_cli.api.submitting.asked import AfterSubmission, Asked, Datasets, PathLike
from himl_cli.api.submitting.dataset_config import DatasetConfig, as_configs
from himl_cli.api.submitting.run_info import AzureRunInfo, info_in_job

log = logging.getLogger(__name__)

AZUREML_FLAG = "--azureml"
DEFAULT_DOCKER_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-cuda11.3-cudnn8-ubuntu20.04:20230509.v1"
DEFAULT_SHM_SIZE = "100g"


def submit_to_azure_if_needed(
    compute_cluster_name: str = "",
    entry_script: PathLike | None = None,
    aml_workspace: Any | None = None,
    workspace_config_file: PathLike | None = None,
    ml_client: Any | None = None,
    snapshot_root_directory: PathLike | None = None,
    script_params: Sequence[str] | None = None,
    conda_environment_file: PathLike | None = None,
    aml_environment_name: str = "",
    experiment_name: str | None = None,
    environment_variables: Mapping[str, str] | None = None,
    pip_extra_index_url: str = "",
    private_pip_wheel_path: PathLike | None = None,
    docker_base_image: str = DEFAULT_DOCKER_IMAGE,
    docker_shm_size: str = DEFAULT_SHM_SIZE,
    ignored_folders: Sequence[PathLike] | None = None,
    default_datastore: str = "",
    input_datasets: Datasets | None = None,
    output_datasets: Datasets | None = None,
    num_nodes: int = 1,
    wait_for_completion: bool = False,
    wait_for_completion_show_output: bool = False,
    max_run_duration: str = "",
    submit_to_azureml: bool | None = None,
    tags: Mapping[str, str] | None = None,
    after_submission: AfterSubmission | None = None,
    hyperdrive_config: Any | None = None,
    hyperparam_args: Mapping[str, Any] | None = None,
    strictly_aml_v1: bool = False,
    identity_based_auth: bool = False,
    pytorch_processes_per_node_v2: int | None = None,
    use_mpi_run_for_single_node_jobs: bool = True,
    display_name: str | None = None,
) -> AzureRunInfo:
    """Send the script that calls this to Azure ML if the command line has `--azureml`, and end this process; else say where its data is.

    Arguments and defaults are hi-ml's. *submit_to_azureml* True or False decides in place of the flag. Inside a job nothing is sent
    ever: the job's own paths are given, and the flag is taken out of `sys.argv`, as it is out of the arguments that a job is sent
    with. Outside of a job, input datasets are found by `local_folder`, else in the local workspace, else downloaded from the Azure ML
    workspace that is configured, else their path is None.

    The snapshot is the folder *snapshot_root_directory* (default: the current one) without *ignored_folders*; the script is
    *entry_script* (default: the one that runs) with *script_params* (default: those of this process without the flag). The environment is
    *aml_environment_name* (`NAME` or `NAME:VERSION`), else made from *conda_environment_file* (default: the nearest `environment.yml`
    here or above). *after_submission* is called with azure-ai-ml's job and its MLClient, or with azureml-core's run where
    *strictly_aml_v1* is set. After the submission the process ends with code 0; with *wait_for_completion* once the run has ended.

    Raises kinds of `HimlError`: BadUsage that are ValueErrors too for arguments that cannot be used, before anything is sent; JobFailed
    (also a ValueError) where the run was waited for and did not complete.
    """
    asked = Asked(**locals())  # by name: the fields are these arguments
    inputs, outputs = as_configs(input_datasets), as_configs(output_datasets)
    is_wanted = AZUREML_FLAG in sys.argv[1:] if submit_to_azureml is None else submit_to_azureml
    if os.environ.get("AZUREML_RUN_ID"):
        return _in_job(inputs, outputs, is_wanted)
    if is_wanted:
        from himl_cli.api.submitting.submission import submit_and_exit

        submit_and_exit(asked, inputs, outputs, AZUREML_FLAG, DEFAULT_DOCKER_IMAGE)
    from himl_cli.api.submitting.outside import info_outside

    return info_outside(asked, inputs, outputs)


def _in_job(inputs: Sequence[DatasetConfig], outputs: Sequence[DatasetConfig], is_wanted: bool) -> AzureRunInfo:
    """In a job of Azure ML, or in one that himl runs here."""
    from himl_cli.workspaces.open import is_in_azure_job, own_local_run

    sys.argv[1:] = [word for word in sys.argv[1:] if word != AZUREML_FLAG]  # the script's own parser does not know it
    is_in_azure = own_local_run() is None and is_in_azure_job()  # a job of Azure ML may run others of himl
    if is_wanted and not is_in_azure:
        log.warning("The script runs in a job of himl already, and is not sent to Azure ML. To send it, start it with python.")
    set_environment_variables_for_multi_node()
    return info_in_job([config.name for config in inputs], [config.name for config in outputs], is_in_azure=is_in_azure)
