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
from himl_cli.services.setup import parse_dotenv
from himl_cli.services.submission.request import LONGEST_SHOWN, MOST, MOST_NODES, count_wanted, whole_number
from himl_cli.services.text_files import as_found, read_text, with_slashes

PYTHON_STEP, MPI_STEP = "PythonScriptStep", "MpiStep"
TYPES = (PYTHON_STEP, MPI_STEP)
STEP_KEY = re.compile(r"step\d+", re.ASCII)
REQUIRED = ("type", "script", "source_directory")
TEXTS = (
    *REQUIRED,
    "name",
    "requirements",
    "base_image",
    "input_datareference_path",
    "input_datareference_name",
    "input_dataset_name",
    "output",
)
COUNTS = ("node_count", "processes_per_node")
LONGEST_LINE = 100_000
"""Characters of arguments in one text; Linux gives a program no more than 131,072 in one."""
PASSED_OVER = ("output_path",)
"""Fields that DeepSeismic's program knew beside those of its documents, and that have no meaning here."""
KNOWN = (*TEXTS, *COUNTS, "arguments")


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
    steps: Sequence[Step] = field(default_factory=tuple)

    def wrong(self, step: str, key: str, what: str, *, hint: str = "") -> BadUsage:
        """An error about a field of a step; *what* completes the sentence `'pipeline.json', step1: 'script' …`."""
        about = f"'{key}' {what}" if key else what
        return BadUsage(redact(f"'{self.shown}', {step}: {about}"), hint=hint)


def read_pipeline(path: Path, shown: str) -> PipelineFile:
    """The file at *path*, all of it checked by itself: no other file is looked for. Raises BadUsage naming the step and
    the key."""
    file = PipelineFile(path, shown)
    content = _parsed(file)
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
    return PipelineFile(path, shown, [_step(file, key, value) for key, value in content.items()])


def _parsed(file: PipelineFile) -> Any:
    text = read_text(file.path, "TARGET")

    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise BadUsage(
                redact(f"'{file.shown}': the key '{twice}' stands there twice."),
                hint="Of two the first would be lost; rename or remove one.",
            )
        return made

    try:
        return read_json(text, pairs=without_doubles)
    except NotJson as err:
        where = f", line {err.line}, column {err.column}" if err.line else ""
        raise BadUsage(
            f"'{file.shown}'{where}: {err}.",
            hint="The file is no valid JSON; no comments, no comma behind the last entry.",
        ) from err


def _step(file: PipelineFile, key: str, value: Any) -> Step:
    if not isinstance(value, Mapping):
        raise file.wrong(key, "", f"holds no fields, but {_kind(value)}.")
    for name in value:
        if name not in KNOWN and name not in PASSED_OVER:
            raise file.wrong(
                key, name, "is no field of a step.", hint=did_you_mean(name, KNOWN) or f"There are: {', '.join(KNOWN)}."
            )
    given = {name: entry for name, entry in value.items() if entry is not None}
    texts = {name: _text(file, key, name, given[name]) for name in TEXTS if name in given}
    for name in REQUIRED:
        if not texts.get(name):
            raise file.wrong(key, name, "is missing.", hint=f"A step has at least: {', '.join(REQUIRED)}.")
    if texts["type"] not in TYPES:
        raise file.wrong(
            key,
            "type",
            f"cannot be '{texts['type']}'.",
            hint=did_you_mean(texts["type"], TYPES) or f"It is one of: {', '.join(TYPES)}.",
        )
    counts = {name: _count(file, key, name, given[name]) for name in COUNTS if name in given}
    fields: dict[str, Any] = {**texts, **counts, "name": texts.get("name") or key}
    return Step(
        key=key,
        **fields,
        arguments=_arguments(file, key, given.get("arguments", ())),
        passed_over=[name for name in PASSED_OVER if name in given],
    )


def _text(file: PipelineFile, step: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise file.wrong(step, key, f"must be text, not {_kind(value)}.")
    return _without_nul(file, step, key, value.strip())


def _without_nul(file: PipelineFile, step: str, key: str, text: str) -> str:
    """*text*. Raises BadUsage where it has the character that no program can be given."""
    if "\0" in text:
        raise file.wrong(step, key, "has the character NUL, \\u0000.", hint="No name and no argument can have it.")
    return text


def _count(file: PipelineFile, step: str, key: str, value: Any) -> int:
    """A whole number from 1, which may be given as text."""
    number = value.strip() if isinstance(value, str) else value
    if isinstance(number, str) and number.isascii() and number.isdigit():
        number = int(
            number.lstrip("0")[: LONGEST_SHOWN + 1] or "0"
        )  # of thousands of digits Python makes no number; cut, it still is too large
    found = whole_number(number, MOST[key])
    if found is None:
        raise file.wrong(
            step, key, count_wanted(number if isinstance(number, int) and number > 0 else value, MOST[key])
        )
    return found


def _arguments(file: PipelineFile, step: str, value: Any) -> list[str]:
    """The script's arguments: a list of texts and numbers, or one text that is split as a shell does."""
    if isinstance(value, str):
        try:
            if len(value) > LONGEST_LINE:
                raise file.wrong(
                    step,
                    "arguments",
                    f"is longer than {LONGEST_LINE:,} characters.",
                    hint="Give the script a file instead.",
                )
            return shlex.split(_without_nul(file, step, "arguments", value))
        except ValueError as err:
            raise file.wrong(
                step, "arguments", "has a quote that does not end.", hint="Close it, or give the arguments as a list."
            ) from err
    if not isinstance(value, Sequence):
        raise file.wrong(step, "arguments", f"must be a list or a text, not {_kind(value)}.")
    for entry in value:
        if entry is None or isinstance(entry, (Mapping, list)):
            raise file.wrong(step, "arguments", f"holds {_kind(entry)}.", hint="Each of them is a text or a number.")
        _without_nul(file, step, "arguments", str(entry))
    return [
        entry if isinstance(entry, str) else json.dumps(entry) if not isinstance(entry, bool) else str(entry)
        for entry in value
    ]


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "nothing (null)"
    kinds = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return kinds[type(value)]


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
    source = _source(file, step, folders)
    return StepFiles(source, _script(file, step, source), _requirements(file, step, folders))


def _source(file: PipelineFile, step: Step, folders: list[Path]) -> Path:
    for folder in folders:
        found = folder / as_found(folder, step.source_directory)
        if os.path.isdir(found):  # also for a name that no file system takes
            return found.resolve()
        if os.path.exists(found):
            raise file.wrong(
                step.key,
                "source_directory",
                f"'{step.source_directory}' is no folder.",
                hint="Name the folder that holds the script.",
            )
    names = [path.name for folder in folders for path in folder.iterdir() if path.is_dir()]
    raise file.wrong(
        step.key,
        "source_directory",
        f"'{step.source_directory}' does not exist.",
        hint=_near(step.source_directory, names) or _looked(folders),
    )


def _script(file: PipelineFile, step: Step, source: Path) -> str:
    script = Path(os.path.normpath(source / as_found(source, step.script)))
    if not script.is_relative_to(source):
        raise file.wrong(
            step.key,
            "script",
            f"'{step.script}' lies outside source_directory '{step.source_directory}'.",
            hint="Only that folder is sent.",
        )
    relative = script.relative_to(source).as_posix()
    if script.suffix != ".py":
        raise file.wrong(step.key, "script", f"'{step.script}' is no .py script.")
    if not os.path.isfile(script):
        names = (
            [path.relative_to(source).as_posix() for path in script.parent.glob("*.py")]
            if os.path.isdir(script.parent)
            else []
        )
        raise file.wrong(
            step.key,
            "script",
            f"'{step.script}' is not in '{source}'.",
            hint=_near(relative, names) or "The path is relative to the step's source_directory.",
        )
    return relative


def _requirements(file: PipelineFile, step: Step, folders: list[Path]) -> Path | None:
    if not step.requirements:
        return None
    for folder in folders:
        found = folder / as_found(folder, step.requirements)
        if os.path.isfile(found):
            return found
    near = [folder / with_slashes(step.requirements) for folder in folders]
    names = [
        Path(os.path.relpath(path, folder)).as_posix()
        for folder, beside in zip(folders, near, strict=True)
        for path in beside.parent.glob("*.txt")
    ]
    raise file.wrong(
        step.key,
        "requirements",
        f"'{step.requirements}' is no file.",
        hint=_near(step.requirements, names) or _looked(folders),
    )


def _near(name: str, names: list[str]) -> str:
    near = get_close_matches(posixpath.normpath(with_slashes(name)), names, n=1)
    return f"Did you mean '{near[0]}'?" if near else ""


def _looked(folders: list[Path]) -> str:
    return f"The path is relative to {' or '.join(repr(str(folder)) for folder in folders)}."


FILE = ".env"
ACCOUNT, CONTAINER, KEY, SUBSCRIPTION = "BLOB_ACCOUNT_NAME", "BLOB_CONTAINER_NAME", "BLOB_ACCOUNT_KEY", "BLOB_SUB_ID"
CLUSTER, LEAST, LARGEST, SIZE = (
    "AML_COMPUTE_CLUSTER_NAME",
    "AML_COMPUTE_CLUSTER_MIN_NODES",
    "AML_COMPUTE_CLUSTER_MAX_NODES",
    "AML_COMPUTE_CLUSTER_SKU",
)
NAMES = (ACCOUNT, CONTAINER, KEY, SUBSCRIPTION, CLUSTER, LEAST, LARGEST, SIZE)
DEFAULT_SIZE = "Standard_NC6"
"""What DeepSeismic's documents name; a cluster that exists is used whatever its size is."""


@dataclass(frozen=True)
class PipelineVariables:
    """The variables that are set, and where each was read: `variable` for the environment, else the file. Its text
    shows no value."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        return self.values.get(CLUSTER, "")

    def place_of_cluster(self) -> str:
        """Where the cluster is named, as a sentence says it."""
        source = self.sources.get(CLUSTER, "")
        return f"the variable {CLUSTER}" if source == "variable" else f"{CLUSTER} in '{source}'"

    def container(self, name: str) -> ContainerSpec | None:
        """The blob container that holds the data, to be called *name* where it is registered; None where it is not
        named.

        Raises BadUsage where half of it is named, without its values.
        """
        account, container = self.values.get(ACCOUNT, ""), self.values.get(CONTAINER, "")
        if not account and not container:
            return None
        if not account or not container:
            given, lacking = (ACCOUNT, CONTAINER) if account else (CONTAINER, ACCOUNT)
            raise BadUsage(
                f"{given} is set, and {lacking} is not.",
                hint=f"Set both, in {self.sources.get(given)!r} or the environment, or neither.",
            )
        return ContainerSpec(account, container, self.values.get(KEY, ""), self.values.get(SUBSCRIPTION, ""), name)

    def cluster_spec(self, name: str, nodes: int, step: str) -> ClusterSpec:
        """The cluster *name* as it is to be made; without a word on its size it gets *nodes* at most, which *step*
        wants.

        Raises BadUsage for numbers that are none, and for fewer.
        """
        least, most = self._count(LEAST, 0), self._count(LARGEST, nodes)
        if least > most:
            raise BadUsage(f"{LEAST} is {least}, and {LARGEST} is {most}.", hint="The first is the smaller number.")
        if nodes > most:
            raise BadUsage(
                f"{LARGEST} is {most}, and {step} has a node_count of {nodes}.",
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
    for folder in dict.fromkeys((start, *start.parents, cwd, *cwd.parents)):
        path = folder / FILE
        found = _read(path) if path.is_file() else {}
        if found:
            values, sources = dict(found), dict.fromkeys(found, str(path))
            break
    for name in NAMES:
        if env.get(name):
            values[name], sources[name] = env[name], "variable"
    return PipelineVariables(values, sources)


def _read(path: Path) -> dict[str, str]:
    text = read_text(path, FILE)
    if not any(name in text for name in NAMES):
        return {}
    return {name: value for name, value in parse_dotenv(text, path).items() if name in NAMES and value}
