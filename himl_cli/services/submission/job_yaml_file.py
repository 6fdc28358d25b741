"""Reader of a job's YAML file: values, data, components and commands by key, with errors that name the key. Importing
this module loads the YAML library."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import expand_user
from himl_cli.core.jobs import HERE, PLACEHOLDER, USUAL_DATASTORE, DataSpec
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.core.text import as_found, did_you_mean, read_text, shorten
from himl_cli.services.submission.data import KEY, REFERENCE, split_reference
from himl_cli.services.submission.request import MOST_SECONDS, count_problem
from himl_cli.services.yaml_files import parse_mapping, written_as

COMMAND, SWEEP, PIPELINE = "command", "sweep", "pipeline"
NAMING = (
    *("$schema", "type", "name", "version", "id", "properties"),
    *("experiment_name", "display_name", "description", "tags"),
)
RUNNING = ("code", "command", "environment", "environment_variables", "distribution", "resources")
AROUND = ("inputs", "outputs", "compute", "limits", "identity", "services", "queue_settings", "is_deterministic")
COMMAND_KEYS = (*NAMING, *RUNNING, *AROUND)
ELSEWHERE = ("azureml:", "git+", "http:", "https:")
DATA_TYPES = ("uri_folder", "uri_file", "mltable", "mlflow_model", "custom_model", "triton_model")
LITERAL_TYPES = ("string", "number", "integer", "boolean")
DATA_KEYS = ("type", "path", "mode", "description", "version")
MODES = {"download": "download", "ro_mount": "mount", "rw_mount": "mount", "mount": "mount", "upload": "upload"}
INPUT_KEYS = (*DATA_KEYS, "default", "optional", "value", "min", "max", "enum", "datastore")

_DATASTORE = re.compile(r"azureml:/(?:/subscriptions/[^?#]+?)?/datastores/(?P<datastore>[\w-]+)/paths/(?P<path>.*)")
_ASSET = re.compile(r"azureml:(?P<name>[\w.-]+)(?:[:@](?P<version>[\w.-]+))?")

# The inputs of a job by key: data, or a plain value as text for the command
Values = dict[str, DataSpec | str]


@dataclass(frozen=True)
class Part:
    """A mapping in a file. `shown` is the file's name in messages, `prefix` the dotted keys above the mapping, and
    `folder` the base of its paths. Methods raise BadUsage for a value of another type."""

    shown: str
    folder: Path
    content: Mapping[str, Any]
    prefix: str = ""

    def wrong(self, key: str, what: str, *, hint: str = "") -> BadUsage:
        """An error about *key*; *what* completes the sentence `'job.yml': 'command' …`."""
        return BadUsage(redact(f"'{self.shown}': '{self.prefix}{key}' {what}"), hint=hint)

    def text(self, key: str) -> str:
        """The text of *key*, with numbers as written, or an empty text if the key is missing."""
        value = self.content.get(key)
        if isinstance(value, (Mapping, list)):
            raise self.wrong(key, "must be text.")
        if "\0" in str(value):
            raise self.wrong(key, "has the character NUL, \\0.", hint="Remove it. Programs cannot receive it.")
        return "" if value is None else str(value)

    def string(self, key: str) -> str:
        """The text of *key*, which YAML must not read as a number, a date or a switch, as in azure-ai-ml."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, (str, Mapping, list)):
            text = read_text(self.folder / Path(self.shown).name, "TARGET")
            spelled = written_as(text, [*self.prefix.split(".")[:-1], key]) or value
            what = f"must be text, but YAML reads {spelled} as {type(value).__name__} {value}."
            raise self.wrong(key, what, hint=f'Put it in quotes: {key}: "{spelled}"')
        return self.text(key)

    def part(self, key: str) -> Part:
        """The mapping of *key*, or an empty one if the key is missing."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(key, f"must contain keys and values, not {shorten(repr(value))}.")
        content = {str(name): entry for name, entry in (value or {}).items()}
        return Part(self.shown, self.folder, content, f"{self.prefix}{key}.")

    def count(self, key: str, *, most: int = 10**9) -> int | None:
        """The integer of *key*, from 1 to *most*."""
        value = self.content.get(key)
        if value is not None and (problem := count_problem(value, most)):
            raise self.wrong(key, problem)
        return value

    def number(self, key: str) -> float | None:
        """The finite number of *key*."""
        value = self.content.get(key)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not is_number:
            raise self.wrong(key, f"must be a number, not {shorten(repr(value))}.")
        return value

    def seconds(self, key: str) -> float | None:
        """The positive number of seconds of *key*."""
        found = self.number(key)
        if found is not None and not 0 < found <= MOST_SECONDS:
            raise self.wrong(key, f"must be a number of seconds, not {found:g}.")
        return None if found is None else float(found)

    def check_keys(self, known: Collection[str]) -> None:
        """Raise BadUsage for a key that is not *known*."""
        for key in self.content:
            if key not in known:
                hint = did_you_mean(key, known) or f"Use one of: {', '.join(sorted(known))}."
                raise self.wrong(key, "is an unknown key.", hint=hint)


@dataclass(frozen=True)
class JobDocument:
    """The whole file. `kind` is its type (`command`, `sweep`, `pipeline`, or another type of Azure ML)."""

    path: Path
    kind: str
    root: Part

    @property
    def compute(self) -> str:
        """The compute target without `azureml:`. `local` is this machine, and an empty text means that none is
        named."""
        texts = [self.root.text("compute")]
        if self.kind == PIPELINE:
            jobs = self.root.part("jobs")
            default = self.root.part("settings").text("default_compute")
            texts = [default, *texts, *(jobs.part(key).text("compute") for key in jobs.content)]
        names = [name for text in texts if (name := text.strip().removeprefix("azureml:").strip())]
        return next((name for name in names if name != HERE), next(iter(names), ""))


def read_document(path: Path, shown: str) -> JobDocument:
    """The file at *path*. Raises BadUsage if it does not contain a job."""
    root = Part(shown, path.parent, parse_mapping(read_text(path, "TARGET"), Path(shown)))
    kinds = {"jobs": PIPELINE, "trial": SWEEP, "command": COMMAND}
    schema = root.text("$schema").rpartition("/")[2].partition(".")[0].lower()
    by_schema = next((kind for kind in kinds.values() if schema == f"{kind}job"), "")
    by_key = next((kind for key, kind in kinds.items() if root.content.get(key) is not None), "")
    kind = root.text("type") or by_schema or by_key
    if not kind:
        raise BadUsage(
            f"'{shown}' is not a job: it has neither 'type' nor 'command'.",
            hint="Use a command, sweep or pipeline job of Azure ML.",
        )
    return JobDocument(path, kind, root)


def changed_code(root: Part) -> dict[str, str]:
    """The code folders in the whole file that are written with `\\` for `/`, by dotted key, as paths that are valid on
    this machine."""

    def mappings(part: Part, keys: Collection[str]) -> list[Part]:
        return [part.part(key) for key in keys if isinstance(part.content.get(key), Mapping)]

    parts = [root, *mappings(root.part("jobs"), root.part("jobs").content)]
    parts += [each for part in parts for each in mappings(part, ("trial", "component"))]
    given = {f"{part.prefix}code": part.content.get("code") for part in parts}
    local = {key: code for key, code in given.items() if isinstance(code, str) and not code.startswith(ELSEWHERE)}
    return {key: found for key, code in local.items() if (found := as_found(root.folder, code)) != code}


# Inputs and outputs


def read_inputs(part: Part) -> Values:
    """The inputs that have a value. Raises BadUsage, with the key."""
    found = {key: read_input(part, key) for key in part.content}
    return {key: value for key, value in found.items() if value is not None}


def read_input(part: Part, key: str) -> DataSpec | str | None:
    """One input: data, the text of a plain value, or None for a declaration without a value."""
    value = part.content.get(key)
    if isinstance(value, Mapping):
        item, kind = _data_item(part, key, INPUT_KEYS, LITERAL_TYPES)
        if kind in DATA_TYPES:
            return None if item.content.get("path") is None else _data_at(item, key)
        name = "default" if item.content.get("value") is None else "value"
        return None if item.content.get(name) is None else item.text(name)
    _check_key(part, key)
    if value is None or isinstance(value, list):
        raise part.wrong(key, "has no value." if value is None else "must be a plain value or a dataset.")
    return part.text(key)


def read_output(part: Part, key: str) -> DataSpec:
    """One output: the folder that it names, or a new one. Raises BadUsage, with the key."""
    item, _ = _data_item(part, key, (*DATA_KEYS, "name"), ())
    path = item.text("path")
    if not path:
        return DataSpec(key, "")
    found = _data_at(item, key)
    if found.is_address or (found.local is not None and not path.startswith(("/", ".", "file:"))):
        hint = "Write azureml://datastores/NAME/paths/FOLDER"
        raise item.wrong("path", f"'{path}' is not a folder of a datastore.", hint=hint)
    return found


def _check_key(part: Part, key: str) -> None:
    if not KEY.fullmatch(key):
        raise part.wrong(key, "is not a valid key.", hint="Use letters, digits and _, and do not begin with a digit.")


def _data_item(part: Part, key: str, keys: Collection[str], others: Collection[str]) -> tuple[Part, str]:
    """The mapping of an input or output, and its type: a type of data or one of *others*."""
    _check_key(part, key)
    item = part.part(key)
    item.check_keys(keys)
    kind = item.text("type") or ("string" if others and item.content.get("path") is None else "uri_folder")
    if kind not in (*DATA_TYPES, *others):
        hint = f"Use one of: {', '.join((*DATA_TYPES, *others))}."
        raise item.wrong("type", f"cannot be '{kind}'.", hint=hint)
    return item, kind


def _data_at(item: Part, key: str) -> DataSpec:
    """The data at the path of *item*: a local folder or file, a registered dataset, a folder of a datastore, or another
    address. Raises BadUsage for an invalid path."""
    path, mode = item.text("path"), MODES.get(item.text("mode"))
    if found := _DATASTORE.fullmatch(path):
        datastore = found["datastore"] if found["datastore"] != USUAL_DATASTORE else None
        return DataSpec(key, found["path"].strip("/"), datastore=datastore, mode=mode)
    if found := _ASSET.fullmatch(path):
        version = None if found["version"] == "latest" else found["version"]
        return DataSpec(key, found["name"], version=version, mode=mode)
    if REFERENCE.match(path):
        name, version = split_reference(path)
        return DataSpec(key, name, version or None, mode=mode)
    return DataSpec(key, Path(as_found(item.folder, path)).name, local=str(local_path(item, path)))


def local_path(part: Part, path: str) -> Path:
    """The local path of *path*, which is relative to the file's folder and may contain `/` or `\\`."""
    return (part.folder / expand_user(as_found(part.folder, path.removeprefix("file:")))).absolute()


# Components and commands


def component_at(part: Part, key: str) -> Part:
    """The component that *key* names or contains. Raises BadUsage for one that is not a local file."""
    if not isinstance(part.content.get(key), str):
        return part.part(key)
    path = part.text(key)
    if path.startswith("azureml:"):
        hint = "Name its file, or a cluster with --cluster."
        raise part.wrong(key, f"'{path}' is stored in Azure ML and cannot run on this machine.", hint=hint)
    found = local_path(part, path)
    # Unlike Path.is_file, os.path.isfile accepts a name that is invalid in the file system
    if not os.path.isfile(found):
        raise part.wrong(key, f"'{path}' is not a file.", hint=f"The path is relative to '{part.folder}'.")
    shown = str(Path(part.shown).parent / path.removeprefix("file:"))
    return Part(shown, found.parent, parse_mapping(read_text(found, part.prefix + key), Path(path)))


def with_defaults(component: Part, given: Values) -> Values:
    """The *given* values, completed with defaults. Raises BadUsage for an input that has neither, unless it is
    optional."""
    declared = component.part("inputs")
    values = {**given}
    for key in (key for key in declared.content if key not in given):
        found, declaration = read_input(declared, key), declared.content.get(key)
        if isinstance(found, str):
            values[key] = found
        elif not isinstance(declaration, Mapping) or declaration.get("optional") is not True:
            raise declared.wrong(key, "has no value.", hint="Set it in the job's inputs.")
    return values


def command_text(part: Part, values: Values, outputs: Collection[str], space: Collection[str]) -> str:
    """The text of `command` with plain values filled in. Placeholders of data and hyperparameters stay. Raises BadUsage
    if there is no command, or if it names an unknown input, output or hyperparameter."""
    text = part.text("command").strip()
    if not text:
        raise part.wrong("command", "is missing.")

    def optional(block: re.Match[str]) -> str:
        named = [found[2] for found in PLACEHOLDER.finditer(block[1]) if found[1] == "inputs"]
        return block[1] if all(name in values for name in named) else ""

    end = text.rfind("]]") + 2  # beyond it, an unclosed bracket would make the search quadratic
    text = re.sub(r"\$\[\[(.*?)\]\]", optional, text[:end], flags=re.DOTALL) + text[end:]
    return fill(part, "command", text.strip(), values, {"outputs": outputs, "search_space": space})


def fill(part: Part, key: str, text: str, values: Values, others: Mapping[str, Collection[str]]) -> str:
    """*text* with the plain values of *values* in place of their placeholders. Raises BadUsage for an unknown
    placeholder."""
    for block in re.findall(r"\$\{\{.*?\}\}", text[: text.rfind("}}") + 2], re.DOTALL):
        named = PLACEHOLDER.fullmatch(block)
        known = others.get(named[1], ()) if named and named[1] != "inputs" else values
        if named is None or named[2] not in known:
            hint = f"Use one of: {shorten(', '.join(known)) or 'none'}."
            if named is None:
                hint = "Placeholders are ${{inputs.KEY}}, ${{outputs.KEY}}, ${{search_space.NAME}}"
            raise part.wrong(key, f"has '{shorten(block)}', which is an unknown placeholder.", hint=hint)
    literals = {key: value for key, value in values.items() if isinstance(value, str)}
    return PLACEHOLDER.sub(lambda found: literals.get(found[2], found[0]) if found[1] == "inputs" else found[0], text)
