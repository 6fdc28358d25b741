"""Reader of a job's YAML file: values, data, components and commands by key, with errors that name the key. Importing
this module loads the YAML library."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import as_found, expand_user
from himl_cli.core.jobs import HERE, USUAL_DATASTORE, DataSpec
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.core.sweeps import PLACEHOLDER
from himl_cli.core.text import MOST_SECONDS, did_you_mean, read_text, shorten
from himl_cli.services.submission.data import KEY, REFERENCE, split_reference
from himl_cli.services.submission.request import count_problem
from himl_cli.services.yaml_files import parse_mapping, written_as

COMMAND_JOB, SWEEP_JOB, PIPELINE_JOB = "command", "sweep", "pipeline"
PARALLEL = "parallel"
# The type of a job or a step without `type`, by a key that only this type has
TYPES = {"jobs": PIPELINE_JOB, "trial": SWEEP_JOB, "task": PARALLEL, "entry": "spark", "command": COMMAND_JOB}
NAMING = (
    *("$schema", "type", "name", "version", "id", "properties"),
    *("experiment_name", "display_name", "description", "tags"),
)
RUN_KEYS = ("code", "command", "environment", "environment_variables", "distribution", "resources")
AROUND = ("inputs", "outputs", "compute", "limits", "identity", "services", "queue_settings", "is_deterministic")
COMMAND_KEYS = (*NAMING, *RUN_KEYS, *AROUND)
REMOTE_CODE = ("azureml:", "git+", "http:", "https:")
DATA_TYPES = ("uri_folder", "uri_file", "mltable", "mlflow_model", "custom_model", "triton_model")
LITERAL_TYPES = ("string", "number", "integer", "boolean")
DATA_KEYS = ("type", "path", "mode", "description", "version")
MODES = {"download": "download", "ro_mount": "mount", "rw_mount": "mount", "mount": "mount", "upload": "upload"}
# Keys of --set whose values, or the values below them, are texts
OF_TEXTS = ("tags", "properties", "environment_variables", "inputs")
TEXTS = ("command", *(key for key in NAMING if key not in OF_TEXTS))
# Keys of paths on this machine. A text of the last three may also name something that is stored in Azure ML.
PATHS = ("code", "path", "conda_file", "additional_includes", "component", "trial", "environment")
OF_ANY_KEYS = ("inputs", "outputs", "jobs", "search_space", "services")
INPUT_KEYS = (*DATA_KEYS, "default", "optional", "value", "min", "max", "enum", "datastore")

_DATASTORE = re.compile(r"azureml:/(?:/subscriptions/[^?#]+?)?/datastores/(?P<datastore>[\w-]+)/paths/(?P<path>.*)")
_ASSET = re.compile(r"azureml:(?P<name>[\w.-]+)(?:[:@](?P<version>[\w.-]+))?")
_ADDRESS = re.compile(r"azureml:|[\w+.-]{2,}://|\$\{\{|git[+@]|$")
_NAME = r"(?:\\.|[^\\.\[\]])+"
# Names of nested keys, with `.` between them and `\.` within, and [N] for an entry of a list
_KEY = re.compile(rf"{_NAME}(?:\[-?\d+\])*(?:\.{_NAME}(?:\[-?\d+\])*)*")

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
        """The first compute target that the file names, without `azureml:`. `local` is this machine, and an empty text
        means that none is named."""
        texts = [self.root.text("compute")]
        if self.kind == PIPELINE_JOB:
            jobs = self.root.part("jobs")
            default = self.root.part("settings").text("default_compute")
            texts = [default, *texts, *(jobs.part(key).text("compute") for key in jobs.content)]
        names = [name for text in texts if (name := text.strip().removeprefix("azureml:").strip())]
        return next((name for name in names if name != HERE), next(iter(names), ""))


def read_document(path: Path, shown: str, changes: Mapping[str, str]) -> JobDocument:
    """The file at *path* with the *changes* of `--set`. Raises BadUsage if it does not contain a job."""
    content = parse_mapping(read_text(path, "TARGET"), Path(shown))
    for key, text in changes.items():
        if not _KEY.fullmatch(key):
            raise BadUsage(f"--set: '{key}' is not a key.", hint="Examples: inputs.lr=0.1, values[0]=0.1")
        found = re.findall(rf"({_NAME})|\[(-?\d+)\]", key)
        names = [int(number) if number else re.sub(r"\\(.)", r"\1", name) for name, number in found]
        content = _with_change(content, key, names, _set_value(names, text))
    root = Part(shown, path.parent, content)
    kind, schema = type_of(root), _schema_of(root).lower()
    of_component = {"version", "is_deterministic"} & set(content) and not schema.endswith("job")
    if schema.endswith("component") or kind.lower().endswith("component") or of_component:
        hint = f"Name it in a step of a pipeline job: component: {Path(shown).name}"
        raise BadUsage(f"'{shown}' is a component, not a job.", hint=hint)
    if not kind or (schema and not schema.endswith("job")):
        why = f"its $schema is '{_schema_of(root)}'" if schema else "it has neither 'type' nor 'command'"
        raise BadUsage(f"'{shown}' is not a job: {why}.", hint="Use a command, sweep or pipeline job of Azure ML.")
    return JobDocument(path, kind, root)


def type_of(part: Part) -> str:
    """The type of a job, a step or a component: `type`, or that of the schema or of its keys. Empty if unknown."""
    by_key = next((kind for key, kind in TYPES.items() if part.content.get(key) is not None), "")
    found = re.fullmatch(r"(?i)(\w+?)(?:job|component)", _schema_of(part))
    return part.text("type") or (found[1].lower() if found else by_key)


def type_of_step(part: Part) -> str:
    """The type of a step, or that of its component on this machine."""
    component = component_of(part)
    kinds = [type_of(part), type_of(component) if component is not None else ""]
    return next((kind for kind in kinds if kind not in ("", COMMAND_JOB)), COMMAND_JOB)


def _schema_of(part: Part) -> str:
    """The kind of the file by its schema in Azure ML, such as `pipelineJob` or `commandComponent`."""
    return part.text("$schema").rpartition("/")[2].partition(".")[0]


def _with_change(part: Any, key: str, names: Sequence[str | int], value: Any) -> Any:
    """A *part* of the file's content with *value* at the nested *names*, which `--set` gives as *key*. Missing parts
    are added. Raises BadUsage for a name that the part cannot have."""
    if not names:
        return value
    name, *rest = names
    if isinstance(part, list) and str(name).isdigit():
        name = int(name)
    if isinstance(name, int):
        entries = list(part) if isinstance(part, list) else []
        if (part and not entries) or not -len(entries) <= name <= len(entries):
            raise BadUsage(f"--set {key}: there is no entry [{name}].", hint=f"The list has {len(entries)} entries.")
        entries[name : name + 1 or None] = [_with_change(dict(enumerate(entries)).get(name), key, rest, value)]
        return entries
    if part is not None and not isinstance(part, Mapping):
        what = f"--set {key}: {shorten(repr(part))} in the file has no key '{name}'."
        raise BadUsage(redact(what), hint="Set the value as a whole.")
    return {**(part or {}), name: _with_change((part or {}).get(name), key, rest, value)}


def _set_value(names: Sequence[str | int], text: str) -> Any:
    """The value of `--set`: as YAML has it in a file, but a text where only a text makes sense. Raises BadUsage."""
    is_whole = text.startswith(("{", "["))
    above = [name for name in names[:-1] if name in OF_TEXTS]
    if names[-1] in TEXTS or (above and not (is_whole and above == ["inputs"])):
        return text
    try:
        found = parse_mapping(f"value: {text}", Path("--set"))["value"]
    except BadUsage:
        if is_whole:
            raise
        return text
    return found if found is None or isinstance(found, (int, float, list, Mapping)) else text


# Inputs and outputs


def read_inputs(part: Part) -> Values:
    """The inputs of a job, without optional ones that have no value. Raises BadUsage, with the key."""
    found = {key: read_input(part, key) for key in part.content}
    for key, value in found.items():
        if value is None and part.part(key).content.get("optional") is not True:
            given = ".path=PATH" if part.part(key).text("type") in DATA_TYPES else "=VALUE"
            hint = f"Write one into the file, or add --set {part.prefix}{key}{given}"
            raise part.wrong(key, "has no value.", hint=hint)
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


def with_absolute_paths(part: Part) -> dict[str, Any]:
    """The content of *part* with absolute paths for files and folders on this machine."""

    def changed(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            within = part.part(key)
            if key not in OF_ANY_KEYS:
                return value if key in OF_TEXTS else with_absolute_paths(within)
            return {
                name: with_absolute_paths(within.part(name)) if isinstance(each, Mapping) else each
                for name, each in within.content.items()
            }
        is_text = isinstance(value, str) and not _ADDRESS.match(value) and "connection" not in part.content
        if is_text and key in PATHS[:-3]:
            return str(local_path(part, value))
        if is_text and key in PATHS and os.path.exists(local_path(part, value)):
            return f"{'file:' * value.startswith('file:')}{local_path(part, value)}"
        if isinstance(value, list):
            return [changed(key, each) if isinstance(each, str) else each for each in value]
        return value

    return {key: changed(key, value) for key, value in part.content.items()}


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


def component_of(part: Part) -> Part | None:
    """The component of a step if it is in the file, or in another one on this machine."""
    named = part.content.get("component")
    is_here = isinstance(named, Mapping) or (isinstance(named, str) and os.path.isfile(local_path(part, named)))
    return component_at(part, "component") if is_here else None


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
