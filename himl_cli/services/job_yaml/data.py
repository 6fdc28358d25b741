"""Inputs and outputs of a job's YAML, as data or as plain values."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from himl_cli.core.jobs import USUAL_DATASTORE, DataSpec
from himl_cli.services.data_specs import KEY
from himl_cli.services.job_yaml.document import Part
from himl_cli.services.written_paths import as_found

DATA_TYPES = ("uri_folder", "uri_file", "mltable", "mlflow_model", "custom_model", "triton_model")
LITERAL_TYPES = ("string", "number", "integer", "boolean")
MODES = {"download": "download", "ro_mount": "mount", "rw_mount": "mount", "mount": "mount", "upload": "upload"}
OUTPUT_KEYS = ("type", "path", "mode", "name", "description", "version")
INPUT_KEYS = (
    "type",
    "path",
    "mode",
    "description",
    "default",
    "optional",
    "value",
    "min",
    "max",
    "enum",
    "version",
    "datastore",
)

_DATASTORE = re.compile(r"azureml:/(?:/subscriptions/[^?#]+?)?/datastores/(?P<datastore>[\w-]+)/paths/(?P<path>.*)")
_ASSET = re.compile(r"azureml:(?P<name>[\w.-]+)(?:[:@](?P<version>[\w.-]+))?")


@dataclass
class Values:
    """What the inputs of a job are: `literals` as the text that stands for them in the command, `data` by key."""

    literals: dict[str, str] = field(default_factory=dict)
    data: dict[str, DataSpec] = field(default_factory=dict)


def read_inputs(part: Part) -> Values:
    """The inputs that are given, those that are declared without a value left out. Raises BadUsage naming the key."""
    values = Values()
    for key in part.content:
        found = read_input(part, key)
        if isinstance(found, DataSpec):
            values.data[key] = found
        elif found is not None:
            values.literals[key] = found
    return values


def read_input(part: Part, key: str) -> DataSpec | str | None:
    """One input: data, or the text of a plain value; None for one that is declared only."""
    if not KEY.fullmatch(key):
        raise part.wrong(key, "cannot be a key.", hint="A key has letters, digits and _, and no digit first.")
    value = part.given(key)
    if not isinstance(value, Mapping):
        return literal_text(part, key, value)
    item = part.part(key)
    item.check_keys(INPUT_KEYS)
    kind = item.text("type") or ("uri_folder" if item.given("path") is not None else "string")
    if kind in LITERAL_TYPES:
        plain = item.given("value") if item.given("value") is not None else item.given("default")
        return literal_text(part, key, plain) if plain is not None else None
    if kind not in DATA_TYPES:
        raise item.wrong(
            "type", f"cannot be '{kind}'.", hint=f"It is one of: {', '.join((*DATA_TYPES, *LITERAL_TYPES))}."
        )
    if item.given("path") is None:
        return None
    return data_at(item, key, item.text("path"), _mode(item))


def read_output(part: Part, key: str) -> DataSpec:
    """One output: the folder it names, else one of its own. Raises BadUsage naming the key."""
    if not KEY.fullmatch(key):
        raise part.wrong(key, "cannot be a key.", hint="A key has letters, digits and _, and no digit first.")
    item = part.part(key)
    item.check_keys(OUTPUT_KEYS)
    kind = item.text("type") or "uri_folder"
    if kind not in DATA_TYPES:
        raise item.wrong("type", f"cannot be '{kind}' here.", hint=f"It is one of: {', '.join(DATA_TYPES)}.")
    path = item.text("path")
    if not path:
        return DataSpec(key, "")
    found = data_at(item, key, path, _mode(item))
    if found.local is not None and not path.startswith(("/", ".", "file:")):
        raise item.wrong(
            "path", f"'{path}' is no folder of a datastore.", hint="Write azureml://datastores/NAME/paths/FOLDER"
        )
    return found


def data_at(item: Part, key: str, path: str, mode: str | None = None) -> DataSpec:
    """The data at *path*: a folder or file of this machine, a registered dataset, or a folder of a datastore. Raises
    BadUsage for what cannot be had here."""
    if found := _DATASTORE.fullmatch(path):
        datastore = found["datastore"] if found["datastore"] != USUAL_DATASTORE else None
        return DataSpec(key, found["path"].strip("/"), datastore=datastore, mode=mode)
    if found := _ASSET.fullmatch(path):
        return DataSpec(
            key, found["name"], version=None if found["version"] in (None, "latest") else found["version"], mode=mode
        )
    if re.match(r"azureml:|https?:|wasbs?:|abfss?:|adl:|git\+", path):
        raise item.wrong(
            "path",
            f"'{path}' cannot be had here.",
            hint="Here it is a folder, a registered dataset (azureml:NAME) or azureml://datastores/NAME/paths/FOLDER",
        )
    return DataSpec(key, Path(as_found(item.folder, path)).name, local=str(local_path(item, path)))


def local_path(part: Part, path: str) -> Path:
    """A path of this machine, relative to the file's folder, with `/` or `\\`."""
    return (part.folder / os.path.expanduser(as_found(part.folder, path.removeprefix("file:")))).absolute()


def literal_text(part: Part, key: str, value: Any) -> str:
    """A plain value as Azure ML puts it into a command."""
    if value is None or isinstance(value, (list, Mapping)):
        raise part.wrong(key, "has no value." if value is None else "must be a plain value or a dataset.")
    return part.written(key, value)


def _mode(item: Part) -> str | None:
    """The mode as himl has it; None where none is given, or one that has no meaning here."""
    return MODES.get(item.text("mode"))
