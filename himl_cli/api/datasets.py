"""Word of the datasets that were brought here, for the ranks that a script may yet start itself (as PyTorch Lightning
does).

The ranks that a launcher starts wait for rank 0; these would wait in vain, since rank 0 has been here before they
began.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.api.errors import NoWorkspace, in_words_of_arguments
from himl_cli.api.job import DataFolders
from himl_cli.api.resolve import get_workspace
from himl_cli.api.transfer import PathLike
from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.jobs import DataSpec
from himl_cli.core.text import read_json
from himl_cli.services.submission.data import KEY
from himl_cli.services.transfer.ranks import LONGEST_VARIABLE, local_rank
from himl_cli.workspaces.base import CloudWorkspace, Workspace

if TYPE_CHECKING:
    from himl_cli.api.workspace import Run


VARIABLE = "HIML_BROUGHT_DATASETS"


def mark_of(workspace: str, spec: DataSpec, default_datastore: str | None) -> str:
    """What tells one dataset of one workspace from others."""
    return hashlib.sha256(repr((workspace, spec, default_datastore)).encode("utf-8", "surrogateescape")).hexdigest()[
        :12
    ]


def inherited(mark: str) -> Path | None:
    """Where the script that started this rank brought the dataset; None for a first rank, and where it did not."""
    me = local_rank(os.environ)
    found = _word().get(mark)
    return Path(found) if found and me is not None and me.rank > 0 and os.path.exists(found) else None


def leave_word(mark: str, place: Path) -> None:
    """Say where the dataset is to processes that this one starts from now on."""
    text = json.dumps({**_word(), mark: str(place)})
    if len(text) <= LONGEST_VARIABLE:
        os.environ[VARIABLE] = text


def _word() -> dict[str, str]:
    try:
        word = read_json(os.environ.get(VARIABLE, "{}"))
    except ValueError:
        return {}
    return {mark: place for mark, place in word.items() if isinstance(place, str)} if isinstance(word, dict) else {}


log = logging.getLogger(__name__)


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
        self.target_folder = _path(self.target_folder)
        self.local_folder = _path(self.local_folder)
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


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    """An empty text is no path, as in hi-ml."""
    return Path(given) if given is not None and os.fspath(given) else None


OUTPUT_FOLDER = "outputs"
LOGS_FOLDER = "logs"


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


def info_in_job(inputs: Sequence[DataSpec], outputs: Sequence[DataSpec], *, is_in_azure: bool) -> AzureRunInfo:
    """What the job that this process is part of says of *inputs* and *outputs*.

    Costs no request and no heavy import. Raises DiskFailed where the folders cannot be made.
    """
    from himl_cli.api.context import RUN_CONTEXT

    return AzureRunInfo(
        input_datasets=_folders("input", inputs),
        output_datasets=_folders("output", outputs),
        mount_contexts=[],
        run=RUN_CONTEXT,
        is_running_in_azure_ml=is_in_azure,
        output_folder=made(Path(OUTPUT_FOLDER)),
        logs_folder=made(Path(LOGS_FOLDER)),
    )


def _folders(kind: str, specs: Sequence[DataSpec]) -> list[Path | None]:
    folders = [DataFolders(kind).get(spec.key) for spec in specs]
    for spec, folder in zip(specs, folders, strict=True):
        if folder is None:
            log.warning("The job was submitted without the %s dataset '%s'; its path is None.", kind, spec.name)
    return folders


def made(folder: Path) -> Path:
    """*folder*, which exists from now on. Raises DiskFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DiskFailed(f"Cannot make the folder '{folder}': {err.strerror}.") from err
    return folder


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


def meant_workspace(asked: Asked) -> Workspace | None:
    """The workspace that is given, named or configured, opened without a request; None where there is none in Azure ML.

    Raises ConfigNotFound for a config file that is not there, BadUsage for one that cannot be used, TypeError for what
    is no workspace.
    """
    given = asked.aml_workspace if asked.aml_workspace is not None else asked.ml_client
    try:
        workspace = get_workspace(given, asked.workspace_config_file)
    except NoWorkspace:
        return None
    return workspace.opened if workspace.is_in_azure else None


def info_outside(asked: Asked, inputs: Sequence[DatasetConfig], outputs: Sequence[DatasetConfig]) -> AzureRunInfo:
    """Folders below the current one for what the script writes, and for each dataset its folder, None where it has none
    here.

    Raises what the Azure ML workspace raises where a dataset is only there, BadUsage for an output that must not exist.
    """
    places = _Places(asked, Path.cwd())
    with in_words_of_arguments():
        return AzureRunInfo(
            input_datasets=[places.input(config, index) for index, config in enumerate(inputs)],
            output_datasets=[places.output(config) for config in outputs],
            mount_contexts=[],
            run=None,
            is_running_in_azure_ml=False,
            output_folder=made(Path.cwd() / OUTPUT_FOLDER),
            logs_folder=made(Path.cwd() / LOGS_FOLDER),
        )


class _Places:
    """Where datasets may lie: the nearest local workspace, and the Azure ML one, each opened when it is needed."""

    def __init__(self, asked: Asked, cwd: Path) -> None:
        self._asked = asked
        self._cwd = cwd

    def input(self, config: DatasetConfig, index: int) -> Path | None:
        if config.local_folder is not None:
            folder = Path(config.local_folder)
            if not folder.exists():
                log.warning("Dataset '%s': its local_folder '%s' does not exist.", config.name, folder)
            return folder
        kept = self._in_datastore(config)
        if kept is not None and kept.exists():
            return kept
        return self._downloaded(config.to_input(index))

    def output(self, config: DatasetConfig) -> Path | None:
        if config.local_folder is not None:
            return made(Path(config.local_folder))
        folder = self._in_datastore(config)
        if folder is None:
            return None
        if not config.overwrite_existing and folder.exists():
            raise BadUsage(
                f"Dataset '{config.name}': '{folder}' exists, and overwrite_existing=False was given.",
                hint="Choose another name.",
            )
        return made(folder)

    def _in_datastore(self, config: DatasetConfig) -> Path | None:
        """The folder in the local datastore of the name that is asked for, else in the default one; None without a
        local workspace."""
        name = Path(config.name)
        if not self._datastores or name.is_absolute() or ".." in name.parts:
            return None
        root = self._datastores.get(config.datastore or self._asked.default_datastore) or next(
            iter(self._datastores.values())
        )
        return root / name

    @cached_property
    def _datastores(self) -> dict[str, Path]:
        """The local workspace's datastores, the default one first; none where there is no such workspace."""
        from himl_cli.core.files import nearest_local
        from himl_cli.workspaces.resolve import open_workspace

        folder = nearest_local(self._cwd)
        return (
            {info.name: Path(info.location) for info in open_workspace(str(folder), None, start=self._cwd).datastores()}
            if folder
            else {}
        )

    @cached_property
    def _azure(self) -> Workspace | None:
        return meant_workspace(self._asked)

    def _downloaded(self, spec: DataSpec) -> Path | None:
        """Where the dataset was brought to, once on each node; None where no workspace has it. A version that was asked
        for must be there."""
        azure: object = self._azure
        default = self._asked.default_datastore or None
        if not isinstance(azure, CloudWorkspace):
            return None
        mark = mark_of(azure.label, spec, default)
        place = inherited(mark)
        if place is not None:
            return place
        from himl_cli.render.output import Output
        from himl_cli.render.progress import observing
        from himl_cli.services.submission.data import bring_dataset

        try:
            with observing(Output()) as notify:
                place = bring_dataset(azure, spec, default, notify)
        except NotFound as err:
            if spec.version is not None:
                raise
            log.warning("%s The path of dataset '%s' is None.", err, spec.name)
            return None
        leave_word(mark, place)
        return place
