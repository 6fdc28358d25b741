"""The folders that the inputs and outputs of a job here resolve to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DataSpec

RUN_NAME = "${{name}}"
"""What stands for the run's id in the name of an output, as on Azure ML."""


def input_folder(item: DataSpec, default: Path, notify: Notify) -> Path:
    """The folder of an input; *default* is that of the default datastore. Raises NotFound where there is none."""
    folder = _found_input(item, default, notify)
    if item.target is not None:
        notify(Notice(f"Input '{item.key}': 'target={item.target}' is for Azure ML; here the folder is '{folder}'."))
    return folder


def _found_input(item: DataSpec, default: Path, notify: Notify) -> Path:
    if item.local is not None:
        folder = Path(item.local).absolute()
        if not folder.exists():
            raise NotFound(f"Input '{item.key}': '{item.local}' does not exist.")
        return folder
    folder = datastore_folder(item, default)
    if not folder.exists():
        local = item.name if Path(item.name).exists() else "FOLDER"
        hint = (
            f"Put the data there ('himl datastore upload {local} {item.name}'), or name a folder: --input "
            f"{item.key}={item.name},local={local}"
        )
        raise NotFound(
            f"Input '{item.key}': no folder '{item.name}' in the local datastore '{folder.parent}'.", hint=hint
        )
    if item.version is not None:
        notify(Notice(f"Input '{item.key}': folders here have no versions; ':{item.version}' is passed over."))
    return folder


def output_folder(item: DataSpec, default: Path, run_id: str) -> Path:
    """The folder of an output of the run *run_id*, which need not exist. Raises BadUsage for a file, and for one that
    must not exist."""
    named = placed_output(item, run_id)
    folder = Path(named.local).absolute() if named.local is not None else datastore_folder(named, default)
    if folder.is_file():
        raise BadUsage(f"Output '{item.key}': '{folder}' is a file.", hint="Name a folder.")
    if not item.overwrite and folder.exists():
        raise BadUsage(
            f"Output '{item.key}': '{folder}' exists, and overwrite=false was given.",
            hint="Choose another name, or leave overwrite=false out.",
        )
    return folder


def datastore_folder(item: DataSpec, default: Path) -> Path:
    """The folder NAME of the datastore named (where there is one here), else of the default one. Raises BadUsage for
    names that lead elsewhere."""
    if item.datastore and (item.datastore in (".", "..") or set(item.datastore) & set("/\\:")):
        hint = "Datastores here are the folders in '.himl/datastores'; give a path with local=PATH."
        raise BadUsage(f"'{item.datastore}' cannot be the name of a datastore.", hint=hint)
    named = default.parent / item.datastore if item.datastore else default
    root = named if named.is_dir() else default
    folder = root / item.name
    if ".." in Path(item.name).parts or Path(item.name).is_absolute():
        raise BadUsage(
            f"'{item.name}' leaves the datastore.", hint="Name a folder inside it, or give a path with local=PATH."
        )
    return folder


def placed_output(item: DataSpec, run_id: str) -> DataSpec:
    """*item* as it is for the run: `${{name}}` in its name is the run's id; one that names no place gets Azure ML's,
    where no two runs meet."""
    name = item.name or f"azureml/{RUN_NAME}/{item.key}"
    local = None if item.local is None else item.local.replace(RUN_NAME, run_id)
    return replace(item, name=name.replace(RUN_NAME, run_id), local=local)


def trial_output(item: DataSpec) -> DataSpec:
    """*item* as it is for each trial of a sweep: a folder of its own in the one that was asked for, since trials at
    once would overwrite each other's files."""
    if RUN_NAME in (item.local or item.name) or not (item.local or item.name):
        return item
    if item.local is not None:
        return replace(item, local=str(Path(item.local) / RUN_NAME))
    return replace(item, name=f"{item.name}/{RUN_NAME}")
