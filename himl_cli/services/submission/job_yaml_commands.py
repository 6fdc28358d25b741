"""A job's YAML file, read by key with errors that name the key, and its commands as jobs that run on this machine.
Importing this loads the YAML library."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import (
    DISTRIBUTIONS,
    HERE,
    USUAL_DATASTORE,
    DataSpec,
    Entry,
    EntryKind,
    JobSpec,
    Snapshot,
    SnapshotReport,
)
from himl_cli.core.redaction import redact
from himl_cli.core.sweeps import PLACEHOLDER
from himl_cli.core.text import did_you_mean, shorten
from himl_cli.services.submission.data import KEY
from himl_cli.services.submission.request import (
    MOST_NODES,
    MOST_PROCESSES,
    MOST_SECONDS,
    SubmitRequest,
    count_wanted,
    whole_number,
)
from himl_cli.services.submission.snapshot import take_snapshot
from himl_cli.services.text_files import as_found, read_text
from himl_cli.services.yaml_files import parse_mapping

COMMAND, SWEEP, PIPELINE = "command", "sweep", "pipeline"
SCHEMAS = {"commandjob": COMMAND, "sweepjob": SWEEP, "pipelinejob": PIPELINE}
NAMES = ("experiment_name", "display_name", "description", "tags")
NAMING = ("$schema", "type", "name", "version", "id", "properties", *NAMES)
RUNNING = ("code", "command", "environment", "environment_variables", "distribution", "resources")
AROUND = ("inputs", "outputs", "compute", "limits", "identity", "services", "queue_settings", "is_deterministic")
COMMAND_KEYS = (*NAMING, *RUNNING, *AROUND)
IDLE = ("environment", "identity", "services", "queue_settings", "resources")
"""What is of a cluster, and does no harm where there is none."""
ELSEWHERE = ("azureml:", "git+", "http:", "https:")
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
_REMOTE = re.compile(r"azureml:|https?:|wasbs?:|abfss?:|adl:|git\+")
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_ANY = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """A mapping of a file: `shown` is what messages call the file, `prefix` the keys above it with dots, `folder` what
    its paths are relative to. Methods raise BadUsage for a value that is not what they give."""

    shown: str
    folder: Path
    content: Mapping[str, Any]
    prefix: str = ""

    def wrong(self, key: str, what: str, *, hint: str = "") -> BadUsage:
        """An error about *key*; *what* completes the sentence `'job.yml': 'command' …`."""
        return BadUsage(redact(f"'{self.shown}': '{self.prefix}{key}' {what}"), hint=hint)

    def given(self, key: str) -> Any:
        """The value of *key*; None where there is none."""
        return self.content.get(key)

    def text(self, key: str) -> str:
        """The text of *key*, numbers as written; empty where there is none."""
        value = self.content.get(key)
        if isinstance(value, (Mapping, list)):
            raise self.wrong(key, "must be text.")
        return "" if value is None else self.written(key, value)

    def written(self, key: str, value: Any) -> str:
        """A plain value of *key* as text, without the character that no program can be given."""
        if "\0" in str(value):
            raise self.wrong(key, "has the character NUL, \\0.", hint="No program can be given that.")
        return str(value)

    def part(self, key: str) -> Part:
        """The mapping of *key*; an empty one where there is none."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(key, f"must hold keys and values, not {shorten(repr(value))}.")
        content = {str(name): entry for name, entry in (value or {}).items()}
        return Part(self.shown, self.folder, content, f"{self.prefix}{key}.")

    def count(self, key: str, default: int | None = None, *, most: int | None = None) -> int | None:
        """The whole number from 1 to *most* of *key*."""
        value = self.content.get(key)
        if value is None:
            return default
        if whole_number(value, most or value) is None:
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                raise self.wrong(key, count_wanted(value, most or value))
            raise self.wrong(key, f"must be a whole number from 1 on, not {shorten(repr(value))}.")
        return int(value)

    def number(self, key: str) -> float | None:
        """The number of *key*, a finite one."""
        value = self.content.get(key)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not is_number:
            raise self.wrong(key, f"must be a number, not {shorten(repr(value))}.")
        return value

    def seconds(self, key: str) -> float | None:
        """The seconds, more than none, of *key*."""
        found = self.number(key)
        if found is not None and not 0 < found <= MOST_SECONDS:
            raise self.wrong(key, f"must be a number of seconds, not {found:g}.")
        return None if found is None else float(found)

    def check_keys(self, known: Collection[str]) -> None:
        """Raises BadUsage for a key that is not *known*."""
        for key in self.content:
            if key not in known:
                hint = did_you_mean(key, known) or f"There are: {', '.join(sorted(known))}."
                raise self.wrong(key, "is no key that himl knows there.", hint=hint)


@dataclass(frozen=True)
class JobDocument:
    """The whole file: `kind` is its type (`command`, `sweep`, `pipeline`, or another of Azure ML's)."""

    path: Path
    kind: str
    root: Part

    @property
    def compute(self) -> str:
        """The compute that the job runs on, without `azureml:`; `local` for here, empty where none is named."""
        texts = [self.root.text("compute")]
        if self.kind == PIPELINE:
            jobs = self.root.part("jobs")
            default = self.root.part("settings").text("default_compute")
            texts = [default, *texts, *(jobs.part(key).text("compute") for key in jobs.content)]
        names = [name for text in texts if (name := text.strip().removeprefix("azureml:").strip())]
        return next((name for name in names if name != HERE), next(iter(names), ""))


def read_document(path: Path, shown: str) -> JobDocument:
    """The file at *path*. Raises BadUsage where it holds no job."""
    text = read_text(path, "TARGET")
    root = Part(shown, path.parent, parse_mapping(text, Path(shown)))
    schema = root.text("$schema").rpartition("/")[2].partition(".")[0].lower()
    by_key = (("jobs", PIPELINE), ("trial", SWEEP), ("command", COMMAND))
    implied = next((kind for key, kind in by_key if root.given(key) is not None), None)
    kind = root.text("type") or SCHEMAS.get(schema) or implied
    if kind is None:
        raise BadUsage(
            f"'{shown}' holds no job: it has neither 'type' nor 'command'.",
            hint="It has to be a command, sweep or pipeline job of Azure ML.",
        )
    return JobDocument(path, kind, root)


def changed_code(root: Part) -> dict[str, str]:
    """The folders of code in the whole file that have `\\` for `/`, by their keys with dots, as this machine finds
    them."""

    def mappings(part: Part, keys: Collection[str]) -> list[Part]:
        return [part.part(key) for key in keys if isinstance(part.given(key), Mapping)]

    parts = [root, *mappings(root.part("jobs"), root.part("jobs").content)]
    parts += [each for part in parts for each in mappings(part, ("trial", "component"))]
    given = {f"{part.prefix}code": part.given("code") for part in parts}
    local = {key: code for key, code in given.items() if isinstance(code, str) and not code.startswith(ELSEWHERE)}
    return {key: found for key, code in local.items() if (found := as_found(root.folder, code)) != code}


# Inputs and outputs


Values = dict[str, DataSpec | str]
"""The inputs of a job by key: data, or the text that stands for a plain value in the command."""


def read_inputs(part: Part) -> Values:
    """The inputs that are given, those that are declared without a value left out. Raises BadUsage naming the key."""
    found = {key: read_input(part, key) for key in part.content}
    return {key: value for key, value in found.items() if value is not None}


def read_input(part: Part, key: str) -> DataSpec | str | None:
    """One input: data, or the text of a plain value; None for one that is declared only."""
    _check_key(part, key)
    value = part.given(key)
    if not isinstance(value, Mapping):
        return _literal(part, key, value)
    item = part.part(key)
    item.check_keys(INPUT_KEYS)
    kind = item.text("type") or ("uri_folder" if item.given("path") is not None else "string")
    if kind in LITERAL_TYPES:
        plain = item.given("value") if item.given("value") is not None else item.given("default")
        return _literal(part, key, plain) if plain is not None else None
    if kind not in DATA_TYPES:
        kinds = ", ".join((*DATA_TYPES, *LITERAL_TYPES))
        raise item.wrong("type", f"cannot be '{kind}'.", hint=f"It is one of: {kinds}.")
    return None if item.given("path") is None else _data_at(item, key)


def read_output(part: Part, key: str) -> DataSpec:
    """One output: the folder it names, else one of its own. Raises BadUsage naming the key."""
    _check_key(part, key)
    item = part.part(key)
    item.check_keys(OUTPUT_KEYS)
    kind = item.text("type") or "uri_folder"
    if kind not in DATA_TYPES:
        raise item.wrong("type", f"cannot be '{kind}' here.", hint=f"It is one of: {', '.join(DATA_TYPES)}.")
    path = item.text("path")
    if not path:
        return DataSpec(key, "")
    found = _data_at(item, key)
    if found.local is not None and not path.startswith(("/", ".", "file:")):
        hint = "Write azureml://datastores/NAME/paths/FOLDER"
        raise item.wrong("path", f"'{path}' is no folder of a datastore.", hint=hint)
    return found


def _check_key(part: Part, key: str) -> None:
    if not KEY.fullmatch(key):
        raise part.wrong(key, "cannot be a key.", hint="A key has letters, digits and _, and no digit first.")


def _data_at(item: Part, key: str) -> DataSpec:
    """The data at the path of *item*: a folder or file of this machine, a registered dataset, or a folder of a
    datastore. Raises BadUsage for what cannot be had here."""
    path, mode = item.text("path"), MODES.get(item.text("mode"))
    if found := _DATASTORE.fullmatch(path):
        datastore = found["datastore"] if found["datastore"] != USUAL_DATASTORE else None
        return DataSpec(key, found["path"].strip("/"), datastore=datastore, mode=mode)
    if found := _ASSET.fullmatch(path):
        version = None if found["version"] == "latest" else found["version"]
        return DataSpec(key, found["name"], version=version, mode=mode)
    if _REMOTE.match(path):
        hint = "Here it is a folder, a registered dataset (azureml:NAME) or azureml://datastores/NAME/paths/FOLDER"
        raise item.wrong("path", f"'{path}' cannot be had here.", hint=hint)
    return DataSpec(key, Path(as_found(item.folder, path)).name, local=str(_local_path(item, path)))


def _local_path(part: Part, path: str) -> Path:
    """A path of this machine, relative to the file's folder, with `/` or `\\`."""
    return (part.folder / os.path.expanduser(as_found(part.folder, path.removeprefix("file:")))).absolute()


def _literal(part: Part, key: str, value: Any) -> str:
    """A plain value as Azure ML puts it into a command."""
    if value is None or isinstance(value, (list, Mapping)):
        raise part.wrong(key, "has no value." if value is None else "must be a plain value or a dataset.")
    return part.written(key, value)


# Components: in files of their own, or where they are used


def component_at(part: Part, key: str) -> Part:
    """The component that *key* names or holds. Raises BadUsage for one that does not lie on this machine."""
    if not isinstance(part.given(key), str):
        return part.part(key)
    path = part.text(key)
    if path.startswith("azureml:"):
        hint = "Name its file, or a cluster with --cluster."
        raise part.wrong(key, f"'{path}' is kept by Azure ML and cannot run here.", hint=hint)
    found = _local_path(part, path)
    if not os.path.isfile(found):  # also for a name that no file system takes
        raise part.wrong(key, f"'{path}' is no file.", hint=f"It is relative to '{part.folder}'.")
    shown = str(Path(part.shown).parent / path.removeprefix("file:"))
    return Part(shown, found.parent, parse_mapping(read_text(found, part.prefix + key), Path(path)))


def with_defaults(component: Part, given: Values) -> Values:
    """The values that are *given*, and the defaults of those that are not. Raises BadUsage for an input that has
    neither, unless it is optional."""
    declared = component.part("inputs")
    values = {**given}
    for key in declared.content:
        if key in given:
            continue
        found = read_input(declared, key)
        if isinstance(found, str):
            values[key] = found
        elif not isinstance(declared.given(key), dict) or declared.part(key).given("optional") is not True:
            raise declared.wrong(key, "gets no value.", hint="Give one in the job's inputs.")
    return values


# Commands


class CommandReader:
    """Makes jobs of the commands in one file; `snapshots` by folder, `idle` keys that count on a cluster only, and
    `remarks` gather what was found."""

    def __init__(self, request: SubmitRequest) -> None:
        self._request = request
        self.snapshots: dict[Path, SnapshotReport] = {}
        self.idle: dict[str, None] = {}
        self.remarks: list[str] = []

    def job(
        self, part: Part, common: JobSpec, values: Values, outputs_of: Part, space: Collection[str] = ()
    ) -> JobSpec:
        """The job whose command, code and ranks *part* holds, with its inputs' *values*, the outputs and limits of
        *outputs_of* and the hyperparameters in *space*. Raises BadUsage naming the key."""
        outputs = outputs_of.part("outputs")
        text = _command(part, values, list(outputs.content), space)
        processes, distribution = self._processes(part)
        self.note_idle(part)
        self.note_idle(outputs_of)
        variables = part.part("environment_variables")
        literals: Values = {key: value for key, value in values.items() if isinstance(value, str)}
        env = {}
        for key, value in variables.content.items():
            shown = str(value).lower() if isinstance(value, bool) else variables.text(key)
            env[key] = _filled(variables, key, shown, literals, {})
        return replace(
            common,
            entry=Entry(EntryKind.command, text),
            snapshot=self._snapshot(part),
            processes=processes,
            distribution=distribution,
            max_seconds=common.max_seconds or outputs_of.part("limits").seconds("timeout"),
            env={**env, **common.env},
            inputs=[value for value in values.values() if isinstance(value, DataSpec)],
            outputs=[read_output(outputs, key) for key in outputs.content],
        )

    def note_idle(self, part: Part) -> None:
        """Remember which keys of a cluster *part* has."""
        for key in filter(part.given, IDLE):
            given = part.given(key)
            names = [f"{key}.{name}" for name in given] if key == "resources" and isinstance(given, Mapping) else [key]
            self.idle |= dict.fromkeys(name for name in names if name != "resources.instance_count")

    def _snapshot(self, part: Part) -> Snapshot:
        """The files of `code`; none where there is no such key."""
        code = part.text("code")
        if not code:
            return Snapshot(part.folder, (), 0)
        if code.startswith(ELSEWHERE):
            raise part.wrong("code", f"'{code}' cannot be had here.", hint="Here it is a folder.")
        folder = _local_path(part, code)
        if not os.path.isdir(folder):  # also for a name that no file system takes
            raise part.wrong("code", f"'{code}' is no folder.", hint=f"It is relative to '{part.folder}'.")
        folder = folder.resolve()
        if folder not in self.snapshots:
            self.snapshots[folder] = take_snapshot(folder, self._request.ignored_folders, self._request.include_secret)
        return self.snapshots[folder].snapshot

    def _processes(self, part: Part) -> tuple[int | None, str]:
        """Processes (None: a plain one) and what starts them."""
        nodes = part.part("resources").count("instance_count", 1, most=MOST_NODES)
        if nodes is not None and nodes > 1:
            self.remarks.append(f"'{part.prefix}resources.instance_count': one node here in place of {nodes}.")
        distribution = part.part("distribution")
        if not distribution.content:
            return None, "pytorch"
        kind = distribution.text("type").lower()
        if kind not in DISTRIBUTIONS:
            hint = f"Here it is one of: {', '.join(DISTRIBUTIONS)}."
            raise distribution.wrong("type", f"'{kind}' cannot be had here.", hint=hint)
        return distribution.count("process_count_per_instance", 1, most=MOST_PROCESSES), kind


def _command(part: Part, values: Values, outputs: Collection[str], space: Collection[str]) -> str:
    """The text of `command` with its plain values filled in; data and hyperparameters stay for whoever runs it. Raises
    BadUsage where there is none, or it names an input, output or hyperparameter that is not there."""
    text = part.text("command").strip()
    if not text:
        raise part.wrong("command", "is missing.")

    def optional(block: re.Match[str]) -> str:
        named = [found[2] for found in PLACEHOLDER.finditer(block[1]) if found[1] == "inputs"]
        return block[1] if all(name in values for name in named) else ""

    end = text.rfind("]]") + 2  # only to there: what is opened and never closed would be looked for again and again
    text = (_OPTIONAL.sub(optional, text[:end]) + text[end:]).strip()
    return _filled(part, "command", text, values, {"outputs": outputs, "search_space": space})


def _filled(part: Part, key: str, text: str, values: Values, others: Mapping[str, Collection[str]]) -> str:
    """*text* with literals in the place of their placeholders. Raises BadUsage for a placeholder that names nothing."""
    for found in _ANY.finditer(text, 0, text.rfind("}}") + 2):
        named = PLACEHOLDER.fullmatch(found[0])
        known = others.get(named[1], ()) if named and named[1] != "inputs" else values
        if named is None or named[2] not in known:
            hint = f"there are: {shorten(', '.join(known)) or 'none'}"
            if named is None:
                hint = "placeholders are ${{inputs.KEY}}, ${{outputs.KEY}}, ${{search_space.NAME}}"
            raise part.wrong(key, f"has '{shorten(found[0])}', which names nothing; {hint}.")
    literals = {key: value for key, value in values.items() if isinstance(value, str)}
    return PLACEHOLDER.sub(lambda found: literals.get(found[2], found[0]) if found[1] == "inputs" else found[0], text)
