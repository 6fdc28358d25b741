"""The inputs and outputs of jobs on Azure ML: names become data assets, else folders of datastores."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DataSpec, PipelineSpec, StepSpec
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.responses import resources, understood
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.azure.storage.datastores import Datastores, parse_data_uri
from himl_cli.workspaces.base import Dataset

Answer = TypeVar("Answer")
FOLDER, FILE = "uri_folder", "uri_file"
LATEST = "latest"
"""The word for the newest version of what has versions."""
INPUT_MODES = {"mount": "ro_mount", "download": "download"}
OUTPUT_MODES = {"mount": "rw_mount", "upload": "upload"}
"""himl's words for how data reaches a job, and those of Azure ML's YAML."""
EACH_TRIAL = "${{name}}"
"""What the service puts the run's id in for, in the path of an output."""
_SHOWN, _MOST_NAMES = 10, 1000  # versions that a message names; names that are looked through for a near one
_PARAMS = {"api-version": ApiVersion.DATA}


@dataclass(frozen=True)
class JobInput:
    """One input: `type` is `uri_folder`, `uri_file` or `mltable`; `mode` a value of INPUT_MODES, or `direct` where only
    the address counts.

    `path` is what goes into the request: the resource id of a version of a data asset, or
    `azureml://datastores/D/paths/P/`.
    """

    type: str
    path: str
    mode: str


@dataclass(frozen=True)
class JobOutput:
    """One output: a folder at `path` (`azureml://datastores/D/paths/P/`) that the job fills, `mode` a value of
    OUTPUT_MODES.

    It is registered at the job's end as the next version of the data asset `asset_name`; None registers nothing.
    """

    path: str
    mode: str
    asset_name: str | None = None


@dataclass(frozen=True)
class DataAsset:
    """One version: `id` is its resource id; `kind` `uri_folder`, `uri_file` or `mltable`; `uri` is where it lies, empty
    where that was not asked."""

    name: str
    version: str
    id: str
    kind: str
    uri: str = ""


@dataclass(frozen=True)
class DataFolder:
    """The folder `path` (without slashes around it) of a datastore."""

    datastore: DatastoreRecord
    path: str

    @property
    def uri(self) -> str:
        return f"azureml://datastores/{self.datastore.name}/paths/{self.path}/"


Find = Callable[[str | None], DatastoreRecord]


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
    assets = DataAssets(connection)
    found = ask_all(lambda item: _find_asset(assets, item, with_uri=bool(item.datastore)), specs)
    find = cache(datastores.find)  # each is asked for once
    inputs: dict[str, JobInput] = {}
    registered: dict[str, DataAsset] = {}
    for item, asset in zip(specs, found, strict=True):
        kind, path = FOLDER, ""
        if asset is None:
            folder = _existing_folder(assets, datastores, find, item, default_datastore)
            if not item.is_folder:
                asset = registered.get(folder.uri)
            if asset is None and not item.is_folder and can_be_registered(item.name):
                asset = registered[folder.uri] = assets.register(item.name, folder.uri)
                notify(
                    Notice(
                        f"Input '{item.key}': registered the folder '{folder.path}' of {folder.datastore.label} as "
                        f"data asset '{item.name}'."
                    )
                )
            path = folder.uri
        elif item.datastore:
            _report_location(connection, item, asset, notify)
        if asset is not None:
            kind, path = asset.kind, asset.id
        inputs[item.key] = JobInput(kind, path, INPUT_MODES[item.mode or "download"])
    return inputs


def resolve_outputs(
    connection: Connection,
    datastores: Datastores,
    specs: Sequence[DataSpec],
    default_datastore: str | None,
    notify: Notify,
    *,
    are_of_trials: bool = False,
) -> dict[str, JobOutput]:
    """What each output is in the job, by key: the folder NAME of its datastore, registered at the job's end as data
    asset NAME.

    Where that cannot be, *notify* hears so, and the folder is written all the same. Each of many trials writes below a
    folder of its own, and registers nothing. Raises NotFound naming the datastores that exist, BadUsage for an output
    that must not exist and does.
    """
    find, assets = cache(datastores.find), DataAssets(connection)
    found = ask_all(lambda item: assets.find(item.name, None), specs)
    outputs: dict[str, JobOutput] = {}
    for item, asset in zip(specs, found, strict=True):
        folder, obstacle = _folder(find, item, default_datastore), ""
        if not item.overwrite:
            _check_new(asset, datastores, item, folder)
        if not can_be_registered(item.name):
            obstacle = f"no data asset can be called '{item.name}'"
        elif asset is not None and asset.kind != FOLDER:
            # all versions of an asset are of one type: the service would find out at the job's end, and tell nobody
            obstacle = f"the data asset '{item.name}' is of type {asset.kind}, not {FOLDER}"
        if obstacle:
            notify(Notice(f"Output '{item.key}': {obstacle}, so the folder is not registered."))
        mode = OUTPUT_MODES[item.mode or "mount"]
        outputs[item.key] = JobOutput(folder.uri, mode, None if obstacle else item.name)
    if not are_of_trials or not outputs:
        return outputs
    notify(
        Notice(
            "Each trial writes its outputs to folders of its own, NAME/<its run id>; they are not registered as data "
            "assets."
        )
    )
    return {key: JobOutput(trial_path(item.path), item.mode) for key, item in outputs.items()}


def trial_path(path: str) -> str:
    """*path* with the run's id at its end, where it does not say already where that goes."""
    return path if EACH_TRIAL in path else f"{path.rstrip('/')}/{EACH_TRIAL}/"


def find_dataset(
    connection: Connection, datastores: Datastores, item: DataSpec, default_datastore: str | None
) -> Dataset:
    """A dataset by the name that an input gives, looked for as for a job, for reading it elsewhere; nothing is
    registered.

    Raises NotFound, which names the input, for a dataset, version or folder that is not there.
    """
    assets, label = DataAssets(connection), f"dataset '{item.name}'"
    asset = _find_asset(assets, item, with_uri=True)
    if asset is not None:
        is_file = asset.kind == FILE
        return Dataset(item.name, asset.version, datastores.at_uri(asset.uri, label, is_file=is_file), is_file)
    folder = _existing_folder(assets, datastores, datastores.find, item, default_datastore)
    return Dataset(item.name, "", datastores.at_uri(folder.uri, label))


def pipeline_inputs(
    connection: Connection, datastores: Datastores, spec: PipelineSpec, notify: Notify
) -> dict[tuple[str, str], JobInput]:
    """What all steps read from outside, by the keys of step and input; looked for once however many read it.

    With a datastore, NAME is a folder of that, whatever data asset is called so: who names both means the folder. A
    NAME without any folder in it (`/`) is the whole datastore. Without one, it is looked for, and registered, as for
    other jobs. Raises NotFound naming step and input; a folder that is not there is a Notice for all steps but the
    first: one before it may make it.
    """
    found: dict[tuple[str, str], JobInput] = {}
    known: dict[tuple[object, ...], JobInput] = {}

    def resolve(step: StepSpec, item: DataSpec, default: str | None) -> JobInput:
        if is_whole_datastore(item):
            name = datastores.find(item.datastore or default).name
            return JobInput(FOLDER, f"azureml://datastores/{name}/paths/", "")
        if item.datastore and item.version is None:
            return _step_folder(datastores, step, item, default, step is spec.steps[0], notify)
        return resolve_inputs(connection, datastores, [item], default, notify)[item.key]

    for step, item in [(one, item) for one in spec.steps for item in own_inputs(one)]:
        default = step.job.default_datastore or spec.default_datastore
        name = "" if is_whole_datastore(item) else item.name.strip("/")
        key = (name, item.version, item.datastore or default, bool(item.datastore))
        if key not in known:
            known[key] = of_step(step.key, lambda: resolve(step, item, default))  # noqa: B023 - called at once
        found[step.key, item.key] = replace(known[key], mode=INPUT_MODES[item.mode or "download"])
    return found


def own_inputs(step: StepSpec) -> list[DataSpec]:
    """The inputs of *step* that come from no other step."""
    return [item for item in step.job.inputs if item.key not in step.takes]


def is_whole_datastore(item: DataSpec) -> bool:
    """Whether the input names no folder, so that all of its datastore is meant."""
    return not item.name.strip("/.")


def of_step(step: str, act: Callable[[], Answer]) -> Answer:
    """What *act* gives; what it finds wrong or missing is told with the key of the *step* before it."""
    try:
        return act()
    except (BadUsage, NotFound) as err:
        if type(err) not in (BadUsage, NotFound):
            raise
        raise type(err)(f"{step}: {err}", hint=err.hint) from err


def folder_path(item: DataSpec) -> str:
    """The path in the datastore. Raises BadUsage for one that leaves it, or none."""
    parts = [part for part in item.name.split("/") if part not in ("", ".")]
    if not parts:
        raise BadUsage(
            f"'{item.key}' names no dataset, only what is for jobs that run here (local=).",
            hint=f"Write {item.key}=NAME",
        )
    if ".." in parts:
        raise BadUsage(f"'{item.name}' leaves the datastore.", hint="Name a folder inside it.")
    return "/".join(parts)


def can_be_registered(name: str) -> bool:
    """Whether a new data asset may be called so."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}", name) is not None


class DataAssets:
    """The data assets of one workspace, as they are now: names and versions for files in datastores.

    Every call raises as `Rest` does. Safe for several threads.
    """

    def __init__(self, connection: Connection) -> None:
        self.label = connection.address.label
        self._connection = connection
        self._rest = connection.rest

    def find(self, name: str, version: str | None, *, with_uri: bool = False) -> DataAsset | None:
        """The *version* of the asset called *name*, or its latest; None where nothing is called so. One request, or two
        with the uri of the latest.

        Raises NotFound, naming the versions there are, for one that is not there.
        """
        if re.search(r"[/\\\x00-\x1f\x7f]", name) or name in ("", ".", ".."):  # would mean something else in a URL
            return None
        if version is not None and version != LATEST:
            asset = self._version(name, version)
            if asset is None:
                self._raise_for_version(name, version)
            return asset
        latest = self._latest(name)
        return self._version(latest.name, latest.version) if latest is not None and with_uri else latest

    def register(self, name: str, uri: str) -> DataAsset:
        """Make the folder at *uri* version 1 of a new asset; where somebody else was quicker, that asset."""
        url = self._url(name, "1")
        properties = {"dataType": FOLDER, "dataUri": uri, "isAnonymous": False, "isArchived": False}
        try:
            answer = self._rest.send("PUT", url, params=_PARAMS, json={"properties": properties}).body
        except ServiceRefused as err:
            found = self._latest(name) if err.status < 500 else None
            if found is None:
                raise
            return found
        return _asset(name, answer, url)

    def near(self, name: str) -> str:
        """A hint at assets whose names are like *name*; empty without any."""
        found = resources(self._rest.get, self._connection.arm("/data"), "data assets", _PARAMS)
        return did_you_mean(name, [str(item.get("name")) for item in islice(found, _MOST_NAMES)])

    def _latest(self, name: str) -> DataAsset | None:
        url = self._url(name)
        try:
            answer = self._rest.get_object(url, "data asset", params=_PARAMS)
        except ServiceNotFound:
            return None
        with understood(url, "the data asset"):
            properties = answer["properties"]
            version, kind = str(properties.get("latestVersion") or ""), str(properties.get("dataType") or "")
            if version and kind:
                return DataAsset(name, version, f"{answer['id']}/versions/{version}", kind)
        newest = next(self._versions(name), None)  # an asset whose versions do not count up
        return _asset(name, newest, url) if newest is not None else None

    def _version(self, name: str, version: str) -> DataAsset | None:
        url = self._url(name, version)
        try:
            return _asset(name, self._rest.get(url, params=_PARAMS), url)
        except ServiceNotFound:
            return None

    def _raise_for_version(self, name: str, version: str) -> None:
        """Raises NotFound where other versions of *name* are there."""
        found = [str(item.get("name")) for item in islice(self._versions(name), _SHOWN + 1)]
        if found:
            listed = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
            raise NotFound(
                f"The data asset '{name}' of {self.label} has no version '{version}'; there are: {listed}.",
                hint="Without a version the latest one is used.",
            )

    def _versions(self, name: str) -> Iterator[Mapping[str, Any]]:
        """The newest first; none where nothing is called *name*."""
        params = {**_PARAMS, "$orderBy": "createdtime desc", "$top": str(_SHOWN + 1)}
        try:
            yield from resources(self._rest.get, f"{self._url(name)}/versions", "versions", params)
        except ServiceNotFound:
            return

    def _url(self, name: str, version: str = "") -> str:
        below = f"/versions/{quote(version, safe='')}" if version else ""
        return self._connection.arm(f"/data/{quote(name, safe='')}{below}")


def _asset(name: str, resource: Any, url: str) -> DataAsset:
    """The asset in *resource*, an answer of *url*. Raises ServiceFailed where it is none."""
    with understood(url, "the data asset"):
        properties = resource["properties"]
        kind, uri = str(properties["dataType"]), str(properties.get("dataUri") or "")
        return DataAsset(name, str(resource["name"]), str(resource["id"]), kind, uri)


def _find_asset(assets: DataAssets, item: DataSpec, *, with_uri: bool) -> DataAsset | None:
    if item.is_folder:
        return None
    try:
        return assets.find(item.name, item.version, with_uri=with_uri)
    except NotFound as err:
        raise NotFound(f"Input '{item.key}': {err}", hint=err.hint) from err


def _existing_folder(
    assets: DataAssets, datastores: Datastores, find: Find, item: DataSpec, default: str | None
) -> DataFolder:
    """The folder of the datastore that input *item* means, something being in it. Raises NotFound naming what was
    looked for."""
    no_asset = f"Input '{item.key}': no data asset '{item.name}' in {assets.label}"
    if item.version not in (None, LATEST):
        raise NotFound(f"{no_asset}, in any version.", hint=assets.near(item.name))
    folder = _folder(find, item, default)
    if _has_files(datastores, folder):
        return folder
    if item.is_folder:
        raise _no_folder(item, folder)
    raise NotFound(
        f"{no_asset}, and no such folder in its {folder.datastore.label}.",
        hint=assets.near(item.name) or _upload_hint(folder),
    )


def _step_folder(
    datastores: Datastores, step: StepSpec, item: DataSpec, default: str | None, is_first: bool, notify: Notify
) -> JobInput:
    folder = _folder(datastores.find, item, default)
    if not _has_files(datastores, folder):
        if is_first:
            raise _no_folder(item, folder)
        notify(
            Notice(
                f"{step.key}: there is no folder '{folder.path}' in {folder.datastore.label} yet; a step before it has "
                "to make it."
            )
        )
    return JobInput(FOLDER, folder.uri, "")


def _folder(find: Find, item: DataSpec, default: str | None) -> DataFolder:
    """The folder that *item* names, whether it is there or not; *find* gives a datastore. Raises NotFound naming the
    datastores that exist, BadUsage for no folder in it."""
    path = folder_path(item)
    return DataFolder(find(item.datastore or default), path)


def _has_files(datastores: Datastores, folder: DataFolder) -> bool:
    """Whether anything lies there. Raises BadUsage for a kind of datastore that himl cannot look into."""
    return datastores.of_record(folder.datastore).has_any(folder.path + "/")


def _no_folder(item: DataSpec, folder: DataFolder) -> NotFound:
    text = f"Input '{item.key}': no folder '{folder.path}' in {folder.datastore.label}."
    return NotFound(text, hint=_upload_hint(folder))


def _upload_hint(folder: DataFolder) -> str:
    target = f"{shlex.quote(folder.path)} --datastore {folder.datastore.name}"
    return f"Put the data there: himl datastore upload FOLDER {target}"


def _report_location(connection: Connection, item: DataSpec, asset: DataAsset, notify: Notify) -> None:
    """A registered asset counts before any folder; that it lies elsewhere than was said is told."""
    try:
        datastore = parse_data_uri(asset.uri, connection.address).datastore
    except BadUsage:
        datastore = ""
    if datastore.lower() != str(item.datastore).lower():
        location = f"datastore '{datastore}'" if datastore else f"'{asset.uri.partition('?')[0]}'"
        notify(
            Notice(
                f"Input '{item.key}': the data asset '{item.name}' is registered and lies in {location}; "
                f"'datastore={item.datastore}' is passed over."
            )
        )


def _check_new(asset: DataAsset | None, datastores: Datastores, item: DataSpec, folder: DataFolder) -> None:
    if asset is not None:
        reason = f"the data asset '{item.name}' exists (version {asset.version})"
    elif _has_files(datastores, folder):
        reason = f"the folder '{folder.path}' of {folder.datastore.label} exists"
    else:
        return
    raise BadUsage(
        f"Output '{item.key}': {reason}, and overwrite=false was given.",
        hint="Choose another name, or leave overwrite=false out.",
    )
