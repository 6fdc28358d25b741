"""Configuration of Azure ML: the clouds, the workspace (from a `config.json`, environment variables or an Azure ML
job), the credentials, and the versions of the services' routes.

Imports nothing heavy and sends no requests. `workspaces/resolve.py` decides the order of these sources.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.core.json_text import NotJson, read_json
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import MASK
from himl_cli.core.settings import PRIVATE_FILE, find_upward, section_settings
from himl_cli.core.text import did_you_mean, with_and
from himl_cli.core.workspaces import HOW_TO_CONFIGURE, WorkspaceIds, parse_workspace_id

log = logging.getLogger(__name__)

CLOUD_VARIABLE = "AZUREML_CURRENT_CLOUD"  # the vendor's SDKs read it


class ApiVersion:
    """Versions of the routes that himl requests: of resource manager unless a comment says otherwise, and stable ones
    as in Azure/azure-rest-api-specs."""

    JOBS = COMPONENTS = WORKSPACES = ENVIRONMENTS = COMPUTES = DATASTORES = "2024-10-01"
    CODES = DATA = "2023-04-01"  # as in azure-ai-ml
    DATASTORE_SECRETS = "2025-12-01"  # as in the vendor's SDK, where a secret can expire
    RESOURCE_METRICS = "2024-02-01"  # of Azure Monitor
    ENDPOINTS = "2015-01-01"  # resource manager's page about the cloud
    # `x-ms-version`: reports names that XML cannot represent, and accepts bearer tokens.
    STORAGE = "2023-11-03"
    MODELS = "1.0.0"  # the model registry, as in azure-ai-ml


@dataclass(frozen=True)
class Cloud:
    """The addresses of one cloud, without a trailing slash, and the scopes of its tokens."""

    name: str
    resource_manager: str
    authority: str
    storage_suffix: str
    studio: str
    data_plane_suffix: str  # of the hosts of the Azure ML services: eastus.api.azureml.ms

    @property
    def management_scope(self) -> str:
        """The scope of resource manager, which the Azure ML services accept."""
        return f"{self.resource_manager}/.default"

    @property
    def jobs_scope(self) -> str:
        """The scope of the token for a job that acts as the user who submitted it."""
        return f"https://ml.azure.{self.studio.rpartition('.')[2]}/.default"

    storage_scope: ClassVar[str] = "https://storage.azure.com/.default"


PUBLIC = Cloud(
    name="AzureCloud",
    resource_manager="https://management.azure.com",
    authority="https://login.microsoftonline.com",
    storage_suffix="core.windows.net",
    studio="https://ml.azure.com",
    data_plane_suffix=".api.azureml.ms",
)
US_GOVERNMENT = Cloud(
    name="AzureUSGovernment",
    resource_manager="https://management.usgovcloudapi.net",
    authority="https://login.microsoftonline.us",
    storage_suffix="core.usgovcloudapi.net",
    studio="https://ml.azure.us",
    data_plane_suffix=".api.ml.azure.us",
)
CHINA = Cloud(
    name="AzureChinaCloud",
    resource_manager="https://management.chinacloudapi.cn",
    authority="https://login.chinacloudapi.cn",
    storage_suffix="core.chinacloudapi.cn",
    studio="https://studio.ml.azure.cn",
    data_plane_suffix=".api.ml.azure.cn",
)
CLOUDS = {cloud.name.lower(): cloud for cloud in (PUBLIC, US_GOVERNMENT, CHINA)}


def current_cloud(name: str | None = None) -> Cloud:
    """The cloud called *name*, or the one of AZUREML_CURRENT_CLOUD (default: the public cloud).

    AZURE_AUTHORITY_HOST, which azure-identity reads, replaces the sign-in service. Raises BadUsage for an unknown name.
    """
    chosen = name or os.environ.get(CLOUD_VARIABLE, "")
    cloud = CLOUDS.get(chosen.lower()) if chosen else PUBLIC
    if cloud is None:
        known = [one.name for one in CLOUDS.values()]
        where = "" if name else f" ({CLOUD_VARIABLE})"
        raise BadUsage(
            f"Unknown cloud '{chosen}'{where}.",
            hint=did_you_mean(chosen, known) or f"Use one of {', '.join(known)}.",
        )
    authority = os.environ.get("AZURE_AUTHORITY_HOST", "").strip().rstrip("/")
    if not authority:
        return cloud
    return replace(cloud, authority=authority if "://" in authority else f"https://{authority}")


# `WorkspaceAddress.source` for the workspace of the current Azure ML job.
JOB_SOURCE = "the job's environment"


@dataclass(frozen=True)
class WorkspaceAddress:
    """A workspace in a cloud, and its origin (`source`: a file, the HIML_* variables, or `JOB_SOURCE`)."""

    subscription_id: str
    resource_group: str
    name: str
    cloud: Cloud
    source: str

    @property
    def path(self) -> str:
        """The workspace's id in resource manager: `/subscriptions/…/workspaces/NAME`."""
        group = f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
        return f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{self.name}"

    @property
    def ids(self) -> WorkspaceIds:
        return WorkspaceIds(self.subscription_id, self.resource_group, self.name)

    @property
    def label(self) -> str:
        return f"workspace {self.resource_group}/{self.name}"

    def studio_url(self, page: str = "", tenant_id: str = "") -> str:
        """The URL of a page of the workspace in Studio, by its path (`runs/ID`, parts quoted)."""
        # Studio writes `resourcegroups` in lower case.
        place = f"/subscriptions/{self.subscription_id}/resourcegroups/{self.resource_group}/workspaces/{self.name}"
        tenant = f"&tid={quote(tenant_id, safe='')}" if tenant_id else ""
        return f"{self.cloud.studio}/{page}?wsid={quote(place)}{tenant}"


CONFIG_NAMES = ("config.json", ".azureml/config.json")
CONFIG_KEYS = ("subscription_id", "resource_group", "workspace_name")
VARIABLES = ("HIML_SUBSCRIPTION_ID", "HIML_RESOURCE_GROUP", "HIML_WORKSPACE_NAME")
JOB_VARIABLES = ("AZUREML_ARM_SUBSCRIPTION", "AZUREML_ARM_RESOURCEGROUP", "AZUREML_ARM_WORKSPACE_NAME")

_FORMS = {
    "subscription_id": (
        r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        "is not a subscription id (8-4-4-4-12 hexadecimal digits)",
    ),
    "resource_group": (r"[\w\-.()]{1,90}", "is not a valid resource group name"),
    "workspace_name": (r"[A-Za-z0-9][\w\-]{0,254}", "is not a valid workspace name"),
}


def find_config(folder: Path) -> Path | None:
    """The nearest `config.json` or `.azureml/config.json` that names a workspace, in *folder* or a folder above it.

    Skips files without the workspace's keys. The search goes no higher than the topmost folder above *folder* that is
    on PYTHONPATH, or to the root if none is. hi-ml documents this rule.
    """
    for path in filter(Path.is_file, find_upward(searched_folders(folder.absolute()), CONFIG_NAMES)):
        if names_workspace(path):
            return path
        log.debug("skipped %s, which names no Azure ML workspace", path)
    return None


def address_from_config(path: Path, *, cloud: str | None = None) -> WorkspaceAddress:
    """The workspace that the file names, by the portal's keys or by the `Scope` of older files.

    Raises WorkspaceNotFound for a missing file, BadUsage naming the file and the wrong key.
    """
    ids = _ids_in(read_config(path))
    missing = [key for key in CONFIG_KEYS if not ids[key]]
    if missing:
        raise BadUsage(f"'{path}' lacks {with_and(missing)}.", hint=HOW_TO_CONFIGURE)
    return _address([_checked(key, ids[key], f"'{path}': '{key}'") for key in CONFIG_KEYS], cloud, str(path))


def address_from_environment(*, cloud: str | None = None) -> WorkspaceAddress | None:
    """The workspace of HIML_SUBSCRIPTION_ID, HIML_RESOURCE_GROUP and HIML_WORKSPACE_NAME, or None if all are unset.

    Raises BadUsage if some are missing or wrong.
    """
    ids, names = ids_in_environment(), dict(zip(CONFIG_KEYS, VARIABLES, strict=True))
    if not ids:
        return None
    if len(ids) < len(names):
        given, missing = [names[key] for key in ids], [name for key, name in names.items() if key not in ids]
        raise BadUsage(
            f"{with_and(given)} {'is' if len(given) == 1 else 'are'} set, but not {with_and(missing)}.",
            hint="Set all three, or none of them.",
        )
    return _address([_checked(key, ids[key], name) for key, name in names.items()], cloud, "HIML_* variables")


def ids_in_environment() -> dict[str, str]:
    """The workspace keys that HIML_SUBSCRIPTION_ID, HIML_RESOURCE_GROUP and HIML_WORKSPACE_NAME set, unchecked."""
    values = {key: os.environ.get(name, "").strip() for key, name in zip(CONFIG_KEYS, VARIABLES, strict=True)}
    return {key: value for key, value in values.items() if value}


def address_of_job(*, cloud: str | None = None) -> WorkspaceAddress | None:
    """The workspace of the current Azure ML job, or None outside one (including in jobs of a local workspace)."""
    values = [os.environ.get(name, "") for name in JOB_VARIABLES]
    if not os.environ.get("AZUREML_RUN_ID") or not all(values):
        return None
    return _address(values, cloud, JOB_SOURCE)


def config_text(ids: Mapping[str, str], where: str) -> str:
    """A `config.json` for the workspace with these keys.

    Raises BadUsage, beginning with *where*, for a missing or wrong key.
    """
    missing = [key for key in CONFIG_KEYS if not ids.get(key)]
    if missing:
        raise BadUsage(
            f"{where} lacks {with_and(missing)}.",
            hint=f"Add {' '.join(f'--{key} ...' for key in missing)}, or the portal's config.json.",
        )
    hint = "Studio shows it in the menu at the top right."
    checked = {key: _checked(key, ids[key], f"{where}: '{key}'", hint) for key in CONFIG_KEYS}
    return json.dumps(checked, indent=4) + "\n"


def names_workspace(path: Path) -> bool:
    """Return whether the file has the keys of a workspace, with right or wrong values."""
    try:
        return all(isinstance(value, str) for value in _ids_in(read_config(path)).values())
    except (BadUsage, WorkspaceNotFound):
        return False


def search_remarks(start: Path) -> Iterator[str]:
    """A sentence for each skipped file nearer than the one in use, and one for a search that PYTHONPATH cut short.

    A `config.json` without any of the keys belongs to another program, so it gets none.
    """
    searched = searched_folders(start.absolute())
    for path in filter(Path.is_file, find_upward(searched, CONFIG_NAMES)):
        if names_workspace(path):
            return
        try:
            missing = [key for key, value in _ids_in(read_config(path)).items() if not isinstance(value, str)]
        except (BadUsage, WorkspaceNotFound) as err:
            if "no JSON object" not in str(err):
                yield f"himl skipped a file: {err}"
        else:
            if len(missing) < len(CONFIG_KEYS):
                yield f"himl skipped '{path}', which lacks {' and '.join(missing)}."
    beyond = [folder for folder in (start.absolute(), *start.absolute().parents) if folder not in searched]
    found = filter(Path.is_file, find_upward(beyond, CONFIG_NAMES))
    missed = next(filter(names_workspace, found), None)
    if missed is not None:
        yield (
            f"The search for config.json stopped at '{searched[-1]}', which is on PYTHONPATH, so himl skipped "
            f"'{missed}'."
        )


def searched_folders(start: Path) -> list[Path]:
    """*start* and the folders above it that the search covers, the nearest first."""
    folders = [start, *start.parents]
    entries = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    on_path = {os.path.normcase(os.path.realpath(entry)) for entry in entries}
    matches = (at for at, one in enumerate(folders) if os.path.normcase(os.path.realpath(one)) in on_path)
    return folders[: max(matches, default=len(folders)) + 1]


def read_config(path: Path) -> Mapping[str, Any]:
    """The JSON object in the file. Raises WorkspaceNotFound for a missing file, BadUsage for other contents."""
    try:
        content = read_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as err:
        raise WorkspaceNotFound(f"'{path}' does not exist.", hint=HOW_TO_CONFIGURE) from err
    except UnicodeDecodeError as err:
        raise BadUsage(f"'{path}' is not UTF-8 text (byte {err.start}).", hint="Save it as UTF-8.") from err
    except OSError as err:
        raise BadUsage(f"Cannot read '{path}': {err.strerror}.") from err
    except NotJson as err:
        line = f", line {err.line}" if err.line else ""
        raise BadUsage(f"'{path}'{line}: {err}.", hint=f"The file is not valid JSON. {HOW_TO_CONFIGURE}") from err
    if not isinstance(content, dict):
        raise BadUsage(f"'{path}' contains no JSON object.", hint=HOW_TO_CONFIGURE)
    return content


def _ids_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """The workspace's keys, unchecked, with None for missing ones."""
    scope = content.get("Scope")
    ids = parse_workspace_id(scope) if isinstance(scope, str) else None
    return dict(zip(CONFIG_KEYS, ids or map(content.get, CONFIG_KEYS), strict=True))


def _checked(key: str, value: Any, where: str, hint: str = HOW_TO_CONFIGURE) -> str:
    text = value.strip() if isinstance(value, str) else ""
    form, complaint = _FORMS[key]
    if not isinstance(value, str):
        complaint = f"must be text, not {json.dumps(value)}"
    elif text.startswith("<") and text.endswith(">"):
        complaint = f"is still the placeholder {text}"
    elif re.fullmatch(form, text):
        return text
    else:
        complaint = f"{complaint}: '{text}'"
    raise BadUsage(f"{where} {complaint}.", hint=hint)


def _address(values: Sequence[str], cloud: str | None, source: str) -> WorkspaceAddress:
    subscription, group, name = values
    return WorkspaceAddress(subscription, group, name, current_cloud(cloud), source)


SIGN_IN_VARIABLES = {
    "tenant_id": "HIML_TENANT_ID",
    "service_principal_id": "HIML_SERVICE_PRINCIPAL_ID",
    "service_principal_password": "HIML_SERVICE_PRINCIPAL_PASSWORD",
}
SETTINGS = (*SIGN_IN_VARIABLES, "cloud")
SECRET = "service_principal_password"


@dataclass(frozen=True)
class AzureSettings:
    """The settings, empty if unset. `places` maps a key to its origin (a variable, or FILE:LINE)."""

    tenant_id: str = ""
    service_principal_id: str = ""
    service_principal_password: str = field(default="", repr=False)
    cloud: str = ""
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_files(self) -> dict[str, str]:
        """For each setting from a file, its variable and the text that a hint uses instead (`tenant_id in
        FILE:LINE`)."""
        return {
            name: f"{key} in {self.places[key]}"
            for key, name in SIGN_IN_VARIABLES.items()
            if self.places.get(key, name) != name
        }


def azure_settings(start: Path) -> AzureSettings:
    """The settings for *start*. Environment variables override the files, and himl.private.toml overrides himl.toml.

    Raises BadUsage for an unknown key, a value that is not text, and a password outside himl.private.toml.
    """
    values: dict[str, str] = {}
    places: dict[str, str] = {}
    clouds = ", ".join(cloud.name for cloud in CLOUDS.values())
    for key, setting in section_settings(start, "azure").items():
        if key not in SETTINGS:
            hint = did_you_mean(key, SETTINGS) or f"Keys of [azure]: {', '.join(SETTINGS)}."
            raise setting.wrong("is not known.", hint=hint)
        if not isinstance(setting.value, str):
            raise setting.wrong("must be text.", hint="Write it in quotes.")
        if key == SECRET and setting.file.name != PRIVATE_FILE:
            hint = f"Move it to {PRIVATE_FILE}, which himl never uploads."
            raise setting.wrong("is a secret, but this file is part of every snapshot.", hint=hint)
        if key == "cloud" and setting.value.lower() not in CLOUDS:
            raise setting.wrong(f"must be a known cloud, not '{setting.value}'.", hint=f"Use one of {clouds}.")
        values[key], places[key] = setting.value.strip(), setting.place
    if os.environ.get(CLOUD_VARIABLE):
        values.pop("cloud", None)  # `current_cloud` reads the variable
    for key, name in SIGN_IN_VARIABLES.items():
        text = os.environ.get(name, "").strip()
        if text:
            values[key], places[key] = text, name
    return AzureSettings(**values, places=places)


def settings_facts(start: Path) -> Sequence[tuple[str, str, str]]:
    """Each key with its value and its origin (`default` if unset), with the secret masked.

    Raises what `azure_settings` raises.
    """
    settings, cloud = azure_settings(start), os.environ.get(CLOUD_VARIABLE, "").strip()
    values = {key: getattr(settings, key) for key in SETTINGS}
    values[SECRET] = MASK if values[SECRET] else ""
    values["cloud"] = cloud or values["cloud"]
    places = {**settings.places, "cloud": CLOUD_VARIABLE} if cloud else settings.places
    return [(key, value, places.get(key, "default")) for key, value in values.items()]
