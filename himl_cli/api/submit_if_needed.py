"""hi-ml's `submit_to_azure_if_needed`: one call that runs a script here, or sends it to Azure ML."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from himl_cli.api.datasets import (
    AzureRunInfo,
    Datasets,
    as_configs,
    azure_workspace,
    info_in_job,
    info_outside,
)
from himl_cli.api.exceptions import naming_submit_arguments, one_line_if_uncaught
from himl_cli.api.transfer import PathLike
from himl_cli.services.naming import hi_ml_experiment

AfterSubmission = Callable[..., Any]
AZUREML_FLAG = "--azureml"
DEFAULT_DOCKER_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-cuda11.3-cudnn8-ubuntu20.04:20230509.v1"
DEFAULT_SHM_SIZE = "100g"


def submit_to_azure_if_needed(
    compute_cluster_name: str = "",
    instance_type: str | None = None,
    resources_properties: Mapping[str, Any] | None = None,
    entry_script: PathLike | None = None,
    aml_workspace: Any | None = None,
    workspace_config_file: PathLike | None = None,
    ml_client: Any | None = None,
    snapshot_root_directory: PathLike | None = None,
    script_params: Sequence[str] | None = None,
    conda_environment_file: PathLike | None = None,
    build_context: Any | None = None,
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
    use_mpi_run_for_single_node_jobs: bool = False,
    display_name: str | None = None,
    entry_command: PathLike | None = None,
    python_executable: str = "python",
    hyperdrive_argument_prefix: str = "--",
    exit_on_completion: bool = True,
    vscode: bool = True,
    ssh_key: str | None = None,
    tensorboard_logs: PathLike | None = None,
    jupyter: bool = False,
) -> AzureRunInfo | Any:
    """Send the script that calls this to Azure ML if the command line has `--azureml`, and end this process; else say
    where its data is.

    Arguments and defaults are hi-ml's. Inside a job nothing is sent ever: the job's own paths are given, and the flag
    is taken out of `sys.argv`, as it is out of the arguments that a job is sent with. Outside of a job, input datasets
    are found by `local_folder`, else in the local workspace, else downloaded from the Azure ML workspace that is
    configured, else their path is None. After the submission the process ends with code 0, unless *exit_on_completion*
    is False: then the answer is azure-ai-ml's job, or azureml-core's run where *strictly_aml_v1* is set.

    Where, and whether:

    - *submit_to_azureml*: True or False decide in place of the flag.
    - *compute_cluster_name*: the cluster of Azure ML; a submission needs one.
    - *instance_type*: the kind of machine, of a Kubernetes or serverless compute. *resources_properties*: more about
      its resources, by name.
    - *aml_workspace*, *ml_client*: himl's or azureml-core's `Workspace`, or azure-ai-ml's `MLClient`. The first of them
      that is given counts.
    - *workspace_config_file*: a `config.json`, where neither is given (default: what `get_workspace` finds).
    - *num_nodes*: machines, 1 to 65,000.
    - *pytorch_processes_per_node_v2*: processes a machine, 1 to 1,024, started as PyTorch's ranks. None is one process
      a machine, several of them started by MPI.
    - *use_mpi_run_for_single_node_jobs*: True sends a job of one process as one of MPI too, which Kubernetes needs to
      see its GPUs.
    - *max_run_duration*: a number and a unit (`30s`, `30m`, `2h`, `1.5d`), of a search for each run; empty for no
      limit.
    - *docker_shm_size*: shared memory, a whole number and `b`, `k`, `m` or `g`.
    - *identity_based_auth*: the job signs in to Azure as whoever submits it.
    - *vscode*, *jupyter*: VS Code may connect to the job, JupyterLab runs beside it. Not for a search.
    - *ssh_key*: a public key, or its file; who has the private one may sign in to the job. Not for a search.
    - *tensorboard_logs*: the folder in the job whose event files a TensorBoard beside it shows. Not for a search.
    - *strictly_aml_v1*: by azureml-core in place of azure-ai-ml (`pip install '.[v1]'` in himl's sources).

    What runs:

    - *entry_script*: a path, seen from the snapshot's folder, else from the current one, or `-m MODULE` (default: the
      script that runs).
    - *entry_command*: a command line in place of a script, of any program.
    - *python_executable*: what starts the script, such as `torchrun` or `uv run`.
    - *script_params*: its arguments (default: those of this process without the flag).
    - *snapshot_root_directory*: the folder that is sent (default: the current one).
    - *ignored_folders*: folders left out of it. A name alone counts at any depth, a path is seen from the snapshot's
      folder.
    - *environment_variables*: variables of the job; values become texts.
    - *hyperdrive_config*: a search, as `create_crossval_hyperdrive_config` gives it, or azureml's `HyperDriveConfig`.
    - *hyperparam_args*: a search as a dictionary, as `create_grid_hyperparam_args_v2` gives it; its `timeout` and
      `trial_timeout` are seconds. Not both.
    - *hyperdrive_argument_prefix*: what stands before the names in *hyperparam_args*: with `+` a trial gets `+lr=0.1`.

    Its environment:

    - *aml_environment_name*: a registered one, `NAME` or `NAME:VERSION`. It counts alone; the next five are not used
      then.
    - *build_context*: azure-ai-ml's `BuildContext`, azureml-core's `DockerBuildContext`, or a folder with a Dockerfile;
      the image is built from it.
    - *conda_environment_file*: what one is made from (default: the nearest `environment.yml` here or above).
    - *docker_base_image*: the image below it.
    - *pip_extra_index_url*: one more index for pip.
    - *private_pip_wheel_path*: a wheel to install as well.

    Its data:

    - *input_datasets*, *output_datasets*: names, or objects of `DatasetConfig`; number *i* is `INPUT_i` or `OUTPUT_i`
      of the job.
    - *default_datastore*: the datastore of those that name none; empty for the workspace's own default.

    What it is called, and what follows:

    - *experiment_name*: characters other than letters, digits, `_` and `-` become `_`, and several `_` one (default:
      the script's name, or the module's with `_` for `.`). The variable HIML_EXPERIMENT_NAME goes before it, as in
      hi-ml.
    - *display_name*, *tags*: what the run is called, and its tags; their values become texts.
    - *after_submission*: is called with azure-ai-ml's job and its MLClient, or with azureml-core's run where
      *strictly_aml_v1* is set.
    - *exit_on_completion*: the process ends after that.
    - *wait_for_completion*: this is once the run has ended.
    - *wait_for_completion_show_output*: the run's log is written to stdout meanwhile; counts with *wait_for_completion*
      only.

    Raises kinds of `HimlError`: BadUsage that are ValueErrors too for arguments that cannot be used, before anything is
    sent; JobFailed (also a ValueError) where the run was waited for and did not complete. One that the script does not
    catch ends it in one line and a hint, with the exit code of `himl submit`. Raises TypeError for datasets of another
    kind than these, and for a workspace that is none; ValueError for an empty name of a dataset.
    """
    inputs, outputs = as_configs(input_datasets), as_configs(output_datasets)
    is_wanted = AZUREML_FLAG in sys.argv[1:] if submit_to_azureml is None else submit_to_azureml
    arguments = [word for word in sys.argv[1:] if word != AZUREML_FLAG]
    if os.environ.get("AZUREML_RUN_ID"):
        sys.argv[1:] = arguments  # the script's own parser does not know the flag
        return info_in_job(inputs, outputs, is_wanted)
    given = aml_workspace if aml_workspace is not None else ml_client
    if not is_wanted:
        return info_outside(inputs, outputs, given, workspace_config_file, default_datastore or None)
    with one_line_if_uncaught(), naming_submit_arguments():
        from himl_cli.api import submission
        from himl_cli.services.submission.request import SubmitRequest

        submission.exit_unless_first_rank()
        cwd = Path.cwd()
        root = cwd / (snapshot_root_directory or "")
        sweep = submission.sweep_of(hyperdrive_config, hyperparam_args)
        is_root_given = snapshot_root_directory is not None
        name = os.environ.get("HIML_EXPERIMENT_NAME") or experiment_name
        request = SubmitRequest(
            cwd=cwd,
            **submission.entry_of(entry_script, entry_command, root, cwd, is_root_given=is_root_given),
            **submission.environment_of(
                aml_environment_name,
                build_context,
                conda_environment_file,
                docker_base_image,
                has_default_image=docker_base_image == DEFAULT_DOCKER_IMAGE,
                pip_extra_index_url=pip_extra_index_url or None,
                private_wheel=str(private_pip_wheel_path) if private_pip_wheel_path else None,
            ),
            arguments=[
                *(arguments if script_params is None else map(str, script_params)),
                *(submission.trial_arguments(sweep, hyperdrive_argument_prefix) if hyperparam_args else ()),
            ],
            cluster=compute_cluster_name,
            python_executable=python_executable,
            instance_type=instance_type or "",
            resource_properties=resources_properties or {},
            vscode=vscode and sweep is None and not strictly_aml_v1,  # wanted where it can be had: it is the default
            jupyter=jupyter,
            ssh_key=ssh_key,
            tensorboard_logs=None if tensorboard_logs is None else Path(tensorboard_logs).as_posix(),
            num_nodes=num_nodes,
            processes_per_node=pytorch_processes_per_node_v2,
            no_mpi_single_node=not use_mpi_run_for_single_node_jobs,
            shm_size=docker_shm_size,
            identity="user" if identity_based_auth else None,
            max_run_duration=submission.duration_of(max_run_duration, hyperparam_args),
            snapshot_root=str(root),
            ignored_folders=[str(folder) for folder in ignored_folders or ()],
            env_vars={key: str(value) for key, value in (environment_variables or {}).items()},
            experiment=hi_ml_experiment(name) if name else None,
            display_name=display_name or "",
            tags={key: str(value) for key, value in (tags or {}).items()},
            inputs=[config.to_input(index) for index, config in enumerate(inputs)],
            outputs=[config.to_output(index) for index, config in enumerate(outputs)],
            default_datastore=default_datastore or None,
            sdk="v1" if strictly_aml_v1 else "v2",
            ready_sweep=sweep,
        )
        return submission.submit(
            request,
            lambda: azure_workspace(given, workspace_config_file),
            after_submission,
            ml_client,
            waits=wait_for_completion,
            follows=wait_for_completion and wait_for_completion_show_output,
            exits=exit_on_completion,
        )
