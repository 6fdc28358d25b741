"""The inputs and outputs of a job on Azure ML: names become data assets, else folders of datastores."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DataSpec
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.data_folders import DataFolder, DataFolders
from himl_cli.workspaces.azure.jobs.forms import INPUT_MODES, LATEST, OUTPUT_MODES, JobInput, JobOutput
from himl_cli.workspaces.azure.jobs.registered_data import FOLDER, DataAsset, RegisteredData, can_be_registered
from himl_cli.workspaces.azure.requests.threads import ask_all
from himl_cli.workspaces.azure.storage.datastores import Datastores, parse_data_uri


def resolve_inputs(
    connection: Connection,
    datastores: Datastores,
    specs: Sequence[DataSpec],
    default_datastore: str | None,
    notify: Notify,
) -> dict[str, JobInput]:
    """What each input is in the job, by key. `local=` counts for nothing here.

    NAME is a registered data asset, in the version that was asked for or the latest; else a folder of the datastore,
    which is registered then. One that is said to be a folder is not looked for among the assets, and not registered.
    Raises NotFound for what is neither, naming the versions, datastores or names that exist.
    """
    assets = RegisteredData(connection)
    found = ask_all(lambda item: _registered(assets, item), specs)
    folders = DataFolders(datastores, default_datastore)
    inputs: dict[str, JobInput] = {}
    made: dict[str, DataAsset] = {}
    for item, asset in zip(specs, found, strict=True):
        kind, path = FOLDER, ""
        if asset is None:
            folder = existing_folder(connection, assets, folders, item)
            asset = None if item.is_folder else made.get(folder.uri)
            if asset is None and not item.is_folder and can_be_registered(item.name):
                asset = made[folder.uri] = assets.register(item.name, folder.uri)
                notify(
                    Notice(
                        f"Input '{item.key}': registered the folder '{folder.path}' of {folder.datastore.label} as "
                        f"data asset '{item.name}'."
                    )
                )
            path = folder.uri
        elif item.datastore:
            _say_where(connection, item, asset, notify)
        if asset is not None:
            kind, path = asset.kind, asset.id
        inputs[item.key] = JobInput(kind, path, INPUT_MODES[item.mode or "download"], item.target)
    return inputs


def resolve_outputs(
    connection: Connection,
    datastores: Datastores,
    specs: Sequence[DataSpec],
    default_datastore: str | None,
    notify: Notify,
) -> dict[str, JobOutput]:
    """What each output is in the job, by key: the folder NAME of its datastore, registered at the job's end as data
    asset NAME.

    Where that cannot be, *notify* hears so, and the folder is written all the same. Raises NotFound naming the
    datastores that exist, BadUsage for an output that must not exist and does.
    """
    folders, assets = DataFolders(datastores, default_datastore), RegisteredData(connection)
    found = ask_all(lambda item: assets.find(item.name, None), specs)
    outputs: dict[str, JobOutput] = {}
    for item, asset in zip(specs, found, strict=True):
        folder = folders.of(item)
        if not item.overwrite:
            _check_new(asset, folders, item, folder)
        obstacle = _no_registration(item.name, asset)
        if obstacle:
            notify(Notice(f"Output '{item.key}': {obstacle}, so the folder is not registered."))
        outputs[item.key] = JobOutput(folder.uri, OUTPUT_MODES[item.mode or "mount"], None if obstacle else item.name)
    return outputs


def _no_registration(name: str, asset: DataAsset | None) -> str:
    """Why a folder cannot become the next version of the data asset *name*, which is *asset* by now; empty where it
    can.

    All versions of an asset are of one type: the service would find out at the job's end, and tell nobody.
    """
    if not can_be_registered(name):
        return f"no data asset can be called '{name}'"
    if asset is not None and asset.kind != FOLDER:
        return f"the data asset '{name}' is of type {asset.kind}, not {FOLDER}"
    return ""


def existing_folder(connection: Connection, assets: RegisteredData, folders: DataFolders, item: DataSpec) -> DataFolder:
    """The folder of the datastore that input *item* means, something being in it. Raises NotFound naming what was
    looked for."""
    where = connection.address.label
    if item.version not in (None, LATEST):
        raise NotFound(
            f"Input '{item.key}': no data asset '{item.name}' in {where}, in any version.", hint=assets.near(item.name)
        )
    folder = folders.of(item)
    if folders.has_files(folder):
        return folder
    hint = (
        f"Put the data there: himl datastore upload FOLDER {shlex.quote(folder.path)} --datastore "
        f"{folder.datastore.name}"
    )
    if item.is_folder:
        raise NotFound(f"Input '{item.key}': no folder '{folder.path}' in {folder.datastore.label}.", hint=hint)
    raise NotFound(
        f"Input '{item.key}': no data asset '{item.name}' in {where}, and no such folder in its "
        f"{folder.datastore.label}.",
        hint=assets.near(item.name) or hint,
    )


def _registered(assets: RegisteredData, item: DataSpec) -> DataAsset | None:
    if item.is_folder:
        return None
    try:
        return assets.find(item.name, item.version, with_uri=bool(item.datastore))
    except NotFound as err:
        raise NotFound(f"Input '{item.key}': {err}", hint=err.hint) from err


def _say_where(connection: Connection, item: DataSpec, asset: DataAsset, notify: Notify) -> None:
    """A registered asset counts before any folder; that it lies elsewhere than was said is told."""
    try:
        place = parse_data_uri(asset.uri, connection.address).datastore
    except BadUsage:
        place = ""
    if place.lower() != str(item.datastore).lower():
        there = f"datastore '{place}'" if place else f"'{asset.uri.partition('?')[0]}'"
        notify(
            Notice(
                f"Input '{item.key}': the data asset '{item.name}' is registered and lies in {there}; "
                f"'datastore={item.datastore}' is passed over."
            )
        )


def _check_new(asset: DataAsset | None, folders: DataFolders, item: DataSpec, folder: DataFolder) -> None:
    hint = "Choose another name, or leave overwrite=false out."
    if asset is not None:
        raise BadUsage(
            f"Output '{item.key}': the data asset '{item.name}' exists (version {asset.version}), and overwrite=false "
            "was given.",
            hint=hint,
        )
    if folders.has_files(folder):
        raise BadUsage(
            f"Output '{item.key}': the folder '{folder.path}' of {folder.datastore.label} exists, and overwrite=false "
            "was given.",
            hint=hint,
        )
