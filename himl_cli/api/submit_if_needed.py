"""hi-ml's `submit_to_azure_if_needed`, which runs a script locally or submits it to Azure ML, and the script's
datasets."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.api.distributed import LONGEST_VARIABLE, set_environment_variables_for_multi_node
from himl_cli.api.exceptions import NoWorkspace, WrongArgument, naming_submit_arguments, one_line_if_uncaught
from himl_cli.api.job_folders import DataFolders
from himl_cli.api.open_workspace import job_folder, resolve_workspace
from himl_cli.api.transfer import PathLike, log_notice
from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.jobs import DataSpec
from himl_cli.core.json_text import read_json
from himl_cli.core.ranks import local_rank
from himl_cli.core.records import dataclass
from himl_cli.core.runs import hi_ml_experiment
from himl_cli.core.settings import nearest_local
from himl_cli.services.submission.data import KEY, bring_dataset, split_reference
from himl_cli.workspaces.base import CloudWorkspace, Workspace

if TYPE_CHECKING:
    from himl_cli.api.workspace import Run

log = logging.getLogger(__name__)

# The folder whose files Amulet saves with a job.
ONLY_AZURE = "SDK inputs and outputs exist in Azure ML workspaces only."
AMULET_OUTPUT = "AMLT_OUTPUT_DIR"


@dataclass()
class DatasetConfig:
    """A dataset that a script reads or writes: the *name* of a registered dataset, or a folder of *datastore*.

    An empty *datastore* means the default one. *version* applies to inputs only; None is the latest version. With
    *use_mounting* None, jobs download inputs and mount outputs. *target_folder* is the folder of an input in a job
    (None: the service chooses). *local_folder* is the folder of the data outside of a job. With *overwrite_existing*
    False, the submission fails if an output of that name exists. *data_name* is the dataset's key in the job, for
    arguments such as `${{inputs.DATA_NAME}}` (None: INPUT_i or OUTPUT_i, by position in the list).

    Raises ValueError for an empty name, for `.` as *target_folder*, and for an invalid *data_name*.
    """

    name: str
    datastore: str = ""
    overwrite_existing: bool = True
    version: int | str | None = None
    use_mounting: bool | None = None
    target_folder: str | os.PathLike[str] | None = None
    local_folder: str | os.PathLike[str] | None = None
    data_name: str | None = None

    def __post_init__(self) -> None:
        self.name = self.name.strip()
        if not self.name:
            raise ValueError("The name of a dataset must not be empty.")
        for attribute in ("target_folder", "local_folder"):
            given = getattr(self, attribute)  # empty text means no path, as in hi-ml
            setattr(self, attribute, Path(given) if given is not None and os.fspath(given) else None)
        if self.target_folder == Path("."):
            raise ValueError(
                f"Dataset '{self.name}': target_folder must not be '.', as the data would hide the script's folder."
            )
        if self.data_name is not None and not KEY.fullmatch(self.data_name):
            raise ValueError(
                f"Dataset '{self.name}': data_name must be letters, digits and _, without a digit first, not "
                f"'{self.data_name}'."
            )

    def to_input(self, index: int) -> DataSpec:
        """Convert the dataset to a job input with the key INPUT_*index*, or *data_name*."""
        name, version = split_reference(self.name)
        return DataSpec(
            key=self.data_name or f"INPUT_{index}",
            name=name,
            version=(version or None) if self.version is None else str(self.version),
            datastore=self.datastore or None,
            mode="mount" if self.use_mounting else "download",
            target=None if self.target_folder is None else Path(self.target_folder).as_posix(),
            local=None if self.local_folder is None else str(self.local_folder),
        )

    def to_output(self, index: int) -> DataSpec:
        """Convert the dataset to a job output with the key OUTPUT_*index*, or *data_name*. Outputs have no target
        folder and no version."""
        if self.target_folder is not None:
            log.warning(
                "Output dataset '%s': himl ignores target_folder, as outputs have fixed folders.",
                self.name,
            )
        return DataSpec(
            key=self.data_name or f"OUTPUT_{index}",
            name=self.name,
            datastore=self.datastore or None,
            mode="upload" if self.use_mounting is False else "mount",
            local=None if self.local_folder is None else str(self.local_folder),
            overwrite=self.overwrite_existing,
        )

    def to_input_dataset(
        self, dataset_index: int, workspace: Any, strictly_aml_v1: bool = False, ml_client: Any | None = None
    ) -> Any:
        """Convert the dataset to an input of azure-ai-ml, an `azure.ai.ml.Input`: the registered dataset of its name,
        or else the folder of its datastore, which it registers. *ml_client* takes precedence over *workspace*.

        Raises BadUsage for *strictly_aml_v1*, NotFound if neither exists, both also ValueErrors, and errors of
        `get_workspace`.
        """
        if strictly_aml_v1:
            raise WrongArgument(
                "to_input_dataset creates inputs of azure-ai-ml, not of azureml-core.",
                hint="Pass the DatasetConfig itself to submit_to_azure_if_needed(strictly_aml_v1=True).",
            )
        from himl_cli.workspaces.azure.workspace import azure_only

        found = resolve_workspace(ml_client or workspace)
        with naming_submit_arguments():
            data = self.to_input(dataset_index)
            return azure_only(found, ONLY_AZURE).sdk_data(data, is_output=False, notify=log_notice)

    def to_output_dataset(self, workspace: Any, dataset_index: int) -> Any:
        """Convert the dataset to an output of azure-ai-ml, an `azure.ai.ml.Output`. Raises like `to_input_dataset`, and
        BadUsage (also a ValueError) for a *target_folder*."""
        from himl_cli.workspaces.azure.workspace import azure_only

        if self.target_folder is not None:
            raise WrongArgument(f"Output dataset '{self.name}' cannot have a target_folder.", hint="Omit it.")
        found = resolve_workspace(workspace)
        with naming_submit_arguments():
            data = self.to_output(dataset_index)
            return azure_only(found, ONLY_AZURE).sdk_data(data, is_output=True, notify=log_notice)

    def to_input_dataset_local(self, workspace: Any = None) -> tuple[Path | None, None]:
        """The dataset's folder outside of a job, which himl downloads if needed (None if no workspace has the dataset),
        and None, as himl mounts nothing. Raises like `submit_to_azure_if_needed`."""
        return _input_folder(self, 0, cache(partial(azure_workspace, workspace, None)), None), None


def as_configs(datasets: Sequence[str | DatasetConfig] | None) -> list[DatasetConfig]:
    """Convert names and `DatasetConfig`s to `DatasetConfig`s. Raises TypeError unless *datasets* is a list of them,
    ValueError for an empty name."""
    if isinstance(datasets, (str, DatasetConfig)):
        raise TypeError("Datasets must be a list, even a single one: input_datasets=[...].")
    configs: list[DatasetConfig] = []
    for dataset in datasets or ():
        if not isinstance(dataset, (str, DatasetConfig)):
            raise TypeError(f"A dataset must be a name or a DatasetConfig, not {type(dataset).__qualname__}.")
        configs.append(DatasetConfig(dataset) if isinstance(dataset, str) else dataset)
    return configs


Datasets = Sequence[str | DatasetConfig]


@dataclass()
class AzureRunInfo:
    """Paths and the run for a script, inside and outside of a job.

    All paths are absolute. *input_datasets* and *output_datasets* are folders in the order of the datasets, with None
    for a dataset without a folder. himl saves the files in *output_folder* and *logs_folder* with the run. *run* is the
    run to log to, None outside of a job. *mount_contexts* is always empty, as himl mounts nothing outside of a job. It
    exists for compatibility with hi-ml.
    """

    input_datasets: list[Path | None]
    output_datasets: list[Path | None]
    mount_contexts: list[Any]
    run: Run | None = field(repr=False)  # its repr would send a request
    is_running_in_azure_ml: bool
    output_folder: Path
    logs_folder: Path


def info_in_job(inputs: list[DatasetConfig], outputs: list[DatasetConfig], is_wanted: bool) -> AzureRunInfo:
    """The paths and the run in the current job, on Azure ML or local.

    Sends no requests and has no slow imports. Raises DiskFailed if it cannot create the folders.
    """
    from himl_cli.api.context import RUN_CONTEXT
    from himl_cli.workspaces.resolve import is_in_azure_job, own_local_run

    # An Azure ML job may start local jobs of himl.
    is_in_azure = own_local_run() is None and is_in_azure_job()
    if is_wanted and not is_in_azure:
        log.warning(
            "The script already runs in a job of himl, so himl does not submit it to Azure ML. To submit it, start it "
            "with python."
        )
    set_environment_variables_for_multi_node()
    if AMULET_OUTPUT in os.environ and "LOCAL_RANK" not in os.environ and "RANK" in os.environ:
        # Lightning starts the other ranks itself, and would use Amulet's rank for each of them.
        os.environ["GLOBAL_RANK"] = os.environ.pop("RANK")

    def folders(kind: str, specs: list[DataSpec]) -> list[Path | None]:
        found = [DataFolders(kind).get(spec.key) for spec in specs]
        for spec, folder in zip(specs, found, strict=True):
            if folder is None:
                log.warning("The job has no %s dataset '%s'. Its path is None.", kind, spec.name)
        return found

    return AzureRunInfo(
        input_datasets=folders("input", [config.to_input(index) for index, config in enumerate(inputs)]),
        output_datasets=folders("output", [config.to_output(index) for index, config in enumerate(outputs)]),
        mount_contexts=[],
        run=RUN_CONTEXT,
        is_running_in_azure_ml=is_in_azure,
        **_result_folders(job_folder()),
    )


def _result_folders(folder: Path) -> dict[str, Path]:
    """The folders for results: below *folder*, or in an Amulet job the folder that Amulet saves."""
    amulet = os.environ.get(AMULET_OUTPUT)
    outputs = folder / (amulet or "outputs")
    logs = outputs / "logs" if amulet else folder / "logs"
    return {"output_folder": _make_folder(outputs), "logs_folder": _make_folder(logs)}


def _make_folder(folder: Path) -> Path:
    """Create *folder* if needed, and return it. Raises DiskFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DiskFailed(f"Cannot create the folder '{folder}': {err.strerror}.") from err
    return folder


def azure_workspace(given: object | None, config_file: PathLike | None) -> Workspace | None:
    """The given, named or configured workspace, opened without requests. None if it is not in Azure ML.

    Raises ConfigNotFound for a missing config file, BadUsage for an invalid one, TypeError for an unsupported object.
    """
    from himl_cli.workspaces.resolve import address_of

    try:
        workspace = resolve_workspace(given, config_file)
    except NoWorkspace:
        return None
    return workspace if address_of(workspace) else None


def info_outside(
    inputs: list[DatasetConfig],
    outputs: list[DatasetConfig],
    workspace: object | None,
    config_file: PathLike | None,
    default_datastore: str | None,
) -> AzureRunInfo:
    """The paths outside of a job: folders for results below the current folder, and each dataset's folder, or None.

    Raises errors of the Azure ML workspace during a download, BadUsage for an existing output with *overwrite_existing*
    False.
    """
    azure = cache(partial(azure_workspace, workspace, config_file))
    with naming_submit_arguments():
        return AzureRunInfo(
            input_datasets=[
                _input_folder(config, index, azure, default_datastore) for index, config in enumerate(inputs)
            ],
            output_datasets=[_output_folder(config, default_datastore) for config in outputs],
            mount_contexts=[],
            run=None,
            is_running_in_azure_ml=False,
            **_result_folders(Path.cwd()),
        )


def _input_folder(
    config: DatasetConfig, index: int, azure: Callable[[], Workspace | None], default_datastore: str | None
) -> Path | None:
    if config.local_folder is not None:
        folder = Path(config.local_folder).absolute()
        if not folder.exists():
            log.warning("Dataset '%s': its local_folder '%s' does not exist.", config.name, folder)
        return folder
    local = _in_local_datastore(config, default_datastore)
    if local is not None and local.exists():
        return local
    return _download(config.to_input(index), azure(), default_datastore)


def _output_folder(config: DatasetConfig, default_datastore: str | None) -> Path | None:
    if config.local_folder is not None:
        return _make_folder(Path(config.local_folder).absolute())
    folder = _in_local_datastore(config, default_datastore)
    if folder is not None and not config.overwrite_existing and folder.exists():
        raise BadUsage(
            f"Dataset '{config.name}': '{folder}' exists, and overwrite_existing is False.",
            hint="Choose another name.",
        )
    return None if folder is None else _make_folder(folder)


def _in_local_datastore(config: DatasetConfig, default_datastore: str | None) -> Path | None:
    """The dataset's folder in the named local datastore, or else in the default one. None without a local workspace."""
    from himl_cli.workspaces.resolve import open_workspace

    name, start = Path(config.name), Path.cwd()
    local = nearest_local(start)
    if local is None or name.is_absolute() or ".." in name.parts:
        return None
    datastores = {info.name: info.location for info in open_workspace(str(local), None, start=start).datastores()}
    first = next(iter(datastores.values()))
    return Path(datastores.get(config.datastore or default_datastore or "", first)) / name


DOWNLOADED_VARIABLE = "HIML_BROUGHT_DATASETS"
"""The folders of downloaded datasets, by their identity. Ranks that a script starts itself (as PyTorch Lightning does)
use it instead of waiting for rank 0, which downloaded before it started them."""


def _download(spec: DataSpec, azure: object | None, default_datastore: str | None) -> Path | None:
    """The folder of the downloaded dataset, with one download per node. None if no workspace has it, except for an
    explicit version, which must exist."""
    if not isinstance(azure, CloudWorkspace):
        return None
    identity = repr((azure.label, spec, default_datastore)).encode("utf-8", "surrogateescape")
    mark = hashlib.sha256(identity).hexdigest()[:12]
    me, known = local_rank(os.environ), downloaded().get(mark)
    if known and me is not None and me.rank > 0 and os.path.exists(known):
        return Path(known)
    from himl_cli.render.output import Output
    from himl_cli.render.progress import Watcher

    try:
        with Watcher(Output()) as notify:
            folder = bring_dataset(azure, spec, default_datastore, notify)
    except NotFound as err:
        if spec.version is not None:
            raise
        log.warning("%s The path of dataset '%s' is None.", err, spec.name)
        return None
    text = json.dumps({**downloaded(), mark: str(folder)})
    if len(text) <= LONGEST_VARIABLE:
        os.environ[DOWNLOADED_VARIABLE] = text
    return folder


def downloaded() -> dict[str, str]:
    """The content of DOWNLOADED_VARIABLE, empty if it is invalid."""
    try:
        found = read_json(os.environ.get(DOWNLOADED_VARIABLE, "{}"))
    except ValueError:
        found = None
    return {mark: place for mark, place in found.items() if isinstance(place, str)} if isinstance(found, dict) else {}


AfterSubmission = Callable[..., Any]
AZUREML_FLAG = "--azureml"
DEFAULT_DOCKER_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-cuda11.3-cudnn8-ubuntu20.04:20230509.v1"
DEFAULT_SHM_SIZE = "100g"
DEFAULT_ENVIRONMENT_VARIABLES = {
    "AZUREML_OUTPUT_UPLOAD_TIMEOUT_SEC": "3600",
    "AZUREML_RUN_KILL_SIGNAL_TIMEOUT_SEC": "900",
    "MKL_SERVICE_FORCE_INTEL": "1",
    "RSLEX_DIRECT_VOLUME_MOUNT": "true",
}
"""The variables that hi-ml sets in jobs of azureml-core, and outside of jobs: limits of the service for uploads, and
switches of MKL and of the service's mounts."""


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
    """Submit the calling script to Azure ML and end this process, if the command line contains `--azureml`. Otherwise,
    return the paths of the script's data.

    Arguments and defaults are those of hi-ml. Inside a job, the function submits nothing. It returns the job's paths,
    and removes `--azureml` from `sys.argv`. Submitted jobs do not get `--azureml` either. Outside of a job, himl looks
    for an input dataset in `local_folder`, in the local workspace, and in the configured Azure ML workspace, from which
    it downloads. Otherwise the path is None. After the submission, the process ends with code 0. If
    *exit_on_completion* is False, the function returns azure-ai-ml's job, or azureml-core's run with *strictly_aml_v1*.

    Compute:

    - *submit_to_azureml*: True or False override `--azureml`.
    - *compute_cluster_name*: the Azure ML cluster, which a submission needs.
    - *instance_type*: the instance type for Kubernetes or serverless compute. *resources_properties*: further
      properties of its resources, by name.
    - *aml_workspace*, *ml_client*: a `Workspace` of himl or azureml-core, or an `MLClient` of azure-ai-ml. The first
      given one applies.
    - *workspace_config_file*: a `config.json`, if both are None (default: the rules of `get_workspace`).
    - *num_nodes*: number of nodes, 1 to 65,000.
    - *pytorch_processes_per_node_v2*: PyTorch processes per node, 1 to 1,024. None means one process per node, with MPI
      for several nodes.
    - *use_mpi_run_for_single_node_jobs*: use MPI even for a single process, which Kubernetes needs to detect its GPUs.
    - *max_run_duration*: a number and a unit (`30s`, `30m`, `2h`, `1.5d`), per run in a sweep. Empty for no limit.
    - *docker_shm_size*: shared memory, an integer and `b`, `k`, `m` or `g`.
    - *identity_based_auth*: the job uses the Azure identity of the submitting user.
    - *vscode*, *jupyter*: allow VS Code to connect to the job, run JupyterLab with the job. Not for sweeps.
    - *ssh_key*: a public key, or its file, for SSH access to the job. Not for sweeps.
    - *tensorboard_logs*: the folder in the job whose event files a TensorBoard service shows. Not for sweeps.
    - *strictly_aml_v1*: use azureml-core in place of azure-ai-ml (`pip install '.[v1]'` in himl's sources).

    Code:

    - *entry_script*: a path relative to the snapshot's folder or else the current one, or `-m MODULE` (default: the
      running script).
    - *entry_command*: a command line of any program, in place of a script.
    - *python_executable*: the program that starts the script, such as `torchrun` or `uv run`.
    - *script_params*: arguments of the script (default: those of this process without `--azureml`).
    - *snapshot_root_directory*: the root folder of the snapshot (default: the current folder).
    - *ignored_folders*: folders to exclude from the snapshot. A name applies at any depth, a path is relative to the
      snapshot's folder.
    - *environment_variables*: environment variables of the job, and outside of a job of this process. himl converts
      values to text.
    - *hyperdrive_config*: a sweep from `create_crossval_hyperdrive_config`, or azureml's `HyperDriveConfig`.
    - *hyperparam_args*: a sweep as a dictionary, like that of `create_grid_hyperparam_args_v2`, with `timeout` and
      `trial_timeout` in seconds. It cannot be used with *hyperdrive_config*.
    - *hyperdrive_argument_prefix*: the prefix of names in *hyperparam_args*. With `+`, a trial gets `+lr=0.1`.

    Environment:

    - *aml_environment_name*: a registered environment, `NAME` or `NAME:VERSION`. It cannot be combined with the next
      two arguments, and himl ignores the three after them.
    - *build_context*: azure-ai-ml's `BuildContext`, azureml-core's `DockerBuildContext`, or a folder with a Dockerfile,
      from which Azure ML builds the image.
    - *conda_environment_file*: a Conda file for a new environment (default: the nearest `environment.yml` in the
      current folder or above, or else the nearest `pylock.toml` or `uv.lock` of the script's project).
    - *docker_base_image*: the base image.
    - *pip_extra_index_url*: an additional package index for pip.
    - *private_pip_wheel_path*: an additional wheel to install.

    Data:

    - *input_datasets*, *output_datasets*: names or `DatasetConfig` objects. The keys in the job are `INPUT_i` and
      `OUTPUT_i`.
    - *default_datastore*: the datastore for datasets without one. Empty for the workspace's default.

    Run and waiting:

    - *experiment_name*: the experiment (default: the script's name, or the module's with `_` for `.`). Characters other
      than letters, digits, `_` and `-` become `_`, and several `_` become one. The environment variable
      HIML_EXPERIMENT_NAME takes precedence, as in hi-ml.
    - *display_name*, *tags*: the display name and the tags of the run (None: the tag `commandline_args`, the script
      and its arguments). himl converts values to text.
    - *after_submission*: a function that gets azure-ai-ml's job and MLClient, or azureml-core's run with
      *strictly_aml_v1*.
    - *exit_on_completion*: end the process afterwards.
    - *wait_for_completion*: wait for the end of the run.
    - *wait_for_completion_show_output*: print the run's log to stdout. Requires *wait_for_completion*.

    Raises subclasses of `HimlError`: BadUsage (also a ValueError) for invalid arguments, before the submission, and
    JobFailed (also a ValueError) if it waited and the run did not complete. If the script does not catch them, it ends
    with one line and a hint, and the exit code of `himl submit`. Raises TypeError for unsupported datasets and
    workspaces, ValueError for an empty name of a dataset.
    """
    inputs, outputs = as_configs(input_datasets), as_configs(output_datasets)
    is_wanted = AZUREML_FLAG in sys.argv[1:] if submit_to_azureml is None else submit_to_azureml
    arguments = [word for word in sys.argv[1:] if word != AZUREML_FLAG]
    variables = {key: str(value) for key, value in (environment_variables or {}).items()}
    if os.environ.get("AZUREML_RUN_ID"):
        sys.argv[1:] = arguments  # the script's own parser does not accept --azureml
        os.environ.update(variables | {name: os.environ[name] for name in variables if name in os.environ})
        return info_in_job(inputs, outputs, is_wanted)
    given = aml_workspace if aml_workspace is not None else ml_client
    if not is_wanted:
        os.environ.update(DEFAULT_ENVIRONMENT_VARIABLES | variables)
        return info_outside(inputs, outputs, given, workspace_config_file, default_datastore or None)
    with one_line_if_uncaught(), naming_submit_arguments():
        from himl_cli.api import submission
        from himl_cli.services.submission.request import SubmitRequest

        submission.end_other_ranks()
        cwd = Path.cwd()
        root = cwd / (snapshot_root_directory or "")
        sweep = submission.sweep_of(hyperdrive_config, hyperparam_args)
        name = os.environ.get("HIML_EXPERIMENT_NAME") or experiment_name
        request = SubmitRequest(
            cwd=cwd,
            **submission.entry_of(entry_script, entry_command, root, cwd, checks_root=snapshot_root_directory is None),
            **submission.environment_of(
                aml_environment_name,
                build_context,
                conda_environment_file,
                docker_base_image,
                docker_base_image == DEFAULT_DOCKER_IMAGE,
                pip_extra_index_url,
                private_pip_wheel_path,
            ),
            arguments=[
                *(arguments if script_params is None else map(str, script_params)),
                *submission.trial_arguments(sweep if hyperparam_args else None, hyperdrive_argument_prefix),
            ],
            cluster=compute_cluster_name,
            python_executable=python_executable,
            instance_type=instance_type or "",
            resource_properties=resources_properties or {},
            # True is the default, so ignore it where VS Code is not available.
            vscode=vscode and sweep is None and not strictly_aml_v1,
            typed=frozenset(each.name for each in fields(SubmitRequest)) - {"vscode"},
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
            env_vars={**(DEFAULT_ENVIRONMENT_VARIABLES if strictly_aml_v1 else {}), **variables},
            experiment=hi_ml_experiment(name) if name else None,
            display_name=display_name or "",
            inputs=[config.to_input(index) for index, config in enumerate(inputs)],
            outputs=[config.to_output(index) for index, config in enumerate(outputs)],
            default_datastore=default_datastore or None,
            sdk="v1" if strictly_aml_v1 else "v2",
            ready_sweep=sweep,
        )
        return submission.submit(
            submission.with_tags(request, tags),
            lambda: azure_workspace(given, workspace_config_file),
            after_submission,
            ml_client,
            waits=wait_for_completion,
            follows=wait_for_completion and wait_for_completion_show_output,
            exits=exit_on_completion,
        )
