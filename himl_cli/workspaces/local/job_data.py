"""The folders that the inputs and outputs of a job on this machine resolve to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DataSpec, EntryKind, JobSpec, check_placeholders
from himl_cli.workspaces.local.job_environment import fill_command

RUN_NAME = "${{name}}"
"""What stands for the run's id in the name of an output, as on Azure ML."""


def resolve_folders(
    spec: JobSpec, default_datastore: Path, run_id: str, notify: Notify
) -> tuple[dict[str, str], dict[str, str]]:
    """The folders of the job's inputs, and those of its outputs for the run *run_id*, by key; nothing is made.

    Raises NotFound for an input that is nowhere, BadUsage for an output that must not exist, an unknown placeholder or
    one that cannot be filled.
    """
    inputs = {item.key: str(input_folder(item, default_datastore, notify)) for item in spec.inputs}
    outputs = {item.key: str(output_folder(item, default_datastore, run_id)) for item in spec.outputs}
    check_placeholders(spec)
    if spec.entry.kind is EntryKind.command:
        fill_command(spec.entry.target, {"inputs": inputs, "outputs": outputs})
    return inputs, outputs


def input_folder(item: DataSpec, default: Path, notify: Notify) -> Path:
    """The folder of an input; *default* is that of the default datastore. Raises NotFound where there is none."""
    if item.local is not None:
        folder = Path(item.local).absolute()
        if not folder.exists():
            raise NotFound(f"Input '{item.key}': '{item.local}' does not exist.")
    else:
        folder = datastore_folder(item, default)
        if not folder.exists():
            local = item.name if Path(item.name).exists() else "FOLDER"
            raise NotFound(
                f"Input '{item.key}': no folder '{item.name}' in the local datastore '{folder.parent}'.",
                hint=f"Put the data there ('himl datastore upload {local} {item.name}'), or name a folder: --input "
                f"{item.key}={item.name},local={local}",
            )
        if item.version is not None:
            notify(Notice(f"Input '{item.key}': folders here have no versions; ':{item.version}' is passed over."))
    if item.target is not None:
        notify(Notice(f"Input '{item.key}': 'target={item.target}' is for Azure ML; here the folder is '{folder}'."))
    return folder


def output_folder(item: DataSpec, default: Path, run_id: str) -> Path:
    """The folder of an output of the run *run_id*, which need not exist: `${{name}}` in its name is the run's id; one
    that names no place gets Azure ML's, where no two runs meet. Raises BadUsage for a file, and for one that must not
    exist."""
    if item.local is not None:
        folder = Path(item.local.replace(RUN_NAME, run_id)).absolute()
    else:
        name = item.name or f"azureml/{RUN_NAME}/{item.key}"
        folder = datastore_folder(replace(item, name=name.replace(RUN_NAME, run_id)), default)
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
    if ".." in Path(item.name).parts or Path(item.name).is_absolute():
        hint = "Name a folder inside it, or give a path with local=PATH."
        raise BadUsage(f"'{item.name}' leaves the datastore.", hint=hint)
    named = default.parent / item.datastore if item.datastore else default
    return (named if named.is_dir() else default) / item.name


def trial_output(item: DataSpec) -> DataSpec:
    """*item* as it is for each trial of a sweep: a folder of its own in the one that was asked for, since trials at
    once would overwrite each other's files."""
    if RUN_NAME in (item.local or item.name) or not (item.local or item.name):
        return item
    if item.local is not None:
        return replace(item, local=str(Path(item.local) / RUN_NAME))
    return replace(item, name=f"{item.name}/{RUN_NAME}")
