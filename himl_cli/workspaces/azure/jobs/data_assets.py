"""The inputs and outputs of jobs on Azure ML. himl resolves their names to data assets or folders of datastores."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, NotAllowed, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DataSpec, PipelineSpec
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.core.text import did_you_mean
from himl_cli.core.workspaces import WORKSPACE_ID, parse_workspace_id
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.datastore_records import BLOB, LAKE, DatastoreRecord
from himl_cli.workspaces.azure.storage.datastores import Datastores, parse_data_uri
from himl_cli.workspaces.base import Dataset

Answer = TypeVar("Answer")
FOLDER, FILE = "uri_folder", "uri_file"
LATEST = "latest"  # the newest version of an asset
INPUT_MODES = {"mount": "ro_mount", "download": "download"}
# himl's names for access to data, with those of Azure ML's YAML.
OUTPUT_MODES = {"mount": "rw_mount", "upload": "upload"}
EACH_TRIAL = "${{name}}"  # the service replaces it with the run's id in the path of an output
_PARAMS = {"api-version": ApiVersion.DATA}
_ASSET = re.compile(
    rf"azureml://(?:{WORKSPACE_ID}|locations/[^/]+/workspaces/(?P<guid>[^/]+))/data/(?P<asset>[^/]+)"
    r"/(?:versions|labels)/(?P<version>[^/]+)/?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class JobData:
    """One input or output. `path` is its value in the request: the resource id of a version of a data asset, or
    `azureml://datastores/D/paths/P/`. `mode` is a value of INPUT_MODES or OUTPUT_MODES, or `direct` if only the address
    matters. `type` is `uri_folder`, `uri_file` or `mltable`.

    At the job's end, an output, which is always a folder, is registered as the next version of the data asset
    `asset_name`, unless that is None.
    """

    path: str
    mode: str
    type: str = FOLDER
    asset_name: str | None = None


def resolve_inputs(
    connection: Connection,
    datastores: Datastores,
    specs: Sequence[DataSpec],
    default_datastore: str | None,
    notify: Notify,
) -> dict[str, JobData]:
    """The inputs in the job, by key. `local=` has no effect here.

    NAME is a registered data asset in the requested or latest version. Otherwise it is a folder of the datastore, which
    himl registers. A name that the user marked as a folder is neither searched among the assets nor registered. Raises
    NotFound for an unknown name, listing the existing versions, datastores or names.
    """
    finder = _DataFinder(connection, datastores)
    found = ask_all(
        lambda item: finder.address(item) if item.is_address else finder.asset_of(item, with_uri=bool(item.datastore)),
        specs,
    )
    inputs: dict[str, JobData] = {}
    registered: dict[str, DataAsset] = {}
    for item, asset in zip(specs, found, strict=True):
        mode, path = INPUT_MODES[item.mode or "download"], ""
        if isinstance(asset, DataAddress):
            inputs[item.key] = JobData(item.name, mode, FILE if asset.is_file else FOLDER)
            if not asset.is_checked:
                _note_unchecked(item, item.name, notify, is_file=asset.is_file)
            continue
        if asset is None:
            folder = finder.existing_folder(item, default_datastore)
            path = folder.uri
            asset = None if item.is_folder else registered.get(path)
            if not folder.is_readable:
                _note_unchecked(item, path, notify)
            elif asset is None and not item.is_folder and can_be_registered(item.name):
                asset = registered[path] = finder.register(item.name, path)
                where = f"the folder '{folder.path}' of {folder.datastore.label}"
                notify(Notice(f"Input '{item.key}': registered {where} as data asset '{item.name}'."))
        elif item.datastore:
            _report_location(connection, item, asset, notify)
        inputs[item.key] = JobData(path, mode) if asset is None else JobData(asset.id, mode, asset.kind)
    return inputs


def _note_unchecked(item: DataSpec, address: str, notify: Notify, *, is_file: bool = False) -> None:
    form = "a file. For a folder, end the address with '/'" if is_file else "a folder"
    notify(Notice(f"Input '{item.key}': himl does not check whether '{address}' exists, and sends it as {form}."))


def _report_location(connection: Connection, item: DataSpec, asset: DataAsset, notify: Notify) -> None:
    """Report an asset in a datastore other than the requested one. A registered asset has precedence over a folder."""
    try:
        datastore = parse_data_uri(asset.uri, connection.address).datastore
    except BadUsage:
        datastore = ""
    if datastore.lower() != str(item.datastore).lower():
        location = f"datastore '{datastore}'" if datastore else f"'{asset.uri.partition('?')[0]}'"
        notify(
            Notice(
                f"Input '{item.key}': the data asset '{item.name}' is registered in {location}. himl ignored "
                f"'datastore={item.datastore}'."
            )
        )


def resolve_outputs(
    connection: Connection,
    datastores: Datastores,
    specs: Sequence[DataSpec],
    default_datastore: str | None,
    notify: Notify,
    *,
    are_of_trials: bool = False,
) -> dict[str, JobData]:
    """The outputs in the job, by key: the folder NAME of its datastore, registered at the job's end as data asset NAME.

    If it cannot be registered, *notify* receives the reason, and the job only writes the folder. Each trial of a sweep
    writes to its own subfolder and registers nothing. Raises NotFound naming the existing datastores, and BadUsage for
    an output that must not exist but does.
    """
    finder = _DataFinder(connection, datastores)
    found = ask_all(lambda item: finder.asset(item.name, None), specs)
    outputs: dict[str, JobData] = {}
    for item, asset in zip(specs, found, strict=True):
        folder, obstacle, there = finder.folder(item, default_datastore), "", ""
        if not item.overwrite and asset is not None:
            there = f"the data asset '{item.name}' exists (version {asset.version})"
        elif not item.overwrite and finder.has_files(folder):
            there = f"the folder '{folder.path}' of {folder.datastore.label} exists"
        if there:
            raise BadUsage(
                f"Output '{item.key}': {there}, but overwrite=false requires a new one.",
                hint="Choose another name, or omit overwrite=false.",
            )
        if not can_be_registered(item.name):
            obstacle = f"'{item.name}' is not a valid name of a data asset"
        elif asset is not None and asset.kind != FOLDER:
            # All versions of an asset have one type. The service would fail at the job's end without a message.
            obstacle = f"the data asset '{item.name}' is of type {asset.kind}, not {FOLDER}"
        if obstacle:
            notify(Notice(f"Output '{item.key}': {obstacle}, so Azure ML will not register the folder."))
        mode = OUTPUT_MODES[item.mode or "mount"]
        outputs[item.key] = JobData(folder.uri, mode, asset_name=None if obstacle else item.name)
    if not are_of_trials or not outputs:
        return outputs
    notify(
        Notice(
            "Each trial writes its outputs to its own folder, NAME/<run id>. Azure ML does not register them as data "
            "assets."
        )
    )
    return {key: JobData(trial_path(item.path), item.mode) for key, item in outputs.items()}


def trial_path(path: str) -> str:
    """*path* with the run's id at its end, unless the path contains the id's placeholder."""
    return path if EACH_TRIAL in path else f"{path.rstrip('/')}/{EACH_TRIAL}/"


def find_dataset(
    connection: Connection, datastores: Datastores, item: DataSpec, default_datastore: str | None
) -> Dataset:
    """The dataset of an input, resolved as for a job, to be read outside of one. himl registers nothing.

    Raises NotFound, naming the input, for a missing dataset, version or folder.
    """
    finder, label = _DataFinder(connection, datastores), f"dataset '{item.name}'"
    asset = finder.address(item, with_uri=True) if item.is_address else finder.asset_of(item, with_uri=True)
    if isinstance(asset, DataAddress):
        return Dataset(item.name, "", datastores.at_uri(item.name, label, is_file=asset.is_file), asset.is_file)
    if asset is not None:
        is_file = asset.kind == FILE
        return Dataset(item.name, asset.version, datastores.at_uri(asset.uri, label, is_file=is_file), is_file)
    folder = finder.existing_folder(item, default_datastore)
    return Dataset(item.name, "", datastores.at_uri(folder.uri, label))


def pipeline_inputs(
    connection: Connection, datastores: Datastores, spec: PipelineSpec, notify: Notify
) -> dict[tuple[str, str], JobData]:
    """The data of all steps that come from outside the pipeline, by the keys of step and input, each resolved once.

    With a datastore, NAME is a folder of it, even if a data asset has that name. A NAME of `/` is the whole datastore.
    Without a datastore, himl resolves and registers NAME as for other jobs. Raises NotFound naming step and input. A
    missing folder is only a Notice for steps after the first, because an earlier step may create it.
    """
    finder = _DataFinder(connection, datastores)
    found: dict[tuple[str, str], JobData] = {}
    known: dict[tuple[object, ...], JobData] = {}

    def resolve(step: str, item: DataSpec, default: str | None) -> JobData:
        if is_whole_datastore(item):
            name = datastores.find(item.datastore or default).name
            return JobData(f"azureml://datastores/{name}/paths/", "")
        if not item.datastore or item.version is not None:
            return resolve_inputs(connection, datastores, [item], default, notify)[item.key]
        folder = finder.folder(item, default)
        if folder.is_readable and not finder.has_files(folder):
            if step == spec.steps[0].key:
                raise _no_folder(item, folder)
            notify(
                Notice(
                    f"{step}: the folder '{folder.path}' does not exist in {folder.datastore.label} yet. An earlier "
                    "step must create it."
                )
            )
        return JobData(folder.uri, "")

    for step in spec.steps:
        default = step.job.default_datastore or spec.default_datastore
        for item in step.job.inputs:
            if item.key in step.takes:  # from another step
                continue
            name = "" if is_whole_datastore(item) else item.name.strip("/")
            key = (name, item.version, item.datastore or default, bool(item.datastore))
            if key not in known:
                known[key] = of_step(step.key, lambda: resolve(step.key, item, default))  # noqa: B023 - called at once
            found[step.key, item.key] = replace(known[key], mode=INPUT_MODES[item.mode or "download"])
    return found


def is_whole_datastore(item: DataSpec) -> bool:
    """Return whether the input names no folder and so refers to the whole datastore."""
    return not item.name.strip("/.")


def of_step(step: str, act: Callable[[], Answer]) -> Answer:
    """The result of *act*, with the key of the *step* in front of BadUsage and NotFound errors."""
    try:
        return act()
    except (BadUsage, NotFound) as err:
        if type(err) not in (BadUsage, NotFound):
            raise
        raise type(err)(f"{step}: {err}", hint=err.hint) from err


def folder_path(item: DataSpec) -> str:
    """The path in the datastore. Raises BadUsage for an empty one, or one outside of the datastore."""
    parts = [part for part in item.name.split("/") if part not in ("", ".")]
    if not parts:
        raise BadUsage(
            f"'{item.key}' names no dataset, but only a local folder (local=).",
            hint=f"Write {item.key}=NAME",
        )
    if ".." in parts:
        raise BadUsage(f"'{item.name}' is outside the datastore.", hint="Use a folder inside it.")
    return "/".join(parts)


def can_be_registered(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}", name) is not None


@dataclass(frozen=True)
class DataAsset:
    """One version. `id` is its resource id, `kind` is `uri_folder`, `uri_file` or `mltable`, and `uri` is its location,
    or "" if not requested."""

    version: str
    id: str
    kind: str
    uri: str = ""


@dataclass(frozen=True)
class DataAddress:
    """An address that names no asset of the workspace. `is_checked`: himl found a file or folder there."""

    is_file: bool
    is_checked: bool


def looks_like_file(address: str) -> bool:
    """Whether the last part of *address* has an ending, and is no version of a dataset."""
    return re.search(r"(?<!/versions)(?<!/labels)/[^/?#]*\.\w+(?:[?#].*)?$", address) is not None


@dataclass(frozen=True)
class DataFolder:
    datastore: DatastoreRecord
    path: str

    @property
    def is_readable(self) -> bool:
        """Whether himl can list it. The service also mounts file shares and OneLake."""
        return self.datastore.type in (BLOB, LAKE)

    @property
    def uri(self) -> str:
        return f"azureml://datastores/{self.datastore.name}/paths/{self.path}/"


class _DataFinder:
    """The current data assets and folders of one workspace. Every call raises as `Connection`. Thread-safe."""

    def __init__(self, connection: Connection, datastores: Datastores) -> None:
        self._connection, self._datastores = connection, datastores
        self._datastore = cache(datastores.find)  # one request each

    def asset_of(self, item: DataSpec, *, with_uri: bool) -> DataAsset | None:
        try:
            return None if item.is_folder else self.asset(item.name, item.version, with_uri=with_uri)
        except NotFound as err:
            raise NotFound(f"Input '{item.key}': {err}", hint=err.hint) from err

    def address(self, item: DataSpec, *, with_uri: bool = False) -> DataAsset | DataAddress:
        """The asset of this workspace at the input's address, else whether a file or a folder is there.

        himl checks blobs of the workspace's datastores. It does not check what it cannot read, as the job may read it.
        Raises NotFound for a missing asset, datastore, file or folder, and BadUsage for an address with a secret.
        """
        uri, shown = item.name, f"Input '{item.key}': '{redact(item.name)}'"
        if redact(uri) != uri:
            raise BadUsage(
                f"{shown} contains a secret, which everyone could see who can read the job.",
                hint="Register its container as a datastore: azureml://datastores/NAME/paths/FOLDER",
            )
        if found := _ASSET.fullmatch(uri):
            ids, connection = parse_workspace_id(uri), self._connection
            is_own = ids.is_same(connection.address.ids) if ids else found["guid"] == connection.record().workspace_id
            if not is_own:
                return DataAddress(is_file=False, is_checked=False)
            asset = self.asset(found["asset"], found["version"], with_uri=with_uri)
            if asset is None:
                label = self._connection.address.label
                raise NotFound(f"{shown} does not exist in {label}.", hint=self._near(found["asset"]))
            return asset
        unchecked = DataAddress(looks_like_file(uri), is_checked=False)
        try:
            place = parse_data_uri(uri, self._connection.address)
        except BadUsage:
            return unchecked
        record = self._datastores.record_at(place)
        folder = DataFolder(record, place.path.rstrip("/")) if record is not None else None
        if folder is None or not folder.is_readable:
            return unchecked
        try:
            if not folder.path or self.has_files(folder):
                return DataAddress(is_file=False, is_checked=True)
            if not uri.endswith("/") and self._datastores.of_record(folder.datastore).stat(folder.path) is not None:
                return DataAddress(is_file=True, is_checked=True)
        except NotAllowed:
            return unchecked
        above = shlex.quote(folder.path.rpartition("/")[0])
        raise NotFound(
            f"{shown} is neither a file nor a folder of {folder.datastore.label}.",
            hint=f"List the files: himl datastore list {above} --datastore {folder.datastore.name}",
        )

    def asset(self, name: str, version: str | None, *, with_uri: bool = False) -> DataAsset | None:
        """The *version* of asset *name*, or its latest, or None if no asset has that name. Sends one request, or two
        for the URI of the latest.

        Raises NotFound for an unknown version, listing the existing ones.
        """
        if re.search(r"[/\\\x00-\x1f\x7f]", name) or name in ("", ".", ".."):  # it would change the URL
            return None
        if version is None or version == LATEST:
            latest = self._latest(name)
            return self._version(name, latest.version) if latest is not None and with_uri else latest
        asset = self._version(name, version)
        versions = [] if asset else [str(item.get("name")) for item in islice(self._versions(name), 11)]
        if versions:
            listed = ", ".join(versions[:10]) + (", …" if len(versions) > 10 else "")
            raise NotFound(
                f"The data asset '{name}' of {self._connection.address.label} has no version '{version}'. It has: "
                f"{listed}.",
                hint="To use the latest version, omit it.",
            )
        return asset

    def register(self, name: str, uri: str) -> DataAsset:
        """Register the folder at *uri* as version 1 of a new asset, or return the asset if it exists by now."""
        url = self._url(name, "1")
        properties = {"dataType": FOLDER, "dataUri": uri, "isAnonymous": False, "isArchived": False}
        try:
            return _asset(
                self._connection.request("PUT", url, params=_PARAMS, json={"properties": properties}).body, url
            )
        except ServiceRefused as err:
            found = self._latest(name) if err.status < 500 else None
            if found is None:
                raise
            return found

    def folder(self, item: DataSpec, default: str | None) -> DataFolder:
        path = folder_path(item)  # raises before any request
        return DataFolder(self._datastore(item.datastore or default), path)

    def existing_folder(self, item: DataSpec, default: str | None) -> DataFolder:
        no_asset = f"Input '{item.key}': unknown data asset '{item.name}' in {self._connection.address.label}"
        if item.version not in (None, LATEST):
            raise NotFound(f"{no_asset}, in any version.", hint=self._near(item.name))
        folder = self.folder(item, default)
        if not folder.is_readable or self.has_files(folder):
            return folder
        error = _no_folder(item, folder)
        if item.is_folder:
            raise error
        raise NotFound(
            f"{no_asset}, and no such folder in its {folder.datastore.label}.",
            hint=self._near(item.name) or error.hint,
        )

    def has_files(self, folder: DataFolder) -> bool:
        return self._datastores.of_record(folder.datastore).has_any(folder.path + "/")

    def _near(self, name: str) -> str:
        found = self._connection.resources(self._connection.arm("/data"), "data assets", _PARAMS)
        return did_you_mean(name, [str(item.get("name")) for item in islice(found, 1000)])

    def _latest(self, name: str) -> DataAsset | None:
        url = self._url(name)
        answer = self._connection.find_object(url, "data asset", params=_PARAMS)
        if answer is None:
            return None
        with understood(url, "the data asset"):
            properties = answer["properties"]
            version, kind = str(properties.get("latestVersion") or ""), str(properties.get("dataType") or "")
            if version and kind:
                return DataAsset(version, f"{answer['id']}/versions/{version}", kind)
        newest = next(self._versions(name), None)  # for an asset whose versions are not numbers
        return _asset(newest, url) if newest is not None else None

    def _version(self, name: str, version: str) -> DataAsset | None:
        url = self._url(name, version)
        found = self._connection.find_object(url, "data asset", params=_PARAMS)
        return None if found is None else _asset(found, url)

    def _versions(self, name: str) -> Iterator[Mapping[str, Any]]:
        params = {**_PARAMS, "$orderBy": "createdtime desc", "$top": "11"}
        try:
            yield from self._connection.resources(f"{self._url(name)}/versions", "versions", params)
        except ServiceNotFound:
            return

    def _url(self, name: str, version: str = "") -> str:
        below = f"/versions/{quote(version, safe='')}" if version else ""
        return self._connection.arm(f"/data/{quote(name, safe='')}{below}")


def _asset(resource: Any, url: str) -> DataAsset:
    with understood(url, "the data asset"):
        properties = resource["properties"]
        kind, uri = str(properties["dataType"]), str(properties.get("dataUri") or "")
        return DataAsset(str(resource["name"]), str(resource["id"]), kind, uri)


def _no_folder(item: DataSpec, folder: DataFolder) -> NotFound:
    target = f"{shlex.quote(folder.path)} --datastore {folder.datastore.name}"
    return NotFound(
        f"Input '{item.key}': the folder '{folder.path}' does not exist in {folder.datastore.label}.",
        hint=f"Upload the data: himl datastore upload FOLDER {target}",
    )
