"""hi-ml's `submit_to_azure_if_needed`, which runs a script here or sends it to Azure ML, and the script's datasets."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.api.distributed import LONGEST_VARIABLE, set_environment_variables_for_multi_node
from himl_cli.api.exceptions import NoWorkspace, WrongArgument, naming_submit_arguments, one_line_if_uncaught
from himl_cli.api.job_folders import DataFolders
from himl_cli.api.open_workspace import resolve_workspace
from himl_cli.api.transfer import PathLike, log_notice
from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.files import nearest_local
from himl_cli.core.jobs import DataSpec
from himl_cli.core.processes import local_rank
from himl_cli.core.runs import hi_ml_experiment
from himl_cli.core.text import read_json
from himl_cli.services.submission.data import KEY, bring_dataset
from himl_cli.workspaces.base import CloudWorkspace, Workspace

if TYPE_CHECKING:
    from himl_cli.api.workspace import Run

log = logging.getLogger(__name__)

AMULET_OUTPUT = "AMLT_OUTPUT_DIR"  # the folder of a job of Amulet whose files are kept


@dataclass
class DatasetConfig:
    """One dataset that a script reads or writes: *name* as it is registered, or a folder of *datastore*.

    *datastore* empty means the default one. *version* counts for inputs only, None is the latest. *use_mounting* None
    means that inputs are downloaded and outputs mounted. *target_folder* is where a job finds an input (None: a folder
    of the service's choice). *local_folder* is where the data lies outside of a job. *overwrite_existing* False makes
    the submission fail where an output of that name exists. *data_name* is the dataset's key in the job (None: INPUT_i,
    OUTPUT_i, by its place in the list), so that arguments of the script may say `${{inputs.DATA_NAME}}`. Raises
    ValueError for an empty name, for `.` as *target_folder*, and for a *data_name* that cannot be a key.
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
            raise ValueError("The name of the dataset is empty.")
        for attribute in ("target_folder", "local_folder"):
            given = getattr(self, attribute)  # an empty text is no path, as in hi-ml
            setattr(self, attribute, Path(given) if given is not None and os.fspath(given) else None)
        if self.target_folder == Path("."):
            raise ValueError(
                f"Dataset '{self.name}': '.' cannot be the target_folder, the data would cover the script's own folder."
            )
        if self.data_name is not None and not KEY.fullmatch(self.data_name):
            raise ValueError(
                f"Dataset '{self.name}': '{self.data_name}' cannot be the data_name: letters, digits and _, no digit "
                "first."
            )

    def to_input(self, index: int) -> DataSpec:
        """The dataset as an input of a job, INPUT_*index* unless *data_name* is set."""
        return DataSpec(
            key=self.data_name or f"INPUT_{index}",
            name=self.name,
            version=None if self.version is None else str(self.version),
            datastore=self.datastore or None,
            mode="mount" if self.use_mounting else "download",
            target=None if self.target_folder is None else Path(self.target_folder).as_posix(),
            local=None if self.local_folder is None else str(self.local_folder),
        )

    def to_output(self, index: int) -> DataSpec:
        """The dataset as an output of a job, OUTPUT_*index* unless *data_name* is set; outputs have no target folder
        and no version to ask for."""
        if self.target_folder is not None:
            log.warning(
                "Output dataset '%s': its target_folder is not used; the job's output has a folder of its own.",
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
        """The dataset as an input of azure-ai-ml's jobs, an `azure.ai.ml.Input`: the registered one of its name, else
        the folder of its datastore, which is registered then. *ml_client* counts before *workspace*.

        Raises BadUsage for *strictly_aml_v1*, NotFound where there is neither, and as `get_workspace`.
        """
        if strictly_aml_v1:
            raise WrongArgument(
                "to_input_dataset makes inputs of azure-ai-ml, and none of azureml-core.",
                hint="submit_to_azure_if_needed(strictly_aml_v1=True) takes the DatasetConfig itself.",
            )
        from himl_cli.workspaces.resolve import sdk_data

        found = resolve_workspace(ml_client or workspace)
        return sdk_data(found, self.to_input(dataset_index), log_notice, is_output=False)

    def to_output_dataset(self, workspace: Any, dataset_index: int) -> Any:
        """The dataset as an output of azure-ai-ml's jobs, an `azure.ai.ml.Output`. Raises as `to_input_dataset`."""
        from himl_cli.workspaces.resolve import sdk_data

        return sdk_data(resolve_workspace(workspace), self.to_output(dataset_index), log_notice, is_output=True)

    def to_input_dataset_local(self, workspace: Any = None) -> tuple[Path | None, None]:
        """The dataset's folder outside of a job, downloaded where it is not here, None where no workspace has it; and
        None, since nothing is mounted. Raises as `submit_to_azure_if_needed`."""
        return _input_folder(self, 0, cache(partial(azure_workspace, workspace, None)), None), None


def as_configs(datasets: Sequence[str | DatasetConfig] | None) -> list[DatasetConfig]:
    """Names and `DatasetConfig`s, all as the latter. Raises TypeError for anything but a list of them, ValueError for
    an empty name."""
    if isinstance(datasets, (str, DatasetConfig)):
        raise TypeError("Datasets are given as a list, also a single one: input_datasets=[...].")
    configs: list[DatasetConfig] = []
    for dataset in datasets or ():
        if not isinstance(dataset, (str, DatasetConfig)):
            raise TypeError(f"A dataset is a name or a DatasetConfig, not {type(dataset).__qualname__}.")
        configs.append(DatasetConfig(dataset) if isinstance(dataset, str) else dataset)
    return configs


Datasets = Sequence[str | DatasetConfig]


@dataclass
class AzureRunInfo:
    """What a script needs to know inside and outside of a job.

    *input_datasets* and *output_datasets* are folders in the order in which the datasets were named, None for one that
    has none here. What is written to *output_folder* and *logs_folder* is kept with the run. *run* is the run to log
    to, None outside of a job. *mount_contexts* is always empty (nothing is mounted outside of a job); it is there for
    hi-ml's users.
    """

    input_datasets: list[Path | None]
    output_datasets: list[Path | None]
    mount_contexts: list[Any]
    run: Run | None = field(repr=False)  # showing it would ask for it
    is_running_in_azure_ml: bool
    output_folder: Path
    logs_folder: Path


def info_in_job(inputs: list[DatasetConfig], outputs: list[DatasetConfig], is_wanted: bool) -> AzureRunInfo:
    """What the job that this process is part of, one of Azure ML or one that himl runs here, says of the datasets.

    Costs no request and no heavy import. Raises DiskFailed where the folders cannot be made.
    """
    from himl_cli.api.context import RUN_CONTEXT
    from himl_cli.workspaces.resolve import is_in_azure_job, own_local_run

    is_in_azure = own_local_run() is None and is_in_azure_job()  # a job of Azure ML may run others of himl
    if is_wanted and not is_in_azure:
        log.warning(
            "The script runs in a job of himl already, and is not sent to Azure ML. To send it, start it with python."
        )
    set_environment_variables_for_multi_node()
    if AMULET_OUTPUT in os.environ and "LOCAL_RANK" not in os.environ and "RANK" in os.environ:
        # Lightning, which starts the other ranks itself, would take each of them for the rank that Amulet gave
        os.environ["GLOBAL_RANK"] = os.environ.pop("RANK")

    def folders(kind: str, specs: list[DataSpec]) -> list[Path | None]:
        found = [DataFolders(kind).get(spec.key) for spec in specs]
        for spec, folder in zip(specs, found, strict=True):
            if folder is None:
                log.warning("The job was submitted without the %s dataset '%s'; its path is None.", kind, spec.name)
        return found

    return AzureRunInfo(
        input_datasets=folders("input", [config.to_input(index) for index, config in enumerate(inputs)]),
        output_datasets=folders("output", [config.to_output(index) for index, config in enumerate(outputs)]),
        mount_contexts=[],
        run=RUN_CONTEXT,
        is_running_in_azure_ml=is_in_azure,
        **_result_folders(Path()),
    )


def _result_folders(folder: Path) -> dict[str, Path]:
    """Where the script's results go: below *folder*, in a job of Amulet to the folder that is kept there."""
    amulet = os.environ.get(AMULET_OUTPUT)
    outputs, logs = (Path(amulet), Path(amulet, "logs")) if amulet else (folder / "outputs", folder / "logs")
    return {"output_folder": _make_folder(outputs), "logs_folder": _make_folder(logs)}


def _make_folder(folder: Path) -> Path:
    """*folder*, which exists from now on. Raises DiskFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DiskFailed(f"Cannot make the folder '{folder}': {err.strerror}.") from err
    return folder


def azure_workspace(given: object | None, config_file: PathLike | None) -> Workspace | None:
    """The workspace that is given, named or configured, opened without a request; None where there is none in Azure ML.

    Raises ConfigNotFound for a config file that is not there, BadUsage for one that cannot be used, TypeError for what
    is no workspace.
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
    """Folders below the current one for what the script writes, and for each dataset its folder, None where it has none
    here.

    Raises what the Azure ML workspace raises where a dataset is only there, BadUsage for an output that must not exist.
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
        folder = Path(config.local_folder)
        if not folder.exists():
            log.warning("Dataset '%s': its local_folder '%s' does not exist.", config.name, folder)
        return folder
    local = _in_local_datastore(config, default_datastore)
    if local is not None and local.exists():
        return local
    return _download(config.to_input(index), azure(), default_datastore)


def _output_folder(config: DatasetConfig, default_datastore: str | None) -> Path | None:
    if config.local_folder is not None:
        return _make_folder(Path(config.local_folder))
    folder = _in_local_datastore(config, default_datastore)
    if folder is not None and not config.overwrite_existing and folder.exists():
        raise BadUsage(
            f"Dataset '{config.name}': '{folder}' exists, and overwrite_existing=False was given.",
            hint="Choose another name.",
        )
    return None if folder is None else _make_folder(folder)


def _in_local_datastore(config: DatasetConfig, default_datastore: str | None) -> Path | None:
    """The folder in the local datastore of the name that is given, else in the default one; None without a local
    workspace."""
    from himl_cli.workspaces.resolve import open_workspace

    name, start = Path(config.name), Path.cwd()
    local = nearest_local(start)
    if local is None or name.is_absolute() or ".." in name.parts:
        return None
    datastores = {info.name: info.location for info in open_workspace(str(local), None, start=start).datastores()}
    first = next(iter(datastores.values()))
    return Path(datastores.get(config.datastore or default_datastore or "", first)) / name


DOWNLOADED_VARIABLE = "HIML_BROUGHT_DATASETS"
"""Where datasets were downloaded to, by what identifies them, for the ranks that a script starts itself, as PyTorch
Lightning does: they need not wait for rank 0, which has been here before they began."""


def _download(spec: DataSpec, azure: object | None, default_datastore: str | None) -> Path | None:
    """Where the dataset was downloaded to, once on each node; None where no workspace has it. A version that was named
    must be there."""
    if not isinstance(azure, CloudWorkspace):
        return None
    identity = repr((azure.label, spec, default_datastore)).encode("utf-8", "surrogateescape")
    mark = hashlib.sha256(identity).hexdigest()[:12]
    me, known = local_rank(os.environ), downloaded().get(mark)
    if known and me is not None and me.rank > 0 and os.path.exists(known):
        return Path(known)
    from himl_cli.render.output import Output
    from himl_cli.render.progress import observing

    try:
        with observing(Output()) as notify:
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
    """What DOWNLOADED_VARIABLE says; nothing where it was damaged."""
    try:
        found = read_json(os.environ.get(DOWNLOADED_VARIABLE, "{}"))
    except ValueError:
        found = None
    return {mark: place for mark, place in found.items() if isinstance(place, str)} if isinstance(found, dict) else {}


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
    - *conda_environment_file*: what one is made from (default: the nearest `environment.yml` here or above, else the
      nearest `pylock.toml` or `uv.lock` of the script's project).
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

        me = local_rank(os.environ)
        if me is not None and me.rank > 0:  # a launcher started the script several times: its first rank submits it
            sys.exit(0)
        cwd = Path.cwd()
        root = cwd / (snapshot_root_directory or "")
        sweep = submission.sweep_of(hyperdrive_config, hyperparam_args)
        trial_arguments: list[str] = []  # by which a trial gets its values, where they are not himl's own `--NAME`
        if sweep is not None and hyperparam_args and hyperdrive_argument_prefix != "--":
            trial_arguments = [
                f"{hyperdrive_argument_prefix}{name}=${{{{search_space.{name}}}}}" for name in sweep.space
            ]
        name = os.environ.get("HIML_EXPERIMENT_NAME") or experiment_name
        request = SubmitRequest(
            cwd=cwd,
            **submission.entry_of(
                entry_script, entry_command, root, cwd, is_root_given=snapshot_root_directory is not None
            ),
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
                *trial_arguments,
            ],
            cluster=compute_cluster_name,
            python_executable=python_executable,
            instance_type=instance_type or "",
            resource_properties=resources_properties or {},
            vscode=vscode and sweep is None and not strictly_aml_v1,  # wanted where it can be had: it is the default
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
