"""A job's YAML file, or a part of it, read by key with errors that name the key. Importing this loads the YAML
library."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from himl_cli.services.submission.request import MOST_NODES, MOST_PROCESSES, MOST_SECONDS, count_wanted
from himl_cli.services.submission.snapshot import take_snapshot
from himl_cli.services.text_files import as_found, read_text
from himl_cli.services.yaml_files import parse_mapping

COMMAND, SWEEP, PIPELINE = "command", "sweep", "pipeline"
SCHEMAS = {"commandjob": COMMAND, "sweepjob": SWEEP, "pipelinejob": PIPELINE}


@dataclass(frozen=True)
class Part:
    """A mapping of a file: `shown` is what messages call the file, `prefix` the keys above it with dots, `folder` what
    its paths are relative to."""

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
        """The text of *key*, numbers as written; empty where there is none. Raises BadUsage for anything else."""
        value = self.content.get(key)
        if value is None:
            return ""
        if isinstance(value, (Mapping, list)):
            raise self.wrong(key, "must be text.")
        return self.written(key, value)

    def written(self, key: str, value: Any) -> str:
        """A plain value of *key* as text. Raises BadUsage for the character that no program can be given."""
        if "\0" in str(value):
            raise self.wrong(key, "has the character NUL, \\0.", hint="No program can be given that.")
        return str(value)

    def part(self, key: str) -> Part:
        """The mapping of *key*; an empty one where there is none. Raises BadUsage for anything else."""
        value = self.content.get(key)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.wrong(key, f"must hold keys and values, not {shorten(repr(value))}.")
        return Part(
            self.shown, self.folder, {str(name): entry for name, entry in value.items()}, f"{self.prefix}{key}."
        )

    def count(self, key: str, default: int | None = None, *, most: int | None = None) -> int | None:
        """The whole number from 1 to *most* of *key*. Raises BadUsage for anything else."""
        value = self.content.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, f"must be a whole number from 1 on, not {shorten(repr(value))}.")
        if most is not None and value > most:
            raise self.wrong(key, count_wanted(value, most))
        return value

    def number(self, key: str) -> float | None:
        """The number of *key*, a finite one. Raises BadUsage for anything else."""
        value = self.content.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
        ):
            raise self.wrong(key, f"must be a number, not {shorten(repr(value))}.")
        return value

    def seconds(self, key: str) -> float | None:
        """The seconds, more than none, of *key*. Raises BadUsage for anything else."""
        found = self.number(key)
        if found is not None and not 0 < found <= MOST_SECONDS:
            raise self.wrong(key, f"must be a number of seconds, not {found:g}.")
        return None if found is None else float(found)

    def check_keys(self, known: Collection[str]) -> None:
        """Raises BadUsage for a key that is not *known*."""
        for key in self.content:
            if key not in known:
                raise self.wrong(
                    key,
                    "is no key that himl knows there.",
                    hint=did_you_mean(key, known) or f"There are: {', '.join(sorted(known))}.",
                )


@dataclass(frozen=True)
class JobDocument:
    """The whole file: `kind` is its type (`command`, `sweep`, `pipeline`, or another of Azure ML's)."""

    path: Path
    kind: str
    root: Part

    @property
    def compute(self) -> str:
        """The compute that the job runs on, without `azureml:`; `local` for here, empty where none is named."""
        if self.kind != PIPELINE:
            return _name(self.root.text("compute"))
        named = [_name(self.root.part("settings").text("default_compute")), _name(self.root.text("compute"))]
        jobs = self.root.part("jobs")
        named += [_name(jobs.part(key).text("compute")) for key in jobs.content]
        there = [name for name in named if name and name != HERE]
        return there[0] if there else next(filter(None, named), "")


def read_document(path: Path, shown: str) -> JobDocument:
    """The file at *path*. Raises BadUsage where it holds no job."""
    text = read_text(path, "TARGET")
    root = Part(shown, path.parent, parse_mapping(text, Path(shown)))
    return JobDocument(path, _kind(root), root)


def _kind(root: Part) -> str:
    if root.text("type"):
        return root.text("type")
    schema = root.text("$schema").rpartition("/")[2].partition(".")[0].lower()
    if schema in SCHEMAS:
        return SCHEMAS[schema]
    for key, kind in (("jobs", PIPELINE), ("trial", SWEEP), ("command", COMMAND)):
        if root.given(key) is not None:
            return kind
    raise BadUsage(
        f"'{root.shown}' holds no job: it has neither 'type' nor 'command'.",
        hint="It has to be a command, sweep or pipeline job of Azure ML.",
    )


def _name(compute: str) -> str:
    return compute.strip().removeprefix("azureml:").strip()


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


_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_ANY = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)


def filled_command(part: Part, values: Values, outputs: Collection[str], space: Collection[str]) -> str:
    """The text of `command`. Raises BadUsage where there is none, or it names an input, output or hyperparameter that
    is not there."""
    text = part.text("command").strip()
    if not text:
        raise part.wrong("command", "is missing.")
    end = text.rfind("]]") + 2  # only to there: what is opened and never closed would be looked for again and again
    text = (
        _OPTIONAL.sub(lambda block: block[1] if _is_whole(block[1], values) else "", text[:end]) + text[end:]
    ).strip()
    return filled(part, "command", text, values, {"outputs": outputs, "search_space": space})


def filled(part: Part, key: str, text: str, values: Values, others: Mapping[str, Collection[str]]) -> str:
    """*text* with literals in the place of their placeholders. Raises BadUsage for a placeholder that names nothing."""
    for found in _ANY.finditer(text, 0, text.rfind("}}") + 2):
        named = PLACEHOLDER.fullmatch(found[0])
        known = others.get(named[1], ()) if named and named[1] != "inputs" else (*values.literals, *values.data)
        if named is None or named[2] not in known:
            names = shorten(", ".join(known)) or "none"
            there = (
                f"there are: {names}"
                if named
                else "placeholders are ${{inputs.KEY}}, ${{outputs.KEY}}, ${{search_space.NAME}}"
            )
            raise part.wrong(key, f"has '{shorten(found[0])}', which names nothing; {there}.")
    return PLACEHOLDER.sub(
        lambda found: values.literals.get(found[2], found[0]) if found[1] == "inputs" else found[0], text
    )


def _is_whole(block: str, values: Values) -> bool:
    """Whether all inputs that an optional piece of the command names are given."""
    return all(
        found[2] in values.literals or found[2] in values.data
        for found in PLACEHOLDER.finditer(block)
        if found[1] == "inputs"
    )


def component_at(part: Part, key: str) -> Part:
    """The component that *key* names or holds. Raises BadUsage for one that does not lie on this machine."""
    if not isinstance(part.given(key), str):
        return part.part(key)
    path = part.text(key)
    if path.startswith("azureml:"):
        raise part.wrong(
            key,
            f"'{path}' is kept by Azure ML and cannot run here.",
            hint="Name its file, or a cluster with --cluster.",
        )
    found = local_path(part, path)
    if not os.path.isfile(found):  # also for a name that no file system takes
        raise part.wrong(key, f"'{path}' is no file.", hint=f"It is relative to '{part.folder}'.")
    return Part(_shown(part, path), found.parent, parse_mapping(read_text(found, part.prefix + key), Path(path)))


def with_defaults(component: Part, given: Values) -> Values:
    """The values that are *given*, and the defaults of those that are not. Raises BadUsage for an input that has
    neither, unless it is optional."""
    declared = component.part("inputs")
    values = Values(dict(given.literals), dict(given.data))
    for key in declared.content:
        if key in given.literals or key in given.data:
            continue
        found = read_input(declared, key)
        if isinstance(found, str):
            values.literals[key] = found
        elif not isinstance(declared.given(key), dict) or declared.part(key).given("optional") is not True:
            raise declared.wrong(key, "gets no value.", hint="Give one in the job's inputs.")
    return values


def _shown(part: Part, path: str) -> str:
    return str(Path(part.shown).parent / path.removeprefix("file:"))


NAMING = (
    "$schema",
    "type",
    "name",
    "version",
    "experiment_name",
    "display_name",
    "description",
    "tags",
    "properties",
    "id",
)
RUNNING = ("code", "command", "environment", "environment_variables", "distribution", "resources")
AROUND = ("inputs", "outputs", "compute", "limits", "identity", "services", "queue_settings", "is_deterministic")
COMMAND_KEYS = (*NAMING, *RUNNING, *AROUND)
IDLE = ("environment", "identity", "services", "queue_settings", "resources")
"""What is of a cluster, and does no harm where there is none."""
ELSEWHERE = ("azureml:", "git+", "http:", "https:")


@dataclass
class Laid:
    """What was found on the way: snapshots by folder, and keys that count on a cluster only."""

    ignored_folders: Sequence[str] = ()
    include_secret: Sequence[str] = ()
    snapshots: dict[Path, SnapshotReport] = field(default_factory=dict)
    idle: dict[str, None] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def command_job(part: Part, common: JobSpec, laid: Laid) -> JobSpec:
    """The job of the whole file. Raises BadUsage naming the key."""
    part.check_keys(COMMAND_KEYS)
    return running(part, common, read_inputs(part.part("inputs")), laid, outputs_of=part)


def running(
    part: Part,
    common: JobSpec,
    values: Values,
    laid: Laid,
    *,
    outputs_of: Part,
    space: Mapping[str, object] | None = None,
) -> JobSpec:
    """The job whose command, code and ranks *part* holds, with its inputs' *values* and the outputs and limits of
    *outputs_of*."""
    outputs = outputs_of.part("outputs")
    text = filled_command(part, values, list(outputs.content), list(space or {}))
    processes, distribution = _ranks(part, laid)
    note_idle(part, laid)
    if part is not outputs_of:
        note_idle(outputs_of, laid)
    return replace(
        common,
        entry=Entry(EntryKind.command, text),
        snapshot=_snapshot(part, laid),
        processes=processes,
        distribution=distribution,
        max_seconds=common.max_seconds or outputs_of.part("limits").seconds("timeout"),
        env={**_variables(part, values), **common.env},
        inputs=[item for key, item in values.data.items()],
        outputs=[read_output(outputs, key) for key in outputs.content],
    )


def note_idle(part: Part, laid: Laid) -> None:
    """Remember which keys of a cluster *part* has."""
    for key in IDLE:
        given = part.given(key)
        if given:
            names = [f"{key}.{name}" for name in given] if key == "resources" and isinstance(given, Mapping) else [key]
            laid.idle.update(dict.fromkeys(name for name in names if name != "resources.instance_count"))


def changed_code(root: Part) -> dict[str, str]:
    """The folders of code in the whole file that have `\\` for `/`, by their keys with dots, as this machine finds
    them."""
    parts = [root, *_mappings(root.part("jobs"))]
    parts += [each for part in parts for each in _mappings(part, ("trial", "component"))]
    given = {f"{part.prefix}code": part.given("code") for part in parts}
    local = {key: code for key, code in given.items() if isinstance(code, str) and not code.startswith(ELSEWHERE)}
    return {key: found for key, code in local.items() if (found := as_found(root.folder, code)) != code}


def _mappings(part: Part, keys: Collection[str] | None = None) -> list[Part]:
    """Those of the entries of *part* (of *keys*) that are mappings."""
    return [
        part.part(key) for key in part.content if isinstance(part.given(key), Mapping) and (keys is None or key in keys)
    ]


def _snapshot(part: Part, laid: Laid) -> Snapshot:
    """The files of `code`; none where there is no such key."""
    code = part.text("code")
    if not code:
        return Snapshot(part.folder, (), 0)
    if code.startswith(ELSEWHERE):
        raise part.wrong("code", f"'{code}' cannot be had here.", hint="Here it is a folder.")
    folder = local_path(part, code)
    if not os.path.isdir(folder):  # also for a name that no file system takes
        raise part.wrong("code", f"'{code}' is no folder.", hint=f"It is relative to '{part.folder}'.")
    folder = folder.resolve()
    if folder not in laid.snapshots:
        laid.snapshots[folder] = take_snapshot(folder, laid.ignored_folders, laid.include_secret)
    return laid.snapshots[folder].snapshot


def _variables(part: Part, values: Values) -> dict[str, str]:
    variables = part.part("environment_variables")
    plain = Values(literals=values.literals)
    return {key: filled(variables, key, _variable(variables, key), plain, {}) for key in variables.content}


def _variable(variables: Part, key: str) -> str:
    value = variables.given(key)
    return str(value).lower() if isinstance(value, bool) else variables.text(key)


def _ranks(part: Part, laid: Laid) -> tuple[int | None, str]:
    """Processes (None: a plain one) and what starts them."""
    nodes = part.part("resources").count("instance_count", 1, most=MOST_NODES)
    if nodes is not None and nodes > 1:
        laid.remarks.append(f"'{part.prefix}resources.instance_count': one node here in place of {nodes}.")
    distribution = part.part("distribution")
    if not distribution.content:
        return None, "pytorch"
    kind = distribution.text("type").lower()
    if kind not in DISTRIBUTIONS:
        raise distribution.wrong(
            "type", f"'{kind}' cannot be had here.", hint=f"Here it is one of: {', '.join(DISTRIBUTIONS)}."
        )
    return distribution.count("process_count_per_instance", 1, most=MOST_PROCESSES), kind
