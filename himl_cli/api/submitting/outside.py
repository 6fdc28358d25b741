"""Where the data of a script lies that runs outside of any job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from himl_cli.api.submitting.asked import Asked
from himl_cli.api.submitting.brought import inherited, leave_word, mark_of
from himl_cli.api.submitting.dataset_config import DatasetConfig
from himl_cli.api.submitting.run_info import LOGS_FOLDER, OUTPUT_FOLDER, AzureRunInfo, made
from himl_cli.api.submitting.words import in_words_of_arguments
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.jobs import DataSpec
from himl_cli.workspaces.base import CloudWorkspace, Workspace

log = logging.getLogger(__name__)


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
        from himl_cli.workspaces.resolve import nearest_local, open_workspace

        folder = nearest_local(self._cwd)
        return (
            {info.name: Path(info.location) for info in open_workspace(str(folder), None, start=self._cwd).datastores()}
            if folder
            else {}
        )

    @cached_property
    def _azure(self) -> Workspace | None:
        from himl_cli.api.submitting.meant import meant_workspace

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
