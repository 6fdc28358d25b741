"""A pipeline's JSON file in DeepSeismic's schema, its files, and the `.env` that names storage and cluster."""

from __future__ import annotations

import json
import os
import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import ClusterSpec, ContainerSpec
from himl_cli.core.redaction import redact
from himl_cli.core.text import NotJson, did_you_mean, read_json
from himl_cli.services.project_setup import parse_dotenv
from himl_cli.services.submission.request import LONGEST_SHOWN, MOST, MOST_NODES, count_wanted, whole_number
from himl_cli.services.text_files import as_found, read_text, with_slashes

PYTHON_STEP, MPI_STEP = "PythonScriptStep", "MpiStep"
TYPES = (PYTHON_STEP, MPI_STEP)
STEP_KEY = re.compile(r"step\d+", re.ASCII)
REQUIRED = ("type", "script", "source_directory")
DATA = ("input_datareference_path", "input_datareference_name", "input_dataset_name", "output")
TEXTS = (*REQUIRED, "name", "requirements", "base_image", *DATA)
COUNTS = ("node_count", "processes_per_node")
LONGEST_LINE = 100_000
"""Characters of arguments in one text; Linux gives a program no more than 131,072 in one."""
PASSED_OVER = ("output_path",)
"""Fields that DeepSeismic's program knew beside those of its documents, and that have no meaning here."""
KNOWN = (*TEXTS, *COUNTS, "arguments")
KINDS = {bool: "a truth value", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}

ENV_FILE = ".env"
ACCOUNT, CONTAINER, KEY, SUBSCRIPTION = "BLOB_ACCOUNT_NAME", "BLOB_CONTAINER_NAME", "BLOB_ACCOUNT_KEY", "BLOB_SUB_ID"
CLUSTER, SIZE = "AML_COMPUTE_CLUSTER_NAME", "AML_COMPUTE_CLUSTER_SKU"
MIN_NODES, MAX_NODES = "AML_COMPUTE_CLUSTER_MIN_NODES", "AML_COMPUTE_CLUSTER_MAX_NODES"
NAMES = (ACCOUNT, CONTAINER, KEY, SUBSCRIPTION, CLUSTER, MIN_NODES, MAX_NODES, SIZE)
DEFAULT_SIZE = "Standard_NC6"
"""What DeepSeismic's documents name; a cluster that exists is used whatever its size is."""


@dataclass(frozen=True)
class Step:
    """One step, fields as in the file; empty where there is none. `key` is its key (`step1`)."""

    key: str
    type: str
    script: str
    source_directory: str
    name: str
    arguments: Sequence[str] = ()
    requirements: str = ""
    base_image: str = ""
    node_count: int = 1
    processes_per_node: int = 1
    input_datareference_path: str = ""
    input_datareference_name: str = ""
    input_dataset_name: str = ""
    output: str = ""
    passed_over: Sequence[str] = ()


@dataclass(frozen=True)
class PipelineFile:
    """The steps in the file's order; `shown` is what messages call the file."""

    path: Path
    shown: str
    steps: Sequence[Step] = ()

    def wrong(self, step: str, key: str, what: str, *, hint: str = "") -> BadUsage:
        """An error about a field of a step; *what* completes the sentence `'pipeline.json', step1: 'script' …`."""
        about = f"'{key}' {what}" if key else what
        return BadUsage(redact(f"'{self.shown}', {step}: {about}"), hint=hint)


def read_pipeline(path: Path, shown: str) -> PipelineFile:
    """The file at *path*, all of it checked by itself: no other file is looked for. Raises BadUsage naming the step and
    the key."""
    content = _parsed(path, shown)
    if not isinstance(content, Mapping):
        raise BadUsage(
            f"'{shown}' holds no steps, but {_kind(content)}.",
            hint='A pipeline looks like {"step1": {"type": "PythonScriptStep", …}}',
        )
    if not content:
        raise BadUsage(f"'{shown}' holds no steps.", hint="They are called step1, step2, …")
    for key in content:
        if not STEP_KEY.fullmatch(key):
            raise BadUsage(redact(f"'{shown}': '{key}' is no name of a step."), hint="Steps are called step1, step2, …")
    file = PipelineFile(path, shown)
    return PipelineFile(path, shown, [_step(file, key, value) for key, value in content.items()])


def _parsed(path: Path, shown: str) -> Any:
    text = read_text(path, "TARGET")

    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise BadUsage(
                redact(f"'{shown}': the key '{twice}' stands there twice."),
                hint="Of two the first would be lost; rename or remove one.",
            )
        return made

    try:
        return read_json(text, pairs=without_doubles)
    except NotJson as err:
        where = f", line {err.line}, column {err.column}" if err.line else ""
        raise BadUsage(
            f"'{shown}'{where}: {err}.",
            hint="The file is no valid JSON; no comments, no comma behind the last entry.",
        ) from err


def _step(file: PipelineFile, key: str, value: Any) -> Step:
    if not isinstance(value, Mapping):
        raise file.wrong(key, "", f"holds no fields, but {_kind(value)}.")
    for name in value:
        if name not in KNOWN and name not in PASSED_OVER:
            hint = did_you_mean(name, KNOWN) or f"There are: {', '.join(KNOWN)}."
            raise file.wrong(key, name, "is no field of a step.", hint=hint)
    given = {name: entry for name, entry in value.items() if entry is not None}
    fields: dict[str, Any] = {"name": key}
    for name in (name for name in TEXTS if name in given):
        if not isinstance(given[name], str):
            raise file.wrong(key, name, f"must be text, not {_kind(given[name])}.")
        fields[name] = _without_nul(file, key, name, given[name].strip())
    for name in REQUIRED:
        if not fields.get(name):
            raise file.wrong(key, name, "is missing.", hint=f"A step has at least: {', '.join(REQUIRED)}.")
    if fields["type"] not in TYPES:
        hint = did_you_mean(fields["type"], TYPES) or f"It is one of: {', '.join(TYPES)}."
        raise file.wrong(key, "type", f"cannot be '{fields['type']}'.", hint=hint)
    fields |= {name: _count(file, key, name, given[name]) for name in COUNTS if name in given}
    fields["name"] = fields["name"] or key
    arguments = _arguments(file, key, given.get("arguments", ()))
    return Step(key, **fields, arguments=arguments, passed_over=[name for name in PASSED_OVER if name in given])


def _without_nul(file: PipelineFile, step: str, key: str, text: str) -> str:
    """*text*. Raises BadUsage where it has the character that no program can be given."""
    if "\0" in text:
        raise file.wrong(step, key, "has the character NUL, \\u0000.", hint="No name and no argument can have it.")
    return text


def _count(file: PipelineFile, step: str, key: str, value: Any) -> int:
    """A whole number from 1, which may be given as text."""
    number = value.strip() if isinstance(value, str) else value
    if isinstance(number, str) and number.isascii() and number.isdigit():
        digits = number.lstrip("0")[: LONGEST_SHOWN + 1] or "0"
        number = int(digits)  # of thousands of digits Python makes no number; cut, it still is too large
    found = whole_number(number, MOST[key])
    if found is None:
        shown = number if isinstance(number, int) and number > 0 else value
        raise file.wrong(step, key, count_wanted(shown, MOST[key]))
    return found


def _arguments(file: PipelineFile, step: str, value: Any) -> list[str]:
    """The script's arguments: a list of texts and numbers, or one text that is split as a shell does."""
    if isinstance(value, str):
        if len(value) > LONGEST_LINE:
            what = f"is longer than {LONGEST_LINE:,} characters."
            raise file.wrong(step, "arguments", what, hint="Give the script a file instead.")
        try:
            return shlex.split(_without_nul(file, step, "arguments", value))
        except ValueError as err:
            hint = "Close it, or give the arguments as a list."
            raise file.wrong(step, "arguments", "has a quote that does not end.", hint=hint) from err
    if not isinstance(value, Sequence):
        raise file.wrong(step, "arguments", f"must be a list or a text, not {_kind(value)}.")
    for entry in value:
        if entry is None or isinstance(entry, (Mapping, list)):
            raise file.wrong(step, "arguments", f"holds {_kind(entry)}.", hint="Each of them is a text or a number.")
    texts = [str(entry) if isinstance(entry, (str, bool)) else json.dumps(entry) for entry in value]
    return [_without_nul(file, step, "arguments", text) for text in texts]


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    return "nothing (null)" if value is None else KINDS[type(value)]


# Its files: relative to its own folder, else to the current one, as DeepSeismic ran it


@dataclass(frozen=True)
class StepFiles:
    """The source folder of a step, its script relative to that (`/` separators), and its requirements file, if it has
    one."""

    source: Path
    script: str
    requirements: Path | None


def step_files(file: PipelineFile, step: Step, cwd: Path) -> StepFiles:
    """The files of *step*. Raises BadUsage, naming the step and the key, for one that is not there."""
    folders = list(dict.fromkeys((file.path.parent.resolve(), cwd.resolve())))
    found = [folder / as_found(folder, step.source_directory) for folder in folders]
    source = next(filter(os.path.isdir, found), None)  # also for a name that no file system takes
    if source is None:
        if any(map(os.path.exists, found)):
            what, hint = "is no folder.", "Name the folder that holds the script."
        else:
            names = [path.name for folder in folders for path in folder.iterdir() if path.is_dir()]
            what, hint = "does not exist.", _near(step.source_directory, names, folders)
        raise file.wrong(step.key, "source_directory", f"'{step.source_directory}' {what}", hint=hint)
    source = source.resolve()
    return StepFiles(source, _script(file, step, source), _requirements(file, step, folders))


def _script(file: PipelineFile, step: Step, source: Path) -> str:
    script = Path(os.path.normpath(source / as_found(source, step.script)))
    if not script.is_relative_to(source):
        what = f"'{step.script}' lies outside source_directory '{step.source_directory}'."
        raise file.wrong(step.key, "script", what, hint="Only that folder is sent.")
    relative = script.relative_to(source).as_posix()
    if script.suffix != ".py":
        raise file.wrong(step.key, "script", f"'{step.script}' is no .py script.")
    if not os.path.isfile(script):
        beside = script.parent.glob("*.py") if os.path.isdir(script.parent) else ()
        hint = _near(relative, [path.relative_to(source).as_posix() for path in beside])
        hint = hint or "The path is relative to the step's source_directory."
        raise file.wrong(step.key, "script", f"'{step.script}' is not in '{source}'.", hint=hint)
    return relative


def _requirements(file: PipelineFile, step: Step, folders: Sequence[Path]) -> Path | None:
    if not step.requirements:
        return None
    found = next(filter(os.path.isfile, (folder / as_found(folder, step.requirements) for folder in folders)), None)
    if found is None:
        names = [
            Path(os.path.relpath(path, folder)).as_posix()
            for folder in folders
            for path in (folder / with_slashes(step.requirements)).parent.glob("*.txt")
        ]
        hint = _near(step.requirements, names, folders)
        raise file.wrong(step.key, "requirements", f"'{step.requirements}' is no file.", hint=hint)
    return found


def _near(name: str, names: Sequence[str], folders: Sequence[Path] = ()) -> str:
    near = get_close_matches(posixpath.normpath(with_slashes(name)), names, n=1)
    looked = f"The path is relative to {' or '.join(repr(str(folder)) for folder in folders)}." if folders else ""
    return f"Did you mean '{near[0]}'?" if near else looked


# What DeepSeismic's `.env` says of storage and cluster


@dataclass(frozen=True)
class PipelineVariables:
    """The variables that are set, and where each was read: `variable` for the environment, else the file. Its text
    shows no value."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        return self.values.get(CLUSTER, "")

    def container(self, name: str) -> ContainerSpec | None:
        """The blob container that holds the data, to be called *name* where it is registered; None where it is not
        named. Raises BadUsage where half of it is named, without its values."""
        account, container = self.values.get(ACCOUNT, ""), self.values.get(CONTAINER, "")
        if bool(account) != bool(container):
            given, lacking = (ACCOUNT, CONTAINER) if account else (CONTAINER, ACCOUNT)
            raise BadUsage(
                f"{given} is set, and {lacking} is not.",
                hint=f"Set both, in {self.sources.get(given)!r} or the environment, or neither.",
            )
        key, subscription = self.values.get(KEY, ""), self.values.get(SUBSCRIPTION, "")
        return ContainerSpec(account, container, key, subscription, name) if account else None

    def cluster_spec(self, name: str, nodes: int, step: str) -> ClusterSpec:
        """The cluster *name* as it is to be made; without a word on its size it gets *nodes* at most, which *step*
        wants. Raises BadUsage for numbers that are none, and for fewer."""
        least, most = self._count(MIN_NODES, 0), self._count(MAX_NODES, nodes)
        if least > most:
            raise BadUsage(
                f"{MIN_NODES} is {least}, and {MAX_NODES} is {most}.", hint="The first is the smaller number."
            )
        if nodes > most:
            raise BadUsage(
                f"{MAX_NODES} is {most}, and {step} has a node_count of {nodes}.",
                hint="The largest step has to fit into the cluster.",
            )
        return ClusterSpec(name, self.values.get(SIZE, "") or DEFAULT_SIZE, least, most)

    def _count(self, name: str, default: int) -> int:
        text = self.values.get(name, "")
        if text and not (text.isascii() and text.isdigit()):
            raise BadUsage(f"{name} cannot be '{text}'.", hint="It is a whole number of nodes.")
        if len(text.lstrip("0")) > len(str(MOST_NODES)) or int(text or 0) > MOST_NODES:
            raise BadUsage(f"{name}: a cluster has {MOST_NODES:,} nodes at most.")
        return int(text) if text else default


def pipeline_variables(start: Path, cwd: Path, env: Mapping[str, str]) -> PipelineVariables:
    """What is set in *env*, and in the nearest `.env` that sets any of it, from *start* upward, else from *cwd*. Raises
    BadUsage for a file that is broken."""
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for path in [folder / ENV_FILE for folder in dict.fromkeys((start, *start.parents, cwd, *cwd.parents))]:
        text = read_text(path, ENV_FILE) if path.is_file() else ""
        if any(name in text for name in NAMES):
            values = {name: value for name, value in parse_dotenv(text, path).items() if name in NAMES and value}
            sources = dict.fromkeys(values, str(path))
        if values:
            break
    for name in NAMES:
        if env.get(name):
            values[name], sources[name] = env[name], "variable"
    return PipelineVariables(values, sources)
